"""MobileNetV2 with the extra layers of SSD, as TensorFlow's `ssd_mobilenet_v2_coco_2018_03_29` has them.

MobileNetV2: Sandler et al. 2018. SSD: Liu et al. 2016. The parameters come from the graph (graph.py).
The arithmetic is TensorFlow's: "SAME" padding, relu6, batch norm with epsilon 0.001, pixels scaled to -1..1.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

BN_EPSILON = 0.001
# Each row: expansion, output channels, stride (Sandler et al. 2018, table 2), one block a row.
BLOCKS = (
    (1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1), (6, 64, 2), (6, 64, 1), (6, 64, 1),
    (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1), (6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1),
)  # fmt: skip
# Each row: channels between, output channels of an extra layer of stride 2.
EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))
# The maps of the SSD heads: channels and stride.
HEAD_LEVELS = {"ssd0": (576, 16), "ssd1": (1280, 32), "ssd2": (512, 64), "ssd3": (256, 128), "ssd4": (256, 256),
               "ssd5": (128, 512)}  # fmt: skip
# The block whose expansion is the finest map of the heads, and the blocks whose outputs are further maps.
HEAD_BLOCK = 13
FINE_BLOCKS = {2: "c2", 5: "c3"}


class SameConv(nn.Module):
    """A convolution with TensorFlow's "SAME" padding, batch norm and, unless `linear`, relu6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        # With stride 1 the padding is symmetric; with stride 2 it depends on the map's sides, see `forward`.
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=BN_EPSILON)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, C, H, W] to float [N, C', ceil(H / stride), ceil(W / stride)]."""
        if self.conv.stride[0] == 2 and self.conv.kernel_size[0] == 3:
            # At an even side the taps start at the first pixel. int() makes the padding a constant of the traced
            # network, which engines fuse into the convolution.
            x = F.pad(x, (int(x.shape[3]) % 2, 1, int(x.shape[2]) % 2, 1))
        x = self.norm(self.conv(x))
        return x if self.linear else F.relu6(x)


class Block(nn.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner) if expansion > 1 else nn.Identity()
        self.depthwise = SameConv(inner, inner, 3, stride, groups=inner)
        self.project = SameConv(inner, outputs, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map float [N, C, H, W] to the block's output and its expansion, float [N, 6 C, H, W]."""
        expanded = self.expand(x)
        found = self.project(self.depthwise(expanded))
        return (x + found if self.residual else found), expanded


class Extra(nn.Module):
    """An extra layer of SSD: squeeze, filter each channel with stride 2, widen."""

    def __init__(self, inputs: int, between: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = SameConv(inputs, between)
        self.depthwise = SameConv(between, between, 3, 2, groups=between)
        self.widen = SameConv(between, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, C, H, W] to float [N, outputs, ceil(H / 2), ceil(W / 2)]."""
        found: Tensor = self.widen(self.depthwise(self.squeeze(x)))
        return found


class MobileNetSsd(nn.Module):
    """The backbone: images to the maps of the SSD heads and the mask branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        blocks, channels = [], 32
        for expansion, outputs, stride in BLOCKS:
            blocks.append(Block(channels, outputs, expansion, stride))
            channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.last = SameConv(channels, 1280)
        extras, channels = [], 1280
        for between, outputs in EXTRAS:
            extras.append(Extra(channels, between, outputs))
            channels = outputs
        self.extras = nn.ModuleList(extras)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map float [N, 3, H, W] in -1..1 to the maps by name, float [N, C, ceil(H / s), ceil(W / s)].

        "c2" (24 channels, s 4), "c3" (32, s 8), and those of the SSD heads: "ssd0" (576, s 16), "ssd1" (1280, s 32),
        "ssd2" (512, s 64), "ssd3" (256, s 128), "ssd4" (256, s 256), "ssd5" (128, s 512).
        """
        maps: OrderedDict[str, Tensor] = OrderedDict()
        x = self.stem(pixels)
        for number, block in enumerate(self.blocks):
            x, expanded = block(x)
            if number == HEAD_BLOCK:
                maps["ssd0"] = expanded
            if number in FINE_BLOCKS:
                maps[FINE_BLOCKS[number]] = x
        x = maps["ssd1"] = self.last(x)
        for number, extra in enumerate(self.extras, 2):
            x = maps[f"ssd{number}"] = extra(x)
        return maps
