"""Users that upload photos, for locust; each answer's content is checked, and a wrong one counts as a failure.

    locust -f loadtests/locustfile.py --headless -u 8 -r 8 -t 10s [--photos FOLDER]
    locust -f loadtests/locustfile.py,loadtests/shapes/ramp.py --headless

A user of one task (Classifier, Localizer, Detector, Segmenter) asks again as soon as it is answered; a Visitor looks at
the page and at what it answers, and an Application works through its own photos. Load goes to this machine or to the
server of docker-compose.yml, and nowhere else.
"""

import ipaddress
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
# Besides loopback addresses: this machine, and the service's name on the network of docker-compose.yml.
HOSTNAMES = {"localhost", "server"}
# Sizes in pixels, from a thumbnail to 12 megapixels, and how many uploads of a hundred have them.
SIZES = {(160, 120): 10, (500, 400): 30, (640, 480): 25, (480, 640): 15, (1280, 960): 15, (4000, 3000): 5}
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True)
class Photo:
    """A file to upload, the size (width, height) of its upright photo, as the answer has to give it, and its share."""

    content: bytes
    size: tuple[int, int]
    weight: int = 1


# Filled once, before the first user starts.
photos: list[Photo] = []


def add_options(parser: LocustArgumentParser) -> None:
    """Add ours to locust's own."""
    parser.add_argument(
        "--photos",
        metavar="FOLDER",
        env_var="LOCUST_PHOTOS",
        default="",
        help="Upload the photos of this folder and not drawn ones.",
    )


def prepare(environment: Environment, **_: object) -> None:
    """Refuse a foreign host, and fill `photos`."""
    try:
        require_own(environment.host or DEFAULT_HOST)
        folder = environment.parsed_options.photos if environment.parsed_options else ""
        photos.extend(read_photos(Path(folder)) if folder else draw_photos())
    except (OSError, ValueError) as error:
        sys.exit(f"locustfile: {error}")


def require_own(url: str) -> None:
    """Raise ValueError where `url` leads off this machine and off the network of docker-compose.yml."""
    name = urlsplit(url).hostname or ""
    try:
        own = name in HOSTNAMES or ipaddress.ip_address(name).is_loopback
    except ValueError:
        own = False
    if not own:
        raise ValueError(f"no load for {url}: only loopback and {', '.join(sorted(HOSTNAMES))} get any.")


def read_photos(folder: Path) -> list[Photo]:
    """The photos of a folder. Raises OSError for a file that is none, ValueError where there are none."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            with Image.open(path) as image:
                found.append(Photo(path.read_bytes(), ImageOps.exif_transpose(image).size))
    if not found:
        raise ValueError(f"{folder} has no photo ({', '.join(sorted(SUFFIXES))}).")
    return found


def draw_photos() -> list[Photo]:
    """One JPEG of each size: discs on grain, so that it has edges and weighs as much as a photo."""
    source = random.Random(0)
    drawn = []
    for (width, height), weight in SIZES.items():
        # The grain of a large photo is finer than its pixels.
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
    """One of the photos, the likely ones more often."""
    return random.choices(photos, [photo.weight for photo in photos])[0]


def fault(content: bytes, photo: Photo, parts: frozenset[str], always_finds: bool) -> str | None:
    """What is wrong with the content of a 200 answer, if anything; `parts` is what each prediction has to have."""
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
    """A task's path, and what its answers have to have."""

    path: str
    parts: frozenset[str] = frozenset()
    # Whether every photo has a prediction: there is always a best label, but not always an object.
    always_finds: bool = False


CLASSIFY = Asked("/v1/classify", always_finds=True)
LOCALIZE = Asked("/v1/localize", frozenset({"box"}), always_finds=True)
DETECT = Asked("/v1/detect", frozenset({"box"}))
SEGMENT = Asked("/v1/segment", frozenset({"box", "mask"}))


class Person(FastHttpUser):
    """Whoever has photos and asks our server about them."""

    abstract = True
    host = DEFAULT_HOST
    # An answer elsewhere is no answer, and the load must not follow it.
    max_redirects = 0

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        # Once more, since the page of locust can change it.
        require_own(self.host or "")

    def upload(self, asked: Asked, photo: Photo) -> None:
        """Upload, and check the answer."""
        # Locust's type hint of `data` forgets bytes.
        with self.client.post(asked.path, data=photo.content, catch_response=True) as response:  # type: ignore[arg-type]
            if response.status_code == 200:
                if problem := fault(response.content or b"", photo, asked.parts, asked.always_finds):
                    response.failure(problem)
            elif response.status_code:
                response.failure(f"status {response.status_code}: {(response.content or b'').decode()[:200]}")
            # Where there is no status there was no answer, and locust itself says why.


class Uploader(Person):
    """Uploads one photo after the other to one task, without a pause."""

    abstract = True
    asked: ClassVar[Asked]

    @task
    def ask(self) -> None:
        """Upload any photo."""
        self.upload(self.asked, choose())


class Classifier(Uploader):
    """Most ask what is in a photo."""

    weight = 6
    asked = CLASSIFY


class Localizer(Uploader):
    """Some ask where the one main object is."""

    weight = 2
    asked = LOCALIZE


class Detector(Uploader):
    """Some ask where everything is."""

    weight = 2
    asked = DETECT


class Segmenter(Uploader):
    """Few ask for outlines."""

    weight = 1
    asked = SEGMENT


class Visitor(Person):
    """Somebody with a browser: opens the page, uploads a photo, looks at the answer, and tries another."""

    weight = 4
    wait_time = between(2, 8)

    def on_start(self) -> None:
        """What a browser asks for first."""
        for path in ("/", "/v1/models"):
            self.client.get(path)

    @task
    def look(self) -> None:
        """One photo, for two tasks."""
        photo = choose()
        for asked in (CLASSIFY, random.choice((LOCALIZE, DETECT, SEGMENT))):
            self.upload(asked, photo)


class Application(Person):
    """Somebody's program: mostly classifies, and has work of its own between two photos."""

    weight = 4
    wait_time = between(0.05, 0.5)

    @task
    def work(self) -> None:
        """One photo, for one task."""
        self.upload(random.choices((CLASSIFY, DETECT, SEGMENT), (7, 2, 1))[0], choose())


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
