"""Measure the time of each part for one image, on the product's engines.

python -m research.detector.latency --data DATA
"""

import statistics
import time
from itertools import pairwise

import torch
from torchvision.transforms.functional import to_tensor

from research.detector import data
from research.detector.measure import load
from research.detector.workspace import parser


@torch.inference_mode()
def main() -> None:
    """Print medians over 20 images, after five that warm up."""
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(chosen.threads)
    network = load(masks=True)
    heads = network.roi_heads
    times: dict[str, list[float]] = {}
    for number, photo in enumerate(data.read(chosen.data, "choose")[:25]):
        at = [("", time.perf_counter())]
        images, _ = network.transform([to_tensor(photo.image())])
        at.append(("decode, resize", time.perf_counter()))
        features = network.backbone(images.tensors)
        at.append(("backbone", time.perf_counter()))
        proposals, _ = network.rpn(images, features)
        at.append(("picked heads, proposals", time.perf_counter()))
        logits, deltas = heads.box_predictor(
            heads.box_head(heads.box_roi_pool(features, proposals, images.image_sizes))
        )
        boxes, _, _ = heads.postprocess_detections(logits, deltas, proposals, images.image_sizes)
        at.append(("NMS", time.perf_counter()))
        cells = heads.mask_roi_pool(features, [boxes[0][:10]], images.image_sizes)
        heads.mask_predictor(heads.mask_head(cells))
        at.append(("masks of 10", time.perf_counter()))
        if number >= 5:
            for (_, before), (name, after) in pairwise(at):
                times.setdefault(name, []).append((after - before) * 1000)
    for name, values in times.items():
        print(f"{name}: median {statistics.median(values):.1f} ms, least {min(values):.1f}")


if __name__ == "__main__":
    main()
