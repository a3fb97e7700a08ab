"""Put what was trained into one file in float16: projection, gates, mask branch and, if asked, box head.

    python -m research.detector.assemble [--boxes] [--work WORK] [--out weights/detector.safetensors]

Without a box head in the file, its last layers stay zero: boxes and scores are those of the first stage.
"""

from pathlib import Path

from safetensors.torch import load_file, save_file

from research.detector.workspace import WEIGHTS, parser

PREFIXES = {"projection": "backbone.projection.", "gates": "backbone.gates.", "masks": "roi_heads."}


def main() -> None:
    """Read the files that the training programs wrote to the work folder."""
    options = parser(__doc__, data=False)
    options.add_argument("--boxes", action="store_true", help="with the trained box head")
    options.add_argument("--out", type=Path, default=WEIGHTS / "detector.safetensors")
    chosen = options.parse_args()
    prefixes = PREFIXES | ({"boxes": "roi_heads."} if chosen.boxes else {})
    state = {
        prefix + key: value.half().contiguous()
        for name, prefix in prefixes.items()
        for key, value in load_file(chosen.work / f"{name}.safetensors").items()
    }
    save_file(state, chosen.out)
    print(sum(value.numel() for value in state.values()), "parameters,", chosen.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
