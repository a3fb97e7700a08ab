"""All that a client does but the input and output: what is sent, what an answer means, and when to try again.

A conversation is a generator. It yields what is to be done (`Send`, `Fetch`, `Pause`, `Work`), is sent the outcome, and
returns the result; Client and AsyncClient only do what it asks for, one by blocking and the other by awaiting.
"""

import logging
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from foursight.clients.sdk.errors import (
    CannotConnect,
    FoursightError,
    InvalidAnswer,
    Overloaded,
    Rejected,
    TimedOut,
    UnreadableImage,
    refused,
)
from foursight.clients.sdk.images import ImageInput, Upload, is_url, load
from foursight.clients.sdk.rescale import rescale
from foursight.clients.sdk.results import Analysis, Result
from foursight.schema import ImageSize, ModelCard, ModelCards, Problem

logger = logging.getLogger("foursight")

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 60.0
RETRIES = 5
CONCURRENCY = 8
# The largest photo that is fetched for an upload: the server's own limit, as it is set by default.
MAX_FETCH_BYTES = 32 * 2**20

_CONNECT_TIMEOUT_S = 5.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 8.0
# A server that asks for a longer wait than this is not waited for.
_LONGEST_WAIT_S = 60.0

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Send:
    """Send a request to the server; the outcome is an httpx.Response, read to its end, or an httpx.RequestError."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    request_id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def headers(self) -> dict[str, str]:
        """The request's own headers."""
        kind = {} if self.content is None else {"Content-Type": "application/octet-stream"}
        return {"X-Request-ID": self.request_id, **kind}


@dataclass(frozen=True)
class Fetch:
    """Get a photo from any web server; the outcome is its bytes. Done with `Download`."""

    url: str


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Call a function that may take a while and must not hold up an event loop; the outcome is what it returns."""

    function: Callable[[], Any]


Step = Send | Fetch | Pause | Work
Conversation = Generator[Step, Any, T]


def connection(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """The settings of the httpx client that talks to the server. Raises ValueError for an address that is none."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no address of a server: it begins with http:// or https://")
    headers = {"Accept": "application/json", "User-Agent": "foursight-python"}
    return {
        "base_url": url,
        "headers": headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT_S)),
        # As many connections as there are requests at a time, all kept.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    }


def fetching(timeout: float) -> dict[str, Any]:
    """The settings of the httpx client that fetches photos: it never sees the API key."""
    return {"timeout": timeout, "follow_redirects": True, "headers": {"User-Agent": "foursight-python"}}


def ask(task: str, image: ImageInput, options: Mapping[str, Any], retries: int) -> Conversation[Result]:
    """One task on one photo; `options` are the task's, and `max_side`."""
    upload, response = yield from _upload(f"/v1/{task}", image, options, retries)
    result = _read(Result, response)
    if upload.size:
        result = yield Work(partial(rescale, result, upload.size))
    result._photo, result._request_id = upload.photo, _request_id(response)
    return result


def analyze(image: ImageInput, options: Mapping[str, Any], retries: int) -> Conversation[Analysis]:
    """Several tasks on one photo; `options` are `tasks`, `then`, the tasks' own, and `max_side`."""
    upload, response = yield from _upload("/v1/analyze", image, options, retries)
    analysis = _read(Analysis, response)
    if upload.size:
        analysis = yield Work(partial(_rescale_all, analysis, upload.size))
    analysis._photo, analysis._request_id = upload.photo, _request_id(response)
    return analysis


def models(retries: int) -> Conversation[list[ModelCard]]:
    """Each task's model."""
    response = yield from _exchange(Send("GET", "/v1/models"), retries)
    return _read(ModelCards, response).models


def load_model(name: str, retries: int) -> Conversation[ModelCard]:
    """Serve a fine-tuned model of the server's models folder, read anew."""
    response = yield from _exchange(Send("PUT", f"/v1/models/{quote(name, safe='')}"), retries)
    return _read(ModelCard, response)


def unload_model(name: str, retries: int) -> Conversation[None]:
    """Serve a fine-tuned model no longer."""
    yield from _exchange(Send("DELETE", f"/v1/models/{quote(name, safe='')}"), retries)


def ready() -> Conversation[bool]:
    """Whether every task answers, asked once."""
    outcome = yield Send("GET", "/readyz")
    return isinstance(outcome, httpx.Response) and outcome.status_code == 200


class Download:
    """Collects a photo as it arrives, and stops where it is too large or none. Raises UnreadableImage."""

    def __init__(self, response: httpx.Response) -> None:
        self._url = str(response.url)
        self._chunks: list[bytes] = []
        self._total = 0
        if response.status_code != 200:
            raise UnreadableImage(f"{self._url} cannot be fetched: its server answers {response.status_code}.")
        length = response.headers.get("content-length", "")
        self._check(int(length) if length.isdecimal() else 0)

    def add(self, chunk: bytes) -> None:
        """Take the next part."""
        self._total += len(chunk)
        self._check(self._total)
        self._chunks.append(chunk)

    def content(self) -> bytes:
        """The whole."""
        return b"".join(self._chunks)

    def _check(self, size: int) -> None:
        if size > MAX_FETCH_BYTES:
            raise UnreadableImage(f"{self._url} is larger than {MAX_FETCH_BYTES:,} bytes.")


def not_fetched(url: str, error: Exception) -> UnreadableImage:
    """The error for a photo whose server could not be reached."""
    return UnreadableImage(f"{url} cannot be fetched: {error or type(error).__name__}.")


def retry_delay(error: FoursightError, attempt: int, retries: int) -> float | None:
    """Seconds to wait before the next attempt, or None for giving up; `attempt` counts from 0.

    Only what a later attempt may mend is tried again: a broken connection, and a server that is busy. The wait doubles
    each time, and half of it is left to chance, lest all clients come back together.
    """
    if attempt >= retries or not isinstance(error, CannotConnect | Overloaded):
        return None
    longest: float = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt)
    backoff = random.uniform(longest / 2, longest)
    asked = error.retry_after if isinstance(error, Overloaded) else None
    if asked is None:
        return backoff
    return asked + backoff if asked <= _LONGEST_WAIT_S else None


def _upload(
    path: str, image: ImageInput, options: Mapping[str, Any], retries: int
) -> Conversation[tuple[Upload, httpx.Response]]:
    params = {name: _text(value) for name, value in options.items() if value is not None and name != "max_side"}
    max_side = options.get("max_side")
    if is_url(image):
        image = yield Fetch(str(image))
    if isinstance(image, bytes) and max_side is None:
        upload = load(image)
    else:
        upload = yield Work(partial(load, image, max_side))
    response = yield from _exchange(Send("POST", path, params, upload.content), retries)
    return upload, response


def _text(value: object) -> str:
    """A value of an option as the query string has it: lists are comma-separated."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)


def _exchange(request: Send, retries: int) -> Conversation[httpx.Response]:
    """Send a request until it is answered, or until nothing more can be hoped for."""
    attempt = 0
    while True:
        outcome: httpx.Response | httpx.RequestError = yield request
        error = _error(outcome, request)
        if error is None:
            return outcome  # type: ignore[return-value]  # an error would have been found
        if attempt and request.method == "DELETE" and isinstance(error, Rejected) and error.code == "unknown_model":
            # An earlier attempt has removed it, and its response was lost.
            return outcome  # type: ignore[return-value]  # as above
        delay = retry_delay(error, attempt, retries)
        if delay is None:
            raise error from (outcome if isinstance(outcome, Exception) else None)
        attempt += 1
        logger.warning("%s; attempt %d of %d follows in %.2f s", error, attempt + 1, retries + 1, delay)
        yield Pause(delay)


def _error(outcome: httpx.Response | httpx.RequestError, request: Send) -> FoursightError | None:
    if isinstance(outcome, httpx.Response):
        return None if outcome.status_code in {200, 204} else _refusal(outcome)
    address = f"{outcome.request.url.scheme}://{outcome.request.url.netloc.decode()}"
    reason = str(outcome) or type(outcome).__name__
    if isinstance(outcome, httpx.TimeoutException) and not isinstance(outcome, httpx.ConnectTimeout):
        return TimedOut(f"{address} did not answer in time ({reason}).", request.request_id)
    if isinstance(outcome, httpx.TransportError):
        return CannotConnect(f"Cannot connect to {address} ({reason}).", request.request_id)
    return InvalidAnswer(f"{address} does not answer as a Foursight server does ({reason}).", request.request_id)


def _refusal(response: httpx.Response) -> FoursightError:
    request_id = _request_id(response)
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        if response.status_code < 400:
            return _invalid(response)
        # Not from Foursight itself: a proxy on the way, as a rule.
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase,
            status=response.status_code,
            code="unknown",
            detail=f"{response.url.copy_with(query=None)} answers {response.status_code} {response.reason_phrase}.",
            hint="",
        )
    return refused(problem, request_id, _retry_after(response.headers.get("retry-after", "")))


def _retry_after(value: str) -> float | None:
    """The seconds that a Retry-After header asks for: a number, or a date (RFC 9110, section 10.2.3)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _request_id(response: httpx.Response) -> str | None:
    found: str | None = response.headers.get("x-request-id") or response.request.headers.get("x-request-id")
    return found


def _read(model: type[Model], response: httpx.Response) -> Model:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise _invalid(response) from error


def _invalid(response: httpx.Response) -> InvalidAnswer:
    return InvalidAnswer(
        f"{response.url.copy_with(query=None)} does not answer as a Foursight server does: "
        f"{response.status_code} {response.reason_phrase}, {len(response.content):,} bytes of "
        f"{response.headers.get('content-type', 'an unknown type')}.",
        _request_id(response),
    )


def _rescale_all(analysis: Analysis, size: tuple[int, int]) -> Analysis:
    tasks = {
        task: rescale(found, size) if isinstance(found, Result) else found for task, found in analysis.tasks.items()
    }
    return Analysis(image=ImageSize(width=size[0], height=size[1]), tasks=tasks, then=analysis.then)
