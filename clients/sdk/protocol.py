"""Everything that a client does except input and output: which requests to send, and how to interpret the outcomes.

A `Flow` is a generator. It yields steps (`Request`, `Download`, `Sleep`, `RunInThread`), is sent the outcome of each,
and returns the result. Client and AsyncClient only carry out the steps: one blocks, the other awaits.
"""

import logging
import math
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import numpy as np

from foursight.clients.sdk import proxies
from foursight.clients.sdk.errors import Rejected, UnreadableImage
from foursight.clients.sdk.images import ImageInput, Upload, is_url, load
from foursight.clients.sdk.rescale import rescale, rescale_analysis
from foursight.clients.sdk.responses import (
    REQUEST_ID_PREFIX,
    Outcome,
    error_of,
    read,
    request_id_of,
    retry_delay,
)
from foursight.clients.sdk.results import Analysis, Result
from foursight.schema import ModelCard, ModelCards
from foursight.schema.names import join_names

logger = logging.getLogger("foursight")

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 60.0
RETRIES = 5
CONCURRENCY = 8
# Largest image that is fetched for an upload: the default limit of the server.
MAX_DOWNLOAD_BYTES = 32 * 2**20

_CONNECT_TIMEOUT_S = 5.0

T = TypeVar("T")
R = TypeVar("R", Result, Analysis)
OptionValue = str | float | bool | Iterable[str] | None


@dataclass(frozen=True)
class Request:
    """Send a request to the server. The outcome is an httpx.Response, read to its end, or an httpx.RequestError."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    request_id: str = field(default_factory=lambda: f"{REQUEST_ID_PREFIX}{uuid4().hex}")

    def build(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Return the request as `client` sends it."""
        headers = {"X-Request-ID": self.request_id}
        # Only a program that has imported it can be in a span.
        if "opentelemetry.trace" in sys.modules:
            from opentelemetry import propagate  # noqa: PLC0415

            propagate.inject(headers)
        if self.content is not None:
            headers["Content-Type"] = "application/octet-stream"
        return client.build_request(
            self.method, self.path, params=self.params or None, content=self.content, headers=headers
        )


@dataclass(frozen=True)
class Download:
    """Fetch an image from any web server, through `DownloadBuffer`. The outcome is its bytes."""

    url: str


@dataclass(frozen=True)
class Sleep:
    """Wait. There is no outcome."""

    seconds: float


@dataclass(frozen=True)
class RunInThread:
    """Call a function that would block an event loop for too long. The outcome is what it returns."""

    function: Callable[[], Any]


Step = Request | Download | Sleep | RunInThread
Flow = Generator[Step, Any, T]


def server_settings(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Return arguments for the httpx client of the server. Raises ValueError if `url` is not an http(s) address.

    A path is kept, because the server may be behind a proxy's prefix; /v1 at its end is not part of the address.
    """
    try:
        address = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not the address of a server: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError(f"{url!r} is not the address of a server: it must begin with http:// or https://")
    headers = {"Accept": "application/json", "User-Agent": "foursight-python"}
    if 0 < timeout < math.inf:
        headers["Request-Timeout"] = f"{timeout:g}"
    return {
        "base_url": address.copy_with(path=address.path.rstrip("/").removesuffix("/v1"), query=None, fragment=None),
        # A proxy cannot reach this machine's own addresses.
        "trust_env": not proxies.is_loopback(address.host),
        # `trust_env` False would also ignore SSL_CERT_FILE. Without HTTPS, the certificates are not read.
        "verify": httpx.create_ssl_context() if address.scheme == "https" else False,
        "headers": headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT_S)),
        # The concurrency of the calls decides the number of connections; all are kept open.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    }


def download_settings(timeout: float) -> dict[str, Any]:
    """Return arguments for the httpx client that fetches images. It has no API key to send."""
    return {"timeout": timeout, "follow_redirects": True, "headers": {"User-Agent": "foursight-python"}}


def run(task: str, image: ImageInput, options: Mapping[str, Any], retries: int) -> Flow[Result]:
    """Run one task on one image. `options` are the task's, and `max_side`."""
    return (yield from _answer(Result, f"/v1/{quote(task, safe='')}", rescale, image, options, retries))


def analyze(image: ImageInput, options: Mapping[str, Any], retries: int) -> Flow[Analysis]:
    """Run several tasks on one image. `options` are `tasks`, `then`, the tasks' own, and `max_side`."""
    return (yield from _answer(Analysis, "/v1/analyze", rescale_analysis, image, options, retries))


def models(retries: int) -> Flow[list[ModelCard]]:
    """List the models that the server runs."""
    response = yield from _exchange(Request("GET", "/v1/models"), retries)
    return read(ModelCards, response).models


def load_model(name: str, retries: int) -> Flow[ModelCard]:
    """Load a fine-tuned model from the server's models folder."""
    response = yield from _exchange(Request("PUT", f"/v1/models/{quote(name, safe='')}"), retries)
    return read(ModelCard, response)


def unload_model(name: str, retries: int) -> Flow[None]:
    """Stop serving a fine-tuned model."""
    yield from _exchange(Request("DELETE", f"/v1/models/{quote(name, safe='')}"), retries)


def ready() -> Flow[bool]:
    """Return whether every task answers. Never retried."""
    outcome = yield Request("GET", "/readyz")
    return isinstance(outcome, httpx.Response) and outcome.status_code == 200


class DownloadBuffer:
    """Collects an image as it arrives. Raises UnreadableImage for an error status or an image that is too large."""

    def __init__(self, response: httpx.Response) -> None:
        self._url = str(response.url)
        self._chunks: list[bytes] = []
        self._total = 0
        if response.status_code != 200:
            raise UnreadableImage(f"{self._url} cannot be fetched: its server responded {response.status_code}.")
        length = response.headers.get("content-length", "")
        self._check(int(length) if length.isdecimal() else 0)

    def add(self, chunk: bytes) -> None:
        """Append the next bytes."""
        self._total += len(chunk)
        self._check(self._total)
        self._chunks.append(chunk)

    def content(self) -> bytes:
        """All bytes."""
        return b"".join(self._chunks)

    def _check(self, size: int) -> None:
        if size > MAX_DOWNLOAD_BYTES:
            raise UnreadableImage(f"{self._url} is larger than {MAX_DOWNLOAD_BYTES:,} bytes.")


def download_error(url: str, error: Exception) -> UnreadableImage:
    """Return the error for an image that could not be fetched."""
    return UnreadableImage(f"{url} cannot be fetched: {error or type(error).__name__}.")


def _answer(
    kind: type[R],
    path: str,
    scale_up: Callable[[R, tuple[int, int]], R],
    image: ImageInput,
    options: Mapping[str, Any],
    retries: int,
) -> Flow[R]:
    """Upload an image and return the answer, in pixels of the original even if the upload was smaller."""
    upload = yield from _load(image, options.get("max_side"))
    params = {name: _to_text(value) for name, value in options.items() if value is not None and name != "max_side"}
    response = yield from _exchange(Request("POST", path, params, upload.content), retries)
    answer = read(kind, response)
    if upload.size:
        answer = yield RunInThread(partial(scale_up, answer, upload.size))
    answer._original, answer._request_id = upload.original, request_id_of(response)
    return answer


def _load(image: ImageInput, max_side: int | None) -> Flow[Upload]:
    if is_url(image):
        image = yield Download(str(image))
    if isinstance(image, bytes) and max_side is None:
        return load(image)
    upload: Upload = yield RunInThread(partial(load, image, max_side))
    return upload


def _to_text(value: OptionValue) -> str:
    """Return the value of an option for a query string. Names are comma-separated."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, bytes | Mapping):
        raise TypeError(f"{value!r} is not the value of an option; pass text, a number, or a list of names")
    if isinstance(value, Iterable) and not isinstance(value, str):
        return join_names(map(str, sorted(value) if isinstance(value, set | frozenset) else value))
    return str(value)


def _exchange(request: Request, retries: int) -> Flow[httpx.Response]:
    """Send a request until it succeeds. Raises the error of the last attempt."""
    attempt = 0
    while True:
        outcome: Outcome = yield request
        error = error_of(outcome, request.request_id)
        if error is None:
            return outcome  # type: ignore[return-value]  # error_of is None for responses only
        if attempt and request.method == "DELETE" and isinstance(error, Rejected) and error.code == "unknown_model":
            # An earlier attempt removed the model, and its response was lost.
            return outcome  # type: ignore[return-value]  # as above
        delay = retry_delay(error, attempt, retries)
        if delay is None:
            raise error from (outcome if isinstance(outcome, Exception) else None)
        attempt += 1
        logger.warning("%s; attempt %d of %d follows in %.2f s", error, attempt + 1, retries + 1, delay)
        yield Sleep(delay)
