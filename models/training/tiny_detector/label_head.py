"""Learns a names' head: labels of one's own for what the shipped network, all of it frozen, proposes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_iou

from foursight.models.evaluation import measure
from foursight.models.finetuned.detector import LabelHead
from foursight.models.networks import rcnn_tiny
from foursight.models.training import imagenet, loop
from foursight.models.training.detection_data import AnnotatedImage, DetectionDataset
from foursight.models.training.tiny_detector.proposals import CachedProposals

DROPOUT = 0.2
# As Faster R-CNN samples them (Ren et al. 2015): so many boxes of a photo in a step, a quarter of them objects.
BOXES, OBJECTS_SHARE, OVERLAP = 128, 0.25, 0.5

Results = list[dict[str, Any]]


class Settings(Protocol):
    """What is to be said of a training: the largest learning rate, and the photos of a step."""

    @property
    def lr(self) -> float: ...
    @property
    def batch(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Epoch:
    """Mean loss, and by the photos to validate on the mean loss, and AP and AP50 of boxes by pycocotools."""

    loss: float
    validation_loss: float
    ap: float
    ap50: float

    @property
    def figure(self) -> float:
        """AP50."""
        return self.ap50


def initialize(head: LabelHead, labels: Sequence[str], network: GeneralizedRCNN) -> list[str]:
    """Start a head from what is known: the network's objectness, its evidence for labels that it has, ImageNet's else.

    Returns a line for each label that says how it was initialized.
    """
    predictor, pyramid = cast(Any, network.roi_heads.box_predictor), cast(Any, network.backbone)
    notes = []
    with torch.no_grad():
        head.objectness.load_state_dict(predictor.objectness.state_dict())
        for layer in (head.hidden, head.names, head.texture, head.scene):
            layer.weight.zero_()
        head.names.bias.zero_()
        known = {name: index for index, (_, name) in enumerate(rcnn_tiny.CATEGORIES)}
        for row, label in enumerate(labels, 1):
            index = known.get(label.casefold())
            if index is not None:
                head.hidden.weight[row] = predictor.names.weight[index]
                head.names.bias[row] = pyramid.names.bias[index]
                for own, shipped in (
                    (head.names, pyramid.names),
                    (head.texture, pyramid.texture),
                    (head.scene, pyramid.scene),
                ):
                    own.weight[row] = shipped.weight[index].flatten()
                notes.append(f"{label}: initialized from the built-in detector")
            elif classes := imagenet.classes_of(label):
                head.names.weight[row] = imagenet.mean_row(pyramid.network, classes)
                notes.append(f"{label}: initialized from ImageNet")
            else:
                notes.append(f"{label}: initialized with zeros")
    return notes


class Learner(loop.AdamWLearner[Epoch]):
    """Negative log-likelihood, over boxes sampled as Faster R-CNN does."""

    epoch_type = Epoch

    def __init__(
        self,
        head: LabelHead,
        network: GeneralizedRCNN,
        data: DetectionDataset,
        training: Sequence[CachedProposals],
        validation: Sequence[CachedProposals],
        options: Settings,
    ) -> None:
        self._head, self._network, self._data = head, network, data
        self._training, self._validation = training, validation
        examples = len(data.training)
        super().__init__(
            head, head.parameters(), (), examples=examples, lr=options.lr, batch=options.batch, seed=options.seed
        )
        self._sampler = BalancedPositiveNegativeSampler(BOXES, OBJECTS_SHARE)
        self._truth = data.truth()

    def batch_loss(self, rows: list[int], epoch: int) -> Tensor:
        """As in AdamWLearner."""
        scores, labels = [], []
        for row in rows:
            seen, image = self._training[row], self._data.training[row]
            targets = _targets(seen, image, len(seen.boxes))
            (objects,), (rest,) = self._sampler([targets])
            sampled = torch.cat([objects.nonzero()[:, 0], rest.nonzero()[:, 0]])
            scores.append(_scores(self._head, seen, sampled))
            labels.append(targets[sampled])
        return F.nll_loss(torch.cat(scores), torch.cat(labels))

    @torch.no_grad()
    def validate(self, loss: float) -> Epoch:
        """As in AdamWLearner."""
        losses = []
        for seen, photo in zip(self._validation, self._data.validation, strict=True):
            scores = _scores(self._head, seen, torch.arange(seen.proposals, device=seen.boxes.device))
            targets = _targets(seen, photo, seen.proposals)
            losses.append(F.nll_loss(scores, targets).item())
        found = measure.measure(
            self._truth, [photo.image_id for photo in self._data.validation], self.results(), "bbox",
            self._data.category_ids,
        )  # fmt: skip
        overall = {name: found.overall[name] or 0.0 for name in ("ap", "ap50")}
        return Epoch(loss, sum(losses) / len(losses), overall["ap"], overall["ap50"])

    @torch.no_grad()
    def results(self) -> Results:
        """The head's answers for the photos to validate on, in COCO's results format, without masks."""
        self._head.eval()
        found: Results = []
        for seen, photo in zip(self._validation, self._data.validation, strict=True):
            found += answers(self._network, self._head, seen, photo)
        return found

    def is_better(self, one: Epoch, other: Epoch) -> bool:
        """By AP, then by loss."""
        return (one.ap, -one.validation_loss) > (other.ap, -other.validation_loss)


def _targets(seen: CachedProposals, photo: AnnotatedImage, rows: int) -> Tensor:
    """The class index of each of the first rows: of the object that it overlaps most, and by half; else background."""
    boxes, targets = seen.boxes[:rows], seen.targets
    if not len(targets):
        return torch.zeros(rows, dtype=torch.int64, device=boxes.device)
    nearest = Matcher(OVERLAP, OVERLAP, allow_low_quality_matches=False)(box_iou(targets, boxes))
    classes = torch.tensor([item["category_id"] for item in photo.objects], device=boxes.device)
    return torch.where(nearest >= 0, classes[nearest.clamp(min=0)], 0)


def _scores(head: LabelHead, seen: CachedProposals, rows: Tensor) -> Tensor:
    """Log-probabilities [len(rows), 1 + K]."""

    def drop(features: Tensor) -> Tensor:
        return F.dropout(features.float(), DROPOUT, head.training)

    scene = drop(seen.scene).expand(len(rows), -1)
    evidence = head.weigh(drop(seen.names[rows]), drop(seen.texture[rows]), scene)
    return head.judge(seen.hidden[rows].float(), evidence)


def answers(network: GeneralizedRCNN, head: LabelHead, seen: CachedProposals, photo: AnnotatedImage) -> Results:
    """What is answered for a photo, in COCO's results format, best first."""
    rows = torch.arange(seen.proposals, device=seen.boxes.device)
    scores = _scores(head, seen, rows)
    deltas = seen.deltas[rows].repeat(1, scores.shape[1])
    found = network.roi_heads.postprocess_detections(scores, deltas, [seen.boxes[rows]], [seen.size])
    boxes, values, labels = (part[0].cpu() for part in found)
    boxes = resize_boxes(boxes, list(seen.size), list(photo.size))
    return measure.coco_results(photo.image_id, boxes.numpy(), values, labels)
