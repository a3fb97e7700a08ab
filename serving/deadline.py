"""The time by which a request must be answered: the server's limit, or less if its header Request-Timeout says so."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

from starlette.requests import Request

from foursight.serving.errors import ApiError

# Seconds, as a decimal number, that the client waits for the response after it has sent the headers.
HEADER = "Request-Timeout"


class Deadline:
    """A point in time, `seconds` after `start` (of `perf_counter`)."""

    def __init__(self, start: float, seconds: float) -> None:
        self._start = start
        self._seconds = seconds

    @property
    def remaining_s(self) -> float:
        """Seconds that are left; negative afterwards."""
        return self._start + self._seconds - perf_counter()

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel the block when the time is over. Raises ApiError (deadline_exceeded)."""
        try:
            async with asyncio.timeout(self.remaining_s):
                yield
        except TimeoutError:
            raise self.exceeded() from None

    def exceeded(self) -> ApiError:
        """Return the error for an answer that is late."""
        return ApiError(
            "deadline_exceeded",
            f"There was no answer within {self._seconds:g} s.",
            f"Send {HEADER} with more seconds, or ask again when there is less load.",
        )


def read_deadline(request: Request, start: float, limit_s: float) -> Deadline:
    """Return the deadline of a request whose headers arrived at `start`. Raises ApiError (invalid_timeout)."""
    text = request.headers.get(HEADER)
    if text is None:
        return Deadline(start, limit_s)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ApiError(
            "invalid_timeout",
            f"{HEADER} is not a number of seconds above 0.",
            f"Send a positive number, as in {HEADER}: 2.5",
        )
    return Deadline(start, min(seconds, limit_s))
