"""The photos that a command line names: files, whole folders, standard input, and a folder to which some are added."""

import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from foursight.clients.sdk.images import ImageInput, is_url

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))


@dataclass(frozen=True)
class Source:
    """A photo, what it is called in the output, and the folder, if any, that it was found in."""

    name: str
    image: ImageInput
    folder: Path | None = None


def find(words: Iterable[str]) -> list[Source]:
    """All photos that are named; folders are searched to their depth for what has a picture's suffix."""
    found = []
    for word in words:
        if word == "-":
            found.append(Source("-", sys.stdin.buffer.read()))
        elif is_url(word):
            found.append(Source(word, word))
        elif Path(word).is_dir():
            found += [Source(str(path), path, Path(word)) for path in _pictures(Path(word))]
        else:
            found.append(Source(word, Path(word)))
    return found


def watch(folder: Path, without: Path | None) -> Generator[list[Source], None, None]:
    """At each `next`, the photos that were added or changed, and are complete; what is there at first is known.

    A file is complete when its size and time stay the same from one look to the next. `without` is a folder, or a file,
    to leave out: that of the drawings.
    """
    known = _states(folder, without)
    before = known
    while True:
        now = _states(folder, without)
        ready = [path for path, state in now.items() if state == before.get(path) != known.get(path) and state[0] > 0]
        known |= {path: now[path] for path in ready}
        before = now
        yield [Source(str(path), path, folder) for path in ready]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _states(folder: Path, without: Path | None) -> dict[Path, tuple[int, int]]:
    """Each picture's size in bytes and time of change in nanoseconds."""
    states = {}
    left_out = without.resolve() if without else None
    for path in _pictures(folder):
        if left_out and path.resolve().is_relative_to(left_out):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        states[path] = status.st_size, status.st_mtime_ns
    return states
