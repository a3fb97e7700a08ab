"""The asyncio client. Its blocking twin, with the full documentation, is in client.py."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any, Self, TypeVar, Unpack, cast

import httpx

from foursight.clients.sdk import many, protocol
from foursight.clients.sdk.connections import Connections
from foursight.clients.sdk.images import ImageInput
from foursight.clients.sdk.many import Failed
from foursight.clients.sdk.options import (
    AnalyzeOptions,
    ClassifyOptions,
    DetectOptions,
    LocalizeOptions,
    SegmentOptions,
)
from foursight.clients.sdk.protocol import Download, DownloadBuffer, Flow, OptionValue, Request, RunInThread, Sleep
from foursight.clients.sdk.responses import Outcome
from foursight.clients.sdk.results import Analysis, Result
from foursight.schema import ModelCard

T = TypeVar("T")


class AsyncClient:
    """Client for asyncio: the same arguments, methods and errors. Files are read and shrunk in threads.

    Several event loops, one after another or in threads, may share a client; each has its own connections.

    >>> async def first_label() -> str:
    ...     async with AsyncClient(url) as client:
    ...         return (await client.classify("photo.jpg", top_k=1)).predictions[0].label
    >>> asyncio.run(first_label())
    'espresso'
    """

    def __init__(
        self,
        url: str = protocol.DEFAULT_URL,
        api_key: str | None = None,
        timeout: float = protocol.TIMEOUT_S,
        retries: int = protocol.RETRIES,
    ) -> None:
        self._arguments = url, api_key, timeout, retries
        settings = protocol.server_settings(url, api_key, timeout), protocol.download_settings(timeout)
        self._connections = Connections(httpx.AsyncClient, *settings)
        self._retries = retries

    def __reduce__(self) -> tuple[type[Self], tuple[str, str | None, float, int]]:
        """Pickle the arguments, with the API key: a copy makes its own connections."""
        return type(self), self._arguments

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of this event loop, and use the client no more."""
        for http in self._connections.close(asyncio.get_running_loop()):
            await http.aclose()

    async def classify(self, image: ImageInput, **options: Unpack[ClassifyOptions]) -> Result:
        """Return labels of the image, best first. The built-in model knows the 1000 of ImageNet."""
        return await self.run("classify", image, **options)

    async def localize(self, image: ImageInput, **options: Unpack[LocalizeOptions]) -> Result:
        """Return the main object: its box and its labels, best first."""
        return await self.run("localize", image, **options)

    async def detect(self, image: ImageInput, **options: Unpack[DetectOptions]) -> Result:
        """Return every object with label and box."""
        return await self.run("detect", image, **options)

    async def segment(self, image: ImageInput, **options: Unpack[SegmentOptions]) -> Result:
        """Return every object with label, box and mask."""
        return await self.run("segment", image, **options)

    async def analyze(self, image: ImageInput, **options: Unpack[AnalyzeOptions]) -> Analysis:
        """Run several tasks with one upload. With `then="classify"`, each object found is also classified."""
        return await self._carry_out(protocol.analyze(image, options, self._retries))

    async def run(self, task: str, image: ImageInput, **options: OptionValue) -> Result:
        """Run any task of the server by its name, with the options that GET /docs lists for it."""
        return await self._carry_out(protocol.run(task, image, options, self._retries))

    def classify_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ClassifyOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """Client.classify_many as an asynchronous generator. `images` may be asynchronous too."""
        return self.run_many("classify", images, concurrency, progress, **options)

    def localize_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[LocalizeOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """Client.localize_many as an asynchronous generator. `images` may be asynchronous too."""
        return self.run_many("localize", images, concurrency, progress, **options)

    def detect_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[DetectOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """Client.detect_many as an asynchronous generator. `images` may be asynchronous too."""
        return self.run_many("detect", images, concurrency, progress, **options)

    def segment_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[SegmentOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """Client.segment_many as an asynchronous generator. `images` may be asynchronous too."""
        return self.run_many("segment", images, concurrency, progress, **options)

    def analyze_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[AnalyzeOptions],
    ) -> AsyncGenerator[Analysis | Failed, None]:
        """Client.analyze_many as an asynchronous generator. `images` may be asynchronous too."""
        return many.in_order_async(lambda image: self.analyze(image, **options), images, concurrency, progress)

    def run_many(
        self,
        task: str,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: OptionValue,
    ) -> AsyncGenerator[Result | Failed, None]:
        """Client.run_many as an asynchronous generator. `images` may be asynchronous too."""
        return many.in_order_async(lambda image: self.run(task, image, **options), images, concurrency, progress)

    async def models(self) -> list[ModelCard]:
        """See Client.models."""
        return await self._carry_out(protocol.models(self._retries))

    async def load_model(self, name: str) -> ModelCard:
        """See Client.load_model."""
        return await self._carry_out(protocol.load_model(name, self._retries))

    async def unload_model(self, name: str) -> None:
        """See Client.unload_model."""
        await self._carry_out(protocol.unload_model(name, self._retries))

    async def ready(self) -> bool:
        """See Client.ready."""
        return await self._carry_out(protocol.ready())

    async def _carry_out(self, flow: Flow[T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                return cast(T, end.value)
            match step:
                case Request():
                    outcome = await self._send(step)
                case Download(url):
                    outcome = await self._download(url)
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                    outcome = None
                case RunInThread(function):
                    outcome = await asyncio.to_thread(function)

    async def _send(self, request: Request) -> Outcome:
        try:
            http = self._connections.pool(asyncio.get_running_loop()).server
            return await http.send(request.build(http))
        except httpx.RequestError as error:
            return error

    async def _download(self, url: str) -> bytes:
        try:
            async with self._connections.pool(asyncio.get_running_loop()).web().stream("GET", url) as response:
                buffer = DownloadBuffer(response)
                async for chunk in response.aiter_bytes():
                    buffer.add(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise protocol.download_error(url, error) from error
        return buffer.content()
