"""The images named on the command line: files, folders, URLs, standard input, and a watched folder."""

import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from foursight.clients.sdk.images import ImageInput, is_url
from foursight.schema.image_files import SUFFIXES


@dataclass(frozen=True)
class Source:
    """An image, its name in the output and, if it was found in a folder, that folder."""

    name: str
    image: ImageInput
    folder: Path | None = None


def find(words: Iterable[str]) -> list[Source]:
    """Return all images that `words` name. Folders are searched recursively for files with an image's suffix."""
    found = []
    for word in words:
        if word == "-":
            found.append(Source("-", sys.stdin.buffer.read()))
        elif is_url(word):
            found.append(Source(word, word))
        elif Path(word).is_dir():
            found += [Source(str(path), path, Path(word)) for path in _images(Path(word))]
        else:
            found.append(Source(word, Path(word)))
    return found


def watch(folder: Path, without: Path | None) -> Generator[list[Source], None, None]:
    """Yield, at each `next`, the images that were added or changed and are complete. The first `next` yields none.

    A file is complete when its size and time of change stay the same from one `next` to the following one. `without`
    is a file or folder to leave out: where the pictures are written.
    """
    known = _states(folder, without)
    before = known
    while True:
        now = _states(folder, without)
        ready = [path for path, state in now.items() if state == before.get(path) != known.get(path) and state[0] > 0]
        known |= {path: now[path] for path in ready}
        before = now
        yield [Source(str(path), path, folder) for path in ready]


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _states(folder: Path, without: Path | None) -> dict[Path, tuple[int, int]]:
    """Return the size in bytes and the time of change in nanoseconds of each image."""
    states = {}
    left_out = without.resolve() if without else None
    for path in _images(folder):
        if left_out and path.resolve().is_relative_to(left_out):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        states[path] = status.st_size, status.st_mtime_ns
    return states
