"""Admission: so many photos may be taken in and not yet answered, and what is more is refused at once."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from foursight.serving.errors import ApiError
from foursight.serving.metrics import RequestMetrics


class Places:
    """The places that a worker has for photos; `name` is that of its path, as in "detect"."""

    def __init__(self, name: str, total: int, metrics: RequestMetrics) -> None:
        self._name = name
        self._total = total
        self._metrics = metrics
        self._taken = 0

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Take so many places for as long as the context lasts. Raises ApiError (overloaded)."""
        if count and self._taken + count > self._total:
            raise ApiError(
                "overloaded",
                f"{self._taken} photos wait for {self._name!r} already; there is room for {self._total}.",
                "Try again after the time that Retry-After says.",
                {"Retry-After": str(max(1, math.ceil(self._taken * self._metrics.seconds_per_photo)))},
            )
        self._move(count)
        try:
            yield
        finally:
            self._move(-count)

    def _move(self, count: int) -> None:
        self._taken += count
        self._metrics.waiting.set(self._taken)
