"""Prometheus metrics: those of one replica, and the merged page of all replicas."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from foursight.serving.answer_cache import CacheStatus

_NAMES = ("task", "replica")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class RequestMetrics:
    """Metrics of requests, labelled with the task (or `analyze`) and the replica."""

    def __init__(self, task: str, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = values = task, replica
        self._requests = Counter(
            "foursight_requests", "Requests answered.", (*_NAMES, "status"), registry=self.registry
        )
        self.queue_images = Gauge(
            "foursight_queue_images", "Images admitted and not yet answered.", _NAMES, registry=self.registry
        ).labels(*values)
        self._latency = Histogram(
            "foursight_request_seconds",
            "Time from the headers of a request to its response.",
            _NAMES,
            registry=self.registry,
            buckets=_SECONDS,
        ).labels(*values)

    def answered(self, status: int, seconds: float) -> None:
        """Count a response."""
        self._requests.labels(*self._labels, str(status)).inc()
        self._latency.observe(seconds)

    def page(self) -> str:
        """Return these metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()


class WorkerMetrics(RequestMetrics):
    """Metrics of one worker: its requests, its answer cache and its batches."""

    def __init__(self, task: str, replica: str) -> None:
        super().__init__(task, replica)
        names, values = _NAMES, self._labels
        self._images = Counter("foursight_images", "Images computed.", names, registry=self.registry).labels(*values)
        self._cache = Counter(
            "foursight_answer_cache",
            "Lookups in the answer cache: hit, shared (joined a computation in flight) or miss.",
            (*names, "result"),
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "foursight_batch_size",
            "Images in a batch.",
            names,
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        ).labels(*values)
        self._inference = Histogram(
            "foursight_inference_seconds",
            "Time that the network takes for a batch.",
            names,
            registry=self.registry,
            buckets=_SECONDS,
        ).labels(*values)

    def looked_up(self, result: CacheStatus) -> None:
        """Count a lookup in the answer cache."""
        self._cache.labels(*self._labels, result).inc()

    def computed(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._images.inc(size)
        self._batch_size.observe(size)
        self._inference.observe(seconds)


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
    """Merge the pages of several replicas into one."""
    registry = CollectorRegistry()
    registry.register(_Merged(pages))
    return generate_latest(registry).decode()
