"""From an HTTP request to the bytes of its images. Nothing is decoded here."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from foursight.serving.errors import ApiError

MAX_IMAGES = 32
TIMEOUT_S = 60
# Most clients send the whole body before they read the response, and see a broken pipe instead if the server stops
# reading. So an upload over the limit is read and discarded, up to this multiple of the limit.
DRAIN_FACTOR = 4
# These types can only be a mistake. All others are accepted, because curl and fetch send unrelated types by default.
_NEVER_AN_IMAGE = ("text/", "application/json", "application/xml", "video/", "audio/")


class _InMemoryParser(MultiPartParser):
    """Starlette's parser without its temporary files: uploads are limited, and a disk would block the event loop."""

    spool_max_size = 2**62


async def read_images(request: Request, max_bytes: int) -> list[bytes]:
    """Return the images of a request: its body, or the fields `image` of its multipart body, at most MAX_IMAGES.

    Raises ApiError (body_too_large, upload_timeout, unsupported_media_type, invalid_multipart, too_many_images).
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type.startswith(_NEVER_AN_IMAGE):
        raise ApiError(
            "unsupported_media_type",
            f"Content-Type {media_type} is not an image type.",
            "Send an image as the body, or as the field `image` of multipart/form-data.",
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > DRAIN_FACTOR * max_bytes:
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


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total <= max_bytes:
            yield chunk
        elif total > DRAIN_FACTOR * max_bytes:
            raise _too_large(max_bytes, {"Connection": "close"})
    if total > max_bytes:
        raise _too_large(max_bytes)


async def _read_multipart(request: Request, max_bytes: int) -> list[bytes]:
    hint = "Send each image as a field named `image`, as in: curl -F image=@photo.jpg"
    try:
        form = await _InMemoryParser(request.headers, _limited(request, max_bytes), max_files=1000).parse()
    except ClientDisconnect:
        raise
    except (MultiPartException, KeyError, ValueError) as error:
        detail = getattr(error, "message", None) or "The multipart body is malformed."
        raise ApiError("invalid_multipart", detail, hint) from None
    images = []
    for name, value in form.multi_items():
        if name != "image":
            raise ApiError("invalid_multipart", f"Unknown field {name!r} in the multipart body.", hint)
        if not isinstance(value, UploadFile):
            raise ApiError("invalid_multipart", "The field `image` is text, not a file.", hint)
        images.append(await value.read())
    if not images:
        raise ApiError("invalid_multipart", "The multipart body has no field `image`.", hint)
    if len(images) > MAX_IMAGES:
        raise ApiError(
            "too_many_images",
            f"The upload has {len(images)} images.",
            f"Send at most {MAX_IMAGES} images in one request.",
        )
    return images


def _too_large(max_bytes: int, headers: dict[str, str] | None = None) -> ApiError:
    return ApiError(
        "body_too_large",
        f"The upload is larger than {max_bytes:,} bytes.",
        "Send a smaller image, or raise the server's limit, FOURSIGHT_MAX_UPLOAD_BYTES.",
        headers,
    )
