"""Admission control: an image that cannot be answered soon is refused at once.

Images take their places when they have arrived, so slow uploads hold none. That there is a place is checked before the
body is read, too, so that a request that would be refused costs no memory.

The queue is bounded by the number of images in it, and by the time they are expected to take: the standard profile
needs 8 s per image on a CPU, so a queue of 72 would outlast every proxy's timeout.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from foursight.serving.errors import ApiError
from foursight.serving.metrics import RequestMetrics
from foursight.serving.ray_internals.environment import SERVER_TIMEOUT_S

# HAProxy drops a request after SERVER_TIMEOUT_S. Half of that is reserved for uploads and for errors of the estimate.
MAX_WAIT_S = SERVER_TIMEOUT_S / 2


class AdmissionControl:
    """Counts the images that are admitted and not yet answered. `name` is the last part of the path, as in "detect"."""

    def __init__(self, name: str, capacity: int, metrics: RequestMetrics, max_wait_s: float = MAX_WAIT_S) -> None:
        self._name = name
        self.capacity = capacity
        self._max_wait_s = max_wait_s
        self._metrics = metrics
        self._seconds_per_image = 0.0
        self._measured = False
        self.admitted = 0

    def check(self, count: int, within_s: float = math.inf) -> None:
        """Raise ApiError (overloaded) if there are no places for `count` images, or no answers `within_s` seconds."""
        if self.admitted + count > self.capacity:
            raise self._overloaded(
                f"The queue for {self._name!r} is full ({self.admitted} of {self.capacity}).", self.admitted
            )
        wait_s = self._wait_s(self.admitted + count)
        limit_s = min(within_s, self._max_wait_s)
        # An image with nothing queued before it is always admitted, however slow the model is.
        if self.admitted and wait_s > limit_s:
            raise self._overloaded(
                f"The queue for {self._name!r} would take {wait_s:.3g} s; the limit is {limit_s:.3g} s.", self.admitted
            )

    @contextmanager
    def reserve(self, count: int, within_s: float = math.inf) -> Iterator[None]:
        """Reserve places for `count` images while the context lasts. Raises as `check` does."""
        self.check(count, within_s)
        self._admit(count)
        try:
            yield
        finally:
            self._admit(-count)

    def assume(self, seconds_per_image: float) -> None:
        """Set the estimate until the first measurement."""
        self._seconds_per_image = seconds_per_image

    @property
    def seconds_per_image(self) -> float:
        """The estimate of the time that one image takes."""
        return self._seconds_per_image

    def observe(self, seconds_per_image: float) -> None:
        """Update the estimate, a moving average, with a measurement in seconds; the first one replaces the estimate."""
        weight = 0.2 if self._measured else 1.0
        self._measured = True
        self._seconds_per_image += weight * (seconds_per_image - self._seconds_per_image)

    def _wait_s(self, images: int) -> float:
        return images * self._seconds_per_image

    def _overloaded(self, detail: str, waiting: int) -> ApiError:
        retry_after = max(1, math.ceil(self._wait_s(waiting)))
        return ApiError("overloaded", detail, _HINT, {"Retry-After": str(retry_after)})

    def _admit(self, count: int) -> None:
        self.admitted += count
        self._metrics.queue_images.set(self.admitted)


_HINT = "Retry after the delay in Retry-After. Send large batches in smaller requests."
