"""The dense parts of a `GeneralizedRCNN`, each on its engine: backbone with pyramid, RPN head, box head, mask head.

What lies between them stays torchvision's: anchors and NMS; on a CPU models/roi_align.py pools RoIs. The mask predictor
stays in PyTorch: it is a tenth of the mask branch, and one that has the same mask for every class gives views of it,
which an engine would write out.

The parts are compiled once for photos of all sizes. OpenVINO prepares itself for a shape that it has not met in the
time of some calls, not in the seconds of a compilation, and forgets shapes by itself.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from foursight.models.engines import engine, lazy_pyramid
from foursight.models.engines.lazy_pyramid import LazyPyramid
from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.networks import rcnn_tiny, roi_align

# (photos, height, width) of the two examples. The sides are multiples of 32, as a padded photo's are.
EXAMPLES = ((2, 96, 128), (3, 64, 160))
# So many of a photo's best proposals are looked at to calibrate what judges them.
CALIBRATING = 64


class EngineModule(nn.Module):
    """Stands where a part stood: takes what it took and gives what it gave, maps in NHWC order in memory."""

    def __init__(self, run: engine.Engine, structure: Any) -> None:
        super().__init__()
        self.run = run
        self._structure = structure

    def forward(self, *given: Any) -> Any:
        """As the part."""
        found = self.run(*map(_channels_last, _tensors(given)))
        return _fill(self._structure, map(_channels_first, found))


class TensorInterface(nn.Module):
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
def install(
    network: GeneralizedRCNN,
    device: torch.device,
    precision: PrecisionConfig = FLOAT32,
    photos: Callable[[], Iterable[Tensor]] | None = None,
) -> str:
    """Replace the dense parts of a network in eval mode on `device`; their parameters leave it with them.

    On a CPU the pooling of boxes is replaced too. Where the device has no engine, the rest stays as it is. `photos`
    gives the photos that int8 is calibrated on, float32 [3, h, w] resized and normalised; without, all is in float32.
    What tells small differences apart stays in float32: the box predictor, which is a hundredth of the work, and the
    finest map of the tiny profile, for which bfloat16 is too coarse between the steps of Winograd's filtering. Gives
    what the others compute in, as "int8", or "float32+int8" where one could not be had so.
    """
    # Noise of its own generator: to load a model changes nothing for who draws numbers too.
    noise = torch.Generator().manual_seed(0)
    examples = [torch.randn(n, 3, height, width, generator=noise).to(device) for n, height, width in EXAMPLES]
    calls_of = _calls(network, [ImageList(batch, [tuple(batch.shape[2:])] * len(batch)) for batch in examples])
    if device.type == "cpu":
        _pool_by_rows(network)
    if not engine.has_engine(device):
        return "float32"
    samples_of = _samples(network, photos) if photos else None
    predictor, tiles, compiled = network.roi_heads.box_predictor, None, []
    for place, (part, calls) in enumerate(calls_of):
        dense = part
        if device.type == "cpu" and isinstance(part, rcnn_tiny.Pyramid):
            tiles, dense = part.tiles(), rcnn_tiny.Coarse(part)
        answer = _fill(dense(*calls[0]), repeat(None))
        flat = TensorInterface(dense, _fill(calls[0], repeat(None))).eval()
        chosen = FLOAT32 if part is predictor else precision
        first, second = map(_flattened, calls)
        samples = partial(samples_of, place) if samples_of else None
        run = engine.compile(flat, first, second, device, chosen, samples)
        compiled.append((part, EngineModule(run, answer)))
    for part, replacement in compiled:
        # Wherever it stands: a network may use a head twice.
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if child is part:
                    setattr(module, name, replacement)
    if tiles:
        network.backbone = LazyPyramid(network.backbone, lazy_pyramid.compile(tiles, device))
    return "+".join(sorted({on_engine.run.dtype for part, on_engine in compiled if part is not predictor}))


def _samples(
    network: GeneralizedRCNN, photos: Callable[[], Iterable[Tensor]]
) -> Callable[[int], list[tuple[Tensor, ...]]]:
    """What the parts of a network that is still whole take for photos, by their place; computed if it is asked for."""

    @cache
    def calls() -> list[tuple[nn.Module, list[tuple[Any, ...]]]]:
        batches = [ImageList(network.transform.batch_images([photo]), [tuple(photo.shape[1:])]) for photo in photos()]
        return _calls(network, batches, proposals=True)

    return lambda place: [_flattened(call) for call in calls()[place][1]]


def _pool_by_rows(network: GeneralizedRCNN) -> None:
    """Let a network that has been called pool boxes as a CPU does best."""
    heads = network.roi_heads
    for name, child in list(heads.named_children()):
        if isinstance(child, MultiScaleRoIAlign):
            setattr(heads, name, roi_align.of_torchvision(child))
    for module in heads.modules():
        if isinstance(module, roi_align.Pool):
            module.align = roi_align.roi_align_cpu


def _calls(
    network: GeneralizedRCNN, batches: list[ImageList], proposals: bool = False
) -> list[tuple[nn.Module, list[tuple[Any, ...]]]]:
    """The parts, and for each batch of photos the arguments that the part is called with.

    The heads look at the best `proposals`, or at three boxes of several levels: those that noise leads to may be none.
    """
    heads = network.roi_heads
    calls: dict[nn.Module, list[tuple[Any, ...]]] = {}
    for batch in batches:
        features = network.backbone(batch.tensors)
        calls.setdefault(network.backbone, []).append((batch.tensors,))
        seen: list[tuple[Any, ...]] = []
        watch = network.rpn.head.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given))
        found, _ = network.rpn(batch, features)
        watch.remove()
        calls.setdefault(network.rpn.head, []).append(seen[0])
        height, width = batch.tensors.shape[2:]
        fixed = batch.tensors.new_tensor([[0, 0, width, height], [8, 8, 40, 40], [4, 20, 90, 60]])
        boxes = [own[:CALIBRATING] if proposals else fixed for own in found]
        pooled = heads.box_roi_pool(features, boxes, batch.image_sizes)
        calls.setdefault(heads.box_head, []).append((pooled,))
        calls.setdefault(heads.box_predictor, []).append((heads.box_head(pooled),))
        if heads.has_mask():
            calls.setdefault(heads.mask_head, []).append((heads.mask_roi_pool(features, boxes, batch.image_sizes),))
    return list(calls.items())


def _flattened(call: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The tensors of a call as `TensorInterface` takes them."""
    return tuple(_channels_last(tensor).contiguous() for tensor in _tensors(call))


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
