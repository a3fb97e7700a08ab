"""Data sets with a folder for each class: torchvision's and Hugging Face's ImageFolder, ultralytics' classification."""

from pathlib import Path

from foursight.models.datasets import layout
from foursight.models.datasets.value import Part, Photo, in_order
from foursight.schema.image_files import SUFFIXES

FORMAT = "folder-per-class"


def read(folder: Path) -> tuple[Part, ...]:
    """Read the images below each folder; the folder's name is their label."""
    classes = layout.subfolders(folder)
    names = [path.name for path in classes]
    problems = layout.not_classes(names)
    if problems:
        return (Part(folder.name, problems=problems),)
    photos: list[Photo] = []
    others = 0
    for path in classes:
        files = layout.files_below(path)
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        others += len(files) - len(images)
        photos += [Photo(image, label=path.name) for image in images]
    notes = [f"left out: {others} files without the suffix of an image"] if others else []
    loose = sum(path.is_file() and path.suffix.lower() in SUFFIXES for path in folder.iterdir())
    if loose:
        notes.append(f"left out: {loose} images that are in no folder of a class")
    return (Part(folder.name, in_order(photos), tuple(names), notes=tuple(notes)),)
