"""Images as text, as other servers' clients send them: base64, a data: URL, or JSON that holds either."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

from foursight.serving.errors import ApiError

# What clients send with text that holds an image, and with any file.
TEXT_TYPES = ("", "application/x-www-form-urlencoded", "text/plain")

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24}")
_HINT = 'Send {"image": "<base64>"}. Options are query parameters, as in ?top_k=3.'


def from_json(body: bytes) -> list[bytes]:
    """Return the images of {"image": ...}: one in base64, or a list. Raises ApiError (invalid_json, invalid_base64)."""
    fields = parse_json(body)
    unknown = [name for name in fields if name != "image"]
    if unknown or not fields:
        problem = (
            f"Unknown field {unknown[0]!r} in the JSON body." if unknown else "The JSON body has no field 'image'."
        )
        raise ApiError("invalid_json", problem, _HINT)
    values = fields["image"] if isinstance(fields["image"], list) else [fields["image"]]
    return [from_value(value, _HINT) for value in values]


def parse_json(body: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises ApiError (invalid_json)."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}.", _HINT) from None
    if not isinstance(fields, dict):
        raise ApiError("invalid_json", "The JSON body is not an object.", _HINT)
    return fields


def from_value(value: object, hint: str) -> bytes:
    """Return the image in a JSON value: text, or {"type": "base64", "value": text}."""
    if isinstance(value, dict) and value.get("type") == "base64":
        value = value.get("value")
    if not isinstance(value, str) or not value:
        raise ApiError("invalid_json", "The image in the JSON body is not text in base64.", hint)
    return from_text(value.encode())


def from_text(text: bytes) -> bytes:
    """Decode base64 or a data: URL; line breaks, the URL alphabet and missing padding are accepted.

    Raises ApiError (invalid_base64).
    """
    hint = "Send the bytes of the image in base64 (RFC 4648), or the bytes themselves as the body."
    if text[:8].lower().startswith((b"http://", b"https:/")):
        raise ApiError("invalid_base64", "The image is a URL, which the server does not fetch.", hint)
    if text[:5].lower() == b"data:":
        head, _, data = text.partition(b",")
        if not head.lower().endswith(b";base64"):
            raise ApiError("invalid_base64", "The data: URL is not in base64.", hint)
        text = unquote_to_bytes(data)
    text = b"".join(text.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ApiError("invalid_base64", f"The image is not valid base64: {error}.", hint) from None


def parser(body: bytes, media_type: str) -> Callable[[bytes], list[bytes]] | None:
    """Return the function that decodes a body of text; None for the bytes of an image.

    Many types say little: `curl -d` and --data-binary label any file as a form. Raises ApiError (truncated_image).
    """
    if media_type == "application/json":
        return from_json
    if media_type not in TEXT_TYPES:
        return None
    head = body[:64].lstrip()
    if head.startswith(b"{"):
        return from_json
    if head.startswith(b"image="):
        return _from_form
    if head[:5].lower() == b"data:" or _BASE64.match(head):
        return lambda text: [from_text(text)]
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\x1a")) and len(body) > 4096 and not re.search(rb"[\r\n]", body):
        raise ApiError(
            "truncated_image",
            "The image is damaged: all line breaks are missing, as `curl -d` sends files.",
            "Use curl --data-binary @photo.jpg.",
        )
    return None


def _from_form(body: bytes) -> list[bytes]:
    # `+` is a space in a form, but those who do not encode it mean base64.
    return [from_text(value.replace(b" ", b"+")) for value in parse_qs(body.strip())[b"image"]]
