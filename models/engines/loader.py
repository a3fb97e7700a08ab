"""Networks as engines, from arrays to arrays: compiled once, then read from the cache without PyTorch.

Importing PyTorch takes seconds and 400 MB in each process. So a worker whose networks are in the cache never imports
it, and where they are not yet, another process builds and compiles them (builder.py) and ends.
"""

import fcntl
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foursight.models.engines import cache, environment
from foursight.models.engines.precision import FLOAT32, PrecisionConfig, has_openvino, import_openvino

# A file of `store` begins with the length of its header in so many bytes, then the header.
SIZE_BYTES = 4
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}

Array = NDArray[Any]
Run = Callable[..., list[Array]]


@dataclass(frozen=True)
class Blueprint:
    """A network that can be built: `builder` is "module:function", and its results depend on the files `weights`."""

    builder: str
    arguments: tuple[str, ...] = ()
    weights: tuple[Path, ...] = ()


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that maps arrays to new arrays, in `dtype`; `facts` are what its builder says about it.

    Only one thread at a time may call it.
    """

    run: Run
    dtype: str
    facts: dict[str, Any]
    # What `run` reads but does not keep alive.
    memory: Any = None

    def __call__(self, *inputs: Array) -> list[Array]:
        """Return the network's results."""
        return self.run(*inputs)


def load(blueprint: Blueprint, device: str, precision: PrecisionConfig = FLOAT32) -> LoadedNetwork:
    """Load a network for "cpu" or "cuda"; `precision` applies only to CPUs.

    Raises what its builder raises, and PrecisionError if images to calibrate on cannot be read.
    """
    if device == "cpu" and has_openvino():
        name = _key(blueprint, precision)
        # A process that has imported PyTorch saves nothing by leaving the work to another.
        found = _read(name, precision)
        if found is None and "torch" not in sys.modules:
            found = _build(name, blueprint, precision)
        if found:
            return found
    builder = import_module("foursight.models.engines.builder")
    loaded: LoadedNetwork = builder.build(blueprint, device, precision)
    return loaded


def store(blueprint: Blueprint, precision: PrecisionConfig, network: LoadedNetwork, compiled: Any, rows: bool) -> None:
    """Store a network's compiled model for `load`."""
    header = json.dumps({"dtype": network.dtype, "rows": rows, "facts": network.facts}).encode()
    parts = (len(header).to_bytes(SIZE_BYTES), header, compiled.export_model().getvalue())
    cache.write(_key(blueprint, precision), b"".join(parts))


def config(precision: PrecisionConfig) -> dict[str, Any]:
    """Return OpenVINO's options."""
    return {
        "INFERENCE_NUM_THREADS": environment.available_cpus(),
        # All threads for one call: two concurrent calls with one thread each gain little for a batch, and a single
        # image takes 1.5 times as long.
        "PERFORMANCE_HINT": "LATENCY",
        # With pinning, several workers would pin their threads to the same cores.
        "ENABLE_CPU_PINNING": False,
        # By default OpenVINO computes in bfloat16 on CPUs that have it, which changes scores in the second digit.
        "INFERENCE_PRECISION_HINT": HINTS[precision.dtype],
    }


def session(compiled: Any, rows: bool = False) -> Run:
    """Return a function that runs a compiled model; with `rows`, on one row of its inputs at a time."""
    request = compiled.create_infer_request()

    def run(*inputs: Array) -> list[Array]:
        arrays = [np.ascontiguousarray(given) for given in inputs]
        return list(request.infer(arrays, share_inputs=True, share_outputs=False).to_tuple())

    def run_rows(*inputs: Array) -> list[Array]:
        found = [run(*(given[row : row + 1] for given in inputs)) for row in range(len(inputs[0]))]
        return found[0] if len(found) == 1 else [np.concatenate(parts) for parts in zip(*found, strict=True)]

    return run_rows if rows else run


def _read(name: str, precision: PrecisionConfig) -> LoadedNetwork | None:
    content = cache.read(name)
    if content is None:
        return None
    size = int.from_bytes(content[:SIZE_BYTES])
    header = json.loads(bytes(content[SIZE_BYTES : SIZE_BYTES + size]))
    ov = import_openvino()
    model = np.frombuffer(content[SIZE_BYTES + size :], np.uint8)
    try:
        compiled = ov.Core().import_model(ov.Tensor(model, shared_memory=True), "CPU", config(precision))
    except RuntimeError as error:
        logging.getLogger(__name__).warning("a cached compiled model cannot be read: %s", error)
        return None
    # The weights stay in the mapped file.
    return LoadedNetwork(session(compiled, header["rows"]), header["dtype"], header["facts"], model)


def _build(name: str, blueprint: Blueprint, precision: PrecisionConfig) -> LoadedNetwork | None:
    """Build a network in another process. None if that fails: then this process finds the reason."""
    try:
        with _lock(name):
            # Another worker may have built it meanwhile.
            found = _read(name, precision)
            if found:
                return found
            job = {"blueprint": asdict(blueprint), "precision": asdict(precision)}
            command = [sys.executable, "-m", "foursight.models.engines.builder", json.dumps(job, default=str)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
            return _read(name, precision) if done.returncode == 0 else None
    except OSError:
        # There can be no cache.
        return None


@contextmanager
def _lock(name: str) -> Iterator[None]:
    root = cache.folder()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = root / f"{name}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _key(blueprint: Blueprint, precision: PrecisionConfig) -> str:
    """Return the file name of a network: a SHA-256 over everything that the compilation depends on."""
    weights = [_sha256(path) for path in blueprint.weights]
    own = (blueprint.builder, blueprint.arguments, weights)
    return cache.key(repr(own).encode(), precision, config(precision))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
