"""Answers for images that were shrunk before the upload, scaled up to the pixels of the original."""

import math

import numpy as np
from PIL import Image

from foursight.clients.sdk.results import Analysis, Prediction, Result
from foursight.schema import Box, ImageSize, Polygons, Rle, rle


def rescale(result: Result, size: tuple[int, int]) -> Result:
    """Return the same result for an image of `size`, (width, height) in pixels."""
    scale = size[0] / result.image.width, size[1] / result.image.height
    return Result(
        model=result.model,
        image=ImageSize(width=size[0], height=size[1]),
        predictions=[_rescale(prediction, scale, size) for prediction in result.predictions],
    )


def rescale_analysis(analysis: Analysis, size: tuple[int, int]) -> Analysis:
    """Return the same analysis for an image of `size`, (width, height) in pixels."""
    tasks = {
        task: rescale(found, size) if isinstance(found, Result) else found for task, found in analysis.tasks.items()
    }
    return Analysis(image=ImageSize(width=size[0], height=size[1]), tasks=tasks, then=analysis.then)


def _rescale(prediction: Prediction, scale: tuple[float, float], size: tuple[int, int]) -> Prediction:
    mask: Rle | Polygons | None = prediction.encoded_mask
    if isinstance(mask, Rle):
        mask = _rescale_rle(mask, size)
    elif mask is not None:
        mask = [[round(side * scale[i % 2], 1) for i, side in enumerate(outline)] for outline in mask]
    box: Box | None = None
    if prediction.box is not None:
        x1, y1, x2, y2 = (round(side * scale[i % 2], 2) for i, side in enumerate(prediction.box))
        box = x1, y1, x2, y2
    return prediction.model_copy(update={"box": box, "encoded_mask": mask})


def _rescale_rle(encoded: Rle, size: tuple[int, int]) -> Rle:
    """Resize with bilinear interpolation and a threshold of one half, within the object's own bounds."""
    width, height = size
    mask = rle.decode(encoded)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return rle.encode(np.zeros((height, width), dtype=np.bool_))
    scale_x, scale_y = width / mask.shape[1], height / mask.shape[0]
    # One pixel of margin: an edge lies between the last pixel inside and the first one outside.
    left, right = max(0, int(columns[0]) - 1), min(mask.shape[1], int(columns[-1]) + 2)
    top, bottom = max(0, int(rows[0]) - 1), min(mask.shape[0], int(rows[-1]) + 2)
    x1, x2 = math.ceil(left * scale_x), math.floor(right * scale_x)
    y1, y2 = math.ceil(top * scale_y), math.floor(bottom * scale_y)
    part = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8, order="C") * np.uint8(255))
    larger = part.resize(
        (x2 - x1, y2 - y1),
        Image.Resampling.BILINEAR,
        box=(x1 / scale_x - left, y1 / scale_y - top, x2 / scale_x - left, y2 / scale_y - top),
    )
    return rle.encode_part(np.asarray(larger) >= 128, x1, y1, height, width)
