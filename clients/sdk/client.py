"""The blocking client. Its asyncio twin is in async_client.py; what both share is in protocol.py."""

import time
from collections.abc import Generator, Iterable
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


class Client:
    """Connections to a Foursight server. Close the client, or use it as a context manager.

    Threads may share a client, and so may processes: a forked or pickled client makes its own connections.

    `url` is the server's address. `api_key` is sent with each request as a bearer token. `timeout`, in seconds, applies
    to connecting (at most 5) and to each wait for bytes; the server, which is told, gives up after it. A request is
    sent again up to `retries` times if the connection failed or the server was busy (429, 503), after the delay in
    Retry-After plus an exponential, random backoff. Each retry is logged as a warning to the logger `foursight`.

    An image is a path, an http(s) URL (fetched by the client, not by the server), bytes, a file opened in binary mode,
    a PIL image, or a numpy array, uint8 [H, W, 3], RGB. All tasks take `max_side`: an image whose longer side exceeds
    it, in pixels, is shrunk before the upload. Boxes and masks still refer to the pixels of the original.

    All errors are subclasses of FoursightError; clients/sdk/errors.py lists them.

    >>> with Client(url) as client:
    ...     result = client.classify("photo.jpg", top_k=1)
    >>> result.predictions[0].label
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
        self._connections = Connections(httpx.Client, *settings)
        self._retries = retries

    def __reduce__(self) -> tuple[type[Self], tuple[str, str | None, float, int]]:
        """Pickle the arguments, with the API key: a copy makes its own connections."""
        return type(self), self._arguments

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for http in self._connections.close():
            http.close()

    def classify(self, image: ImageInput, **options: Unpack[ClassifyOptions]) -> Result:
        """Return labels of the image, best first. The built-in model knows the 1000 of ImageNet."""
        return self.run("classify", image, **options)

    def localize(self, image: ImageInput, **options: Unpack[LocalizeOptions]) -> Result:
        """Return the main object: its box and its labels, best first."""
        return self.run("localize", image, **options)

    def detect(self, image: ImageInput, **options: Unpack[DetectOptions]) -> Result:
        """Return every object with label and box."""
        return self.run("detect", image, **options)

    def segment(self, image: ImageInput, **options: Unpack[SegmentOptions]) -> Result:
        """Return every object with label, box and mask."""
        return self.run("segment", image, **options)

    def analyze(self, image: ImageInput, **options: Unpack[AnalyzeOptions]) -> Analysis:
        """Run several tasks with one upload. With `then="classify"`, each object found is also classified."""
        return self._carry_out(protocol.analyze(image, options, self._retries))

    def run(self, task: str, image: ImageInput, **options: OptionValue) -> Result:
        """Run any task of the server by its name, with the options that GET /docs lists for it."""
        return self._carry_out(protocol.run(task, image, options, self._retries))

    def classify_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ClassifyOptions],
    ) -> Generator[Result | Failed, None, None]:
        """Classify many images, `concurrency` at a time. Yields the results in the order of `images`.

        `images` may be a generator, which is read only a little ahead of the results. An image that fails yields a
        Failed with the `error`, and the others continue. `progress` shows a bar on standard error, if that is a
        terminal.
        """
        return self.run_many("classify", images, concurrency, progress, **options)

    def localize_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[LocalizeOptions],
    ) -> Generator[Result | Failed, None, None]:
        """`localize` for many images; see `classify_many`."""
        return self.run_many("localize", images, concurrency, progress, **options)

    def detect_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[DetectOptions],
    ) -> Generator[Result | Failed, None, None]:
        """`detect` for many images; see `classify_many`."""
        return self.run_many("detect", images, concurrency, progress, **options)

    def segment_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[SegmentOptions],
    ) -> Generator[Result | Failed, None, None]:
        """`segment` for many images; see `classify_many`."""
        return self.run_many("segment", images, concurrency, progress, **options)

    def analyze_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[AnalyzeOptions],
    ) -> Generator[Analysis | Failed, None, None]:
        """`analyze` for many images; see `classify_many`."""
        return many.in_order(lambda image: self.analyze(image, **options), images, concurrency, progress)

    def run_many(
        self,
        task: str,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: OptionValue,
    ) -> Generator[Result | Failed, None, None]:
        """`run` for many images; see `classify_many`."""
        return many.in_order(lambda image: self.run(task, image, **options), images, concurrency, progress)

    def models(self) -> list[ModelCard]:
        """List the models that the server runs: labels, input size, device and more."""
        return self._carry_out(protocol.models(self._retries))

    def load_model(self, name: str) -> ModelCard:
        """Load a fine-tuned model from the server's models folder, or load it again. Requests continue meanwhile."""
        return self._carry_out(protocol.load_model(name, self._retries))

    def unload_model(self, name: str) -> None:
        """Stop serving a fine-tuned model. Its folder stays, and requests in flight are answered."""
        self._carry_out(protocol.unload_model(name, self._retries))

    def ready(self) -> bool:
        """Return whether a server responds and all its tasks are ready. Never retried; False if nothing listens."""
        return self._carry_out(protocol.ready())

    def _carry_out(self, flow: Flow[T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                return cast(T, end.value)
            match step:
                case Request():
                    outcome = self._send(step)
                case Download(url):
                    outcome = self._download(url)
                case Sleep(seconds):
                    time.sleep(seconds)
                    outcome = None
                case RunInThread(function):
                    outcome = function()

    def _send(self, request: Request) -> Outcome:
        try:
            http = self._connections.pool().server
            return http.send(request.build(http))
        except httpx.RequestError as error:
            return error

    def _download(self, url: str) -> bytes:
        try:
            with self._connections.pool().web().stream("GET", url) as response:
                buffer = DownloadBuffer(response)
                for chunk in response.iter_bytes():
                    buffer.add(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise protocol.download_error(url, error) from error
        return buffer.content()
