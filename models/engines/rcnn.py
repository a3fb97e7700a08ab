"""The dense parts of a `GeneralizedRCNN` on engines: backbone with pyramid, RPN head, box head, predictor, mask head.

The rest stays torchvision's (anchors, NMS), except that boxes are pooled by networks/roi_align.py on a CPU. The mask
predictor stays in PyTorch: it is a tenth of the mask branch.

Each part is compiled once for images of all sizes. The first call with a new shape takes OpenVINO as long as a few
calls, not the seconds of a compilation.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from foursight.models.engines import engine
from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.networks import roi_align

# (N, height, width) of the two example batches. The sides are multiples of 32, as those of padded images are.
EXAMPLES = ((2, 96, 128), (3, 64, 160))
# The heads are calibrated on this number of an image's best proposals.
CALIBRATION_PROPOSALS = 64

# Arguments of the calls of each part, by the part's name in the network.
Calls = dict[str, list[tuple[Any, ...]]]
# Returns the images to calibrate on.
Images = Callable[[], Iterable[Tensor]]


class EngineModule(nn.Module):
    """Stands in for a part: same arguments, same structure of tensors in the result, maps in NHWC order in memory."""

    def __init__(self, run: engine.Engine, result: TreeSpec) -> None:
        super().__init__()
        self.run = run
        self._result = result

    def forward(self, *args: Any) -> Any:
        """Run the part on its engine."""
        tensors = self.run(*map(_channels_last, tree_leaves(args)))
        return tree_unflatten(list(map(_channels_first, tensors)), self._result)


class TensorInterface(nn.Module):
    """A part as engines take it: from tensors to tensors, without the lists and dicts around them.

    Maps are [N, H, W, C] here, as they lie in memory, because RoIAlign on a CPU sums their rows of channels.
    """

    def __init__(self, part: nn.Module, arguments: TreeSpec) -> None:
        super().__init__()
        self.part = part
        self._arguments = arguments

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map the tensors of the part's arguments, in order, to those of its result."""
        return _tensors(self.part(*tree_unflatten(list(map(_channels_first, tensors)), self._arguments)))


@torch.no_grad()
def install(
    network: GeneralizedRCNN, device: torch.device, precision: PrecisionConfig = FLOAT32, images: Images | None = None
) -> str:
    """Replace the dense parts of a network in eval mode on `device` by engines, which hold their parameters.

    Nothing is replaced if the device has no engine, except that boxes are pooled in another way on any CPU. `images`
    returns the images that int8 is calibrated on, float32 [3, h, w], resized and normalised; without it int8 becomes
    float32. The box predictor, a hundredth of the work, is always in float32: it tells small differences apart.

    Returns the precision of the other parts, such as "int8", or "float32+int8" if some could not be compiled.
    """
    # A separate generator: loading a model must not change the program's random numbers.
    noise = torch.Generator().manual_seed(0)
    examples = [torch.randn(n, 3, height, width, generator=noise).to(device) for n, height, width in EXAMPLES]
    calls = _calls(network, [ImageList(batch, [tuple(batch.shape[2:])] * len(batch)) for batch in examples])
    heads = network.roi_heads
    if device.type == "cpu":
        heads.box_roi_pool = _cpu_pool(heads.box_roi_pool)
        if heads.has_mask():
            heads.mask_roi_pool = _cpu_pool(heads.mask_roi_pool)
    if not engine.has_engine(device):
        return "float32"
    samples = _samples(network, images) if images else None
    modules: dict[str, EngineModule] = {}
    for name, (first, second) in calls.items():
        part = network.get_submodule(name)
        chosen = FLOAT32 if name == "roi_heads.box_predictor" else precision
        interface = TensorInterface(part, tree_flatten(first)[1]).eval()
        run = engine.compile(
            interface, _tensors(first), _tensors(second), device, chosen, partial(samples, name) if samples else None
        )
        modules[name] = EngineModule(run, tree_flatten(part(*first))[1])
    for name, module in modules.items():
        network.set_submodule(name, module)
    return "+".join(sorted({module.run.dtype for name, module in modules.items() if name != "roi_heads.box_predictor"}))


def _calls(network: GeneralizedRCNN, batches: list[ImageList], use_proposals: bool = False) -> Calls:
    """Return the arguments that each dense part is called with, for each batch of images.

    The heads get the best proposals, or three fixed boxes of different levels, because noise may yield no proposals.
    """
    heads = network.roi_heads
    calls: Calls = {}
    for batch in batches:
        features = network.backbone(batch.tensors)
        rpn_calls: list[tuple[Any, ...]] = []
        hook = network.rpn.head.register_forward_pre_hook(lambda _, args, calls=rpn_calls: calls.append(args))
        proposals, _ = network.rpn(batch, features)
        hook.remove()
        height, width = batch.tensors.shape[2:]
        fixed = batch.tensors.new_tensor([[0, 0, width, height], [8, 8, 40, 40], [4, 20, 90, 60]])
        boxes = [found[:CALIBRATION_PROPOSALS, :4] if use_proposals else fixed for found in proposals]
        pooled = heads.box_roi_pool(features, boxes, batch.image_sizes)
        arguments = {
            "backbone": (batch.tensors,),
            "rpn.head": rpn_calls[0],
            "roi_heads.box_head": (pooled,),
            "roi_heads.box_predictor": (heads.box_head(pooled),),
        }
        if heads.has_mask():
            arguments["roi_heads.mask_head"] = (heads.mask_roi_pool(features, boxes, batch.image_sizes),)
        for name, args in arguments.items():
            calls.setdefault(name, []).append(args)
    return calls


def _samples(network: GeneralizedRCNN, images: Images) -> Callable[[str], list[tuple[Tensor, ...]]]:
    """Return a function from a part's name to its inputs for the images; they are computed when first needed.

    The network's parts must not be replaced before that.
    """

    @cache
    def calls() -> Calls:
        batches = [ImageList(network.transform.batch_images([one]), [tuple(one.shape[1:])]) for one in images()]
        return _calls(network, batches, use_proposals=True)

    return lambda name: [_tensors(call) for call in calls()[name]]


def _cpu_pool(pool: nn.Module) -> nn.Module:
    """Return a pool that does the same with `roi_align_cpu`; torchvision's must have been called before."""
    if isinstance(pool, MultiScaleRoIAlign):
        pool = roi_align.of_torchvision(pool)
    for module in pool.modules():
        if isinstance(module, roi_align.Pool):
            module.align = roi_align.roi_align_cpu
    return pool


def _tensors(value: Any) -> tuple[Tensor, ...]:
    """Return the tensors in lists, tuples and dicts, in order, in the layout of `TensorInterface`."""
    return tuple(_channels_last(tensor).contiguous() for tensor in tree_leaves(value))


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _channels_first(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
