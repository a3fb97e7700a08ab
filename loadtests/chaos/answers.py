"""Whether a response is what the quiet server answered, or the error that the request must get."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import httpx

from foursight.schema import Rle
from foursight.schema.rle import decode

# A network computes slightly different scores in batches of different sizes.
SCORES, PIXELS, IOU = 0.005, 1.0, 0.98
# Statuses and codes below 500 that say that the server had no time, and nothing about the request.
_BUSY_STATUS = HTTPStatus.TOO_MANY_REQUESTS
_BUSY_CODES = ("upload_timeout", "decode_timeout")


@dataclass(frozen=True)
class Expected:
    """The status of a response, and its content: the value of an answer's JSON, or the code of an error."""

    status: int
    content: Any


@dataclass(frozen=True)
class Verdict:
    """What a response is. `cause` says why, and is empty if it is right."""

    kind: Literal["right", "wrong", "failure"]
    cause: str = ""


RIGHT = Verdict("right")


def judge(expected: Expected, status: int, content: bytes) -> Verdict:
    """Return what a response is; a failure is one of the server, which says nothing about the request."""
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    code = value.get("code") if isinstance(value, dict) else None
    if status >= 500 or status == _BUSY_STATUS or code in _BUSY_CODES:
        return Verdict("failure", f"{status} {code or 'without a code'}")
    if inside := next(_failures(value), None):
        return Verdict("failure", f"{status} with {inside} in it")
    if status != expected.status:
        return Verdict("wrong", f"{status} {code or ''}, not {expected.status}".replace(" ,", ","))
    problem = difference(expected.content, value if status == HTTPStatus.OK else code)
    return Verdict("wrong", problem) if problem else RIGHT


def cause_of(error: httpx.HTTPError) -> str:
    """Return why there was no response."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError):
        return "connection refused"
    if isinstance(error, httpx.RemoteProtocolError):
        return "closed without an answer"
    if isinstance(error, httpx.ReadError | httpx.WriteError):
        return "connection reset"
    return type(error).__name__


def difference(expected: Any, found: Any, place: str = "") -> str:
    """Return the first difference between two values of JSON, or "" if there is none that matters.

    Scores, boxes and masks may differ by the tolerances above, predictions may come in another order, and the number of
    workers may change.
    """
    name = place.rpartition(".")[2]
    if name == "replicas":
        return ""
    if name == "mask" and isinstance(expected, dict):
        overlap = _iou(expected, found)
        return "" if overlap >= IOU else f"{place}: the masks overlap by {overlap:.3f}"
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return _first(difference(expected[key], found[key], f"{place}.{key}") for key in expected)
    if isinstance(expected, list) and isinstance(found, list):
        return _of_lists(expected, found, place)
    if _is_number(expected) and _is_number(found):
        same = abs(expected - found) <= {"score": SCORES, "box": PIXELS}.get(name, 0)
    else:
        same = type(expected) is type(found) and expected == found
    return "" if same else f"{place}: {_short(found)}, not {_short(expected)}"


def _first(problems: Iterator[str]) -> str:
    return next(filter(None, problems), "")


def _of_lists(expected: list[Any], found: list[Any], place: str) -> str:
    if len(expected) != len(found):
        return f"{place}: {len(found)} items, not {len(expected)}"
    if not place.endswith(".predictions"):
        return _first(difference(one, other, place) for one, other in zip(expected, found, strict=True))
    left = list(found)
    for prediction in expected:
        problems = [difference(prediction, other, f"{place}.{prediction['label']}") for other in left]
        if "" not in problems:
            return problems[0]
        left.pop(problems.index(""))
    return ""


def _failures(value: Any) -> Iterator[str]:
    """Yield the codes of failures that take the place of an answer, and are the server's."""
    if isinstance(value, dict):
        error = value.get("error")
        if isinstance(error, dict) and error.get("status", 0) >= 500:
            yield str(error.get("code"))
        else:
            for part in value.values():
                yield from _failures(part)
    elif isinstance(value, list):
        for part in value:
            yield from _failures(part)


def _iou(expected: Any, found: Any) -> float:
    try:
        one, other = (decode(Rle.model_validate(mask)) for mask in (expected, found))
        return float((one & other).sum() / max(1, (one | other).sum()))
    except ValueError:
        # Not a mask, or one of another size.
        return 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
