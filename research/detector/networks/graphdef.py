"""Constants of a frozen TensorFlow graph, read from the protobuf wire format: TensorFlow itself is not needed.

Only what a frozen graph's `Const` nodes use is understood: GraphDef.node, NodeDef.name/op/attr["value"] and TensorProto
with `tensor_content` or `float_val`. Everything else is skipped.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Field numbers of tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape}.proto.
GRAPH_NODE = 1
NODE_NAME, NODE_OP, NODE_ATTR = 1, 2, 5
ENTRY_KEY, ENTRY_VALUE = 1, 2
ATTR_TENSOR = 8
TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_CONTENT, TENSOR_FLOATS = 1, 2, 4, 5
SHAPE_DIM, DIM_SIZE = 2, 1
DT_FLOAT = 1

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def float_constants(graph: bytes) -> dict[str, NDArray[np.float32]]:
    """All float32 constants of a serialised GraphDef by node name. Raises ValueError if it is not a GraphDef."""
    view, found = memoryview(graph), {}
    for number, node in _fields(view):
        if number != GRAPH_NODE or not isinstance(node, memoryview):
            continue
        name, op, tensor = _node(node)
        if op == "Const" and tensor is not None:
            value = _tensor(tensor)
            if value is not None:
                found[name] = value
    return found


def _node(node: memoryview) -> tuple[str, str, memoryview | None]:
    """A node's name, its operator and the TensorProto in its attribute "value"."""
    name, op, tensor = "", "", None
    for number, value in _fields(node):
        if number == NODE_NAME:
            name = _text(value)
        elif number == NODE_OP:
            op = _text(value)
        elif number == NODE_ATTR:
            entry = dict(_fields(_message(value)))
            if _text(entry[ENTRY_KEY]) == "value":
                held = dict(_fields(_message(entry[ENTRY_VALUE]))).get(ATTR_TENSOR)
                tensor = None if held is None else _message(held)
    return name, op, tensor


def _tensor(tensor: memoryview) -> NDArray[np.float32] | None:
    """The array of a TensorProto, None if it is not float32."""
    dtype: int | memoryview = 0
    shape: list[int] = []
    values = b""
    for number, value in _fields(tensor):
        if number == TENSOR_DTYPE:
            dtype = value
        elif number == TENSOR_SHAPE:
            dims = [dim for field, dim in _fields(_message(value)) if field == SHAPE_DIM]
            shape = [_number(dict(_fields(_message(dim))).get(DIM_SIZE, 0)) for dim in dims]
        elif number in (TENSOR_CONTENT, TENSOR_FLOATS):
            # `float_val` is packed or has a field of 4 bytes for each number: the same bytes.
            values += bytes(_message(value))
    if dtype != DT_FLOAT:
        return None
    array = np.frombuffer(values, "<f4").astype(np.float32)
    # A tensor of one repeated number is stored as that number.
    return np.full(shape, array[0]) if array.size == 1 < math.prod(shape) else array.reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, "int | memoryview"]]:
    """The fields of a message in order: number and value, an integer for a varint, else bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"not a protobuf message: wire type {kind}")
        if at + size > end:
            raise ValueError("the protobuf message is cut short")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where the next field begins."""
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("the protobuf message is cut short")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _message(value: "int | memoryview") -> memoryview:
    if isinstance(value, int):
        raise ValueError("not a GraphDef: a field that should hold bytes holds a number")  # noqa: TRY004
    return value


def _number(value: "int | memoryview") -> int:
    if not isinstance(value, int):
        raise ValueError("not a GraphDef: a field that should hold a number holds bytes")  # noqa: TRY004
    return value


def _text(value: "int | memoryview") -> str:
    return bytes(_message(value)).decode()
