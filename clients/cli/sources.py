"""The images named on the command line: files, folders, URLs, standard input, and a watched folder."""

import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from foursight.clients.sdk.images import ImageInput, is_url
from foursight.schema.image_files import SUFFIXES

# Suffixes of skipped files that are named.
_SHOWN_KINDS = 6


@dataclass(frozen=True)
class Source:
    """An image, its name in the output and, if it was found in a folder, that folder."""

    name: str
    image: ImageInput
    folder: Path | None = None


def find(words: Iterable[str]) -> list[Source]:
    """Return all images that `words` name. Folders are searched recursively for files with an image's suffix.

    Hidden files and folders are left out, and how many other files were skipped is printed to standard error.
    """
    found = []
    for word in words:
        if word == "-":
            found.append(Source("-", sys.stdin.buffer.read()))
        elif is_url(word):
            found.append(Source(word, word))
        elif Path(word).is_dir():
            images, others = _search(Path(word))
            found += [Source(str(path), path, Path(word)) for path in images]
            if others:
                kinds = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in others})[:_SHOWN_KINDS])
                count = f"{len(others)} file{'s' if len(others) > 1 else ''}"
                print(f"{word}: skipped {count} without an image's suffix ({kinds})", file=sys.stderr)
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


def _search(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder and its subfolders, and the other files, without hidden ones."""
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            (images if path.suffix.lower() in SUFFIXES else others).append(path)
    return images, others


def _states(folder: Path, without: Path | None) -> dict[Path, tuple[int, int]]:
    """Return the size in bytes and the time of change in nanoseconds of each image."""
    states = {}
    left_out = without.resolve() if without else None
    for path in _search(folder)[0]:
        if left_out and path.resolve().is_relative_to(left_out):
            continue
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        states[path] = status.st_size, status.st_mtime_ns
    return states
