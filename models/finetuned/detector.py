"""Fine-tuned detectors and segmenters: heads for own labels over the built-in network's backbone and proposals.

A label head scores each proposal; its box, and the mask in it, are the built-in network's, which are the same for all
classes. A segmenter may have a mask branch of its own. Either way all models share the backbone and the proposals,
which are computed once for a batch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import coco
from foursight.models.finetuned import store
from foursight.models.finetuned.store import ModelSpec
from foursight.models.networks.roi_align import Align, Pool, in_batch, roi_align_cpu
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.masks import MaskHead, MaskPool, MaskPredictor
from foursight.models.networks.ssd_rcnn.network import SigmoidHeads

BACKBONE, STAGES = "ssd-mobilenet-v2", 17
# The maps whose means in a box tell labels apart: "ssd1" for what it is, "fine" for its texture.
SEMANTIC, TEXTURE = ("ssd1", 1280), ("fine", 576)
CLASSES = len(coco.CATEGORIES)

Floats = NDArray[np.float32]
# What a model has of its own.
Own = Literal["labels", "labels and masks"]


class LabelPool(Pool):
    """The evidence for K labels in each proposal: linear in the means of two maps in its box, and of one in the image.

    The mean over a box and a linear layer may change places, so that K channels are averaged, not 3,136.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.semantic = nn.Conv2d(SEMANTIC[1], labels, 1)
        self.texture = nn.Conv2d(TEXTURE[1], labels, 1, bias=False)
        self.scene = nn.Conv2d(SEMANTIC[1], labels, 1, bias=False)

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Map proposals [P, 84] of each image to their logits [sum P, 80] and evidence [sum P, K]."""
        boxes = [rows[:, :4] for rows in proposals]
        semantic, texture = features[SEMANTIC[0]], features[TEXTURE[0]]
        counts = torch.tensor([len(rows) for rows in proposals], device=semantic.device)
        evidence = (
            average(self.semantic(semantic), boxes, self.align)
            + average(self.texture(texture), boxes, self.align)
            + self.scene(semantic).mean((2, 3)).repeat_interleave(counts, 0)
        )
        return torch.cat([rows[:, 4:] for rows in proposals]), evidence

    def weigh(self, semantic: Tensor, texture: Tensor, scene: Tensor) -> Tensor:
        """Map means in boxes, [P, 1280] and [P, 576], and in the image, [P, 1280], to evidence [P, K]."""
        parts = ((semantic, self.semantic), (texture, self.texture), (scene, self.scene))
        return sum((F.linear(means, conv.weight.flatten(1), conv.bias) for means, conv in parts), torch.zeros(()))


def average(level: Tensor, boxes: list[Tensor], align: Align) -> Tensor:
    """Return the mean of a map, float [N, C, h, w], in each image's boxes [P, 4] xyxy: float [sum P, C]."""
    return align(level, in_batch(boxes), 2, level.shape[3] / FINE_SIDE, 4, True).mean((2, 3))


class LabelHead(nn.Module):
    """Logits of K labels, from evidence and the SSD's logits.

    The largest of the SSD's logits says how much of an object a proposal is: it is one more input.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.classes = nn.Linear(CLASSES + 1, labels, bias=False)

    def forward(self, pooled: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Map what `LabelPool` returns to logits [P, K] and box deltas [P, 4], all zero."""
        logits, evidence = pooled
        inputs = torch.cat([logits, logits.amax(1, keepdim=True)], 1)
        return self.classes(inputs) + evidence, logits.new_zeros(len(logits), 4)


def build(labels: int, own: Own) -> SigmoidHeads:
    """Return untrained heads for so many labels, on the CPU."""
    heads = SigmoidHeads(LabelPool(labels), LabelHead(labels), nn.Identity())
    if own == "labels and masks":
        heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = MaskPool(), MaskHead(), MaskPredictor()
    heads.eval()
    return heads


@dataclass(frozen=True)
class TunedDetector:
    """A model's heads on their device, for what the built-in network computes (tasks/ssd_forward.py)."""

    heads: SigmoidHeads

    @property
    def has_masks(self) -> bool:
        """Whether the model has a mask branch of its own."""
        return bool(self.heads.has_mask())

    @torch.inference_mode()
    def score(self, maps: dict[str, Floats], proposals: list[Floats]) -> list[Floats]:
        """Map maps [N, C, h, w] by name and proposals [P, 84] of each image to logits [P, K] of each."""
        rows = [torch.from_numpy(one).to(self._device) for one in proposals]
        logits, _ = self.heads.box_head(self.heads.box_roi_pool(self._on_device(maps), rows, []))
        return [part.cpu().numpy() for part in logits.split([len(one) for one in rows])]

    @torch.inference_mode()
    def outline(self, maps: dict[str, Floats], rois: Floats) -> Floats:
        """Map maps and rois [M, 5] (index of the image, xyxy) to mask probabilities [M, 28, 28]."""
        cells = self.heads.mask_roi_pool.cells_of(self._on_device(maps), torch.from_numpy(rois).to(self._device))
        found: Floats = self.heads.mask_predictor.mask(self.heads.mask_head(cells)).sigmoid().cpu().numpy()
        return found

    @property
    def _device(self) -> torch.device:
        found: torch.device = next(self.heads.parameters()).device
        return found

    def _on_device(self, maps: dict[str, Floats]) -> dict[str, Tensor]:
        # RoIAlign on a CPU reads rows of channels.
        return {
            name: torch.from_numpy(level).to(self._device).contiguous(memory_format=torch.channels_last)
            for name, level in maps.items()
        }


def serve(heads: SigmoidHeads, device: torch.device) -> TunedDetector:
    """Move heads to a device, to answer requests."""
    heads.eval().to(device)
    for module in heads.modules():
        if isinstance(module, Pool) and device.type == "cpu":
            module.align = roi_align_cpu
    return TunedDetector(heads)


def spec_of(
    task: str, own: Own, shared: str, labels: tuple[str, ...], category_ids: tuple[int, ...] | None = None
) -> dict[str, object]:
    """Return model.json of a detector or segmenter, without the SHA-256 of its tensors."""
    return {
        "task": task,
        "backbone": {"name": BACKBONE, "sha256": shared, "frozen": STAGES},
        "head": {"own": own},
        "labels": labels,
        "category_ids": category_ids,
    }


def load(name: str, folder: Path, task: str, shared: str | None) -> tuple[ModelSpec, SigmoidHeads]:
    """Read a model of a task from its folder, in eval mode, on the CPU; every tensor must be there and fit.

    Raises StoreError (unknown_model, model_corrupt, model_mismatch).
    """
    spec = store.read_spec(name, folder)
    if spec.task != task:
        raise store.mismatch_error(name, f"it is for {spec.task}, not for {task}")
    if shared is None or spec.backbone.sha256 != shared:
        raise store.mismatch_error(
            name,
            f"it was trained on the network {spec.backbone.name} ({spec.backbone.sha256[:12]}), which is not this one",
        )
    tensors = store.read_tensors(name, folder, spec)
    own = spec.head.get("own")
    try:
        if own not in get_args(Own):
            raise ValueError(f"head {spec.head}")
        with torch.device("meta"):
            heads = build(len(spec.labels), cast(Own, own))
        heads.load_state_dict(tensors, strict=True, assign=True)
        heads.float()
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise store.mismatch_error(name, f"its tensors do not match {store.SPEC} ({reason})") from None
    return spec, heads
