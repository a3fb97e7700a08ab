"""Explanations of a classification: the class activation map, and what the channels of a layer respond to.

Class activation mapping: Zhou et al. 2016, "Learning Deep Features for Discriminative Localization".
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import labels
from foursight.models.errors import OptionError
from foursight.models.finetuned.classifier import TunedNetwork
from foursight.models.finetuned.networks import Labelled
from foursight.models.networks import backbone, cam, lite0, localizer
from foursight.models.networks.presets import PRESETS, SQUARE_SIDE
from foursight.models.tasks.classify import Classification


@dataclass(frozen=True)
class Explanation:
    """Why a network gives one class its score for one image.

    `frame` is the part of the image that the network sees, xyxy in pixels. `evidence` float32 [h, w] covers the frame:
    the contribution of each cell of the pooled map to the class's logit; its mean is the logit without the bias.
    `maps` float32 [K, h, w] covers the frame too: the `channels` of `layer` (of `layer_channels` in all) that vary most
    over the image, in descending order.
    """

    label: str
    score: float
    frame: tuple[float, float, float, float]
    evidence: NDArray[np.float32]
    layer: str
    layer_channels: int
    channels: tuple[int, ...]
    maps: NDArray[np.float32]

    def enlarged(self, width: int, height: int) -> NDArray[np.float32]:
        """Return `evidence` enlarged bilinearly to float32 [height, width]."""
        small = torch.from_numpy(self.evidence)[None, None]
        large: NDArray[np.float32] = F.interpolate(small, size=(height, width), mode="bilinear")[0, 0].numpy()
        return large


@dataclass(frozen=True)
class _Subject:
    """A network and its input: `pixels` float32 [1, 3, H, W], normalised, of the part `frame` of an image."""

    network: Any
    labels: tuple[str, ...]
    pixels: Tensor
    frame: tuple[float, float, float, float]


def explain(
    task: Classification,
    image: Image.Image,
    label: str | None = None,
    layer: str | None = None,
    maps: int = 12,
    model: str | None = None,
) -> Explanation:
    """Explain a label, by default the best one, for an upright RGB image.

    `layer` is the name of a submodule; `maps` of its channels are returned. `model` is a fine-tuned model of the task.
    Raises OptionError: unknown_model, unknown_class, or invalid_parameter if no such layer returns a map.
    """
    pixels = torch.from_numpy(task.prepare(image).copy())[None].to(task.card.device)
    known = task.find(model).card.labels
    subject = _Subject(task.network(model), known, task.base.normalize(pixels), task.base.view.crop_box(image.size))
    return _explain(subject, label, layer, maps)


def explain_localizer(
    network: Labelled,
    known: tuple[str, ...],
    image: Image.Image,
    label: str | None = None,
    layer: str | None = None,
    maps: int = 12,
) -> Explanation:
    """Explain one of the labels `known` of a fine-tuned localizer, as `explain` does; the frame is the whole image.

    The evidence is that inside the box. The position of the box is not explained.
    """
    stretched = image.resize((SQUARE_SIDE,) * 2, Image.Resampling.BILINEAR)
    preset = PRESETS["tiny"]
    normalize = backbone.Normalize(preset.mean, preset.std)
    pixels = normalize(torch.from_numpy(np.array(stretched))[None])
    return _explain(_Subject(network, known, pixels, (0, 0, *image.size)), label, layer, maps)


def _explain(subject: _Subject, label: str | None, layer: str | None, maps: int) -> Explanation:
    network, known = subject.network, subject.labels
    name = layer or default_layer(network)
    module = _layer(network, name)
    outputs: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        with torch.no_grad():
            pooled, classify = _halves(network, subject.pixels)
            logits = classify(pooled)[0]
            class_id = _class_of(known, logits, label)
            evidence = cam.evidence(pooled, lambda maps: classify(maps)[0, class_id])
    finally:
        hook.remove()
    if not outputs or not isinstance(outputs[0], Tensor) or outputs[0].dim() != 4:
        raise _no_such_layer(network, name, "returns no map of the image")
    responses = outputs[0][0].float()
    strongest = responses.flatten(1).std(1).argsort(descending=True)[:maps]
    return Explanation(
        label=known[class_id],
        score=float(logits.softmax(0)[class_id]),
        frame=subject.frame,
        evidence=evidence.float().cpu().numpy(),
        layer=name,
        layer_channels=len(responses),
        channels=tuple(strongest.tolist()),
        maps=responses[strongest].cpu().numpy(),
    )


def _halves(network: Any, pixels: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the pooled map, float [1, C, h, w], and the function from it to logits [1, K]."""
    if isinstance(network, Labelled):
        middle, semantic = network.maps(pixels)
        _, box = network.model(middle, semantic)
        return semantic, lambda maps: network.model.labels(localizer.pool(maps, box))
    if isinstance(network, TunedNetwork):
        return network.maps(pixels), network.logits
    return network.features(pixels), lambda maps: network.classify(maps.mean((2, 3)))


def default_layer(network: nn.Module) -> str:
    """Return the last layer at stride 8, whose channels respond to textures and parts at a useful resolution."""
    if isinstance(network, TunedNetwork):
        # Lite0 has nine stages, ResNet-50 five.
        return "stages.stage4" if len(network.stages) > 5 else "stages.stage3"
    if isinstance(network, Labelled):
        return "backbone._blocks.4"
    return "_blocks.4" if isinstance(network, lite0.EfficientNetLite0) else "body.layer2"


def _class_of(known: tuple[str, ...], logits: Tensor, label: str | None) -> int:
    if label is None:
        return int(logits.argmax())
    ids = labels.ids_of([label], known, range(len(known)))
    # Some labels of ImageNet occur twice.
    return max(ids, key=lambda index: float(logits[index]))


def _layer(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise _no_such_layer(network, name, "is not a layer of this network") from None


def _no_such_layer(network: nn.Module, name: str, reason: str) -> OptionError:
    names = [known for known, _ in network.named_modules() if known]
    close = get_close_matches(name, names, n=3, cutoff=0.3) or [default_layer(network)]
    return OptionError("invalid_parameter", f"{name!r} {reason}.", f"Close matches: {', '.join(close)}.", "layer")
