"""Measure the SSD alone at several sizes and ways of resizing, and unions of these.

    python -m research.detector.measure_ssd --data DATA --sets choose --ways 300-stretch-rel 512-stretch-px

A way is SIZE-RESIZE-ANCHORS: stretched to a square ("stretch") or with the image's aspect ratio ("aspect"); anchors of
the same share of the image ("rel") or the same pixels ("px"). "+" merges the boxes of several ways before NMS.
"""

import argparse
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import batched_nms

from foursight.models.networks.ssd_rcnn import graph
from foursight.models.networks.ssd_rcnn.boxes import anchors, decode
from research.detector import data
from research.detector.evaluate import Evaluation, Found, line
from research.detector.workspace import parser


def shape_of(photo: data.Photo, size: int, way: str) -> tuple[int, int]:
    """Height and width of the input: a square, or in the image's aspect ratio with `size` as the long side."""
    if way == "stretch":
        return size, size
    scale = size / max(photo.size)
    # Eighths of the side: few shapes to compile for.
    height, width = (max(round(8 * side * scale / size), 4) * size // 8 for side in photo.size)
    return height, width


def resized(photo: data.Photo, shape: tuple[int, int]) -> NDArray[Any]:
    """The pixels of the resized image, float32 [1, 3, h, w] in -1..1."""
    image = photo.image().resize(shape[::-1], Image.Resampling.BILINEAR)
    return (np.asarray(image, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]


class Whole(torch.nn.Module):
    """Backbone and heads in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = graph.load()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map pixels to offsets and logits."""
        maps = [level for name, level in self.backbone(pixels).items() if name.startswith("ssd")]
        offsets, logits = self.head(maps)
        return offsets, logits


@cache
def compiled(shape: tuple[int, int]) -> ov.CompiledModel:
    """Compile the whole network with OpenVINO for one shape."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ov.convert_model(Whole(), example_input=torch.zeros(1, 3, *shape), input=[1, 3, *shape])
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2})


@torch.inference_mode()
def candidates(photo: data.Photo, size: int, way: str, relative: bool) -> dict[str, NDArray[Any]]:
    """Boxes [M, 4] xyxy in pixels of the image, scores and ids: the classes of each anchor with a score above .02."""
    shape = shape_of(photo, size, way)
    offsets, logits = map(torch.from_numpy, compiled(shape)([resized(photo, shape)]).to_tuple())
    height, width = shape
    boxes = torch.from_numpy(decode(offsets[0].numpy(), anchors(height, width, relative))).clamp(0, 1)
    scores = logits[0, :, 1:].sigmoid()
    rows, names = (scores > 0.02).nonzero(as_tuple=True)
    best = scores[rows, names].topk(min(1000, len(rows))).indices
    rows, names = rows[best], names[best]
    scale = torch.tensor([photo.size[1], photo.size[0]] * 2)
    return {
        "boxes": (boxes[rows] * scale).numpy(),
        "scores": scores[rows, names].numpy(),
        "ids": (names + 1).numpy(),
    }


def kept(found: dict[str, NDArray[Any]], iou: float) -> Found:
    """The 100 best after NMS within each class."""
    boxes, scores, ids = (torch.from_numpy(found[key]) for key in ("boxes", "scores", "ids"))
    keep = batched_nms(boxes, scores, ids, iou)[:100]
    return Found(boxes[keep].numpy(), scores[keep].numpy(), ids[keep].numpy())


def cached(chosen: argparse.Namespace, name: str, way: str) -> list[dict[str, NDArray[Any]]]:
    """The candidates of a set, computed once."""
    path: Path = chosen.work / f"ssd-{name}-{way}.pt"
    if not path.exists():
        size, resize, kind = way.split("-")
        photos = data.read(chosen.data, name)
        torch.save([candidates(photo, int(size), resize, kind == "rel") for photo in photos], path)
    found: list[dict[str, NDArray[Any]]] = torch.load(path, weights_only=False)
    return found


def main() -> None:
    """Print a line for each set and way."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="+", choices=data.SETS, default=["choose", "voc-choose"])
    options.add_argument("--ways", nargs="+", default=["300-stretch-rel"])
    options.add_argument("--draws", type=int, default=0, help="bootstrap draws for the intervals")
    options.add_argument("--iou", type=float, default=0.6, help="of NMS")
    chosen = options.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    for name in chosen.sets:
        photos, class_ids = data.read(chosen.data, name), data.class_ids(name)
        for way in chosen.ways:
            start = time.time()
            found = [
                kept({key: np.concatenate([one[key] for one in ones]) for key in ones[0]}, chosen.iou)
                for ones in zip(*(cached(chosen, name, part) for part in way.split("+")), strict=True)
            ]
            figures = Evaluation(photos, found, class_ids).summary(chosen.draws)
            if class_ids is None:
                figures["person AP50"] = Evaluation(photos, found, [data.PERSON_ID]).summary()["AP50"]
            print(f"{name:12} {way:34} {line(figures)} ({time.time() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
