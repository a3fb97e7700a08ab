"""The client that awaits. Its twin that blocks, with all the documentation, is in client.py."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import Any, Self, TypeVar, Unpack, cast

import httpx

from foursight.clients.sdk import many, protocol
from foursight.clients.sdk.images import ImageInput
from foursight.clients.sdk.many import Failed
from foursight.clients.sdk.options import (
    AnalyzeOptions,
    ClassifyOptions,
    DetectOptions,
    LocalizeOptions,
    SegmentOptions,
)
from foursight.clients.sdk.protocol import Conversation, Download, Fetch, Pause, Send, Work
from foursight.clients.sdk.results import Analysis, Result
from foursight.schema import ModelCard

T = TypeVar("T")


class AsyncClient:
    """As Client, for asyncio: the same arguments, methods and errors. Files are read and shrunk in threads.

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
        self._http = httpx.AsyncClient(**protocol.connection(url, api_key, timeout))
        self._web = httpx.AsyncClient(**protocol.fetching(timeout))
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()
        await self._web.aclose()

    async def classify(self, image: ImageInput, **options: Unpack[ClassifyOptions]) -> Result:
        """What is in the photo: ImageNet-1k labels, best first."""
        return await self._run(protocol.ask("classify", image, options, self._retries))

    async def localize(self, image: ImageInput, **options: Unpack[LocalizeOptions]) -> Result:
        """The one main object: its label and box."""
        return await self._run(protocol.ask("localize", image, options, self._retries))

    async def detect(self, image: ImageInput, **options: Unpack[DetectOptions]) -> Result:
        """Every object: label and box."""
        return await self._run(protocol.ask("detect", image, options, self._retries))

    async def segment(self, image: ImageInput, **options: Unpack[SegmentOptions]) -> Result:
        """Every object: label, box and mask."""
        return await self._run(protocol.ask("segment", image, options, self._retries))

    async def analyze(self, image: ImageInput, **options: Unpack[AnalyzeOptions]) -> Analysis:
        """Several tasks on one upload. `then="classify"` names each object found by its ImageNet labels, too."""
        return await self._run(protocol.analyze(image, options, self._retries))

    def classify_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ClassifyOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """As `Client.classify_many`: an asynchronous generator. `images` may be asynchronous, too."""
        return many.in_order_async(lambda image: self.classify(image, **options), images, concurrency, progress)

    def localize_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[LocalizeOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """As `Client.localize_many`: an asynchronous generator. `images` may be asynchronous, too."""
        return many.in_order_async(lambda image: self.localize(image, **options), images, concurrency, progress)

    def detect_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[DetectOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """As `Client.detect_many`: an asynchronous generator. `images` may be asynchronous, too."""
        return many.in_order_async(lambda image: self.detect(image, **options), images, concurrency, progress)

    def segment_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[SegmentOptions],
    ) -> AsyncGenerator[Result | Failed, None]:
        """As `Client.segment_many`: an asynchronous generator. `images` may be asynchronous, too."""
        return many.in_order_async(lambda image: self.segment(image, **options), images, concurrency, progress)

    def analyze_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[AnalyzeOptions],
    ) -> AsyncGenerator[Analysis | Failed, None]:
        """As `Client.analyze_many`: an asynchronous generator. `images` may be asynchronous, too."""
        return many.in_order_async(lambda image: self.analyze(image, **options), images, concurrency, progress)

    async def models(self) -> list[ModelCard]:
        """As Client.models."""
        return await self._run(protocol.models(self._retries))

    async def load_model(self, name: str) -> ModelCard:
        """As Client.load_model."""
        return await self._run(protocol.load_model(name, self._retries))

    async def unload_model(self, name: str) -> None:
        """As Client.unload_model."""
        await self._run(protocol.unload_model(name, self._retries))

    async def ready(self) -> bool:
        """As Client.ready."""
        return await self._run(protocol.ready())

    async def _run(self, conversation: Conversation[T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = conversation.send(outcome)
            except StopIteration as end:
                return cast(T, end.value)
            match step:
                case Send():
                    outcome = await self._send(step)
                case Fetch(url):
                    outcome = await self._fetch(url)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                    outcome = None
                case Work(function):
                    outcome = await asyncio.to_thread(function)

    async def _send(self, step: Send) -> httpx.Response | httpx.RequestError:
        try:
            return await self._http.request(
                step.method, step.path, params=step.params or None, content=step.content, headers=step.headers
            )
        except httpx.RequestError as error:
            return error

    async def _fetch(self, url: str) -> bytes:
        try:
            async with self._web.stream("GET", url) as response:
                download = Download(response)
                async for chunk in response.aiter_bytes():
                    download.add(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise protocol.not_fetched(url, error) from error
        return download.content()
