"""The form of Hugging Face's inference API, below each task's path, so that huggingface_hub's InferenceClient works.

The body is an image, or {"inputs": "<base64>", "parameters": {...}}. The answer is a list of {"label", "score"}, with
"box" or "mask" (a PNG in base64).
"""

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request

from foursight.schema import Answer, Prediction, Rle, rle
from foursight.serving import text_images, upload
from foursight.serving.errors import ApiError

PATH = "/huggingface"
# Their parameters by our options' names; the others have a single valid value.
_RENAMED = {"threshold": "score_threshold", "top_k": "top_k"}
_FIXED: dict[str, object] = {"function_to_apply": "softmax", "mask_threshold": 0.5, "subtask": "instance"}
_HINT = 'Send the bytes of one image, or {"inputs": "<base64>", "parameters": {...}}.'


async def read(request: Request, max_bytes: int, count: upload.Count) -> tuple[bytes, dict[str, list[str]]]:
    """Return the image of a request and its options, as those of a query string.

    Raises ApiError: those of upload.read_body, invalid_json, invalid_base64, unknown_parameter, invalid_parameter.
    """
    body = await upload.read_body(request, max_bytes, count)
    if isinstance(body, list):
        raise ApiError("invalid_multipart", "This path does not take multipart bodies.", _HINT)
    if upload.media_type_of(request) != "application/json":
        return body, {}
    return await upload.in_thread_if_long(_parse, body)


def to_json(answer: Answer) -> bytes:
    """Return the answer in their form. Boxes are rounded to whole pixels; masks must be RLE."""
    return json.dumps([_element(one) for one in answer.predictions]).encode()


def _parse(body: bytes) -> tuple[bytes, dict[str, list[str]]]:
    fields = text_images.parse_json(body)
    parameters = fields.get("parameters") or {}
    unknown = [name for name in fields if name not in ("inputs", "parameters", "options")]
    if unknown or not isinstance(parameters, dict):
        wrong = f"Unknown field {unknown[0]!r} in the JSON body." if unknown else "`parameters` is not an object."
        raise ApiError("invalid_json", wrong, _HINT)
    return text_images.from_value(fields.get("inputs"), _HINT), _options(parameters)


def _options(parameters: dict[str, Any]) -> dict[str, list[str]]:
    options = {}
    for name, value in parameters.items():
        if name in _RENAMED:
            options[_RENAMED[name]] = [str(value)]
        elif name not in _FIXED:
            valid = ", ".join((*_RENAMED, *_FIXED))
            raise ApiError("unknown_parameter", f"Unknown parameter {name!r}.", f"Valid parameters: {valid}.")
        elif value != _FIXED[name]:
            raise ApiError(
                "invalid_parameter", f"Invalid parameter {name}={value!r}.", f"Only {_FIXED[name]!r} is valid."
            )
    return options


def _element(one: Prediction) -> dict[str, Any]:
    element: dict[str, Any] = {"label": one.label, "score": one.score}
    if isinstance(one.mask, Rle):
        out = BytesIO()
        Image.fromarray(rle.decode(one.mask).astype(np.uint8) * np.uint8(255)).save(out, "PNG", compress_level=1)
        element["mask"] = base64.b64encode(out.getvalue()).decode()
    elif one.box is not None:
        element["box"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, one.box), strict=True))
    return element
