"""Fine-tuned localizers: their own labels, and optionally their own voting head, on the maps of the shared backbone."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foursight.models.finetuned import store
from foursight.models.finetuned.store import ModelSpec
from foursight.models.networks import lite0, stages
from foursight.models.networks.localizer import VotingHead, consensus, pool

Own = Literal["labels", "votes"]
Floats = NDArray[np.float32]
BACKBONE, STAGES = "efficientnet-lite0", 9


class TunedLocalizer(nn.Module):
    """Logits of K labels for the box that the votes agree on; the voting head is the built-in one or a copy."""

    def __init__(self, votes: VotingHead, labels: int) -> None:
        super().__init__()
        self.votes = votes
        self.labels = nn.Linear(lite0.NUM_FEATURES, labels)

    def forward(self, middle: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Map float [N, 112, h, w] and [N, 1280, h / 2, w / 2] to logits [N, K] and boxes [N, 4], xyxy in 0..1."""
        boxes = consensus(*self.votes(middle, semantic))
        return self.labels(pool(semantic, boxes)), boxes

    @torch.inference_mode()
    def locate(self, middle: Floats, semantic: Floats) -> tuple[Floats, Floats]:
        """Map the two maps to probabilities [N, K] and boxes [N, 4]."""
        device = self.labels.weight.device
        logits, boxes = self(*(torch.from_numpy(level).to(device) for level in (middle, semantic)))
        return logits.softmax(1).cpu().numpy(), boxes.cpu().numpy()


def own_tensors(model: TunedLocalizer, own: Own) -> dict[str, Tensor]:
    """Return the tensors that a model's file contains."""
    return {key: value for key, value in model.state_dict().items() if own == "votes" or key.startswith("labels.")}


def fingerprint(votes: VotingHead, backbone: lite0.EfficientNetLite0) -> tuple[str, str]:
    """Return the SHA-256 of the backbone and of the built-in voting head, which fine-tuned models are built on."""
    return stages.fingerprint(stages.split(backbone)), stages.digest(votes.state_dict())


def spec_of(own: Own, shared: tuple[str, str], labels: tuple[str, ...]) -> dict[str, object]:
    """Return the contents of model.json, without the SHA-256 of the tensors."""
    backbone, votes = shared
    return {
        "task": "localize",
        "backbone": {"name": BACKBONE, "sha256": backbone, "frozen": STAGES},
        "head": {"own": own} | ({"votes": votes} if own == "labels" else {}),
        "labels": labels,
    }


def load(
    name: str, folder: Path, votes: VotingHead | None, shared: tuple[str, str] | None
) -> tuple[TunedLocalizer, dict[str, Tensor], ModelSpec]:
    """Read a localizer from its folder, in eval mode, on the CPU: the model, its own tensors, and its spec.

    `votes` is the built-in voting head, which the model may share, and `shared` is the `fingerprint`; both are None if
    the task's network has no votes. Raises StoreError (unknown_model, model_corrupt, model_mismatch).
    """
    spec = store.read_spec(name, folder)
    if spec.task != "localize":
        raise store.mismatch_error(name, f"it is for {spec.task}, not for localize")
    if shared is None or votes is None or spec.backbone.sha256 != shared[0]:
        raise store.mismatch_error(
            name,
            f"it was trained on the backbone {spec.backbone.name} ({spec.backbone.sha256[:12]}), which is not this one",
        )
    own = spec.head.get("own")
    if own == "labels" and spec.head.get("votes") != shared[1]:
        raise store.mismatch_error(name, "it was trained with another voting head")
    tensors = {key: value.float() for key, value in store.read_tensors(name, folder, spec).items()}
    try:
        if own not in ("labels", "votes"):
            raise ValueError(f"head {spec.head}")
        model = TunedLocalizer(votes if own == "labels" else VotingHead(), len(spec.labels))
        if tensors.keys() != own_tensors(model, "labels" if own == "labels" else "votes").keys():
            raise ValueError(", ".join(sorted(tensors)))
        model.load_state_dict(tensors, strict=False)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise store.mismatch_error(name, f"its tensors do not match {store.SPEC} ({reason})") from None
    return model.requires_grad_(False).eval(), tensors, spec
