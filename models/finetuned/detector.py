"""A fine-tuned detector: names of its own over the shipped network, or heads of its own over the frozen backbone.

Boxes and masks of the tiny profile's network are the same for all names. So K new labels need no more than what judges
a proposal: whether it is an object, and which name the evidence speaks for. Pyramid, proposals, box head and mask head
are then shared by all such models, and computed once for a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import roi_align

from foursight.models.finetuned import store
from foursight.models.finetuned.store import ModelSpec
from foursight.models.networks import lite0, rcnn_tiny, stages
from foursight.models.networks.rcnn_tiny import HIDDEN, MASK_KEYS, class_scores, evidence
from foursight.models.networks.roi_align import Align

# What a model with names of its own leaves unread of the shipped network, and need not be the same.
UNREAD = (MASK_KEYS, "backbone.names.", "backbone.texture.", "backbone.scene.", "roi_heads.box_predictor.names.")
TEXTURE_CHANNELS = lite0.PYRAMID_TAPS[2][2]
BACKBONE, STAGES = "efficientnet-lite0", 9

Own = Literal["names", "heads"]


@dataclass(frozen=True)
class SharedWeights:
    """What fine-tuned models stand on, by SHA-256: the backbone, and all of the network that is the same for names."""

    backbone: str
    network: str


def shared_weights(network: GeneralizedRCNN) -> SharedWeights | None:
    """The fingerprints of the tiny profile's network before it goes to engines; None of another network."""
    if not isinstance(network.backbone, rcnn_tiny.Pyramid):
        return None
    shared = {name: value for name, value in network.state_dict().items() if not name.startswith(UNREAD)}
    return SharedWeights(stages.fingerprint(stages.split(network.backbone.network)), stages.digest(shared))


class LabelHead(nn.Module):
    """P(label) = P(object) P(label | object) for K labels; an object may also be "other", which is none of them.

    Evidence is linear in the backbone's features, averaged inside the box (`names` of the last map, `texture` of that
    at stride 16), over the whole photo (`scene`), and in what the box head sees (`hidden`).
    """

    known: Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.objectness = nn.Linear(HIDDEN, 1)
        # Row 0 is "other".
        self.hidden = nn.Linear(HIDDEN, 1 + labels, bias=False)
        self.names = nn.Linear(lite0.NUM_FEATURES, 1 + labels)
        self.texture = nn.Linear(TEXTURE_CHANNELS, 1 + labels, bias=False)
        self.scene = nn.Linear(lite0.NUM_FEATURES, 1 + labels, bias=False)
        self.register_buffer("known", torch.arange(1 + labels) > 0, persistent=False)

    def judge(self, hidden: Tensor, evidence: Tensor) -> Tensor:
        """Map float [P, 512] and evidence [P, 1 + K] to log-probabilities [P, 1 + K], background first."""
        scores = class_scores(self.objectness(hidden), self.hidden(hidden) + evidence, self.known)
        return torch.cat([scores[:, :1], scores[:, 2:]], 1)

    def weigh(self, names: Tensor, texture: Tensor, scene: Tensor) -> Tensor:
        """The evidence [P, 1 + K] of features averaged over boxes, [P, 1280] and [P, 112], and the photo, [P, 1280]."""
        evidence: Tensor = self.names(names) + self.texture(texture) + self.scene(scene)
        return evidence

    def forward(
        self,
        features: dict[str, Tensor],
        hidden: Tensor,
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, ...]],
        align: Align = roi_align,
    ) -> Tensor:
        """As `judge`, from the network's maps and each photo's proposals [P, 4] xyxy, sizes (height, width)."""
        # The mean over a box and a linear layer may change places: so few channels are averaged, not 2,672.
        names, texture, scene = (
            F.conv2d(features[level], layer.weight[:, :, None, None], layer.bias)
            for level, layer in (("semantic", self.names), ("middle", self.texture), ("semantic", self.scene))
        )
        return self.judge(hidden, evidence(names, texture, scene, list(proposals), sizes, align))


def merged_state(network: GeneralizedRCNN, head: LabelHead) -> dict[str, Tensor]:
    """The state of a network from `build` with "other" that answers as a names' head does over `network`."""
    state: dict[str, Tensor] = dict(network.state_dict())
    for name, layer in (("names", head.names), ("texture", head.texture), ("scene", head.scene)):
        state[f"backbone.{name}.weight"] = layer.weight.detach()[:, :, None, None]
    state["backbone.names.bias"] = head.names.bias.detach()
    state["roi_heads.box_predictor.names.weight"] = head.hidden.weight.detach()
    for name, value in head.objectness.state_dict().items():
        state[f"roi_heads.box_predictor.objectness.{name}"] = value
    return state


@dataclass(frozen=True)
class TunedDetector:
    """What was read of a model's folder: the names' head, or a whole network."""

    spec: ModelSpec
    names: LabelHead | None = None
    network: GeneralizedRCNN | None = None

    @property
    def own(self) -> nn.Module:
        """What is not shared."""
        return cast(nn.Module, self.names or self.network)

    @property
    def hidden_classes(self) -> int:
        """How many classes of the answer come before those of the labels: background, and maybe "other"."""
        return 1 if self.network is None else 1 + int(self.spec.head["other"] or 0)


def spec_of(task: str, own: Own, other: bool, shared: SharedWeights, labels: tuple[str, ...]) -> dict[str, object]:
    """model.json of a detector or segmenter, without the SHA-256 of its tensors.

    `other`: whether the network has a name for what is none of the labels, which a names' head always has.
    """
    head: dict[str, str | int] = {"own": own, "other": int(other)}
    if own == "names":
        head["trunk"] = shared.network
    return {
        "task": task,
        "backbone": {"name": BACKBONE, "sha256": shared.backbone, "frozen": STAGES},
        "head": head,
        "labels": labels,
    }


def load(name: str, folder: Path, task: str, shared: SharedWeights | None) -> TunedDetector:
    """Read a model of a task from its folder, in eval mode, on the CPU; every tensor must be there and fit.

    Raises StoreError (unknown_model, model_corrupt, model_mismatch).
    """
    spec = store.read_spec(name, folder)
    if spec.task != task:
        raise store.mismatch_error(name, f"it is for {spec.task}, not for {task}")
    if shared is None or spec.backbone.sha256 != shared.backbone:
        raise store.mismatch_error(
            name,
            f"it was trained on the backbone {spec.backbone.name} ({spec.backbone.sha256[:12]}), which is not this one",
        )
    own, other = spec.head.get("own"), spec.head.get("other")
    if own == "names" and spec.head.get("trunk") != shared.network:
        raise store.mismatch_error(name, f"it was trained on another detector ({str(spec.head.get('trunk'))[:12]})")
    tensors = store.read_tensors(name, folder, spec)
    try:
        if own == "names":
            with torch.device("meta"):
                head = LabelHead(len(spec.labels))
            head.load_state_dict(tensors, strict=True, assign=True)
            # What is not in the file was made without memory.
            head.known = torch.arange(1 + len(spec.labels)) > 0
            return TunedDetector(spec, names=head.float().eval())
        if own == "heads" and other in (0, 1):
            network = build(task == "segment", len(spec.labels), other=bool(other))
            rcnn_tiny.restore(network, {key: value.float() for key, value in tensors.items()})
            return TunedDetector(spec, network=network.eval())
        raise ValueError(f"head {spec.head}")
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise store.mismatch_error(name, f"its tensors do not match {store.SPEC} ({reason})") from None


def build(masks: bool, labels: int, *, other: bool) -> GeneralizedRCNN:
    """A network with heads of its own for so many labels; `other` is a name that is not answered, the first."""
    network = rcnn_tiny.build(masks, labels + other)
    predictor: Any = network.roi_heads.box_predictor
    predictor.served[: int(other)] = False
    return network
