"""Data sets in YOLO's format: a text file for each image, as ultralytics, Roboflow, CVAT and Label Studio write them.

Each line is an object: the index of its class, then its box (centre, width, height) or the corners of its outline, all
divided by the image's width and height. An empty file, or none, is an image without objects.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from foursight.models.datasets import layout, yolo_config
from foursight.models.datasets.files import Fault, text_of, upright_size
from foursight.models.datasets.value import DIGITS, Object, Part, Photo, box_problem, in_order, rounded
from foursight.models.datasets.yolo_config import Config
from foursight.schema.image_files import SUFFIXES

FORMAT = "YOLO"

# Six decimals, as most tools write them, may round an edge up.
_ROUNDING = 1e-5
# Text beside images that is not their labels.
_NOT_LABELS = frozenset(("classes.txt", "labels.txt", "train.txt", "val.txt", "test.txt", "notes.txt"))

find = yolo_config.find


def read(file: Path) -> tuple[Part, ...]:
    """Read the data set that a data.yaml or classes.txt describes: one part, or training and validation."""
    config = yolo_config.read(file)
    if config.problems:
        return (Part(file.name, problems=config.problems),)
    sides = [("train", config.training), (config.validation_key, config.validation)]
    return tuple(_Side(config, key, paths).read() for key, paths in sides if paths)


class _Side:
    """Reads the images and labels of one side, and collects what is wrong."""

    def __init__(self, config: Config, key: str, paths: tuple[str, ...]) -> None:
        self._config, self._key, self._paths = config, key, paths
        self._problems: list[str] = []
        self._without_file = self._repeated = self._clipped = 0

    def read(self) -> Part:
        """Return the part."""
        images = list(self._images())
        owners: dict[Path, Path] = {}
        photos = []
        for image in images:
            labels = _labels_of(image, self._config.root)
            other = owners.setdefault(labels, image)
            if other != image:
                self._problems.append(
                    f"{self._shown(labels)}: it belongs to {other.name} and to {image.name}; rename one"
                )
                continue
            photos.append(self._photo(image, labels))
        if images and self._without_file == len(images):
            tried = self._shown(_labels_of(images[0], self._config.root))
            self._problems.append(f"{self._key}: no image has a label file; that of {images[0].name} would be {tried}")
        notes = []
        if self._without_file:
            notes.append(f"{self._key}: {self._without_file} images have no label file, and count as without objects")
        if self._repeated:
            notes.append(f"{self._key}: left out: {self._repeated} lines that repeat another one of their file")
        if self._clipped:
            notes.append(f"{self._key}: {self._clipped} boxes reach beyond their image, and are clipped to it")
        if self._config.unread:
            notes.append(f"left out: {', '.join(self._config.unread)} of {self._config.file.name}")
        names = self._config.names
        ids = {name: index for index, name in enumerate(names)}
        return Part(self._key, in_order(filter(None, photos)), names, ids, tuple(self._problems), tuple(notes))

    def _images(self) -> Iterator[Path]:
        seen: set[Path] = set()
        for written in self._paths:
            tried = list(_places(self._config.root, written))
            place = next((path for path in tried if path.exists()), None)
            if place is None:
                shown = " and ".join(map(str, tried))
                self._problems.append(f"{self._config.file.name}: {self._key}: {written} does not exist; tried {shown}")
                continue
            found = list(self._in_folder(place) if place.is_dir() else self._in_list(place))
            if not found and not self._problems:
                self._problems.append(f"{self._config.file.name}: {self._key}: {place} has no images")
            for name, image in found:
                if image in seen:
                    self._problems.append(f"{name}: {image.name} is listed twice; remove one")
                seen.add(image)
                yield image

    def _in_folder(self, folder: Path) -> Iterator[tuple[str, Path]]:
        files = layout.files_below(folder)
        images = [path for path in files if path.suffix.lower() in SUFFIXES]
        wanted = {_labels_of(image, self._config.root) for image in images}
        places = {path.parent for path in wanted} | ({folder.parent / "labels"} if folder.name == "images" else set())
        for place in sorted(places):
            for path in sorted(place.glob("*.txt")):
                if path not in wanted and layout.is_visible(path) and not _is_other_text(path):
                    self._problems.append(
                        f"{self._shown(path)}: there is no image of this name; add it, or delete the file"
                    )
        yield from ((self._shown(image), image) for image in images)

    def _in_list(self, file: Path) -> Iterator[tuple[str, Path]]:
        try:
            lines = text_of(file).splitlines()
        except Fault as fault:
            self._problems.append(f"{self._shown(file)}: {fault}")
            return
        for number, line in enumerate(lines, 1):
            written = line.strip()
            if not written:
                continue
            name = f"{self._shown(file)}:{number}"
            places = [*_places(file.parent, written), *_places(self._config.root, written)]
            image = next((path for path in places if path.is_file()), None)
            if image is None:
                self._problems.append(f"{name}: {written} does not exist; tried {places[0]}")
            else:
                yield name, image

    def _photo(self, image: Path, labels: Path) -> Photo | None:
        size = upright_size(image)
        if size is None:
            self._problems.append(f"{self._shown(image)}: not an image that can be read; replace it, or remove it")
            return None
        if not labels.is_file():
            self._without_file += 1
            return Photo(image, size)
        return Photo(image, size, tuple(self._objects(labels, image.name, size)))

    def _objects(self, file: Path, image: str, size: tuple[int, int]) -> Iterator[Object]:
        try:
            lines = text_of(file).splitlines()
        except Fault as fault:
            self._problems.append(f"{self._shown(file)}: {fault}")
            return
        seen: set[tuple[str, ...]] = set()
        for number, line in enumerate(lines, 1):
            words = tuple(line.split())
            if not words:
                continue
            if words in seen:
                self._repeated += 1
                continue
            seen.add(words)
            name = f"{self._shown(file)}:{number}"
            try:
                found, is_clipped = _object(name, words, self._config, image, size)
                self._clipped += is_clipped
                yield found
            except Fault as fault:
                self._problems.append(f"{name}: {fault}")

    def _shown(self, path: Path) -> str:
        roots = (self._config.file.parent, self._config.root)
        return next((str(path.relative_to(root)) for root in roots if path.is_relative_to(root)), str(path))


def _object(
    name: str, words: tuple[str, ...], config: Config, image: str, size: tuple[int, int]
) -> tuple[Object, bool]:
    """Return the object of a line, and whether its box is clipped to the image. Raises Fault.

    Programs that move objects at random write boxes whose centre is in the image and whose border is not.
    """
    label, values = _label(words[0], config), words[1:5] if config.has_keypoints else words[1:]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise Fault(
            f"{len(words)} values; a line has 5 (class, centre x, centre y, width, height), "
            "or the class and the x and y of three or more corners"
        )
    numbers = [_coordinate(value) for value in values]
    width, height = size
    if len(numbers) == 4:
        x, y, w, h = numbers
        whole = rounded(((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
        box, outline = whole, None
        if box_problem(whole, size, image) and min(w, h) > 0:
            left, top = max(whole[0], 0), max(whole[1], 0)
            right, bottom = min(whole[0] + whole[2], width), min(whole[1] + whole[3], height)
            box = rounded((left, top, right - left, bottom - top))
    else:
        xs = [round(x * width, DIGITS) for x in numbers[::2]]
        ys = [round(y * height, DIGITS) for y in numbers[1::2]]
        box = whole = rounded((min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)))
        outline = [[value for corner in zip(xs, ys, strict=True) for value in corner]]
    problem = box_problem(box, size, image)
    if problem:
        raise Fault(problem)
    return Object(name, label, box, outline), box != whole


def _label(word: str, config: Config) -> str:
    try:
        index = float(word)
    except ValueError:
        raise Fault(f"the class is {word!r:.40}; give its index in {config.file.name}") from None
    if not index.is_integer() or not 0 <= index < len(config.names):
        last = len(config.names) - 1
        raise Fault(f"class {word} is not in {config.file.name}, whose indices are 0 to {last} ({config.names[last]})")
    return config.names[int(index)]


def _coordinate(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise Fault(f"{word!r:.40} is not a number") from None
    if not math.isfinite(value):
        raise Fault(f"{word} is not a finite number")
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        hint = "divide pixels by the image's width or height" if value > 2 else "crop the box to the image"
        raise Fault(f"{word} is not between 0 and 1; {hint}")
    return value


def _places(root: Path, written: str) -> Iterable[Path]:
    """Return where a path may be: as written, and without the `..` of Roboflow or the `data/` of CVAT before it."""
    path = Path(written)
    places = [root / path]
    parts = path.parts
    if parts[:1] in (("..",), ("data",)) and len(parts) > 1:
        places.append(root.joinpath(*parts[1:]))
    return places


def _labels_of(image: Path, root: Path) -> Path:
    """Return an image's label file: in `labels/` in place of the last `images/`, or beside the image."""
    parts = list(image.parent.parts)
    # A folder around the data set may be called images, too.
    first = len(root.parts) if image.is_relative_to(root) else 0
    found = [index for index, part in enumerate(parts) if part == "images" and index >= first]
    if found:
        parts[found[-1]] = "labels"
    return Path(*parts) / f"{image.stem}.txt"


def _is_other_text(path: Path) -> bool:
    return path.name.lower() in _NOT_LABELS or path.name.lower().startswith("readme")
