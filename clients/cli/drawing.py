"""`--draw`: the images with the answers drawn on them."""

from pathlib import Path

import click

from foursight.clients.cli.sources import Source
from foursight.clients.sdk.results import Analysis, Result
from foursight.schema.image_files import SUFFIXES


class Drawings:
    """Where pictures are written: a file for one image, otherwise a folder that mirrors the folders of the images."""

    def __init__(self, out: Path, *, several: bool) -> None:
        self._to_file = out.suffix.lower() in SUFFIXES and not out.is_dir()
        if self._to_file and several:
            raise click.UsageError(f"--draw: {out} is one file, but there are several images. Name a folder.")
        self._out = out
        self._taken: set[Path] = set()

    def save(self, source: Source, result: Result | Analysis) -> None:
        """Draw the result on its image and write the picture. Raises OSError and UnreadableImage."""
        target = self._target(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = result.draw(source.image if isinstance(source.image, bytes | Path) else None)
        picture.save(target, quality=90)

    def _target(self, source: Source) -> Path:
        if self._to_file:
            return self._out
        if source.folder and isinstance(source.image, Path):
            place = source.image.relative_to(source.folder)
        else:
            place = Path("stdin" if source.name == "-" else Path(source.name).name)
        target = self._out / place.with_suffix(".jpg")
        number = 2
        while target in self._taken:
            target = self._out / place.with_name(f"{place.stem}-{number}.jpg")
            number += 1
        self._taken.add(target)
        return target
