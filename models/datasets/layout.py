"""How the folders of a data set are laid out: what is skipped, and which folders are its splits."""

import re
from dataclasses import dataclass
from pathlib import Path

from foursight.models.errors import DataError

# By the names that tools give them, in any case; "train2017" and "training_set" count too.
TRAINING, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
_ADDITION = re.compile(r"[-_ ]?(set|data|images|\d{4})$")
# Left by archives, notebooks and file servers.
_LEFTOVERS = frozenset(("__MACOSX", "__pycache__", "@eaDir", "Thumbs.db", "desktop.ini"))
# Folders of annotation formats, which are never classes.
_PARTS = frozenset(("images", "labels", "annotations", "jpegimages", "imagesets", "segmentationclass", "masks"))


@dataclass(frozen=True)
class Splits:
    """The folders for training and for validation, and the names of the folders beside them, which are not read."""

    training: Path
    validation: Path
    unread: tuple[str, ...]

    @property
    def note(self) -> tuple[str, ...]:
        """A line about the folders that are not read, if there are any."""
        names = ", ".join(f"{name}/" for name in self.unread)
        return (f"left out: {names}, beside the split",) if names else ()


def is_visible(path: Path) -> bool:
    """Whether a file or folder is part of a data set: not hidden, and not left by another program."""
    return not path.name.startswith(".") and path.name not in _LEFTOVERS


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_visible(path)) if folder.is_dir() else []


def files_below(folder: Path) -> list[Path]:
    """Return the visible files in a folder and in its visible folders, at any depth, by path."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and all(map(is_visible, (path, *path.relative_to(folder).parents[:-1])))
    )


def lone_folder(folder: Path) -> Path | None:
    """Return a folder's only folder, if it has one and no files but texts: an archive often adds a folder around it."""
    below = [path for path in folder.iterdir() if is_visible(path)]
    inner = subfolders(folder)
    others = [path for path in below if path.suffix.lower() not in (".txt", ".md") and path.is_file()]
    return inner[0] if len(inner) == 1 and not others else None


def is_side(folder: Path) -> bool:
    """Whether a folder's name is that of a side of a split."""
    return _split_name(folder) in (*TRAINING, *VALIDATION, *TEST)


def splits(data: Path) -> Splits | None:
    """Return the splits of a data set, or None if it has none. Without a folder for validation, `test` is that side.

    Raises DataError (bad_data) if several folders could be the same side.
    """
    folders = subfolders(data)
    sides = {
        names: [folder for folder in folders if _split_name(folder) in names] for names in (TRAINING, VALIDATION, TEST)
    }
    training, validation = sides[TRAINING], sides[VALIDATION] or sides[TEST]
    if not training or not validation:
        return None
    for side in (training, validation):
        if len(side) > 1:
            names = " and ".join(f"{folder.name}/" for folder in side)
            raise DataError(
                "bad_data", f"{data} has {names}: both could be the same side of the split.", "Keep one of them."
            )
    chosen = (training[0], validation[0])
    return Splits(
        *chosen, tuple(folder.name for folder in folders if folder not in chosen and folder.name != "annotations")
    )


def not_classes(names: list[str]) -> tuple[str, ...]:
    """Return a line for each folder name that belongs to a format or a lone split, if no name can be a class."""
    if not all(is_side(Path(name)) or name.casefold() in _PARTS for name in names):
        return ()
    return tuple(f"{name}/: the name of a part of a data set, not of a class" for name in names)


def _split_name(folder: Path) -> str:
    return _ADDITION.sub("", folder.name.casefold()) or folder.name.casefold()
