"""Run the frozen backbone and the SSD heads over sets of images once; keep maps and head outputs in float16.

python -m research.detector.cache_maps --data DATA train choose fudan-train
"""

import time
import warnings

import numpy as np
import openvino as ov
import torch
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.networks.ssd_rcnn import graph
from foursight.models.networks.ssd_rcnn.backbone import COARSE_LEVELS, PROJECTED, TwoScales
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from research.detector import data
from research.detector.workspace import parser


class Whole(torch.nn.Module):
    """Backbone and heads in one module."""

    def __init__(self) -> None:
        super().__init__()
        backbone, self.head = graph.load()
        self.backbone = TwoScales(backbone)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map pixels float [1, 3, 480, 480] to maps, offsets and logits at 300 pixels, offsets and logits at 480."""
        maps = self.backbone(pixels)
        coarse = self.head([maps[name] for name in COARSE_LEVELS])
        return *(maps[name] for name in PROJECTED), *coarse, *self.head([maps["fine"]])


def pixels_of(photo: data.Photo) -> torch.Tensor:
    """An image as torchvision's transform makes it with a fixed size: float32 [1, 3, 480, 480] in -1..1."""
    pixels = pil_to_tensor(photo.image())[None].float() / 127.5 - 1
    return torch.nn.functional.interpolate(pixels, (FINE_SIDE, FINE_SIDE), mode="bilinear", align_corners=False)


def main() -> None:
    """Write one file for each set: a list of dicts of float16 tensors."""
    options = parser(__doc__)
    options.add_argument("sets", nargs="+", choices=data.SETS)
    chosen = options.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    shape = (1, 3, FINE_SIDE, FINE_SIDE)
    with torch.no_grad():
        model = ov.convert_model(Whole(), example_input=torch.zeros(shape), input=[list(shape)])
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": chosen.threads}
    run = ov.Core().compile_model(model, "CPU", config)
    names = (*PROJECTED, "offsets", "logits", "fine_offsets", "fine_logits")
    for name in chosen.sets:
        start, rows = time.time(), []
        for photo in data.read(chosen.data, name):
            found = run([pixels_of(photo).numpy()]).to_tuple()
            values = (torch.from_numpy(value[0].astype(np.float16)) for value in found)
            rows.append(dict(zip(names, values, strict=True)))
        torch.save(rows, chosen.work / f"maps-{name}.pt")
        print(name, len(rows), f"{time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
