"""What a worker counts, and how the counts of all workers become one page for Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from foursight.serving.answer_cache import Way

_NAMES = ("task", "replica")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class RequestMetrics:
    """The metrics of requests, labelled with the task, or `analyze`, and the replica that answers them."""

    def __init__(self, task: str, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = values = task, replica
        self._requests = Counter(
            "foursight_requests", "Requests answered.", (*_NAMES, "status"), registry=self.registry
        )
        self.waiting = Gauge(
            "foursight_waiting", "Photos taken in and not yet answered.", _NAMES, registry=self.registry
        ).labels(*values)
        self._latency = Histogram(
            "foursight_request_seconds",
            "From the headers of a request to its answer.",
            _NAMES,
            registry=self.registry,
            buckets=_SECONDS,
        ).labels(*values)
        # Of late: an average that forgets.
        self.seconds_per_photo = 0.0

    def answered(self, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(*self._labels, str(status)).inc()
        self._latency.observe(seconds)

    def page(self) -> str:
        """These metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()


class WorkerMetrics(RequestMetrics):
    """The metrics of one worker: of its requests, and of what it computes."""

    def __init__(self, task: str, replica: str) -> None:
        super().__init__(task, replica)
        names, values = _NAMES, self._labels
        self.photos = Counter("foursight_photos", "Photos computed.", names, registry=self.registry).labels(*values)
        self._repeats = Counter(
            "foursight_answer_cache",
            "Photos by how the answer cache had them: hit, shared (in flight) or miss.",
            (*names, "way"),
            registry=self.registry,
        )
        self.batch = Histogram(
            "foursight_batch_size",
            "Photos computed together.",
            names,
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        ).labels(*values)
        self.inference = Histogram(
            "foursight_inference_seconds",
            "Time of one batch in the network.",
            names,
            registry=self.registry,
            buckets=_SECONDS,
        ).labels(*values)

    def repeats(self, way: Way) -> None:
        """Count a photo that was looked up in the answer cache."""
        self._repeats.labels(*self._labels, way).inc()

    def computed(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.photos.inc(size)
        self.batch.observe(size)
        self.inference.observe(seconds)
        self.seconds_per_photo += 0.2 * (seconds / size - self.seconds_per_photo)


class _Merged(Collector):
    def __init__(self, pages: Iterable[str]) -> None:
        self._families: dict[str, Metric] = {}
        for page in pages:
            for family in text_string_to_metric_families(page):
                if family.name in self._families:
                    self._families[family.name].samples.extend(family.samples)
                else:
                    self._families[family.name] = family

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


def merge(pages: Iterable[str]) -> str:
    """One page from those of several workers."""
    registry = CollectorRegistry()
    registry.register(_Merged(pages))
    return generate_latest(registry).decode()
