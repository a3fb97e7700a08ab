"""Measure the time of each part for one image: the backbone on OpenVINO in float32, the rest in PyTorch.

python -m research.detector.latency --data DATA
"""

import statistics
import time
from itertools import pairwise

import torch
from torchvision.models.detection.image_list import ImageList

from research.detector import data
from research.detector.cache_maps import pixels_of
from research.detector.measure import SHAPE, on_engine
from research.detector.networks import detector
from research.detector.networks.backbone import FINE_SIDE
from research.detector.workspace import parser


@torch.inference_mode()
def main() -> None:
    """Print medians over 20 images."""
    chosen = parser(__doc__).parse_args()
    torch.set_num_threads(chosen.threads)
    network = detector.load(masks=True)
    run, heads = on_engine(network, chosen.threads), network.roi_heads
    times: dict[str, list[float]] = {}
    for photo in data.read(chosen.data, "choose")[:20]:
        shape, at = [(FINE_SIDE, FINE_SIDE)], [("", time.perf_counter())]
        pixels = pixels_of(photo)
        at.append(("decode, resize", time.perf_counter()))
        features = run(pixels)
        at.append(("backbone", time.perf_counter()))
        proposals, _ = network.rpn(ImageList(torch.empty(SHAPE), shape), features)
        at.append(("picked heads, proposals", time.perf_counter()))
        pooled = heads.box_head(heads.box_roi_pool(features, proposals, shape))
        found = heads.postprocess_detections(*heads.box_predictor(pooled), proposals, shape)
        at.append(("box head, NMS", time.perf_counter()))
        cells = heads.mask_roi_pool(features, [found[0][0][:10]], shape)
        heads.mask_predictor(heads.mask_head(cells))
        at.append(("masks of 10", time.perf_counter()))
        for (_, before), (name, after) in pairwise(at):
            times.setdefault(name, []).append((after - before) * 1000)
    for name, values in times.items():
        print(f"{name}: median {statistics.median(values):.1f} ms, least {min(values):.1f}")


if __name__ == "__main__":
    main()
