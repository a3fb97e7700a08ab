"""Measure the detector on sets of images: boxes of the first stage and of both stages, and masks.

    python -m research.detector.measure --data DATA --sets report fudan-report --no-masks --draws 200

The backbone runs on OpenVINO, the rest in PyTorch. The predictions are kept in the work folder for thresholds.py,
localize.py and, with `--no-masks`, measure_masks.py.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
import openvino as ov
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from research.detector import data
from research.detector.cache_maps import pixels_of
from research.detector.evaluate import Evaluation, Found, encode, line
from research.detector.networks import detector
from research.detector.networks.backbone import FINE_SIDE
from research.detector.networks.names import CLASS_IDS
from research.detector.networks.second_stage import MASK_MAPS
from research.detector.workspace import parser

SHAPE = (1, 3, FINE_SIDE, FINE_SIDE)
IDS = np.array((0, *CLASS_IDS))


class Flat(torch.nn.Module):
    """The backbone as a tuple of maps."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map pixels to the maps in order."""
        return tuple(self.backbone(pixels).values())


def on_engine(network: GeneralizedRCNN, threads: int = 2) -> "Run":
    """Compile the backbone with OpenVINO in float32, for one image."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = list(network.backbone(torch.zeros(SHAPE)))
        model = ov.convert_model(Flat(network.backbone), example_input=torch.zeros(SHAPE), input=[list(SHAPE)])
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return Run(names, ov.Core().compile_model(model, "CPU", config))


class Run:
    """A compiled backbone."""

    def __init__(self, names: list[str], compiled: ov.CompiledModel) -> None:
        self.names, self.request = names, compiled.create_infer_request()

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map pixels float32 [1, 3, 480, 480] to the maps by name."""
        found = self.request.infer([pixels.contiguous().numpy()], share_inputs=True, share_outputs=False)
        return {name: torch.from_numpy(value) for name, value in zip(self.names, found.to_tuple(), strict=True)}


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Map mask probabilities [N, 1, 28, 28] in boxes [N, 4] of an image of `size` to RLEs, with the threshold .5."""
    padded, scale = expand_masks(masks, padding=1)
    found = []
    for mask, box in zip(padded, expand_boxes(boxes, scale).to(torch.int64).tolist(), strict=True):
        x1, y1, x2, y2 = box
        shape = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        inside = F.interpolate(mask[None], shape, mode="bilinear", align_corners=False)[0, 0] > 0.5
        whole = np.zeros(size, dtype=bool)
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, size[1]), min(y2 + 1, size[0])
        if right > left and bottom > top:
            whole[top:bottom, left:right] = inside[top - y1 : bottom - y1, left - x1 : right - x1].numpy()
        found.append(encode(whole))
    return found


@torch.inference_mode()
def look(
    network: GeneralizedRCNN, features: dict[str, Tensor], size: tuple[int, int], refine: bool, masks: bool
) -> Found:
    """Return the predictions for an image of `size`, with or without the corrections of the second stage."""
    heads, shape = network.roi_heads, [(FINE_SIDE, FINE_SIDE)]
    proposals, _ = network.rpn(ImageList(torch.empty(SHAPE), shape), features)
    if refine:
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, shape)))
    else:
        logits, deltas = proposals[0][:, 4:], torch.zeros(len(proposals[0]), 4)
    (boxes,), (scores,), (indices,) = heads.postprocess_detections(logits, deltas, proposals, shape)
    own = boxes * torch.tensor([size[1] / FINE_SIDE, size[0] / FINE_SIDE] * 2)
    outlines = None
    if masks:
        cells = heads.mask_roi_pool(features, [boxes], shape)
        found = heads.mask_predictor(heads.mask_head(cells))[:, :1].sigmoid()
        outlines = paste(found, own, size)
    return Found(own.numpy(), scores.numpy(), IDS[indices.numpy()], outlines)


def main() -> None:
    """Print a line for each set, stage and kind."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="+", choices=data.SETS, default=["choose"])
    options.add_argument("--draws", type=int, default=0, help="bootstrap draws for the intervals")
    options.add_argument("--no-masks", action="store_true")
    options.add_argument("--first", type=int, help="only the first images of each set")
    chosen = options.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    network = detector.load(masks=True, score_threshold=0.02)
    run = on_engine(network, chosen.threads)
    for name in chosen.sets:
        measure(network, run, name, chosen)


def measure(network: GeneralizedRCNN, run: Run, name: str, chosen: argparse.Namespace) -> None:
    """Run the detector over a set, keep the predictions, print the figures."""
    # An untrained box head changes nothing.
    trained = bool(network.roi_heads.box_predictor.deltas.weight.any())
    photos, start = data.read(chosen.data, name)[: chosen.first], time.time()
    plain: list[Found] = []
    refined: list[Found] = []
    kept: dict[int, dict[str, Tensor]] = {}
    for place, photo in enumerate(photos):
        features = run(pixels_of(photo))
        outlined = all(item.get("segmentation") for item in photo.objects) and not name.startswith("voc")
        masks = outlined and not chosen.no_masks
        refined.append(look(network, features, photo.size, refine=True, masks=masks))
        plain.append(look(network, features, photo.size, refine=False, masks=False) if trained else refined[-1])
        if outlined and chosen.no_masks:
            kept[place] = {key: features[f"p{key}"].half() for key in MASK_MAPS}
    torch.save((plain, refined), chosen.work / f"found-{name}.pt")
    torch.save(kept, chosen.work / f"seen-{name}.pt")
    print(f"{name}: {len(photos)} images, {time.time() - start:.0f} s", flush=True)
    class_ids = data.class_ids(name)
    for stage, found in (("first stage", plain), ("both stages", refined))[: 1 + trained]:
        print(f"  boxes, {stage}: {line(Evaluation(photos, found, class_ids).summary(chosen.draws))}", flush=True)
        if class_ids is None:
            people = Evaluation(photos, found, [data.PERSON_ID]).summary(chosen.draws)
            print(f"  person, {stage}: {line(people)}", flush=True)
    rows = [place for place, found in enumerate(refined) if found.masks is not None]
    if rows:
        evaluation = Evaluation([photos[p] for p in rows], [refined[p] for p in rows], class_ids, "segm")
        print(f"  masks ({len(rows)} images): {line(evaluation.summary(chosen.draws))}", flush=True)


if __name__ == "__main__":
    main()
