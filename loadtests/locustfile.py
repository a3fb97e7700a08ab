"""Locust users that upload images. The content of each answer is checked; a wrong one counts as a failure.

    locust -f loadtests/locustfile.py --headless -u 8 -r 8 -t 10s [--photos FOLDER]
    locust -f loadtests/locustfile.py,loadtests/shapes/ramp.py --headless

A user of one task (Classifier, Localizer, Detector, Segmenter) sends its next request as soon as it is answered. A
Visitor opens the web page and pauses between images, an Application is a program with work between requests. Load goes
only to this machine or to the server of docker-compose.yml.
"""

import ipaddress
import os
import random
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from PIL import Image, ImageDraw, ImageOps
from pydantic import ValidationError

from foursight.schema import Answer

DEFAULT_HOST = "http://127.0.0.1:8000"
# Allowed besides loopback addresses: this machine, and the service's name on the network of docker-compose.yml.
HOSTNAMES = {"localhost", "server"}
# Sizes in pixels, from a thumbnail to 12 megapixels, with their share of the uploads in percent.
SIZES = {(160, 120): 10, (500, 400): 30, (640, 480): 25, (480, 640): 15, (1280, 960): 15, (4000, 3000): 5}
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True)
class Photo:
    """A file to upload, the (width, height) of its upright image, which the answer must report, and its weight."""

    content: bytes
    size: tuple[int, int]
    weight: int = 1


# The header of each request.
API_KEY = {"Authorization": f"Bearer {key}"} if (key := os.environ.get("FOURSIGHT_API_KEY")) else {}
# Filled before the first user starts.
photos: list[Photo] = []


def add_options(parser: LocustArgumentParser) -> None:
    """Add our options to locust's."""
    parser.add_argument(
        "--photos",
        metavar="FOLDER",
        env_var="LOCUST_PHOTOS",
        default="",
        help="Upload the images in this folder instead of drawn ones.",
    )


def prepare(environment: Environment, **_: object) -> None:
    """Refuse other machines, and fill `photos`."""
    try:
        require_own(environment.host or DEFAULT_HOST)
        folder = environment.parsed_options.photos if environment.parsed_options else ""
        photos.extend(read_photos(Path(folder)) if folder else draw_photos())
    except (OSError, ValueError) as error:
        sys.exit(f"locustfile: {error}")


def require_own(url: str) -> None:
    """Raise ValueError if `url` is neither this machine nor the server of docker-compose.yml."""
    name = urlsplit(url).hostname or ""
    try:
        own = name in HOSTNAMES or ipaddress.ip_address(name).is_loopback
    except ValueError:
        own = False
    if not own:
        raise ValueError(f"no load for {url}: the host must be loopback or one of {', '.join(sorted(HOSTNAMES))}.")


def read_photos(folder: Path) -> list[Photo]:
    """Return the images in a folder. Raises OSError for a file that is not an image, ValueError if there are none."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            with Image.open(path) as image:
                found.append(Photo(path.read_bytes(), ImageOps.exif_transpose(image).size))
    if not found:
        raise ValueError(f"{folder} has no photo ({', '.join(sorted(SUFFIXES))}).")
    return found


def draw_photos() -> list[Photo]:
    """Return a JPEG of each size: discs on grain, so that it has edges and about the file size of a photo."""
    source = random.Random(0)
    drawn = []
    for (width, height), weight in SIZES.items():
        # Large images get coarser grain, which keeps their file size similar to a photo's.
        grain = (min(width, 1000), min(height, 750)) if width >= height else (min(width, 750), min(height, 1000))
        image = Image.effect_noise(grain, 24).convert("RGB").resize((width, height))
        pen = ImageDraw.Draw(image)
        for _ in range(12):
            x, y, radius = source.randrange(width), source.randrange(height), source.randrange(10, height // 4)
            colour = (source.randrange(256), source.randrange(256), source.randrange(256))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        file = BytesIO()
        image.save(file, "JPEG", quality=90)
        drawn.append(Photo(file.getvalue(), image.size, weight))
    return drawn


def choose() -> Photo:
    """Return a random image, by weight."""
    return random.choices(photos, [photo.weight for photo in photos])[0]


def fault(content: bytes, photo: Photo, parts: frozenset[str], always_finds: bool) -> str | None:
    """Return what is wrong with the content of a 200 response, if anything; each prediction must have `parts`."""
    try:
        answer = Answer.model_validate_json(content)
    except ValidationError as error:
        return f"no answer: {error.errors()[0]['loc']} {error.errors()[0]['msg']}"
    if (answer.image.width, answer.image.height) != photo.size:
        return f"a photo of {photo.size} was answered as {answer.image}"
    if always_finds and not answer.predictions:
        return "there is no prediction"
    for prediction in answer.predictions:
        if missing := [part for part in sorted(parts) if getattr(prediction, part) is None]:
            return f"a prediction has no {' and no '.join(missing)}"
    return None


@dataclass(frozen=True)
class Asked:
    """A task's path, and what its answers must contain."""

    path: str
    parts: frozenset[str] = frozenset()
    # Whether every image has a prediction: a best label always exists, an object does not.
    always_finds: bool = False


CLASSIFY = Asked("/v1/classify", always_finds=True)
LOCALIZE = Asked("/v1/localize", frozenset({"box"}), always_finds=True)
DETECT = Asked("/v1/detect", frozenset({"box"}))
SEGMENT = Asked("/v1/segment", frozenset({"box", "mask"}))


class Person(FastHttpUser):
    """Base class of all users. The API key is $FOURSIGHT_API_KEY."""

    default_headers = API_KEY

    abstract = True
    host = DEFAULT_HOST
    # The load must not follow a redirect to another host.
    max_redirects = 0

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        # Check again, because locust's web page can change the host.
        require_own(self.host or "")

    def upload(self, asked: Asked, photo: Photo) -> None:
        """Upload an image and check the answer."""
        # Locust's type hint of `data` lacks bytes.
        with self.client.post(asked.path, data=photo.content, catch_response=True) as response:  # type: ignore[arg-type]
            if response.status_code == 200:
                if problem := fault(response.content or b"", photo, asked.parts, asked.always_finds):
                    response.failure(problem)
            elif response.status_code:
                response.failure(f"status {response.status_code}: {(response.content or b'').decode()[:200]}")
            # Without a status there was no response, and locust reports why.


class Uploader(Person):
    """Uploads one image after another to one task, without a pause."""

    abstract = True
    asked: ClassVar[Asked]

    @task
    def ask(self) -> None:
        """Upload an image."""
        self.upload(self.asked, choose())


class Classifier(Uploader):
    """Sends requests to classify."""

    weight = 6
    asked = CLASSIFY


class Localizer(Uploader):
    """Sends requests to localize."""

    weight = 2
    asked = LOCALIZE


class Detector(Uploader):
    """Sends requests to detect."""

    weight = 2
    asked = DETECT


class Segmenter(Uploader):
    """Sends requests to segment."""

    weight = 1
    asked = SEGMENT


class Visitor(Person):
    """A person with a browser: opens the page, uploads an image, looks at the answer, and tries another one."""

    weight = 4
    wait_time = between(2, 8)

    def on_start(self) -> None:
        """Load the page, as a browser does."""
        for path in ("/", "/v1/models"):
            self.client.get(path)

    @task
    def look(self) -> None:
        """Upload an image for two tasks."""
        photo = choose()
        for asked in (CLASSIFY, random.choice((LOCALIZE, DETECT, SEGMENT))):
            self.upload(asked, photo)


class Application(Person):
    """A client program: mostly classifies, and has other work between two requests."""

    weight = 4
    wait_time = between(0.05, 0.5)

    @task
    def work(self) -> None:
        """Upload an image for one task."""
        self.upload(random.choices((CLASSIFY, DETECT, SEGMENT), (7, 2, 1))[0], choose())


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
