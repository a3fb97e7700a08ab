"""A task's worker: one Serve replica, with the model, and with its own HTTP ingress."""

import asyncio
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import perf_counter

from PIL import Image
from ray import ObjectRef, serve

from foursight.models import catalogue
from foursight.models.errors import ModelError
from foursight.schema import Answer, LayerTable, ModelCard
from foursight.schema.options import Options
from foursight.serving import loopback
from foursight.serving.endpoint import Endpoint, Region
from foursight.serving.errors import ApiError, as_api_error
from foursight.serving.hosting import Hosting
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.pipeline import Pixels, TimedAnswer
from foursight.serving.registry import Entry
from foursight.serving.settings import Settings


class Worker:
    """Loads one task of the catalogue and answers for it."""

    def __init__(self, name: str, settings: Settings) -> None:
        loopback.bind_replica()
        # Imported here: who starts the server names this class too, and needs no torch (270 MB) for that.
        from foursight.models.engines import devices, engine  # noqa: PLC0415

        # Ray sets one OpenMP thread for an actor; a task that is alone at work should have the whole machine.
        engine.share_cores(devices.resolve(settings.device))
        self._name = name
        self._settings = settings
        self._task = catalogue.load(name, settings.profile, settings.device, settings.precision_config)
        self._metrics = WorkerMetrics(name, serve.get_replica_context().replica_id.unique_id)
        self._hosting = Hosting(name, self._task, settings)
        self._hosting.sync()
        self._endpoint = Endpoint(name, self._task, settings, self._metrics, devices.is_fatal_device_error)
        self._measuring = Lock()
        self._measured = lru_cache(maxsize=16)(self._measure)
        self._warm_up()

    def __serve_build_asgi_app__(self) -> Endpoint:
        """What Serve calls to get the ASGI application."""
        return self._endpoint

    async def check_health(self) -> None:
        """What Serve asks from time to time; a worker whose computing thread is gone is replaced.

        The registry is looked at as well: a worker that was starting while the others were told has missed it.
        """
        await self.sync_models()
        if not self._endpoint.batcher.alive:
            raise RuntimeError("the computing thread has ended")

    async def ping(self) -> str:
        """The name of the task, as proof of life."""
        await self.check_health()
        return self._name

    def cards(self) -> list[ModelCard]:
        """What `GET /v1/models` says of this worker: its task's own model, then the fine-tuned ones by name."""
        tuned = sorted(self._hosting.cards(), key=lambda card: card.name)
        return [
            ModelCard(
                task=self._name,
                finetuned=card is not self._task.card,
                max_batch=self._settings.max_batch,
                replicas=1,
                labels=list(card.labels),
                **{name: value for name, value in vars(card).items() if name != "labels"},
            )
            for card in (self._task.card, *tuned)
        ]

    async def sync_models(self) -> dict[str, tuple[str, str, str]]:
        """Bring the fine-tuned models in line with the registry; gives what was refused (serving/hosting.py)."""
        # In a thread: requests are taken in meanwhile, and the batch at hand is computed.
        return await asyncio.to_thread(self._hosting.sync)

    async def answer(
        self, photo: list[ObjectRef], options: Options, regions: list[Region] | None = None
    ) -> list[TimedAnswer[Answer]] | ApiError:
        """Answer for a decoded photo, uint8 [H, W, 3] in Ray's object store, or for regions of it.

        `photo` holds one reference, in a list that is emptied: a photo that waits should not fill the store.
        """

        async def fetch() -> Pixels:
            pixels: Pixels = await photo.pop()
            return pixels

        return await self._endpoint.answer(fetch, options, regions)

    def metrics(self) -> str:
        """This worker's metrics in Prometheus' text format."""
        return self._metrics.page()

    async def layers(self, size: tuple[int, int] | None, model: str | None = None) -> LayerTable | ApiError:
        """The table of the layers of the task's network, or of a fine-tuned model's.

        For an input of `size` (height, width), or of the task's own size.
        """
        entry = self._hosting.entry(model) if model else None
        if model and entry is None:
            return ApiError("unknown_model", f"{model!r} is served no longer.", "GET /v1/models lists all.")
        try:
            return await asyncio.to_thread(self._measured, size, model, entry)
        except ModelError as error:
            return as_api_error(error)

    def _measure(self, size: tuple[int, int] | None, model: str | None, entry: Entry | None) -> LayerTable:
        from foursight.models.finetuned import networks  # noqa: PLC0415
        from foursight.models.inspection import summary  # noqa: PLC0415

        # One at a time: it computes beside the photos. Networks that answer have gone to their engines.
        with self._measuring:
            if model and entry:
                network = networks.load(model, Path(entry.folder))
            else:
                network = summary.build(self._name, self._settings.profile)
            found = summary.summarize(network, size)
        return LayerTable.model_validate({"model": model or self._task.card.name, **asdict(found)})

    def _warm_up(self) -> None:
        """Answer for blank images once, so that no request waits for allocations and for kernels to be chosen.

        The time of the last one is the first estimate of the time an image takes.
        """
        for size in ((640, 480), (480, 640)):
            prepared = self._task.prepare(Image.new("RGB", size, "grey"))
            request = self._task.resolve(self._task.options())
            start = perf_counter()
            (output,) = self._task.predict([(prepared, request)])
            seconds = perf_counter() - start
            self._task.finish(output, request)
        self._endpoint.admission.observe(seconds)

    def __del__(self) -> None:
        self._endpoint.close()
