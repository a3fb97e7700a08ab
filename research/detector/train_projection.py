"""Find the projection of the maps, without labels: means, standard deviations and principal components.

python -m research.detector.train_projection

Reads maps-train.pt in the work folder (research.detector.cache_maps), writes projection.safetensors there.
"""

import torch
from safetensors.torch import save_file

from foursight.models.networks.ssd_rcnn.backbone import PROJECTED
from research.detector.workspace import parser

# A third of the images is enough for a covariance.
EVERY = 3


def main() -> None:
    """Write projection.safetensors."""
    chosen = parser(__doc__, data=False).parse_args()
    torch.set_num_threads(chosen.threads)
    rows, state = torch.load(chosen.work / "maps-train.pt")[::EVERY], {}
    for name, (inputs, outputs) in PROJECTED.items():
        cells = torch.cat([row[name].flatten(1).T[:: 4 if inputs < 100 else 1].float() for row in rows])
        mean = cells.mean(0)
        if inputs == outputs:
            weight = torch.diag(1 / (cells.std(0) + 1e-3))
        else:
            values, vectors = torch.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))
            weight = (vectors[:, -outputs:] / values[-outputs:].sqrt()).T.flip(0)
            share = float(values[-outputs:].sum() / values.sum())
            print(f"{name}: {outputs} components have {share:.3f} of the variance")
        state[f"convs.{name}.weight"] = weight[:, :, None, None].contiguous()
        state[f"convs.{name}.bias"] = -(weight @ mean)
    save_file(state, chosen.work / "projection.safetensors")


if __name__ == "__main__":
    main()
