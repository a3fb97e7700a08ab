"""From an HTTP request to the bytes of its photos and its options. Bytes stay bytes here: nothing is decoded."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from foursight.models.errors import OptionError
from foursight.schema.options import Options
from foursight.serving.errors import ApiError

Chosen = TypeVar("Chosen", bound=Options)

MAX_IMAGES = 32
TIMEOUT_S = 60
# Most clients send all before they read, and see a broken pipe instead of the answer if nobody takes what they send: an
# upload over the limit is read on, and thrown away, up to so many times the limit.
LINGER = 4
# What curl and fetch send when nobody names a type is taken for a photo; these can only be a mistake.
_NEVER_AN_IMAGE = ("text/", "application/json", "application/xml", "video/", "audio/")


class _InMemoryParser(MultiPartParser):
    """Starlette's parser without its temporary files: an upload has a limit, and a disk would block the event loop."""

    spool_max_size = 2**62


async def read_images(request: Request, max_bytes: int) -> list[bytes]:
    """The photos of a request: its body, or the fields `image` of its multipart body, at most MAX_IMAGES.

    Raises ApiError: body_too_large, upload_timeout, unsupported_media_type, invalid_multipart, too_many_images.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type.startswith(_NEVER_AN_IMAGE):
        raise ApiError(
            "unsupported_media_type",
            f"A body of type {media_type} is no photo.",
            "Send the bytes of a photo as the body, or as the field image of multipart/form-data.",
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > LINGER * max_bytes:
        raise _too_large(max_bytes, {"Connection": "close"})
    try:
        async with asyncio.timeout(TIMEOUT_S):
            if media_type == "multipart/form-data":
                return await _read_multipart(request, max_bytes)
            return [b"".join([chunk async for chunk in _limited(request, max_bytes)])]
    except TimeoutError:
        raise ApiError(
            "upload_timeout", f"The upload took longer than {TIMEOUT_S} seconds.", "Send a smaller file."
        ) from None


def parse_query(query: str) -> dict[str, str]:
    """The parameters of a query string. Raises OptionError (invalid_parameter) for one that occurs twice."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in values:
            raise OptionError("invalid_parameter", f"The parameter {name!r} occurs twice.", "Give it once.")
        values[name] = value
    return values


def parse_options(query: str, kind: type[Chosen]) -> Chosen:
    """The options of a query string. Raises OptionError (unknown_parameter, invalid_parameter)."""
    return to_options(parse_query(query), kind)


def to_options(values: dict[str, str], kind: type[Chosen]) -> Chosen:
    """The options that the parameters of a query give. Raises OptionError (unknown_parameter, invalid_parameter)."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        known = ", ".join(kind.model_fields)
        if first["type"] == "extra_forbidden":
            raise unknown_parameter(name, kind.model_fields) from None
        detail = f"The parameter {name}={values[name]!r} is not valid: {first['msg']}."
        raise OptionError(
            "invalid_parameter", detail, kind.model_fields[name].description or f"There are: {known}."
        ) from None


def unknown_parameter(name: str, known: Iterable[str]) -> OptionError:
    """The error for a query parameter that nobody here knows."""
    return OptionError("unknown_parameter", f"There is no parameter {name!r} here.", f"There are: {', '.join(known)}.")


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total <= max_bytes:
            yield chunk
        elif total > LINGER * max_bytes:
            raise _too_large(max_bytes, {"Connection": "close"})
    if total > max_bytes:
        raise _too_large(max_bytes)


async def _read_multipart(request: Request, max_bytes: int) -> list[bytes]:
    hint = "Name each photo's field image, as in: curl -F image=@photo.jpg"
    try:
        form = await _InMemoryParser(request.headers, _limited(request, max_bytes), max_files=1000).parse()
    except ClientDisconnect:
        raise
    except (MultiPartException, KeyError, ValueError) as error:
        detail = getattr(error, "message", None) or "The multipart body is broken."
        raise ApiError("invalid_multipart", detail, hint) from None
    images = []
    for name, value in form.multi_items():
        if name != "image":
            raise ApiError("invalid_multipart", f"There is no field {name!r} here.", hint)
        if not isinstance(value, UploadFile):
            raise ApiError("invalid_multipart", "The field image holds text and not a file.", hint)
        images.append(await value.read())
    if not images:
        raise ApiError("invalid_multipart", "The multipart body has no field image.", hint)
    if len(images) > MAX_IMAGES:
        raise ApiError(
            "too_many_images", f"The upload has {len(images)} images.", f"Send at most {MAX_IMAGES} at a time."
        )
    return images


def _too_large(max_bytes: int, headers: dict[str, str] | None = None) -> ApiError:
    return ApiError(
        "body_too_large",
        f"The upload is larger than {max_bytes:,} bytes.",
        "Scale the photo down before the upload, or raise FOURSIGHT_MAX_UPLOAD_BYTES.",
        headers,
    )
