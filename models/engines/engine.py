"""Engines: the fastest way to run the dense part of a network on a device, with the results of PyTorch.

    CPU     OpenVINO, in the precision of a PrecisionConfig; PyTorch if OpenVINO is not installed
    CUDA    PyTorch under float16 autocast, weights in NHWC order
    other   PyTorch

OpenVINO and autocast are compared with PyTorch when an engine is made (OpenVINO always in float32), and PyTorch is used
if the results differ by more than the tolerance. Compiled OpenVINO models are cached on disk (cache.py): tracing and
converting a network takes seconds, reading one back a tenth of a second.
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

# Largest difference from PyTorch's result, relative to the largest value of the result. After the 50 layers of Lite0,
# summing float32 in another order causes about 1e-6; bfloat16, OpenVINO's default on CPUs that have it, 1e-2.
TOLERANCE = 1e-4
CUDA_TOLERANCE = 1e-2
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}

Inputs = tuple[Tensor, ...]
Run = Callable[..., list[Tensor]]
Samples = Callable[[], Sequence[Inputs]]


@dataclass(frozen=True)
class Engine:
    """A compiled part: `run` computes it, in `dtype`."""

    run: Run
    dtype: str

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Return the part's results, as new tensors."""
        return self.run(*inputs)


def compile(
    part: nn.Module,
    example: Inputs,
    other: Inputs,
    device: torch.device,
    precision: PrecisionConfig = FLOAT32,
    samples: Samples | None = None,
) -> Engine:
    """Compile a dense part: a module in eval mode on `device`, from tensors to one tensor or several.

    Dimensions that differ between the two examples of its inputs become dynamic, and the first always does. The part is
    traced with `example` and verified with `other`. Tracing turns whatever Python computes from a size into a constant,
    so no such value may depend on a dynamic dimension.

    The engine takes the same tensors and returns a list of new ones, float32 within TOLERANCE (on CUDA: CUDA_TOLERANCE)
    of the part's own. `precision` applies only to CPUs. int8 needs `samples`, which returns inputs to calibrate on;
    without it, float32 is used. Only one thread at a time may call the engine. OpenVINO copies the weights, so the
    caller should release the part.
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
    """Whether the device has an engine other than plain PyTorch."""
    return device.type == "cuda" or (device.type == "cpu" and has_openvino())


def share_cores(device: torch.device) -> None:
    """Set PyTorch's threads for a process that only serves: one if engines have threads for all cores.

    Two thread pools compete for the cores: on 2 cores, the network of a classification took 9.4 ms with two PyTorch
    threads and 8.4 ms with one.
    """
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
    """Compile with OpenVINO; None if the network cannot be converted, or has other results when converted."""
    ov = import_openvino()
    config = {
        "INFERENCE_NUM_THREADS": environment.available_cpus(),
        # All threads for one call: two concurrent calls with one thread each gain little for a batch, and a single
        # image takes 1.5 times as long.
        "PERFORMANCE_HINT": "LATENCY",
        # With pinning, several workers would pin their threads to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    # By default OpenVINO computes in bfloat16 on CPUs that have it, which changes scores in the second digit.
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
        _warn(part, f"its cached compiled model cannot be read: {error}")
    try:
        model = _convert(ov, part, example, shapes)
        compiled = core.compile_model(model, "CPU", config | {"INFERENCE_PRECISION_HINT": "f32"})
        run = _session(compiled)
        if not _agrees(run, part, (example, other), TOLERANCE):
            _warn(part, "runs in PyTorch, because OpenVINO's results differ")
            return None
        # Only float32 can be verified against PyTorch; other precisions are made from the verified model.
        if quantized and samples:
            model = _quantized(model, samples())
        if precision.dtype != "float32":
            compiled = core.compile_model(model, "CPU", config | hint)
            run = _session(compiled)
    except Exception as error:
        _warn(part, f"runs in PyTorch, because OpenVINO cannot convert it: {error}")
        return None
    cache.write(key, compiled.export_model().getvalue())
    return run


def _warn(part: nn.Module, what: str) -> None:
    logging.getLogger(__name__).warning("%s: %s", type(part).__name__, what)


def _convert(ov: Any, part: nn.Module, example: Inputs, shapes: list[list[int]]) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns that it is deprecated and that sizes become constants; `compile` verifies the result.
        warnings.simplefilter("ignore")
        return ov.convert_model(part, example_input=example, input=[ov.PartialShape(shape) for shape in shapes])


def _quantized(model: Any, samples: Sequence[Inputs]) -> Any:
    """Quantize a converted model's convolutions and matrix products to int8, with ranges measured on samples."""
    import nncf  # noqa: PLC0415

    # nncf.set_log_level would also change the level of handlers, which may be shared with other loggers.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    dataset = nncf.Dataset([[tensor.contiguous().numpy() for tensor in sample] for sample in samples])
    # Weights are symmetric about zero; activations after ReLU6 are not.
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
    """Whether an engine's results for the examples equal the part's own, within the tolerance."""
    eager = _eager(part)
    for example in examples:
        for mine, own in zip(engine(*example), eager(*example), strict=True):
            # Hidden classes have a logit of minus infinity.
            bound = tolerance * float(own[own.isfinite()].abs().max())
            if mine.shape != own.shape or not torch.allclose(mine, own, rtol=0, atol=bound):
                return False
    return True
