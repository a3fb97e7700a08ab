"""Users that upload photos, for locust; each answer's content is checked, and a wrong one counts as a failure.

    locust -f loadtests/locustfile.py --headless -u 8 -r 8 -t 10s [--photos FOLDER]

Each user waits for its answer and asks again at once. Load goes to this machine or to the server of docker-compose.yml,
and nowhere else.
"""

import ipaddress
import random
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from PIL import Image, ImageDraw, ImageOps
from pydantic import ValidationError

from foursight.wire import Answer

DEFAULT_HOST = "http://127.0.0.1:8000"
# Besides loopback addresses: this machine, and the service's name on the network of docker-compose.yml.
HOSTNAMES = {"localhost", "server"}
SIZES = ((320, 240), (640, 480), (480, 640), (1280, 960))
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


@dataclass(frozen=True)
class Photo:
    """A file to upload, and the size (width, height) of its upright photo, as the answer has to give it."""

    content: bytes
    size: tuple[int, int]


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
    for width, height in SIZES:
        image = Image.effect_noise((width, height), 24).convert("RGB")
        pen = ImageDraw.Draw(image)
        for _ in range(12):
            x, y, radius = source.randrange(width), source.randrange(height), source.randrange(10, height // 4)
            colour = (source.randrange(256), source.randrange(256), source.randrange(256))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        file = BytesIO()
        image.save(file, "JPEG", quality=90)
        drawn.append(Photo(file.getvalue(), image.size))
    return drawn


def fault(content: bytes, photo: Photo, parts: set[str], always_finds: bool) -> str | None:
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


class Uploader(FastHttpUser):
    """Uploads one photo after the other to one task."""

    abstract = True
    host = DEFAULT_HOST
    # An answer elsewhere is no answer, and the load must not follow it.
    max_redirects = 0
    path: ClassVar[str]
    parts: ClassVar[set[str]] = set()
    # Whether every photo has a prediction: there is always a best label, but not always an object.
    always_finds: ClassVar[bool] = False

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        # Once more, since the page of locust can change it.
        require_own(self.host or "")

    @task
    def upload(self) -> None:
        """Upload, and check the answer."""
        photo = random.choice(photos)
        # Locust's type hint of `data` forgets bytes.
        with self.client.post(self.path, data=photo.content, catch_response=True) as response:  # type: ignore[arg-type]
            if response.status_code == 200:
                if problem := fault(response.content or b"", photo, self.parts, self.always_finds):
                    response.failure(problem)
            elif response.status_code:
                response.failure(f"status {response.status_code}: {(response.content or b'').decode()[:200]}")
            # Where there is no status there was no answer, and locust itself says why.


class Classifier(Uploader):
    """Most ask what is in a photo."""

    weight = 6
    path = "/v1/classify"
    always_finds = True


class Localizer(Uploader):
    """Some ask where the one main object is."""

    weight = 2
    path = "/v1/localize"
    always_finds = True
    parts: ClassVar = {"box"}


class Detector(Uploader):
    """Some ask where everything is."""

    weight = 2
    path = "/v1/detect"
    parts: ClassVar = {"box"}


class Segmenter(Uploader):
    """Few ask for outlines."""

    weight = 1
    path = "/v1/segment"
    parts: ClassVar = {"box", "mask"}


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
