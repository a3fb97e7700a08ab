"""Check that a peer gives the same answers as the model in this process; otherwise comparing speeds means nothing."""

from typing import Any

from foursight import models
from foursight.models import catalogue
from foursight.schema import Rle, rle
from foursight.serving.encoding import to_answer

# Peers resize with torchvision, which moves scores and boxes a little.
SCORE, PIXELS, OVERLAP = 1e-3, 5.0, 0.95
# An object whose score is this close to the threshold may be on the other side of it.
MARGIN = 0.05

Json = dict[str, Any]


def reference(task: str, photos: list[bytes]) -> list[Json]:
    """Return our own answers for the images. Raises ValueError if they have no prediction to compare."""
    loaded = models.load(task)
    found = []
    for photo in photos:
        image = models.decode(photo)
        answer = to_answer(task, image.size, catalogue.run(loaded, image), "rle").model_dump(exclude_none=True)
        found.append(answer)
    if not any(answer["predictions"] for answer in found):
        raise ValueError(f"{task} finds nothing in the photos")
    return found


def differences(task: str, expected: list[Json], answers: list[Json]) -> list[str]:
    """Return a line for each difference."""
    compare = _labels if task == "classify" else _objects
    return [
        f"photo {index}: {line}"
        for index, (mine, theirs) in enumerate(zip(expected, answers, strict=True))
        for line in compare(mine["predictions"], theirs["predictions"])
    ]


def _labels(mine: list[Json], theirs: list[Json]) -> list[str]:
    if [one["label"] for one in mine] != [one["label"] for one in theirs]:
        return [f"{[one['label'] for one in theirs]} instead of {[one['label'] for one in mine]}"]
    return [
        f"{one['label']} has {other['score']} instead of {one['score']}"
        for one, other in zip(mine, theirs, strict=True)
        if abs(one["score"] - other["score"]) > SCORE
    ]


def _objects(mine: list[Json], theirs: list[Json]) -> list[str]:
    lines = []
    for found, others, which in ((mine, theirs, "missing"), (theirs, mine, "unexpected")):
        for one in found:
            if one["score"] > 0.5 + MARGIN and not any(_same(one, other) for other in others):
                lines.append(f"{which}: {one['label']} {one['score']:.3f} {one['box']}")
    return lines


def _same(one: Json, other: Json) -> bool:
    near = all(abs(a - b) <= PIXELS for a, b in zip(one["box"], other["box"], strict=True))
    if one["label"] != other["label"] or not near:
        return False
    if ("mask" in one) != ("mask" in other):
        return False
    if "mask" not in one:
        return True
    a, b = (rle.decode(Rle(**each["mask"])) for each in (one, other))
    return bool((a & b).sum() >= OVERLAP * (a | b).sum())
