"""Engines: the fastest way there is to run the dense part of a network on a device, with the answers of PyTorch.

    CPU     OpenVINO, in float32, or as it is told (models/precision.py); PyTorch where it is not installed
    CUDA    PyTorch under float16 autocast, weights in NHWC order
    other   PyTorch as it is

Every engine but the last is compared with PyTorch when it is made (on a CPU in float32, whatever is asked for), and
where the two differ by more than the tolerance, PyTorch is used. Compiled OpenVINO models are kept on disk
(models/cache.py): to trace and convert a network takes seconds, to read one back a tenth of a second.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from foursight.models.engines import cache, environment
from foursight.models.engines.precision import FLOAT32, PrecisionConfig, has_openvino, import_openvino

# How far an answer may lie from PyTorch's: a part of the answer's own largest value. Float32 sums in another order give
# some 1e-6 after the 50 layers of Lite0; bfloat16, which OpenVINO takes by itself where a CPU has it, 1e-2.
TOLERANCE = 1e-4
CUDA_TOLERANCE = 1e-2
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}

Inputs = tuple[Tensor, ...]
Run = Callable[..., list[Tensor]]
Samples = Callable[[], Sequence[Inputs]]


@dataclass(frozen=True)
class Engine:
    """What computes a part, and what in."""

    run: Run
    dtype: str

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The part's answers, fresh ones."""
        return self.run(*inputs)


def compile(
    part: nn.Module,
    example: Inputs,
    other: Inputs,
    device: torch.device,
    precision: PrecisionConfig = FLOAT32,
    samples: Samples | None = None,
) -> Engine:
    """The fastest callable for a dense part: a module in eval mode on `device`, from tensors to a tensor or several.

    Two examples of its inputs, on the device, tell what varies from call to call: the dimensions in which they differ,
    and always the first. The part is traced with the one. What it computes in Python from a size is fixed by that, so
    it must come out alike for all sizes; it is tried with the other.

    The engine takes the same tensors and gives a list of fresh ones, in float32 within TOLERANCE (on CUDA:
    CUDA_TOLERANCE) of the part's own. On a CPU it computes as `precision` says; in int8 only where there are `samples`
    of the part's inputs. One thread at a time may call it. OpenVINO's has its own copy of the weights: whoever has no
    other use for the part should let it go.
    """
    if not has_engine(device):
        return _in_pytorch(part)
    if device.type == "cpu":
        if precision.dtype == "int8" and samples is None:
            precision = FLOAT32
        run = _openvino(part, example, other, precision, samples)
        return Engine(run, precision.dtype) if run else _in_pytorch(part)
    half = autocast_float16(part)
    return Engine(half, "float16") if _agrees(half, part, (example, other), CUDA_TOLERANCE) else _in_pytorch(part)


def has_engine(device: torch.device) -> bool:
    """Whether the device has an engine other than PyTorch as it is."""
    return device.type == "cuda" or (device.type == "cpu" and has_openvino())


def share_cores(device: torch.device) -> None:
    """Let a process that only answers use its cores well: PyTorch has one thread beside engines that have all."""
    torch.set_num_threads(1 if device.type == "cpu" and has_openvino() else environment.available_cpus())


def _in_pytorch(part: nn.Module) -> Engine:
    return Engine(_eager(part), "float32")


def _eager(part: nn.Module) -> Run:
    @torch.inference_mode()
    def run(*inputs: Tensor) -> list[Tensor]:
        found = part(*inputs)
        return [found] if isinstance(found, Tensor) else list(found)

    return run


def autocast_float16(part: nn.Module) -> Run:
    eager = _eager(part)

    def run(*inputs: Tensor) -> list[Tensor]:
        with torch.autocast("cuda", torch.float16):
            return [found.float() for found in eager(*inputs)]

    return run


def _openvino(
    part: nn.Module, example: Inputs, other: Inputs, precision: PrecisionConfig, samples: Samples | None
) -> Run | None:
    """None where the network cannot be converted, or, converted, gives other answers."""
    ov = import_openvino()
    config = {
        "INFERENCE_NUM_THREADS": environment.available_cpus(),
        # All threads for one call. One thread each for two calls at a time gives a batch little, and a lone photo
        # waits longer by half.
        "PERFORMANCE_HINT": "LATENCY",
        # Workers that pin their threads would all pin them to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    # Without it OpenVINO computes in bfloat16 where the CPU can, which changes scores in the second digit.
    hint = {"INFERENCE_PRECISION_HINT": HINTS[precision.dtype]}
    shapes = [
        [-1, *(size if size == second else -1 for size, second in zip(one.shape[1:], two.shape[1:], strict=True))]
        for one, two in zip(example, other, strict=True)
    ]
    core = ov.Core()
    quantized = (precision.digest, version("nncf")) if precision.dtype == "int8" else ()
    key = cache.key(part, (shapes, [tensor.dtype for tensor in example], quantized), config | hint)
    blob = cache.read(key)
    try:
        if blob is not None:
            return _session(core.import_model(blob, "CPU", config | hint))
    except RuntimeError as error:
        _warn(part, f"its compiled model in the cache is of no use: {error}")
    try:
        model = _convert(ov, part, example, shapes)
        compiled = core.compile_model(model, "CPU", config | {"INFERENCE_PRECISION_HINT": "f32"})
        run = _session(compiled)
        if not _agrees(run, part, (example, other), TOLERANCE):
            _warn(part, "runs in PyTorch, for OpenVINO's answers differ")
            return None
        # What is less precise is made of what was found right; how good it is can only be measured.
        if quantized and samples:
            model = _quantized(model, samples())
        if precision.dtype != "float32":
            compiled = core.compile_model(model, "CPU", config | hint)
            run = _session(compiled)
    except Exception as error:
        _warn(part, f"runs in PyTorch, for OpenVINO cannot convert it: {error}")
        return None
    cache.write(key, compiled.export_model().getvalue())
    return run


def _warn(part: nn.Module, what: str) -> None:
    logging.getLogger(__name__).warning("%s: %s", type(part).__name__, what)


def _convert(ov: Any, part: nn.Module, example: Inputs, shapes: list[list[int]]) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        # Of tracing: that it is deprecated, and that what Python computes from sizes is fixed, as `compile` says.
        warnings.simplefilter("ignore")
        return ov.convert_model(part, example_input=example, input=[ov.PartialShape(shape) for shape in shapes])


def _quantized(model: Any, samples: Sequence[Inputs]) -> Any:
    """The converted model with int8 convolutions and products, their ranges taken from samples of its inputs."""
    import nncf  # noqa: PLC0415

    # Not by its own `set_log_level`: that raises the level of handlers too, which may be others' as well.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    dataset = nncf.Dataset([[tensor.contiguous().numpy() for tensor in sample] for sample in samples])
    # Weights are symmetric about zero, activations need not be: after ReLU6 they are not.
    preset = nncf.QuantizationPreset.MIXED
    return nncf.quantize(model, dataset, preset=preset, subset_size=len(samples))


def _session(compiled: Any) -> Run:
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = [given.contiguous().numpy() for given in inputs]
        found = request.infer(arrays, share_inputs=True, share_outputs=False)
        return [torch.from_numpy(array) for array in found.to_tuple()]

    return run


def _agrees(engine: Run, part: nn.Module, examples: Sequence[Inputs], tolerance: float) -> bool:
    """Whether it gives the part's own answers for the examples."""
    eager = _eager(part)
    for example in examples:
        for mine, own in zip(engine(*example), eager(*example), strict=True):
            # A class that is not served has a logit of minus infinity.
            bound = tolerance * float(own[own.isfinite()].abs().max())
            if mine.shape != own.shape or not torch.allclose(mine, own, rtol=0, atol=bound):
                return False
    return True
