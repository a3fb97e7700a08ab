"""Data sets in the format of Hugging Face's ImageFolder with metadata.jsonl or metadata.csv.

Each row has a `file_name`, and a `label` or `objects` with the lists `bbox` (x, y, width, height in pixels) and
`categories`. Labels may be numbers: their names are then in the card, README.md, as the hub writes it.
"""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from foursight.models.datasets import layout
from foursight.models.datasets.files import Fault, text_of, upright_size
from foursight.models.datasets.value import Object, Part, Photo, box_problem, in_order, rounded
from foursight.schema.image_files import SUFFIXES

FORMAT = "Hugging Face ImageFolder"

METADATA = ("metadata.jsonl", "metadata.csv")
_CARD = "README.md"
_CATEGORIES = ("categories", "category")


def find(folder: Path) -> Path | None:
    """Return a folder's metadata file, or None."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def read(file: Path) -> tuple[Part, ...]:
    """Read a metadata file: one part, or two if its images are in the folders of a split."""
    reader = _Reader(file)
    sides = layout.splits(file.parent)
    photos = reader.photos()
    ids = {name: number for number, name in enumerate(reader.names)}
    if sides is None:
        return (Part(file.name, in_order(photos), reader.names, ids, tuple(reader.problems), tuple(reader.notes)),)
    parts = []
    for index, folder in enumerate((sides.training, sides.validation)):
        mine = in_order(photo for photo in photos if photo.path.is_relative_to(folder))
        problems = () if index else tuple(reader.problems)
        notes = () if index else (*reader.notes, *sides.note)
        parts.append(Part(f"{folder.name}/", mine, reader.names, ids, problems, notes))
    return tuple(parts)


@dataclass
class _Reader:
    """Reads the rows of a file, and collects what is wrong. `names` are the labels by number, if the card has them."""

    file: Path
    names: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_numbers: bool = False

    def photos(self) -> list[Photo]:
        """Return the photos of all rows without a fault."""
        folder = self.file.parent
        if all((folder / name).is_file() for name in METADATA):
            self.problems.append(f"{' and '.join(METADATA)} are both there; keep one")
        self.names = _names(folder) or _names(folder.parent)
        seen: dict[Path, str] = {}
        photos = []
        kinds: set[str] = set()
        for line, row in self._rows():
            name = f"{self.file.name}:{line}"
            try:
                path = self._image(row, folder)
                if path in seen:
                    raise Fault(f"{path.name} has a row already, {seen[path]}; keep one")
                seen[path] = name
                photos.append(self._photo(name, row, path))
                kinds.update(key for key in ("objects", "label") if row.get(key) is not None)
            except Fault as fault:
                self.problems.append(f"{name}: {fault}")
        if not seen and not self.problems:
            self.problems.append(f"{self.file.name}: it has no rows")
        if len(kinds) == 2:
            self.notes.append(f"{self.file.name} has objects and labels: the labels are for classify")
        if self.has_numbers:
            self.notes.append(f"the labels are numbers, and {_CARD} does not name them")
        for path in layout.files_below(folder):
            if path.suffix.lower() in SUFFIXES and path not in seen:
                shown = path.relative_to(folder).as_posix()
                self.problems.append(f"{shown}: {self.file.name} has no row for it; add one, or move the image")
        return photos

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            text = text_of(self.file)
        except Fault as fault:
            self.problems.append(f"{self.file.name}: {fault}")
            return
        if self.file.suffix == ".csv":
            reader = csv.DictReader(text.splitlines())
            for row in reader:
                if None in row or None in row.values():
                    count = len(reader.fieldnames or ())
                    self.problems.append(
                        f"{self.file.name}:{reader.line_num}: not {count} values, as in the first line"
                    )
                else:
                    yield reader.line_num, dict(row)
            return
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                self.problems.append(f"{self.file.name}:{number}: not JSON: {error}")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                self.problems.append(f'{self.file.name}:{number}: not an object; write {{"file_name": …}}')

    def _image(self, row: dict[str, Any], folder: Path) -> Path:
        written = row.get("file_name") or row.get("image_file_name")
        if not isinstance(written, str):
            raise Fault("it has no file_name; write the path of the image, relative to this file")
        path = folder / written
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Fault(f"{written} is outside {folder.name}/")
        if not path.is_file():
            raise Fault(f"{written} does not exist in {folder.name}/")
        return folder / Path(written)

    def _photo(self, name: str, row: dict[str, Any], path: Path) -> Photo:
        size = upright_size(path)
        objects, label = row.get("objects"), row.get("label")
        if objects is None and label is None:
            raise Fault("it has neither label nor objects")
        if objects is not None and size is None:
            raise Fault(f"{path.name} is not an image that can be read; replace it")
        found = () if objects is None or size is None else tuple(self._objects(name, objects, path, size))
        return Photo(path, size, found, None if label is None else self._label(label))

    def _objects(self, name: str, objects: Any, path: Path, size: tuple[int, int]) -> Iterator[Object]:
        if not isinstance(objects, dict):
            raise Fault('objects is not a mapping; write {"bbox": [[x, y, width, height]], "categories": […]}')
        boxes = objects.get("bbox")
        labels = next((objects[key] for key in _CATEGORIES if key in objects), None)
        if not isinstance(boxes, list) or not isinstance(labels, list):
            raise Fault("objects needs the lists bbox and categories")
        if len(boxes) != len(labels):
            raise Fault(f"objects has {len(boxes)} boxes and {len(labels)} categories; write one for each")
        for number, (box, label) in enumerate(zip(boxes, labels, strict=True), 1):
            try:
                if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
                    raise Fault(f"the box is {box!r:.60}; write x, y, width and height in pixels")
                problem = box_problem((box[0], box[1], box[2], box[3]), size, path.name)
                if problem:
                    raise Fault(problem)
                yield Object(f"{name}: object {number}", self._label(label), rounded(box))
            except Fault as fault:
                self.problems.append(f"{name}: object {number}: {fault}")

    def _label(self, value: Any) -> str:
        text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not text:
            raise Fault(f"the label is {value!r:.40}; write a name or a number")
        if not text.isdecimal():
            return text
        if not self.names:
            self.has_numbers = True
            return text
        if int(text) >= len(self.names):
            raise Fault(f"label {text} is not in {_CARD}, which names 0 to {len(self.names) - 1}")
        return self.names[int(text)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _names(folder: Path) -> tuple[str, ...]:
    """Return the names of the labels in a data set's card: those of its first class_label."""
    try:
        _, head, _ = text_of(folder / _CARD).split("---", 2)
        return tuple(_class_names(yaml.safe_load(head)))
    except (ValueError, yaml.YAMLError, RecursionError):
        return ()


def _class_names(value: Any) -> list[str]:
    if isinstance(value, dict) and isinstance(value.get("class_label"), dict):
        names = value["class_label"].get("names")
        if isinstance(names, dict):
            return [str(names[key]) for key in sorted(names, key=int)]
        return [str(name) for name in names] if isinstance(names, list) else []
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((names for one in below if (names := _class_names(one))), [])
