"""Put what was trained into one file in float16, the built-in detector's: projection, gates and mask branch.

python -m research.detector.assemble [--work WORK] [--out models/weights/detector.safetensors]
"""

from pathlib import Path

from safetensors.torch import load_file, save_file

from foursight.models.networks.ssd_rcnn.interface import WEIGHTS
from research.detector.workspace import parser

PREFIXES = {"projection": "backbone.projection.", "gates": "backbone.gates.", "masks": "roi_heads."}


def main() -> None:
    """Read the files that the training programs wrote to the work folder."""
    options = parser(__doc__, data=False)
    options.add_argument("--out", type=Path, default=WEIGHTS)
    chosen = options.parse_args()
    state = {
        prefix + key: value.half().contiguous()
        for name, prefix in PREFIXES.items()
        for key, value in load_file(chosen.work / f"{name}.safetensors").items()
    }
    save_file(state, chosen.out)
    print(sum(value.numel() for value in state.values()), "parameters,", chosen.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
