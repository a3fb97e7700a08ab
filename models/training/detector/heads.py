"""Train heads for own labels over the frozen built-in network."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_iou

from foursight.models import coco
from foursight.models.evaluation import measure
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.network import SigmoidHeads
from foursight.models.training import loop
from foursight.models.training.detection_data import AnnotatedImage, DetectionDataset
from foursight.models.training.detector.proposals import OVERLAP, CachedProposals, ObjectMasks, Seen

DROPOUT = 0.2
# As Faster R-CNN samples them (Ren et al. 2015): so many boxes of an image in a step, a quarter of them objects.
BOXES, OBJECTS_SHARE = 128, 0.25
SIZE = (FINE_SIDE, FINE_SIDE)

Results = list[dict[str, Any]]


class Settings(Protocol):
    """What the training is told: the largest learning rate, and the number of images of a step."""

    @property
    def lr(self) -> float: ...
    @property
    def batch(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Epoch:
    """Mean loss; on the validation images the mean loss of labels, and AP and AP50 of boxes by pycocotools."""

    loss: float
    validation_loss: float
    ap: float
    ap50: float

    @property
    def figure(self) -> float:
        """AP50."""
        return self.ap50


def initialize(heads: SigmoidHeads, labels: Sequence[str]) -> list[str]:
    """Start heads as the built-in network's: a label of COCO's has its logit, another the largest of all logits.

    Returns a line for each label that says how it was initialized.
    """
    pool, head = heads.box_roi_pool, heads.box_head
    notes = []
    with torch.no_grad():
        for weight in (pool.semantic.weight, pool.semantic.bias, pool.texture.weight, pool.scene.weight):
            weight.zero_()
        head.classes.weight.zero_()
        for row, label in enumerate(labels):
            known = label.casefold() in coco.NAMES
            head.classes.weight[row, coco.NAMES.index(label.casefold()) if known else -1] = 1
            notes.append(f"{label}: initialized {f'as the built-in {label.casefold()}' if known else 'as any object'}")
    return notes


def initialize_masks(heads: SigmoidHeads, built_in: RoIHeads) -> None:
    """Start a mask branch as the built-in network's."""
    for part in ("mask_head", "mask_predictor"):
        heads.get_submodule(part).load_state_dict(built_in.get_submodule(part).state_dict())


class Learner(loop.AdamWLearner[Epoch]):
    """Binary cross-entropy of each label over boxes sampled as Faster R-CNN does, and of an own mask branch's cells."""

    epoch_type = Epoch

    def __init__(
        self,
        heads: SigmoidHeads,
        data: DetectionDataset,
        training: Sequence[Seen],
        validation: Sequence[Seen],
        options: Settings,
    ) -> None:
        self._heads, self._data = heads, data
        self._training, self._validation = training, validation
        examples = len(data.training)
        super().__init__(
            heads, heads.parameters(), (), examples=examples, lr=options.lr, batch=options.batch, seed=options.seed
        )
        self._sampler = BalancedPositiveNegativeSampler(BOXES, OBJECTS_SHARE)
        self._truth = data.truth()

    def batch_loss(self, rows: list[int], epoch: int) -> Tensor:
        """As in AdamWLearner."""
        logits, targets = [], []
        for row in rows:
            seen = self._training[row].proposals
            classes = _classes(seen, self._data.training[row], len(seen.boxes))
            (objects,), (rest,) = self._sampler([classes])
            sampled = torch.cat([objects.nonzero()[:, 0], rest.nonzero()[:, 0]])
            logits.append(_logits(self._heads, seen, sampled))
            targets.append(classes[sampled])
        loss = _label_loss(torch.cat(logits), torch.cat(targets))
        masks = [seen.masks for seen in (self._training[row] for row in rows) if seen.masks is not None]
        return loss + _mask_loss(self._heads, masks) if masks else loss

    @torch.no_grad()
    def validate(self, loss: float) -> Epoch:
        """As in AdamWLearner."""
        losses = []
        for seen, image in zip(self._validation, self._data.validation, strict=True):
            every = torch.arange(seen.proposals.proposals, device=seen.proposals.boxes.device)
            classes = _classes(seen.proposals, image, len(every))
            losses.append(_label_loss(_logits(self._heads, seen.proposals, every), classes).item())
        found = measure.measure(
            self._truth, [image.image_id for image in self._data.validation], self.results(), "bbox",
            self._data.category_ids,
        )  # fmt: skip
        overall = {name: found.overall[name] or 0.0 for name in ("ap", "ap50")}
        return Epoch(loss, sum(losses) / len(losses), overall["ap"], overall["ap50"])

    @torch.no_grad()
    def results(self) -> Results:
        """Return what the label head finds in the validation images, in COCO's results format, without masks."""
        self._heads.eval()
        found: Results = []
        for seen, image in zip(self._validation, self._data.validation, strict=True):
            found += predict(self._heads, seen.proposals, image)
        return found

    def is_better(self, one: Epoch, other: Epoch) -> bool:
        """By AP, then by loss."""
        return (one.ap, -one.validation_loss) > (other.ap, -other.validation_loss)


def _classes(seen: CachedProposals, image: AnnotatedImage, rows: int) -> Tensor:
    """The class index of each of the first rows: of the object that it overlaps most, and by half; else background."""
    boxes, targets = seen.boxes[:rows], seen.targets
    if not len(targets):
        return torch.zeros(rows, dtype=torch.int64, device=boxes.device)
    nearest = Matcher(OVERLAP, OVERLAP, allow_low_quality_matches=False)(box_iou(targets, boxes))
    classes = torch.tensor([item["category_id"] for item in image.objects], device=boxes.device)
    return torch.where(nearest >= 0, classes[nearest.clamp(min=0)], 0)


def _logits(heads: SigmoidHeads, seen: CachedProposals, rows: Tensor) -> Tensor:
    """Logits [len(rows), K]."""

    def drop(features: Tensor) -> Tensor:
        return F.dropout(features.float(), DROPOUT, heads.training)

    scene = drop(seen.scene).expand(len(rows), -1)
    evidence = heads.box_roi_pool.weigh(drop(seen.semantic[rows]), drop(seen.texture[rows]), scene)
    logits: Tensor = heads.box_head((seen.logits[rows].float(), evidence))[0]
    return logits


def _label_loss(logits: Tensor, classes: Tensor) -> Tensor:
    targets = F.one_hot(classes, logits.shape[1] + 1)[:, 1:].to(logits)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def _mask_loss(heads: SigmoidHeads, seen: list[ObjectMasks]) -> Tensor:
    """The loss of masks (He et al. 2017, section 3)."""
    cells, edges, masks = (torch.cat([getattr(own, part.name) for own in seen]).float() for part in fields(ObjectMasks))
    logits = heads.mask_predictor(heads.mask_head((cells, edges)))[:, 0]
    return F.binary_cross_entropy_with_logits(logits, masks)


def predict(heads: SigmoidHeads, seen: CachedProposals, image: AnnotatedImage) -> Results:
    """Return what the label head finds in an image, in COCO's results format, best first."""
    rows = torch.arange(seen.proposals, device=seen.boxes.device)
    logits = _logits(heads, seen, rows)
    found = heads.postprocess_detections(logits, logits.new_zeros(len(rows), 4), [seen.boxes[rows]], [SIZE])
    boxes, scores, labels = (part[0].cpu() for part in found)
    return measure.coco_results(image.image_id, resize_boxes(boxes, SIZE, image.size).numpy(), scores, labels)
