"""The dense parts of a `GeneralizedRCNN`, each on its engine: backbone with pyramid, RPN head, box head, mask head.

What lies between them stays torchvision's: anchors and NMS; on a CPU models/rcnn_pool.py pools RoIs. The mask predictor
stays in PyTorch: it is a tenth of the mask branch, and one that has the same mask for every class gives views of it,
which an engine would write out.

The parts are compiled once for photos of all sizes. OpenVINO prepares itself for a shape that it has not met in the
time of some calls, not in the seconds of a compilation, and forgets shapes by itself.
"""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from foursight.models import engine, rcnn_pool, rcnn_smoothing, rcnn_tiny
from foursight.models.rcnn_smoothing import SmoothedLater

# (photos, height, width) of the two examples. The sides are multiples of 32, as a padded photo's are.
EXAMPLES = ((2, 96, 128), (3, 64, 160))


class OnEngine(nn.Module):
    """Stands where a part stood: takes what it took and gives what it gave, maps in NHWC order in memory."""

    def __init__(self, run: engine.Engine, structure: Any) -> None:
        super().__init__()
        self._run = run
        self._structure = structure

    def forward(self, *given: Any) -> Any:
        """As the part."""
        found = self._run(*map(_channels_last, _tensors(given)))
        return _fill(self._structure, map(_channels_first, found))


class Flat(nn.Module):
    """A part as engines take it: from tensors to tensors, without the lists and dicts that they stand in.

    Maps are [N, H, W, C] here, as they lie in memory, for what pools boxes sums their rows of channels.
    """

    def __init__(self, part: nn.Module, structure: Any) -> None:
        super().__init__()
        self.part = part
        self._structure = structure

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map the tensors among the part's arguments, in order, to those among its answer."""
        found = self.part(*_fill(self._structure, map(_channels_first, tensors)))
        return tuple(_channels_last(tensor).contiguous() for tensor in _tensors(found))


@torch.no_grad()
def install(network: GeneralizedRCNN, device: torch.device) -> None:
    """Replace the dense parts of a network in eval mode on `device`; their parameters leave it with them.

    On a CPU the pooling of boxes is replaced too. Where the device has no engine, the rest stays as it is.
    """
    # Noise of its own generator: to load a model changes nothing for who draws numbers too.
    noise = torch.Generator().manual_seed(0)
    photos = [torch.randn(n, 3, height, width, generator=noise).to(device) for n, height, width in EXAMPLES]
    calls_of = _calls(network, photos)
    if device.type == "cpu":
        _pool_by_rows(network)
    if not engine.is_there(device):
        return
    tiles = None
    if device.type == "cpu" and isinstance(network.backbone, rcnn_tiny.Pyramid):
        tiles = network.backbone.tiles()
        network.backbone = rcnn_tiny.Coarse(network.backbone)
        calls_of[0] = (network.backbone, calls_of[0][1])
    for part, calls in calls_of:
        structure = _fill(calls[0], repeat(None))
        answer = _fill(part(*calls[0]), repeat(None))
        first, second = (tuple(_channels_last(tensor).contiguous() for tensor in _tensors(call)) for call in calls)
        replacement = OnEngine(engine.compile(Flat(part, structure).eval(), first, second, device), answer)
        # Wherever it stands: a network may use a head twice.
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if child is part:
                    setattr(module, name, replacement)
    if tiles:
        network.backbone = SmoothedLater(network.backbone, rcnn_smoothing.compile(tiles, device))


def _pool_by_rows(network: GeneralizedRCNN) -> None:
    """Let a network that has been called pool boxes as a CPU does best."""
    heads = network.roi_heads
    for name, child in list(heads.named_children()):
        if isinstance(child, MultiScaleRoIAlign):
            setattr(heads, name, rcnn_pool.of_torchvision(child))
    for module in heads.modules():
        if isinstance(module, rcnn_pool.Pool):
            module.align = rcnn_pool.sum_rows


def _calls(network: GeneralizedRCNN, photos: list[Tensor]) -> list[tuple[nn.Module, list[tuple[Any, ...]]]]:
    """The parts, and for each example the arguments that the part is called with."""
    heads = network.roi_heads
    calls: dict[nn.Module, list[tuple[Any, ...]]] = {}
    for batch in photos:
        count, _, height, width = batch.shape
        shapes = [(height, width)] * count
        features = network.backbone(batch)
        calls.setdefault(network.backbone, []).append((batch,))
        seen: list[tuple[Any, ...]] = []
        watch = network.rpn.head.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given))
        network.rpn(ImageList(batch, shapes), features)
        watch.remove()
        calls.setdefault(network.rpn.head, []).append(seen[0])
        # Boxes of several levels. Those that noise leads to may be none.
        boxes = [batch.new_tensor([[0, 0, width, height], [8, 8, 40, 40], [4, 20, 90, 60]])] * count
        pooled = heads.box_roi_pool(features, boxes, shapes)
        calls.setdefault(heads.box_head, []).append((pooled,))
        calls.setdefault(heads.box_predictor, []).append((heads.box_head(pooled),))
        if heads.has_mask():
            calls.setdefault(heads.mask_head, []).append((heads.mask_roi_pool(features, boxes, shapes),))
    return list(calls.items())


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _channels_first(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a value of lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    members = value.values() if isinstance(value, dict) else value
    return [tensor for member in members for tensor in _tensors(member)]


def _fill(structure: Any, leaves: Iterator[Any]) -> Any:
    """A value of the same lists, tuples and dicts, with the next leaf in the place of each that it has."""
    if isinstance(structure, dict):
        return {name: _fill(member, leaves) for name, member in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(_fill(member, leaves) for member in structure)
    return next(leaves)
