"""The outlines of objects: polygons and run-length encodings, as in COCO."""

from collections.abc import Iterable, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from foursight.models.datasets.value import Photo


def outline_problems(photos: Sequence[Photo]) -> Iterable[str]:
    """Yield a line for each object whose segmentation is missing or invalid."""
    objects = [one for photo in photos for one in photo.counted]
    if objects and not any(one.segmentation for one in objects):
        yield "no object has a segmentation; the task segment needs them, detect does not"
        return
    for photo in photos:
        assert photo.size is not None
        width, height = photo.size
        for one in photo.objects:
            if one.segmentation:
                problem = _outline_problem(one.segmentation, (height, width))
            else:
                problem = None if one.is_crowd else "no segmentation"
            if problem:
                yield f"{one.name}: {problem}, {photo.path.name} is {width} x {height}"


def _outline_problem(segmentation: Any, size: tuple[int, int]) -> str | None:
    """Return what is wrong with a segmentation for an image of `size` (height, width), or None."""
    try:
        height, width = as_rle(segmentation, *size)["size"]
    except Exception as error:
        return f"the segmentation is neither polygons nor RLE ({error})"
    return None if (height, width) == size else f"the mask is {width} x {height}"


def as_rle(segmentation: Any, height: int, width: int) -> Any:
    """Return COCO's compressed RLE of polygons, of an uncompressed RLE or of a compressed one."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation
