"""From an HTTP request to the bytes of its images. Nothing is decoded here."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from foursight.serving import text_images
from foursight.serving.errors import ApiError

Parsed = TypeVar("Parsed")
# Counts bytes of an upload that have arrived.
Count = Callable[[int], None]

MAX_IMAGES = 32
TIMEOUT_S = 60
# An upload may take GRACE_S, and a second more for each MIN_RATE bytes that have arrived.
GRACE_S = 10
MIN_RATE = 8192
# Most clients send the whole body before they read the response, and see a broken pipe instead if the server stops
# reading. So an upload over the limit is read and discarded, up to this multiple of the limit.
DRAIN_FACTOR = 4
# These types can only be a mistake. All others are accepted, because curl and fetch send unrelated types by default.
_NEVER_AN_IMAGE = ("text/", "application/xml", "video/", "audio/")
# Shorter texts are decoded on the event loop: 64 KiB take less time than a thread switch.
_LONG_TEXT = 2**16


class UploadBudget:
    """Bounds the bytes of all uploads in flight; `held` is their number now."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held = 0

    @contextmanager
    def upload(self) -> Iterator[Count]:
        """Yield the function that counts the bytes of one upload; they are given back at the end of the context.

        It raises ApiError (too_many_uploads).
        """
        held = 0

        def count(arrived: int) -> None:
            nonlocal held
            if self.held + arrived > self._max_bytes:
                raise self._exceeded()
            held += arrived
            self.held += arrived

        try:
            yield count
        finally:
            self.held -= held

    def _exceeded(self) -> ApiError:
        return ApiError(
            "too_many_uploads",
            f"The uploads in flight hold {self.held:,} of {self._max_bytes:,} bytes.",
            "Retry after the delay in Retry-After.",
            {"Retry-After": "1", "Connection": "close"},
        )


class _InMemoryParser(MultiPartParser):
    """Starlette's parser without its temporary files: uploads are limited, and a disk would block the event loop."""

    spool_max_size = 2**62


async def read_images(request: Request, max_bytes: int, count: Count) -> list[bytes]:
    """Return the images of a request, at most MAX_IMAGES: its body, the files of its multipart body, or base64 in JSON.

    Raises ApiError (body_too_large, too_many_uploads, upload_timeout, upload_too_slow, unsupported_media_type,
    invalid_multipart, invalid_json, invalid_base64, truncated_image, too_many_images).
    """
    media_type = media_type_of(request)
    if media_type.startswith(_NEVER_AN_IMAGE) and media_type not in text_images.TEXT_TYPES:
        raise ApiError(
            "unsupported_media_type",
            f"Content-Type {media_type} is not an image type.",
            "Send an image as the body, as a file of multipart/form-data, or in base64 as application/json.",
        )
    body = await read_body(request, max_bytes, count)
    if isinstance(body, list):
        images = body
    else:
        parse = text_images.parser(body, media_type)
        images = [body] if parse is None else await in_thread_if_long(parse, body)
    if len(images) > MAX_IMAGES:
        raise ApiError(
            "too_many_images",
            f"The upload has {len(images)} images.",
            f"Send at most {MAX_IMAGES} images in one request.",
        )
    return images


async def read_body(request: Request, max_bytes: int, count: Count) -> bytes | list[bytes]:
    """Return the body of a request, or the files of a multipart body.

    Raises ApiError (body_too_large, too_many_uploads, upload_timeout, upload_too_slow, unsupported_media_type,
    invalid_multipart).
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(
            "unsupported_media_type",
            f"The body is compressed: Content-Encoding {coding}.",
            "Send the image without Content-Encoding: image files are compressed already.",
            {"Accept-Encoding": "identity"},
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > DRAIN_FACTOR * max_bytes:
        raise _too_large(max_bytes, {"Connection": "close"})
    start = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(start + GRACE_S) as limit:
            chunks = _limited(_in_pace(request, start, limit), max_bytes, count)
            if media_type_of(request) == "multipart/form-data":
                return await _read_multipart(request, chunks)
            return b"".join([chunk async for chunk in chunks])
    except TimeoutError:
        if limit.when() == start + TIMEOUT_S:
            raise ApiError(
                "upload_timeout", f"The upload took longer than {TIMEOUT_S} seconds.", "Send a smaller file."
            ) from None
        raise ApiError(
            "upload_too_slow",
            f"After {GRACE_S} seconds, the upload is slower than {MIN_RATE:,} bytes per second.",
            "Send it without pauses, or a smaller file.",
        ) from None


def media_type_of(request: Request) -> str:
    """Return the Content-Type of a request, in lower case and without parameters."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def in_thread_if_long(parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    """Parse a body, off the event loop if that takes long."""
    return await asyncio.to_thread(parse, body) if len(body) > _LONG_TEXT else parse(body)


async def _in_pace(request: Request, start: float, limit: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
    """Yield a body that began to arrive at `start`, and let `limit` follow what has arrived."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        limit.reschedule(start + min(TIMEOUT_S, GRACE_S + total / MIN_RATE))
        yield chunk


async def _limited(body: AsyncIterable[bytes], max_bytes: int, count: Count) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in body:
        total += len(chunk)
        if total <= max_bytes:
            count(len(chunk))
            yield chunk
        elif total > DRAIN_FACTOR * max_bytes:
            raise _too_large(max_bytes, {"Connection": "close"})
    if total > max_bytes:
        raise _too_large(max_bytes)


async def _read_multipart(request: Request, body: AsyncGenerator[bytes, None]) -> list[bytes]:
    hint = "Send each image as a file, as in: curl -F image=@photo.jpg"
    try:
        form = await _InMemoryParser(request.headers, body, max_files=1000).parse()
    except ClientDisconnect:
        raise
    except (MultiPartException, KeyError, ValueError) as error:
        detail = getattr(error, "message", None) or "The multipart body is malformed."
        raise ApiError("invalid_multipart", detail, hint) from None
    images = []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            wrong = f"The field {name!r} of the multipart body is text, not a file."
            raise ApiError("invalid_multipart", wrong, f"{hint}. Options are query parameters, as in ?top_k=3.")
        images.append(await value.read())
    if not images:
        raise ApiError("invalid_multipart", "The multipart body has no file.", hint)
    return images


def _too_large(max_bytes: int, headers: dict[str, str] | None = None) -> ApiError:
    return ApiError(
        "body_too_large",
        f"The upload is larger than {max_bytes:,} bytes.",
        "Send a smaller image, or raise the server's limit, FOURSIGHT_MAX_UPLOAD_BYTES.",
        headers,
    )
