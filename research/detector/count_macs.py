"""Count the multiply-accumulates of the detector by part, for one image, from the shapes of its layers.

python -m research.detector.count_macs
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from foursight.models.networks.ssd_rcnn.backbone import PROJECTED, Backbone
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.masks import CELLS, EDGES, MaskHead, MaskPredictor
from foursight.models.networks.ssd_rcnn.mobilenet import MobileNetSsd
from foursight.models.networks.ssd_rcnn.sparse_head import SparseHead
from foursight.models.networks.ssd_rcnn.ssd_head import SsdHead

OBJECTS = 10


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
    masks = nn.Sequential(MaskHead(), MaskPredictor()).eval()
    channels_of = {name: channels for name, (_, channels) in PROJECTED.items()}
    cells = torch.zeros(OBJECTS, sum(channels_of.values()), CELLS, CELLS)
    edges = torch.zeros(OBJECTS, channels_of[EDGES], 2 * CELLS, 2 * CELLS)
    return {
        "backbone, projection, gates": count(backbone, lambda: backbone(torch.zeros(1, 3, FINE_SIDE, FINE_SIDE))),
        "picked SSD heads": count(head, lambda: head(maps)),
        f"masks of {OBJECTS} objects": count(masks, lambda: masks((cells, edges))),
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
