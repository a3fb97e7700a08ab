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
from PIL import Image

from research.detector.networks import ssd_weights
from research.detector.networks.backbone import COARSE_LEVELS
from research.detector.networks.ssd_head import SIDE, anchors


def main() -> None:
    """Run both on one image of 300 x 300, which the graph's own resize does not change."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--photo", type=Path, required=True)
    photo = Image.open(options.parse_args().photo).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(photo)[None]
    graph, port = by_graph(pixels), by_port(pixels)
    for name, expected in graph.items():
        difference, largest = np.abs(port[name] - expected).max(), np.abs(expected).max()
        print(f"{name:8} {expected.shape} largest difference {difference:.2e} of {largest:.3g}")


def by_graph(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Offsets, logits, anchors and the six maps of the graph for pixels [1, 300, 300, 3]."""
    graph = ov.Core().read_model(ssd_weights.graph_path())
    operations = {operation.get_friendly_name(): operation for operation in graph.get_ordered_ops()}
    outputs = {
        name: operations[theirs]
        for name, theirs in {"offsets": "concat", "logits": "concat_1", "anchors": "Concatenate/concat"}.items()
    }
    for level, name in enumerate(COARSE_LEVELS):
        node = operations[f"BoxPredictor_{level}/ClassPredictor/BiasAdd"]
        while node.get_type_name() != "Convolution":
            node = node.input_value(0).get_node()
        outputs[name] = node.input_value(0).get_node()
    model = ov.Model([operation.output(0) for operation in outputs.values()], graph.get_parameters(), "maps")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {name: np.asarray(value) for name, value in zip(outputs, compiled([pixels]).to_tuple(), strict=True)}


@torch.inference_mode()
def by_port(pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The same from our network."""
    backbone, head = ssd_weights.load()
    maps = backbone(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1)
    offsets, logits = head([maps[name] for name in COARSE_LEVELS])
    boxes = anchors(SIDE, SIDE)
    # The graph has y1, x1, y2, x2.
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)[:, [1, 0, 3, 2]]
    found = {"offsets": offsets[:, :, None], "logits": logits, "anchors": corners}
    return {name: value.numpy() for name, value in (found | {name: maps[name] for name in COARSE_LEVELS}).items()}


if __name__ == "__main__":
    main()
