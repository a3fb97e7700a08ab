"""Interprets a response: the value that it holds, the error to raise, and whether to try again."""

import random
import time
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from foursight.clients.sdk import proxies
from foursight.clients.sdk.errors import (
    CannotConnect,
    FoursightError,
    InvalidAnswer,
    Overloaded,
    TimedOut,
    to_api_error,
)
from foursight.schema import Problem

# Distinguishes the ids of clients from those that a proxy sets instead.
REQUEST_ID_PREFIX = "foursight-"
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 8.0
# A request is not retried if the server asks for a longer delay than this.
_LONGEST_RETRY_AFTER_S = 60.0

Model = TypeVar("Model", bound=BaseModel)
Outcome = httpx.Response | httpx.RequestError


def read(model: type[Model], response: httpx.Response) -> Model:
    """Return the body of a response. Raises InvalidAnswer."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise _invalid(response) from error


def request_id_of(response: httpx.Response) -> str | None:
    """Return the id under which the server logs the request."""
    found: str | None = response.headers.get("x-request-id") or response.request.headers.get("x-request-id")
    return found


def error_of(outcome: Outcome, request_id: str) -> FoursightError | None:
    """Return the error to raise for the outcome of a request; None if it succeeded."""
    if isinstance(outcome, httpx.Response):
        if _belongs_to_another(outcome, request_id):
            return InvalidAnswer(f"{_address(outcome)} returned the response to another request.", request_id)
        return None if outcome.status_code in {200, 204} else _error_of_response(outcome)
    url = outcome.request.url
    address = f"{url.scheme}://{url.netloc.decode()}{proxies.through(url)}"
    reason = str(outcome) or type(outcome).__name__
    if isinstance(outcome, httpx.TimeoutException) and not isinstance(outcome, httpx.ConnectTimeout):
        return TimedOut(f"{address} did not respond in time ({reason}).", request_id)
    if isinstance(outcome, httpx.TransportError):
        return CannotConnect(f"Cannot connect to {address} ({reason}).", request_id)
    return InvalidAnswer(f"{address} does not respond like a Foursight server ({reason}).", request_id)


def _belongs_to_another(response: httpx.Response, request_id: str) -> bool:
    """Whether a response has the id of another client's request. GET is left out: a proxy may cache its responses."""
    echoed = response.headers.get("x-request-id", request_id)
    return echoed.startswith(REQUEST_ID_PREFIX) and echoed != request_id and response.request.method != "GET"


def retry_delay(error: FoursightError, attempt: int, retries: int) -> float | None:
    """Return the seconds to wait before the next attempt, or None to give up. `attempt` counts from 0.

    Only a broken connection and a busy server are tried again. The delay doubles with each attempt, and half of it is
    random, so that clients do not return all at once.
    """
    if attempt >= retries or not isinstance(error, CannotConnect | Overloaded):
        return None
    longest: float = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt)
    backoff = random.uniform(longest / 2, longest)
    retry_after = error.retry_after if isinstance(error, Overloaded) else None
    if retry_after is None:
        return backoff
    return retry_after + backoff if retry_after <= _LONGEST_RETRY_AFTER_S else None


def _error_of_response(response: httpx.Response) -> FoursightError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        if response.status_code < 400:
            return _invalid(response)
        # Usually not from Foursight itself, but from a proxy in between.
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase,
            status=response.status_code,
            code="unknown",
            detail=f"{_address(response)}{proxies.through(response.url)} responded {response.status_code} "
            f"{response.reason_phrase}.",
            hint="",
        )
    return to_api_error(problem, request_id_of(response), _retry_after(response.headers.get("retry-after", "")))


def _retry_after(value: str) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date (RFC 9110, section 10.2.3)."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _invalid(response: httpx.Response) -> InvalidAnswer:
    return InvalidAnswer(
        f"{_address(response)} does not respond like a Foursight server: {response.status_code} "
        f"{response.reason_phrase}, {len(response.content):,} bytes of "
        f"{response.headers.get('content-type', 'unknown type')}.",
        request_id_of(response),
    )


def _address(response: httpx.Response) -> httpx.URL:
    return response.url.copy_with(query=None)
