"""A worker: one Serve replica of a task. It holds the models and gets HTTP requests directly from HAProxy."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter

from PIL import Image
from ray import ObjectRef, serve
from starlette.types import ASGIApp

from foursight.models import catalogue
from foursight.models.engines import devices
from foursight.models.region import Region
from foursight.schema import Answer, LayerTable, ModelCard
from foursight.schema.options import Options
from foursight.serving import logs, traces, web
from foursight.serving.endpoint import Endpoint
from foursight.serving.errors import ApiError, as_api_error
from foursight.serving.finetuned.loader import ModelLoader
from foursight.serving.finetuned.served_models import Entry
from foursight.serving.limits import MAX_SUMMARIES
from foursight.serving.logs import logger
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.pipeline import Pixels, TimedAnswer
from foursight.serving.ray_internals import loopback
from foursight.serving.settings import Settings


class Worker:
    """Loads one task and answers its requests. Public methods are called by Serve, or by the gateway through Serve."""

    def __init__(self, name: str, settings: Settings) -> None:
        loopback.bind_replica()
        logs.connect(name, settings.log_level)
        # Ray sets one OpenMP thread per actor; a task that computes alone should use all cores.
        devices.share_cores(devices.resolve(settings.device))
        self._name = name
        self._settings = settings
        self._task = catalogue.load(name, settings.profile, settings.device, settings.precision_config)
        replica = serve.get_replica_context().replica_id.unique_id
        self._metrics = WorkerMetrics(name, replica)
        self._loader = ModelLoader(name, self._task, settings)
        self._loader.sync()
        self._endpoint = Endpoint(
            name, self._task, settings, self._metrics, devices.is_fatal_device_error, traces.connect(replica)
        )
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="models")
        # One at a time, because layers compete with requests for the cores.
        self._summarizing = ThreadPoolExecutor(1, thread_name_prefix="layers")
        self._summaries = 0
        self._cached_summary = lru_cache(maxsize=16)(self._summarize)
        self._warm_up()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the ASGI application. Serve calls this method."""
        return web.with_cors(self._endpoint, self._settings.allowed_origins)

    async def check_health(self) -> None:
        """Raise RuntimeError if the compute thread has ended, and end the process if it is stuck.

        In both cases, Serve starts a new worker. The check also synchronises the models, because a worker that was
        starting during a broadcast has missed it.
        """
        if self._endpoint.is_stuck:
            logger.critical("the worker of %s ends: its engine does not return from a batch", self._name)
            # An error would make Serve close the worker, which would wait for the thread.
            os._exit(1)
        if not self._endpoint.batcher.alive:
            raise RuntimeError("the compute thread has ended")
        await self.sync_models()

    async def ping(self) -> str:
        """Return the name of the task if the worker is healthy."""
        await self.check_health()
        return self._name

    def cards(self) -> list[ModelCard]:
        """Return the cards for `GET /v1/models`: the built-in model, then the fine-tuned ones by name."""
        finetuned = sorted(self._loader.cards(), key=lambda card: card.name)
        return [
            ModelCard(
                task=self._name,
                finetuned=card is not self._task.card,
                max_batch=self._settings.max_batch,
                replicas=1,
                labels=list(card.labels),
                **{name: value for name, value in vars(card).items() if name != "labels"},
            )
            for card in (self._task.card, *finetuned)
        ]

    async def sync_models(self) -> dict[str, tuple[str, str, str]]:
        """Load and remove fine-tuned models; see ModelLoader.sync."""
        # In a thread, so that requests are answered meanwhile; of its own, so that health checks wait for nothing else.
        return await asyncio.get_running_loop().run_in_executor(self._loading, self._loader.sync)

    async def settle_models(self) -> None:
        """Keep the models that were loaded; see ModelLoader.settle."""
        await asyncio.get_running_loop().run_in_executor(self._loading, self._loader.settle)

    async def answer(
        self, image: list[ObjectRef], options: Options, regions: list[Region] | None = None
    ) -> list[TimedAnswer[Answer]] | ApiError:
        """Return the answers for a decoded image, uint8 [H, W, 3] in Ray's object store, or for regions of it.

        `image` is a list with one reference. The list is emptied, so that the store can free the image once it is
        fetched.
        """

        async def fetch() -> Pixels:
            pixels: Pixels = await image.pop()
            return pixels

        return await self._endpoint.answer(fetch, options, regions)

    def metrics(self) -> str:
        """Return this worker's metrics in Prometheus' text format."""
        return self._metrics.page()

    async def layers(self, size: tuple[int, int] | None, model: str | None = None) -> LayerTable | ApiError:
        """Return the layers of the task's network, or of a fine-tuned model's.

        `size` (height, width) defaults to the task's input size.
        """
        entry = self._loader.entry(model) if model else None
        if model and entry is None:
            return ApiError("unknown_model", f"{model!r} is no longer served.", "GET /v1/models lists all models.")
        if self._summaries == MAX_SUMMARIES:
            return ApiError(
                "overloaded",
                f"The worker of {self._name!r} computes {MAX_SUMMARIES} tables of layers already.",
                "Retry after the delay in Retry-After.",
                {"Retry-After": "2"},
            )
        self._summaries += 1
        try:
            work = partial(self._cached_summary, size, model, entry)
            return await asyncio.get_running_loop().run_in_executor(self._summarizing, work)
        except Exception as error:
            return as_api_error(error)
        finally:
            self._summaries -= 1

    def _summarize(self, size: tuple[int, int] | None, model: str | None, entry: Entry | None) -> LayerTable:
        from foursight.models.finetuned import networks  # noqa: PLC0415
        from foursight.models.inspection import summary  # noqa: PLC0415

        # The network is loaded again, because engines have replaced the modules of the one that answers.
        if model and entry:
            network = networks.load(model, Path(entry.folder))
        else:
            network = summary.build(self._name, self._settings.profile)
        found = summary.summarize(network, size)
        return LayerTable.model_validate({"model": model or self._task.card.name, **asdict(found)})

    def _warm_up(self) -> None:
        """Answer blank images once, so that no request waits for allocations and for the choice of kernels.

        The time of the last one is the first estimate of the time per image.
        """
        for size in ((640, 480), (480, 640)):
            prepared = self._task.prepare(Image.new("RGB", size, "grey"))
            request = self._task.resolve(self._task.options())
            start = perf_counter()
            (output,) = self._task.predict([(prepared, request)])
            seconds = perf_counter() - start
            self._task.finish(output, request)
        self._endpoint.admission.assume(seconds)

    def __del__(self) -> None:
        self._endpoint.close()
