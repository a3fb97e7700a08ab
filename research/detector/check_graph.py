"""Compare all maps and both heads with OpenVINO's run of the package's own graph: largest differences.

python -m research.detector.check_graph --photo photo.jpg
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino.frontend import FrontEndManager
from PIL import Image

from foursight.models.networks.ssd_rcnn import graph
from foursight.models.networks.ssd_rcnn.backbone import COARSE_LEVELS
from foursight.models.networks.ssd_rcnn.boxes import SIDE, anchors
from foursight.models.networks.ssd_rcnn.interface import graph_path

FEATURES = "FeatureExtractor/MobilenetV2"
NODES = {
    "c2": f"{FEATURES}/expanded_conv_2/add",
    "c3": f"{FEATURES}/expanded_conv_5/add",
    "ssd0": f"{FEATURES}/expanded_conv_13/expand/Relu6",
    "ssd1": f"{FEATURES}/Conv_1/Relu6",
    "ssd2": f"{FEATURES}/layer_19_2_Conv2d_2_3x3_s2_512/Relu6",
    "ssd3": f"{FEATURES}/layer_19_2_Conv2d_3_3x3_s2_256/Relu6",
    "ssd4": f"{FEATURES}/layer_19_2_Conv2d_4_3x3_s2_256/Relu6",
    "ssd5": f"{FEATURES}/layer_19_2_Conv2d_5_3x3_s2_128/Relu6",
    "offsets": "concat",
    "logits": "concat_1",
    "anchors": "Concatenate/concat",
}


def main() -> None:
    """Run both on one image of 300 x 300, which the graph's own resize does not change."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--photo", type=Path, required=True)
    photo = Image.open(options.parse_args().photo).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(photo)[None]
    theirs, ours = by_graph(pixels), by_port(pixels)
    for name, expected in theirs.items():
        difference, largest = np.abs(ours[name] - expected).max(), np.abs(expected).max()
        print(f"{name:8} {expected.shape} largest difference {difference:.2e} of {largest:.3g}")


def by_graph(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return the maps [1, h, w, C], offsets, logits and anchors of the graph for pixels [1, 300, 300, 3]."""
    frontend = FrontEndManager().load_by_framework("tf")
    whole = frontend.load(str(graph_path()))
    # Without the post-processing, which need not be converted.
    whole.override_all_outputs([whole.get_place_by_tensor_name(f"{node}:0") for node in NODES.values()])
    compiled = ov.Core().compile_model(frontend.convert(whole), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {name: np.asarray(value) for name, value in zip(NODES, compiled([pixels]).to_tuple(), strict=True)}


@torch.inference_mode()
def by_port(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return the same from the network of the product."""
    backbone, head = graph.load()
    maps = backbone(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1)
    offsets, logits = head([maps[name] for name in COARSE_LEVELS])
    boxes = torch.from_numpy(anchors(SIDE, SIDE))
    # The graph has y1, x1, y2, x2.
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)[:, [1, 0, 3, 2]]
    maps = {name: level.permute(0, 2, 3, 1) for name, level in maps.items()}
    found = maps | {"offsets": offsets[:, :, None], "logits": logits, "anchors": corners}
    return {name: value.numpy() for name, value in found.items()}


if __name__ == "__main__":
    main()
