"""The backbone at two scales: the whole network at 300 x 300 pixels, and its first part, to stride 16, at 480 x 480.

The SSD was trained at 300 pixels and finds large objects there. Small objects need the larger size: the 19 x 19 cells
of the SSD are too coarse for them. Both scales share their parameters. AP on 142 images of val2017 is .37 for both and
.32 for 300 pixels alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from research.detector.networks.mobilenet import FINE_BLOCKS, HEAD_BLOCK, Block, MobileNetSsd
from research.detector.networks.ssd_head import SIDE

# Side of the larger input, in pixels.
FINE_SIDE = 480
COARSE_LEVELS = ("ssd0", "ssd1", "ssd2", "ssd3", "ssd4", "ssd5")


class TwoScales(nn.Module):
    """`MobileNetSsd` at both scales, frozen."""

    out_channels = 576

    def __init__(self, network: MobileNetSsd) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    def train(self, mode: bool = True) -> "TwoScales":
        """Set the mode, but keep the frozen network in eval mode: its batch statistics are COCO's."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map float [N, 3, 480, 480] in -1..1 to the maps by name, float32.

        At 480 pixels: "c2" [N, 24, 120, 120], "c3" [N, 32, 60, 60], "fine" [N, 576, 30, 30]; at 300 pixels: "ssd0"
        [N, 576, 19, 19], "ssd1" [N, 1280, 10, 10], "ssd2" [N, 512, 5, 5] to "ssd5" [N, 128, 1, 1].
        """
        # Without antialiasing, as the graph's own resize.
        small = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
        coarse = self.network(small)
        return self._fine(pixels) | {name: coarse[name] for name in COARSE_LEVELS}

    def _fine(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        x = self.network.stem(x)
        for number, block in enumerate(self.network.blocks[:HEAD_BLOCK]):
            x, _ = block(x)
            if number in FINE_BLOCKS:
                maps[FINE_BLOCKS[number]] = x
        # The first half of the next block is the map of the finest SSD head.
        block = self.network.blocks[HEAD_BLOCK]
        assert isinstance(block, Block)
        return maps | {"fine": block.expand(x)}
