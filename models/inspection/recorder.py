"""Record the layers of a network while it runs.

The network runs once, in eval mode, on a blank input, and every operation that it performs is observed. So the result
is right for functional code, for branches, and for padding that depends on the size of the input. Each layer has both
the output size by formula and the observed one.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from foursight.models.inspection.geometry import Field
from foursight.models.inspection.layer import Layer, Pair
from foursight.models.inspection.operations import Call, Outcome, describe, describe_untraced, takes_padding
from foursight.models.inspection.trace import Trace, settle

_DROPOUTS = {
    nn.functional.dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.alpha_dropout,
    nn.functional.feature_alpha_dropout,
}


@dataclass(frozen=True)
class Part:
    """A part of a network: how to run it, and for how many regions of an image it runs."""

    run: Callable[[], Any]
    times: int = 1


def record(network: nn.Module, size: Pair, parts: Callable[[nn.Module, Tensor], Iterator[Part]]) -> list[Layer]:
    """Return the layers of a network for an input of `size` (height, width), in the order in which they run.

    `parts` maps the network and a blank input, float32 [1, 3, H, W] on its device, to the parts to run. Other threads
    may use the network meanwhile: a copy that shares its tensors is observed.
    """
    tensors = [*network.parameters(), *network.buffers()]
    observed = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()
    pixels = torch.zeros(1, 3, *size, device=tensors[0].device)
    recorder = Recorder(observed)
    with recorder.observing():
        recorder.start(pixels)
        for part in parts(observed, pixels):
            recorder.times = part.times
            part.run()
    return recorder.layers


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Observes the operations of a network: enter `observing`, call `start` with the input, read `layers`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.times = 1
        self._network = network
        self._traces: Any = WeakTensorKeyDictionary()
        self._modules: list[tuple[str, nn.Module]] = [("", network)]
        self._calls: dict[str, int] = {}
        self._counted: set[int] = set()

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Observe what this thread runs."""
        with ExitStack() as stack:
            for name, module in self._network.named_modules():
                if module is not self._network:
                    for handle in (
                        module.register_forward_pre_hook(self._enter(name)),
                        module.register_forward_hook(self._leave, always_call=True),
                    ):
                        stack.callback(handle.remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(_DropoutMode(self._record_dropout))
            stack.enter_context(self)
            yield

    def start(self, pixels: Tensor) -> None:
        """Trace this tensor [1, C, H, W]: each of its cells sees itself."""
        self._traces[pixels] = Trace((Field(), Field()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and record it."""
        name = func._schema.name.split("::")[1].removesuffix("_")
        inputs = [tensor for tensor in _tensors(args) if tensor in self._traces]
        traces = [self._traces[tensor] for tensor in inputs]
        if not takes_padding(name):
            traces = [settle(trace) for trace in traces]
        result = func(*args, **(kwargs or {}))
        outputs = list(result) if isinstance(result, tuple | list) else [result]
        # RoIAlign runs at every level of a pyramid, and has an output only at the level of the region.
        if not outputs or not isinstance(outputs[0], Tensor) or not outputs[0].numel():
            return result
        is_pointwise = torch.Tag.pointwise in func.tags
        call = Call(name, args, inputs, traces, outputs[0], self._modules[-1][1], is_pointwise)
        if not inputs:
            # Independent of the input: it limits no receptive field, but it may have a cost.
            outcome = describe_untraced(call)
            if outcome is not None:
                self._record(outcome)
            return result
        trace = self._record(describe(call))
        for tensor in outputs:
            if isinstance(tensor, Tensor):
                self._traces[tensor] = trace
        return result

    def _record(self, outcome: Outcome) -> Trace:
        """Append the layer of an outcome, if there is one, and return the trace of its output."""
        trace = outcome.trace
        if outcome.layer is None:
            return trace
        name, module = self._modules[-1]
        parameters = 0
        if id(module) not in self._counted:
            self._counted.add(id(module))
            parameters = sum(p.numel() for p in module.parameters(recurse=False))
        fields: dict[str, Any] = {}
        if trace.fields is not None:
            y, x = trace.fields
            fields = {"receptive_field": (y.size, x.size), "field_centre": (y.centre, x.centre)}
            if not trace.pooled:
                fields["field_stride"] = (float(y.stride), float(x.stride))
        if outcome.activates is not None and self.layers[outcome.activates].activation is None:
            activated = replace(self.layers[outcome.activates], activation=outcome.layer["activation"])
            self.layers[outcome.activates] = activated
        self.layers.append(
            Layer(name, self._calls.get(name, 1), times=self.times, parameters=parameters, **fields, **outcome.layer)
        )
        return replace(trace, layer=len(self.layers) - 1) if outcome.can_be_activated else trace

    def _record_dropout(self, tensor: Tensor, probability: float) -> None:
        if tensor in self._traces:
            size = tuple(tensor.shape[1:])
            layer = {"kind": "dropout", "input": size, "output": size, "observed": size, "dropout": probability}
            self._record(Outcome(self._traces[tensor], layer, can_be_activated=False))

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, _: Any) -> None:
            self._modules.append((name, module))
            self._calls[name] = self._calls.get(name, 0) + 1

        return enter

    def _leave(self, *_: Any) -> None:
        self._modules.pop()


class _DropoutMode(TorchFunctionMode):
    """Reports dropout, which in eval mode runs no operation that a dispatch mode sees."""

    def __init__(self, report: Callable[[Tensor, float], None]) -> None:
        super().__init__()
        self._report = report

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            self._report(args[0], args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        return func(*args, **kwargs)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
