"""Engines: the fastest way to run the dense part of a network on a device, with the results of PyTorch.

    CPU     OpenVINO, in the precision of a PrecisionConfig; PyTorch if OpenVINO is not installed
    CUDA    PyTorch under float16 autocast, weights in NHWC order
    other   PyTorch

OpenVINO and autocast are compared with PyTorch when an engine is made (OpenVINO always in float32), and PyTorch is used
if the results differ by more than the tolerance. Compiled OpenVINO models are cached on disk (cache.py): tracing and
converting a network takes seconds, reading one back a tenth of a second.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foursight.models.engines import cache, loader
from foursight.models.engines.loader import Array
from foursight.models.engines.precision import FLOAT32, PrecisionConfig, has_openvino, import_openvino

# Largest difference from PyTorch's result, relative to the largest value of the result. After the 50 layers of Lite0,
# summing float32 in another order causes about 1e-6; bfloat16, OpenVINO's default on CPUs that have it, 1e-2.
TOLERANCE = 1e-4
CUDA_TOLERANCE = 1e-2

Inputs = tuple[Tensor, ...]
Run = Callable[..., list[Tensor]]
Samples = Callable[[], Sequence[Inputs]]
Pairs = Iterable[tuple[Array, Array]]
Compare = Callable[[Sequence[Array], Sequence[Array]], Pairs]


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
    if device.type == "cpu" and has_engine(device):
        if precision.dtype == "int8" and samples is None:
            precision = FLOAT32
        run = _openvino(part, example, other, precision, samples)
        if run:
            return Engine(run, precision.dtype)
    return in_pytorch(part, (example, other), device)


def in_pytorch(part: nn.Module, examples: Sequence[Inputs], device: torch.device) -> Engine:
    """Return a part as it is; on CUDA in float16, if that has the same results for the examples."""
    if device.type == "cuda":
        half = autocast_float16(part)
        if _agrees(half, part, examples, CUDA_TOLERANCE):
            return Engine(half, "float16")
    return Engine(_eager(part), "float32")


def has_engine(device: torch.device) -> bool:
    """Whether the device has an engine other than plain PyTorch."""
    return device.type == "cuda" or (device.type == "cpu" and has_openvino())


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
    """Compile with OpenVINO, or read what was compiled before; None as for `to_openvino`."""
    config = loader.config(precision)
    key = cache.key(_content(part, example, other), precision, config)
    blob = cache.read(key)
    try:
        if blob is not None:
            return _session(import_openvino().Core().import_model(bytes(blob), "CPU", config))
    except RuntimeError as error:
        _warn(part, f"its cached compiled model cannot be read: {error}")
    compiled = to_openvino(part, example, other, precision, samples)
    if compiled is None:
        return None
    cache.write(key, compiled.export_model().getvalue())
    return _session(compiled)


def to_openvino(
    part: nn.Module,
    example: Inputs,
    other: Inputs,
    precision: PrecisionConfig,
    samples: Samples | None,
    rows: bool = False,
    compare: Compare = zip,
) -> Any:
    """Compile with OpenVINO; None if the network cannot be converted, or has other results when converted.

    With `rows` the first dimension is one; the examples may have more rows. `compare` pairs the arrays of two results
    that must be equal.
    """
    ov = import_openvino()
    shapes = _shapes(example, other)
    if rows:
        shapes = [[1, *shape[1:]] for shape in shapes]
        example = tuple(given[:1] for given in example)
    core = ov.Core()
    try:
        model = _convert(ov, part, example, shapes)
        compiled = core.compile_model(model, "CPU", loader.config(FLOAT32))
        if not _agrees(_session(compiled, rows), part, (example, other), TOLERANCE, compare):
            _warn(part, "runs in PyTorch, because OpenVINO's results differ")
            return None
        # Only float32 can be verified against PyTorch; other precisions are made from the verified model.
        if precision.dtype == "int8" and samples:
            model = _quantized(model, samples())
        if precision.dtype != "float32":
            compiled = core.compile_model(model, "CPU", loader.config(precision))
    except Exception as error:
        _warn(part, f"runs in PyTorch, because OpenVINO cannot convert it: {error}")
        return None
    return compiled


def _shapes(example: Inputs, other: Inputs) -> list[list[int]]:
    """Return the inputs' shapes; -1 for the first dimension, and for each that differs between the examples."""
    return [
        [-1, *(size if size == second else -1 for size, second in zip(one.shape[1:], two.shape[1:], strict=True))]
        for one, two in zip(example, other, strict=True)
    ]


def _content(part: nn.Module, example: Inputs, other: Inputs) -> bytes:
    """Return a digest of a part's weights, structure, and inputs."""
    digest = hashlib.sha256()
    # Not `state_dict`: it leaves out non-persistent buffers.
    for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    inputs = (_shapes(example, other), [tensor.dtype for tensor in example])
    digest.update(repr((part, inputs)).encode())
    return digest.digest()


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


def _session(compiled: Any, rows: bool = False) -> Run:
    on_arrays = loader.session(compiled, rows)

    def run(*inputs: Tensor) -> list[Tensor]:
        return [torch.from_numpy(found) for found in on_arrays(*(given.numpy() for given in inputs))]

    return run


def _agrees(engine: Run, part: nn.Module, examples: Sequence[Inputs], tolerance: float, compare: Compare = zip) -> bool:
    """Whether an engine's results for the examples equal the part's own, within the tolerance."""
    eager = _eager(part)
    for example in examples:
        results = ([found.cpu().numpy() for found in run(*example)] for run in (engine, eager))
        for mine, own in compare(*results):
            # Hidden classes have a logit of minus infinity.
            bound = tolerance * float(np.abs(own[np.isfinite(own)]).max(initial=0))
            if mine.shape != own.shape or not np.allclose(mine, own, rtol=0, atol=bound):
                return False
    return True
