"""The client that blocks. Its twin that awaits is in async_client.py; what both know is in protocol.py."""

import time
from collections.abc import Generator, Iterable
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


class Client:
    """A Foursight server, from Python. Threads may share one; close it, or use it as a context manager.

    `url` is the server's address, `api_key` goes with each request as a bearer token, `timeout` is in seconds, for
    connecting (5 at most) and for each wait for bytes. `retries` is how often a request is sent again where the
    connection failed or the server was busy (429, 503), after what Retry-After says and a growing, random pause; each
    time is a warning in the log `foursight`.

    An image is a path, an http(s) URL (fetched by this client, never by the server), bytes, a file opened in binary
    mode, a PIL image, or a numpy array, uint8 [H, W, 3] in the order red, green, blue. All tasks take `max_side`: a
    photo with a longer side in pixels is shrunk before the upload, and boxes and masks are brought back to its own
    pixels.

    All raise FoursightError, whose kinds are listed in foursight/errors.py.

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
        self._http = httpx.Client(**protocol.connection(url, api_key, timeout))
        self._web = httpx.Client(**protocol.fetching(timeout))
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()
        self._web.close()

    def classify(self, image: ImageInput, **options: Unpack[ClassifyOptions]) -> Result:
        """What is in the photo: ImageNet-1k labels, best first."""
        return self._run(protocol.ask("classify", image, options, self._retries))

    def localize(self, image: ImageInput, **options: Unpack[LocalizeOptions]) -> Result:
        """The one main object: its label and box."""
        return self._run(protocol.ask("localize", image, options, self._retries))

    def detect(self, image: ImageInput, **options: Unpack[DetectOptions]) -> Result:
        """Every object: label and box."""
        return self._run(protocol.ask("detect", image, options, self._retries))

    def segment(self, image: ImageInput, **options: Unpack[SegmentOptions]) -> Result:
        """Every object: label, box and mask."""
        return self._run(protocol.ask("segment", image, options, self._retries))

    def analyze(self, image: ImageInput, **options: Unpack[AnalyzeOptions]) -> Analysis:
        """Several tasks on one upload. `then="classify"` names each object found by its ImageNet labels, too."""
        return self._run(protocol.analyze(image, options, self._retries))

    def classify_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ClassifyOptions],
    ) -> Generator[Result | Failed, None, None]:
        """Classify photo after photo, `concurrency` at a time; results come in the order of `images`.

        `images` may be a generator, and is read only a little ahead of what is handed out. An image that fails gives a
        Failed, with its `error`, in its place. `progress` shows a bar on standard error, where that is a terminal.
        """
        return many.in_order(lambda image: self.classify(image, **options), images, concurrency, progress)

    def localize_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[LocalizeOptions],
    ) -> Generator[Result | Failed, None, None]:
        """As `classify_many`, for `localize`."""
        return many.in_order(lambda image: self.localize(image, **options), images, concurrency, progress)

    def detect_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[DetectOptions],
    ) -> Generator[Result | Failed, None, None]:
        """As `classify_many`, for `detect`."""
        return many.in_order(lambda image: self.detect(image, **options), images, concurrency, progress)

    def segment_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[SegmentOptions],
    ) -> Generator[Result | Failed, None, None]:
        """As `classify_many`, for `segment`."""
        return many.in_order(lambda image: self.segment(image, **options), images, concurrency, progress)

    def analyze_many(
        self,
        images: Iterable[ImageInput],
        concurrency: int = protocol.CONCURRENCY,
        progress: bool = False,
        **options: Unpack[AnalyzeOptions],
    ) -> Generator[Analysis | Failed, None, None]:
        """As `classify_many`, for `analyze`."""
        return many.in_order(lambda image: self.analyze(image, **options), images, concurrency, progress)

    def models(self) -> list[ModelCard]:
        """Each task's model: its labels, input size, device."""
        return self._run(protocol.models(self._retries))

    def load_model(self, name: str) -> ModelCard:
        """Serve a fine-tuned model of the server's models folder, read anew; requests go on meanwhile."""
        return self._run(protocol.load_model(name, self._retries))

    def unload_model(self, name: str) -> None:
        """Serve a fine-tuned model no longer; its folder stays. Requests under way are answered."""
        self._run(protocol.unload_model(name, self._retries))

    def ready(self) -> bool:
        """Whether there is a server of which every task answers; asked once, and False where nothing listens."""
        return self._run(protocol.ready())

    def _run(self, conversation: Conversation[T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = conversation.send(outcome)
            except StopIteration as end:
                return cast(T, end.value)
            match step:
                case Send():
                    outcome = self._send(step)
                case Fetch(url):
                    outcome = self._fetch(url)
                case Pause(seconds):
                    time.sleep(seconds)
                    outcome = None
                case Work(function):
                    outcome = function()

    def _send(self, step: Send) -> httpx.Response | httpx.RequestError:
        try:
            return self._http.request(
                step.method, step.path, params=step.params or None, content=step.content, headers=step.headers
            )
        except httpx.RequestError as error:
            return error

    def _fetch(self, url: str) -> bytes:
        try:
            with self._web.stream("GET", url) as response:
                download = Download(response)
                for chunk in response.iter_bytes():
                    download.add(chunk)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise protocol.not_fetched(url, error) from error
        return download.content()
