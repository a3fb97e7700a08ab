"""The backbone at two scales, with what is computed on its maps for all of an image.

    image at 300 x 300 -> MobileNetV2 and SSD's extra layers -> "ssd0" to "ssd5"
    image at 480 x 480 -> the same parameters to stride 16   -> "c2", "c3", "fine"

The SSD was trained at 300 pixels and finds large objects there. Small objects need the larger size: the 19 x 19 cells
of the SSD are too coarse for them. AP on 142 images of val2017 is .367 for both scales and .327 for 300 pixels alone.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models.networks.ssd_rcnn.boxes import SIDE
from foursight.models.networks.ssd_rcnn.mobilenet import FINE_BLOCKS, HEAD_BLOCK, HEAD_LEVELS, Block, MobileNetSsd

COARSE_LEVELS = ("ssd0", "ssd1", "ssd2", "ssd3", "ssd4", "ssd5")
# The maps of the second stage: channels, and channels after the projection.
PROJECTED = {"c2": (24, 24), "c3": (32, 32), "fine": (576, 64), "ssd1": (1280, 32)}
# The maps with gates, and the level of their SSD heads.
GATED = {"fine": 0, "ssd0": 0, "ssd1": 1}
GATE_CHANNELS = 48


class TwoScales(nn.Module):
    """`MobileNetSsd` at both scales, frozen."""

    def __init__(self, network: MobileNetSsd) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

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


class Projection(nn.Module):
    """The maps with few channels, each of mean 0 and standard deviation 1.

    Maps of 576 and 1,280 channels are reduced to their first principal components, which were found without labels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict(
            {name: nn.Conv2d(inputs, outputs, 1) for name, (inputs, outputs) in PROJECTED.items()}
        )
        self.requires_grad_(False)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the maps of PROJECTED, float [N, C, h, w], to float [N, C', h, w]; "p" comes before their names."""
        return {f"p{name}": conv(maps[name]) for name, conv in self.convs.items()}


class Gates(nn.Module):
    """Predict for each cell of the gated maps whether the heads would find something there."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, GATE_CHANNELS, 1), nn.ReLU(), nn.Conv2d(GATE_CHANNELS, 1, 3, padding=1))
            for channels, _ in list(HEAD_LEVELS.values())[:2]
        )

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the gated maps, float [N, C, h, w], to logits by name, float [N, 1, h, w]."""
        return {name: self.levels[level](maps[name]) for name, level in GATED.items()}


class Backbone(nn.Module):
    """The frozen network at two scales, with the projection and the gates that were trained on its maps."""

    # torchvision's GeneralizedRCNN asks for it.
    out_channels = 576

    def __init__(self, network: MobileNetSsd) -> None:
        super().__init__()
        self.scales = TwoScales(network)
        self.projection = Projection()
        self.gates = Gates()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map float [N, 3, 480, 480] in -1..1 to the maps by name, float32.

        For the second stage "pc2" [N, 24, 120, 120], "pc3" [N, 32, 60, 60], "pfine" [N, 64, 30, 30] and "pssd1"
        [N, 32, 10, 10]; for the SSD's heads "fine" [N, 576, 30, 30] and "ssd0" to "ssd5", with the logits of the gates
        "gate fine", "gate ssd0" and "gate ssd1" [N, 1, h, w].
        """
        maps = self.scales(pixels)
        gates = {f"gate {name}": logits for name, logits in self.gates(maps).items()}
        projected: dict[str, Tensor] = self.projection(maps)
        return projected | {name: maps[name] for name in ("fine", *COARSE_LEVELS)} | gates
