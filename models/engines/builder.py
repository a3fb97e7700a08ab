"""Build a network in PyTorch and compile it for a device, for loader.py.

python -m foursight.models.engines.builder '{"blueprint": ..., "precision": ...}'    (fills the cache)
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from foursight.models.engines import devices, engine, loader
from foursight.models.engines.loader import Array, Blueprint, LoadedNetwork
from foursight.models.engines.precision import FLOAT32, PrecisionConfig


@dataclass(frozen=True)
class Network:
    """What the function of a blueprint returns: a module in eval mode, from tensors to tensors.

    `examples` are two batches of its inputs, as for `engine.compile`. `facts` can be written as JSON. With `rows`,
    OpenVINO gets one row at a time. `calibration` maps images to inputs that int8 is calibrated on; without it, int8
    becomes float32. `compare` pairs the arrays of two results that must be equal.
    """

    module: nn.Module
    examples: tuple[engine.Inputs, engine.Inputs]
    facts: dict[str, Any] = field(default_factory=dict)
    rows: bool = False
    calibration: Callable[[Iterator[Image.Image]], Sequence[engine.Inputs]] | None = None
    compare: engine.Compare = zip


def build(blueprint: Blueprint, device: str, precision: PrecisionConfig = FLOAT32) -> LoadedNetwork:
    """Build and compile a network; one that runs on OpenVINO is stored in the cache.

    Raises what the blueprint's function raises, and PrecisionError if images to calibrate on cannot be read.
    """
    module, function = blueprint.builder.split(":")
    network: Network = getattr(import_module(module), function)(*blueprint.arguments)
    target = torch.device(device)
    devices.move_to(network.module, target)
    if device == "cpu" and engine.has_engine(target):
        chosen = FLOAT32 if precision.dtype == "int8" and network.calibration is None else precision
        calibration = network.calibration
        samples = (lambda: calibration(precision.images())) if calibration else None
        compiled = engine.to_openvino(
            network.module, *network.examples, chosen, samples, rows=network.rows, compare=network.compare
        )
        if compiled is not None:
            found = LoadedNetwork(loader.session(compiled, network.rows), chosen.dtype, network.facts)
            loader.store(blueprint, precision, found, compiled, network.rows)
            return found
    run = engine.in_pytorch(network.module, network.examples, target)
    return LoadedNetwork(_on_arrays(run, target), run.dtype, network.facts)


def _on_arrays(run: engine.Engine, device: torch.device) -> loader.Run:
    def on_arrays(*inputs: Array) -> list[Array]:
        tensors: list[Tensor] = run(*(torch.from_numpy(np.ascontiguousarray(given)).to(device) for given in inputs))
        return [found.cpu().numpy() for found in tensors]

    return on_arrays


def _main() -> None:
    job = json.loads(sys.argv[1])
    given, chosen = job["blueprint"], job["precision"]
    blueprint = Blueprint(given["builder"], tuple(given["arguments"]), tuple(map(Path, given["weights"])))
    folder = chosen["calibration_dir"]
    build(blueprint, "cpu", PrecisionConfig(chosen["dtype"], Path(folder) if folder else None))


if __name__ == "__main__":
    _main()
