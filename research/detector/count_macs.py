"""Count the multiply-accumulates of the detector by part, for one image, from the shapes of its layers.

python -m research.detector.count_macs
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from research.detector.networks.backbone import FINE_SIDE
from research.detector.networks.detector import Backbone
from research.detector.networks.mobilenet import HEAD_LEVELS, MobileNetSsd
from research.detector.networks.second_stage import (
    BOX_CHANNELS,
    BOX_SIDE,
    MASK_CHANNELS,
    MASK_SIDE,
    NAMES,
    BoxHead,
    BoxPredictor,
    MaskHead,
    MaskPredictor,
)
from research.detector.networks.sparse_head import DENSE, GATED, SparseHead
from research.detector.networks.ssd_head import SsdHead

PROPOSALS, OBJECTS = 150, 10


def main() -> None:
    """Print a line for each part."""
    torch.set_default_device("meta")
    total = 0
    with torch.no_grad():
        for name, macs in parts().items():
            total += macs
            print(f"{name}: {macs / 1e9:.3f} GMAC, {total / 1e9:.3f} in all")


def parts() -> dict[str, int]:
    """Multiply-accumulates of each part."""
    backbone, head = Backbone(MobileNetSsd()).eval(), SparseHead(SsdHead())
    maps = backbone(torch.zeros(1, 3, FINE_SIDE, FINE_SIDE))
    channels = [channels for channels, _ in HEAD_LEVELS.values()]
    taps = {name: torch.zeros(cells, 9 * channels[level]) for name, (level, cells) in GATED.items()}
    proposals = torch.zeros(PROPOSALS, BOX_CHANNELS, BOX_SIDE, BOX_SIDE), torch.zeros(PROPOSALS, NAMES)
    boxes, masks = nn.Sequential(BoxHead(), BoxPredictor()), nn.Sequential(MaskHead(), MaskPredictor())
    return {
        "backbone, projection, gates": count(backbone, lambda: backbone(torch.zeros(1, 3, FINE_SIDE, FINE_SIDE))),
        "picked SSD heads": count(head, lambda: head(taps, {name: maps[name] for name in DENSE})),
        f"box head over {PROPOSALS} proposals": count(boxes, lambda: boxes(proposals)),
        f"masks of {OBJECTS} objects": count(
            masks, lambda: masks(torch.zeros(OBJECTS, MASK_CHANNELS, MASK_SIDE, MASK_SIDE))
        ),
    }


def count(network: nn.Module, run: Callable[[], object]) -> int:
    """Multiply-accumulates of the convolutions and matrix products of a network in `run`."""
    total = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * weight[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    run()
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    main()
