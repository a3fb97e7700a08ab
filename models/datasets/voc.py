"""Data sets in Pascal VOC's format: an XML file for each image, as VOC, labelImg, CVAT and Roboflow write it.

VOC counts pixels from 1 and includes the last one, so a box is (xmin - 1, ymin - 1, xmax, ymax). Some tools count from
0: if any xmin or ymin of a data set is below 1, all its boxes are (xmin, ymin, xmax, ymax).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from foursight.models.datasets import layout
from foursight.models.datasets.files import Fault, size_problem, text_of, upright_size
from foursight.models.datasets.value import Box, Object, Part, Photo, box_problem, in_order, rounded
from foursight.schema.image_files import SUFFIXES

FORMAT = "Pascal VOC"

# CVAT's list of the classes.
_CLASSES = "labelmap.txt"
_IS_VOC, _SNIFFED = re.compile(rb"<annotation[\s>]"), 4096
_EDGES = ("xmin", "ymin", "xmax", "ymax")
# The lists of ImageSets/Main that are used: those for training and validation, or one of all photos.
_LISTS = (("train", "val"), ("train", "test"), ("trainval", "test"), ("trainval",), ("train",), ("default",))


@dataclass
class _Side:
    """The XML files of one side, and what was read of them so far."""

    name: str
    files: list[Path]
    problems: list[str] = field(default_factory=list)
    photos: list[tuple[Photo, list["_Object"]]] = field(default_factory=list)


@dataclass(frozen=True)
class _Object:
    """An object as written: `edges` are xmin, ymin, xmax and ymax."""

    name: str
    label: str
    edges: Box
    is_difficult: bool


def find(folder: Path) -> Path | None:
    """Return the folder itself if it has VOC's XML files, in `Annotations/` or beside the images."""
    return folder if any(map(_is_voc, _Reader(folder).files.values())) else None


def _is_voc(path: Path) -> bool:
    with path.open("rb") as file:
        return _IS_VOC.search(file.read(_SNIFFED)) is not None


def read(folder: Path) -> tuple[Part, ...]:
    """Read the data set in a folder: one part, or those that the lists in `ImageSets/Main/` name."""
    return _Reader(folder).read()


class _Reader:
    """Reads a folder; `files` are its XML files by their path in `Annotations/` without the suffix."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        parts = {path.name.casefold(): path for path in layout.subfolders(folder)}
        self._annotations = parts.get("annotations")
        self._images = parts.get("jpegimages") or parts.get("images") or folder
        place = self._annotations or folder
        found = sorted(place.glob("**/*.xml" if self._annotations else "*.xml"))
        self.files = {
            path.relative_to(place).with_suffix("").as_posix(): path for path in found if layout.is_visible(path)
        }
        self._by_stem: dict[Path, dict[str, list[Path]]] = {}
        self._declared: tuple[str, ...] = ()

    def read(self) -> tuple[Part, ...]:
        """Return the parts."""
        sides = [self._listed(path) for path in self._lists()] or [_Side(self._folder.name, [*self.files.values()])]
        listed = {path for side in sides for path in side.files}
        self._declared = self._read_classes(sides[0])
        for side in sides:
            for file in side.files:
                self._read_file(file, side)
        notes = self._notes(listed)
        corners = [edge for side in sides for _, objects in side.photos for one in objects for edge in one.edges[:2]]
        first = 1 if min(corners, default=1) >= 1 else 0
        difficult = sum(one.is_difficult for side in sides for _, objects in side.photos for one in objects)
        if difficult:
            notes.append(f"left out: {difficult} difficult objects")
        if not first:
            notes.append("an xmin or ymin is 0, so the boxes are taken as counted from 0 and not from 1, as in VOC")
        return tuple(self._part(side, first, () if index else notes) for index, side in enumerate(sides))

    def _part(self, side: _Side, first: int, notes: list[str] | tuple[str, ...]) -> Part:
        photos = []
        for photo, objects in side.photos:
            placed = []
            for one in objects:
                left, top, right, bottom = one.edges
                box = rounded((left - first, top - first, right - left + first, bottom - top + first))
                problem = photo.size and box_problem(box, photo.size, photo.path.name)
                if problem:
                    side.problems.append(f"{one.name}: {problem}")
                placed.append(Object(one.name, one.label, box, is_crowd=one.is_difficult))
            photos.append(Photo(photo.path, photo.size, tuple(placed)))
        return Part(side.name, in_order(photos), self._declared, problems=tuple(side.problems), notes=tuple(notes))

    def _lists(self) -> list[Path]:
        main = self._folder / "ImageSets" / "Main"
        found = ([main / f"{name}.txt" for name in names] for names in _LISTS)
        return next((paths for paths in found if all(path.is_file() for path in paths)), [])

    def _listed(self, path: Path) -> _Side:
        """Return the side that a list names."""
        side = _Side(f"ImageSets/Main/{path.name}", [])
        try:
            lines = text_of(path).splitlines()
        except Fault as fault:
            side.problems.append(f"{side.name}: {fault}")
            return side
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            stem = line.strip()
            if stem in seen:
                side.problems.append(f"{side.name}:{number}: {stem} is listed twice; remove one")
            elif stem in self.files:
                side.files.append(self.files[stem])
            elif stem:
                side.problems.append(
                    f"{side.name}:{number}: Annotations/{stem}.xml does not exist; add it, or remove the line"
                )
            seen.update([stem] if stem else [])
        if not seen:
            side.problems.append(f"{side.name}: it lists no images")
        return side

    def _read_classes(self, side: _Side) -> tuple[str, ...]:
        path = self._folder / _CLASSES
        try:
            lines = text_of(path).splitlines() if path.is_file() else []
        except Fault as fault:
            side.problems.append(f"{_CLASSES}: {fault}")
            return ()
        names = (line.split(":")[0].strip() for line in lines if line.strip() and not line.startswith("#"))
        return tuple(name for name in names if name != "background")

    def _notes(self, listed: set[Path]) -> list[str]:
        notes = []
        unlisted = len(self.files) - len(listed)
        if unlisted:
            notes.append(f"left out: {unlisted} XML files that the lists in ImageSets/Main do not name")
        known = {path.stem for path in self.files.values()}
        names = {path.name for path in self._images.iterdir() if path.suffix.lower() in SUFFIXES}
        without = sum(Path(name).stem not in known for name in names if layout.is_visible(Path(name)))
        if without:
            notes.append(f"left out: {without} images without an XML file")
        return notes

    def _read_file(self, file: Path, side: _Side) -> None:
        """Add the photo of an XML file, or what is wrong with it."""
        shown = file.relative_to(self._folder).as_posix()
        try:
            root = _parse(file)
            image = self._image_of(file, root)
            photo = Photo(image, _size_of(root, image))
        except Fault as fault:
            side.problems.append(f"{shown}: {fault}")
            return
        objects = []
        for number, element in enumerate(root.findall("object"), 1):
            label = (element.findtext("name") or "").strip()
            name = f"{shown}: object {number}" + (f" ({label})" if label else "")
            try:
                self._check_label(label)
                objects.append(_Object(name, label, _edges(element), _is_difficult(element)))
            except Fault as fault:
                side.problems.append(f"{name}: {fault}")
        side.photos.append((photo, objects))

    def _check_label(self, label: str) -> None:
        if not label:
            raise Fault("it has no class; write it in <name>")
        if self._declared and label not in self._declared:
            close = get_close_matches(label, self._declared, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(self._declared[:10])}"
            raise Fault(f"the class is not in {_CLASSES}; {hint}")

    def _image_of(self, file: Path, root: Element) -> Path:
        """Return the image with the name of the XML file, or the one that <filename> gives. Raises Fault."""
        place = self._images / file.parent.relative_to(self._annotations) if self._annotations else file.parent
        same = self._stems(place).get(file.stem, [])
        if len(same) > 1:
            raise Fault(f"{same[0].name} and {same[1].name} both have its name; rename one")
        if same:
            return same[0]
        name = Path((root.findtext("filename") or "").strip()).name
        if name and (place / name).is_file():
            return place / name
        tried = f"{file.stem}.jpg" + (f" or {name}" if name not in ("", f"{file.stem}.jpg") else "")
        raise Fault(f"there is no image {tried} in {place.name}/; add it, or delete the file")

    def _stems(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._by_stem:
            stems: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix.lower() in SUFFIXES:
                    stems.setdefault(path.stem, []).append(path)
            self._by_stem[folder] = stems
        return self._by_stem[folder]


def _parse(path: Path) -> Element:
    """Return the root element. A document type, and so every entity of its own, is refused. Raises Fault."""
    try:
        root: Element = fromstring(path.read_bytes(), forbid_dtd=True)
    except ParseError as error:
        raise Fault(f"line {error.position[0]}: not XML: {str(error).split(':')[0]}") from None
    except DefusedXmlException:
        raise Fault("it has a document type (<!DOCTYPE>), which VOC's files have not; remove it") from None
    except (ValueError, LookupError) as error:
        raise Fault(f"not XML: {error}") from None
    except OSError as error:
        raise Fault(f"cannot be read ({error.strerror})") from None
    if root.tag != "annotation":
        raise Fault(f"the first element is <{root.tag}>, not <annotation>")
    return root


def _size_of(root: Element, image: Path) -> tuple[int, int]:
    width, height = (_pixels(root.findtext(f"size/{side}")) for side in ("width", "height"))
    # Some tools write 0 for a size that they do not know.
    if not width or not height:
        size = upright_size(image)
        if size is None:
            raise Fault(f"{image.name} is not an image that can be read; replace it")
        return size
    problem = size_problem(image, (width, height), "<size>")
    if problem:
        raise Fault(problem)
    return width, height


def _pixels(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        raise Fault(f"<size> has {text!r:.40}; write numbers of pixels") from None


def _edges(element: Element) -> Box:
    left, top, right, bottom = _numbers(element)
    if right < left or bottom < top:
        raise Fault(f"xmax {right:g} or ymax {bottom:g} is below xmin {left:g} or ymin {top:g}; swap them")
    return left, top, right, bottom


def _numbers(element: Element) -> Iterator[float]:
    for edge in _EDGES:
        text = (element.findtext(f"bndbox/{edge}") or "").strip()
        try:
            value = float(text)
        except ValueError:
            said = f"<{edge}> is {text!r:.40}" if text else f"<bndbox> has no <{edge}>"
            raise Fault(f"{said}; write a number of pixels") from None
        if not math.isfinite(value):
            raise Fault(f"<{edge}> is {text}, which is not a finite number")
        yield value


def _is_difficult(element: Element) -> bool:
    text = (element.findtext("difficult") or "0").strip()
    if text not in ("0", "1"):
        raise Fault(f"<difficult> is {text!r:.40}; write 0 or 1")
    return text == "1"
