"""Prometheus metrics: those of one replica, and the merged page of all replicas."""

from collections.abc import Iterable

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from foursight.serving.answer_cache import CacheStatus

# A sample with the time of its creation beside each counter would double the page.
disable_created_metrics()  # type: ignore[no-untyped-call]

_NAMES = ("task", "replica")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class RequestMetrics:
    """Metrics of requests, labelled with the task (or `analyze`) and the replica, and of this process."""

    def __init__(self, task: str, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = task, replica
        self._requests = self._counter("requests", "Requests answered.", "status")
        self._errors = self._counter("errors", "Requests answered with an error, by its code.", "code")
        self.queue_images = self._gauge("queue_images", "Images admitted and not yet answered.")
        self._latency = self._histogram("request_seconds", "Time from the headers of a request to its response.")
        self.registry.register(_Process(self._labels))

    def answered(self, status: int, seconds: float, code: str | None = None) -> None:
        """Count a response; `code` is that of an error."""
        self._requests.labels(*self._labels, str(status)).inc()
        self._latency.labels(*self._labels).observe(seconds)
        if code:
            self._errors.labels(*self._labels, code).inc()

    def page(self) -> str:
        """Return these metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(f"foursight_{name}", text, (*_NAMES, *more), registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"foursight_{name}", text, _NAMES, registry=self.registry).labels(*self._labels)

    def _histogram(self, name: str, text: str, *more: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(f"foursight_{name}", text, (*_NAMES, *more), registry=self.registry, buckets=buckets)


class WorkerMetrics(RequestMetrics):
    """Metrics of one worker: its requests, the steps of its images, its answer cache and its batches."""

    def __init__(self, task: str, replica: str) -> None:
        super().__init__(task, replica)
        self._images = self._counter("images", "Images computed.", "model")
        self._cache = self._counter(
            "answer_cache",
            "Lookups in the answer cache: hit, shared (joined a computation in flight) or miss.",
            "result",
        )
        self._decode = self._histogram("decode_seconds", "Time to decode and prepare an image, with its wait.")
        self._queue = self._histogram("queue_seconds", "Time that a prepared image waits for the network.", "model")
        self._batch_size = self._histogram("batch_size", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64))
        self._inference = self._histogram("inference_seconds", "Time that the network takes for a batch.")
        self.upload_bytes = self._gauge("upload_bytes", "Bytes of uploads in flight.")
        self.pixels = self._gauge("pixels", "Pixels of images that are decoded and not yet answered.")

    def looked_up(self, result: CacheStatus) -> None:
        """Count a lookup in the answer cache."""
        self._cache.labels(*self._labels, result).inc()

    def computed(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_size.labels(*self._labels).observe(size)
        self._inference.labels(*self._labels).observe(seconds)

    def passed(self, model: str, decode_s: float, queue_s: float) -> None:
        """Count an image that was computed, by the name of its model."""
        self._images.labels(*self._labels, model).inc()
        self._decode.labels(*self._labels).observe(decode_s)
        self._queue.labels(*self._labels, model).observe(queue_s)


class _Process(Collector):
    """This process's memory and CPU time."""

    def __init__(self, labels: tuple[str, str]) -> None:
        self._labels = labels
        self._process = psutil.Process()

    def collect(self) -> Iterable[Metric]:
        memory = GaugeMetricFamily("foursight_process_resident_memory_bytes", "Resident memory.", labels=_NAMES)
        memory.add_metric(self._labels, self._process.memory_info().rss)
        cpu = CounterMetricFamily("foursight_process_cpu_seconds", "CPU time used.", labels=_NAMES)
        cpu.add_metric(self._labels, sum(self._process.cpu_times()[:2]))
        return memory, cpu


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
