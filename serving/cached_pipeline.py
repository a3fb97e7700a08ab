"""The pipeline with an answer cache around it: identical images with the same options and format are computed once."""

import asyncio
from dataclasses import dataclass

from foursight.serving.answer_cache import AnswerCache, CacheStatus
from foursight.serving.encoding import Format
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.pipeline import EncodedImage, Pipeline, Request, TimedAnswer

# Overhead of a cached answer in bytes (key, timing, dict entry): measured 650, rounded up.
ENTRY_BYTES = 1024


@dataclass(frozen=True)
class CachedAnswer:
    """One image's answer as bytes. `status` says where it came from, and `stored` whether it is cached now."""

    answer: TimedAnswer[bytes]
    status: CacheStatus = "miss"
    stored: bool = False


class CachedPipeline:
    """Answers uploaded images through an answer cache of `cache_mib` MiB; 0 disables the cache."""

    def __init__(self, pipeline: Pipeline, cache_mib: int, metrics: WorkerMetrics) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._cache: AnswerCache[TimedAnswer[bytes]] | None = None
        if cache_mib:
            self._cache = AnswerCache(cache_mib * 2**20, lambda answer: len(answer.content) + ENTRY_BYTES)

    @property
    def has_cache(self) -> bool:
        """Whether answers are cached."""
        return self._cache is not None

    async def render(self, image: EncodedImage, request: Request, media_type: Format) -> CachedAnswer:
        """Return the answer for one image, cached or computed. Raises as `Pipeline.render` does."""
        if self._cache is None:
            return CachedAnswer(await self._pipeline.render(image, request, media_type))
        # Hashed in a thread, because 12 megapixels take milliseconds, and not in the decoding pool, because a hit must
        # not wait for images that are being decoded.
        digest = await asyncio.to_thread(image.digest)
        status, answer = self._cache.get_or_compute(
            (digest, media_type, request.cache_key), lambda: self._pipeline.render(image, request, media_type)
        )
        self._metrics.looked_up(status)
        if status != "miss":
            image.discard()
        found = await answer
        return CachedAnswer(found, status, status == "miss" and self._cache.accepts(found))
