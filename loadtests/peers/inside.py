"""The model inside a peer: written as its users would, or ours on its engine, with the same weights.

The plain version is Pillow, torchvision's transforms and eager PyTorch; for detect and segment it is the network's own
`forward`, whose full-size masks are cut at 0.5 and encoded by pycocotools.
"""

from io import BytesIO
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.functional import to_tensor

from foursight import models
from foursight.models import coco, labels
from foursight.models.engines import devices
from foursight.models.image import decode_for
from foursight.models.networks import lite0
from foursight.models.networks.presets import PRESETS
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.serving.encoding import to_answer

TOP = 5
SCORE = 0.5

Json = dict[str, Any]


class Inside(Protocol):
    """Computes an answer in two steps, so that a server can batch the second."""

    def prepare(self, body: bytes) -> Any:
        """Decode an image and prepare the network's input; thread-safe."""

    def predict(self, batch: list[Any]) -> list[Json]:
        """Return the answers for several prepared images, ready for JSON."""


def load(task: str, engine: bool) -> Inside:
    """Return the model for a peer."""
    if engine:
        return Engine(task)
    return Classifier() if task == "classify" else Detector(task == "segment")


class Classifier:
    """EfficientNet-Lite0 in eager PyTorch."""

    def __init__(self) -> None:
        self._network = lite0.load()
        self._names = [label for _, label in labels.imagenet()]
        preset = PRESETS["tiny"]
        self._transform = transforms.Compose(
            [
                transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize([mean / 255 for mean in preset.mean], [std / 255 for std in preset.std]),
            ]
        )

    def prepare(self, body: bytes) -> Tensor:
        """Return float32 [3, 224, 224], normalised."""
        pixels: Tensor = self._transform(Image.open(BytesIO(body)).convert("RGB"))
        return pixels

    @torch.inference_mode()
    def predict(self, batch: list[Tensor]) -> list[Json]:
        """Return the TOP labels of each image."""
        scores, indices = self._network(torch.stack(batch)).softmax(1).topk(TOP)
        return [
            {"predictions": [{"label": self._names[i], "score": s} for i, s in zip(*row, strict=True)]}
            for row in zip(indices.tolist(), scores.tolist(), strict=True)
        ]


class Detector:
    """torchvision's GeneralizedRCNN in eager PyTorch, as its documentation calls it."""

    def __init__(self, masks: bool) -> None:
        self._network = ssd_rcnn.load(masks)

    def prepare(self, body: bytes) -> Tensor:
        """Return float32 [3, H, W] in 0..1."""
        pixels: Tensor = to_tensor(Image.open(BytesIO(body)).convert("RGB"))
        return pixels

    @torch.inference_mode()
    def predict(self, batch: list[Tensor]) -> list[Json]:
        """Return the objects with a score of SCORE or more."""
        return [{"predictions": self._objects(found)} for found in self._network(batch)]

    def _objects(self, found: dict[str, Tensor]) -> list[Json]:
        keep = found["scores"] >= SCORE
        found = {name: values[keep] for name, values in found.items()}
        objects: list[Json] = [
            {"label": coco.NAMES[index - 1], "score": score, "box": box}
            for index, score, box in zip(*(found[name].tolist() for name in ("labels", "scores", "boxes")), strict=True)
        ]
        for one, mask in zip(objects, found.get("masks", ()), strict=False):
            encoded = coco_mask.encode(np.asfortranarray((mask[0] > 0.5).numpy().astype(np.uint8)))
            one["mask"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        return objects


class Engine:
    """Foursight's task: reduced decoding, dense parts on OpenVINO, masks only for returned objects."""

    def __init__(self, task: str) -> None:
        devices.share_cores("cpu")
        self._task = models.load(task)
        self._request = self._task.resolve(self._task.options())

    def prepare(self, body: bytes) -> Any:
        """Return the task's input, and the image's (width, height)."""
        image, size = decode_for(body, self._task.short_side)
        return self._task.prepare(image, size), size

    def predict(self, batch: list[Any]) -> list[Json]:
        """As in Inside, but one thread at a time: engines require it."""
        outputs = self._task.predict([(prepared, self._request) for prepared, _ in batch])
        answers = (
            to_answer(self._task.card.name, size, self._task.finish(output, self._request), "rle")
            for output, (_, size) in zip(outputs, batch, strict=True)
        )
        return [answer.model_dump(exclude_none=True) for answer in answers]
