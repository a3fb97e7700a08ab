"""Fine-tuned classifiers: a head, and the backbone stages that were trained, over the shared frozen stages."""

import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foursight.models.finetuned import store
from foursight.models.finetuned.store import ModelSpec
from foursight.models.networks import stages
from foursight.models.networks.backbone import Backbone
from foursight.models.networks.head import ClassifierHead, HeadSpec, pool


class TunedClassifier(nn.Module):
    """A head, and copies of the stages after the first `frozen` ones.

    The frozen stages are not part of this module: all models share those of the backbone.
    """

    def __init__(self, published: nn.ModuleList, frozen: int, head: ClassifierHead) -> None:
        """`published` are the backbone's stages."""
        super().__init__()
        self.frozen = frozen
        self.stages = nn.ModuleDict(
            {f"stage{index + 1}": copy.deepcopy(published[index]) for index in range(frozen, len(published))}
        )
        self.head = head

    def features(self, published: nn.ModuleList, pixels: Tensor) -> Tensor:
        """Map normalised float [N, 3, H, W] to the last map, float [N, C, h, w]: shared stages, then its own."""
        return self.tail(stages.run(published[: self.frozen], pixels))

    @torch.inference_mode()
    def features_of(self, base: Backbone, published: nn.ModuleList, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map uint8 [N, H, W, 3] to the last map, float32 [N, C, h, w]."""
        pixels = base.normalize(torch.from_numpy(crops).to(self.head.fc.weight.device))
        found: NDArray[np.float32] = self.features(published, pixels).cpu().numpy()
        return found

    @torch.inference_mode()
    def probabilities(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map the last map, float32 [N, C, h, w], to probabilities [N, K]."""
        logits = self.head(torch.from_numpy(maps).to(self.head.fc.weight.device))
        found: NDArray[np.float32] = logits.softmax(1).cpu().numpy()
        return found

    def tail(self, x: Tensor) -> Tensor:
        """Map the output of the frozen stages to the last map, float [N, C, h, w]."""
        return stages.run(list(self.stages.values()), x)


class TunedNetwork(nn.Module):
    """The whole network, for inspection: shared and own stages, named stage1, stage2, ..., and the head."""

    def __init__(self, published: nn.ModuleList, model: TunedClassifier) -> None:
        """`published` are the backbone's stages."""
        super().__init__()
        self.frozen = model.frozen
        shared = {f"stage{index + 1}": published[index] for index in range(model.frozen)}
        self.stages = nn.ModuleDict(shared | dict(model.stages.items()))
        self.head = model.head

    def maps(self, pixels: Tensor) -> Tensor:
        """Map normalised float [N, 3, H, W] to the map that the head pools, float [N, D, h, w]."""
        return self.head.respond(stages.run(list(self.stages.values()), pixels))

    def logits(self, maps: Tensor) -> Tensor:
        """Map float [N, D, h, w] to logits [N, K]."""
        return self.head.classify(pool(maps, self.head.spec.pool))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised float [N, 3, H, W] to logits [N, K]."""
        return torch.as_tensor(self.head(stages.run(list(self.stages.values()), pixels)))


def spec_of(base: Backbone, model: TunedClassifier, fingerprint: str, labels: tuple[str, ...]) -> dict[str, object]:
    """Return the contents of a classifier's model.json, without the SHA-256 of its tensors."""
    return {
        "task": "classify",
        "backbone": {"name": base.name, "sha256": fingerprint, "frozen": model.frozen},
        "head": model.head.spec.model_dump(),
        "labels": labels,
    }


def load(
    name: str, folder: Path, base: Backbone, published: nn.ModuleList, fingerprint: str
) -> tuple[TunedClassifier, ModelSpec]:
    """Read a classifier from its folder, in eval mode, on the CPU.

    `published` holds the backbone's stages, `fingerprint` identifies them.

    Raises StoreError (unknown_model, model_corrupt, model_mismatch).
    """
    spec = store.read_spec(name, folder)
    if spec.task != "classify":
        raise store.mismatch_error(name, f"it is for {spec.task}, not for classify")
    if spec.backbone.sha256 != fingerprint or spec.backbone.frozen > len(published):
        raise store.mismatch_error(
            name, f"it was trained on the backbone {spec.backbone.name} ({spec.backbone.sha256[:12]}), and this is "
            f"{base.name} ({fingerprint[:12]})"
        )  # fmt: skip
    tensors = store.read_tensors(name, folder, spec)
    try:
        # On the meta device, to allocate nothing: the tensors that were read become the parameters.
        with torch.device("meta"):
            head = ClassifierHead(HeadSpec.model_validate(spec.head), channels(published), len(spec.labels))
        model = TunedClassifier(published, spec.backbone.frozen, head)
        model.load_state_dict(tensors, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise store.mismatch_error(name, f"its tensors do not match {store.SPEC} ({reason})") from None
    return model.float().eval(), spec


def channels(published: nn.ModuleList) -> int:
    """Return the number of channels of a backbone's last map, read from its last batch normalisation."""
    return [module for module in published.modules() if isinstance(module, nn.BatchNorm2d)][-1].num_features
