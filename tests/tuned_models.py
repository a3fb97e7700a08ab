"""Fine-tuned models without training: heads made from the rows of the built-in networks."""

from pathlib import Path

import torch

from foursight.models.finetuned import detector, store
from foursight.models.finetuned import localizer as finetuned_localizer
from foursight.models.finetuned.detector import LabelHead
from foursight.models.finetuned.localizer import TunedLocalizer
from foursight.models.networks import localizer, rcnn_tiny
from foursight.models.training import imagenet
from foursight.models.training.tiny_detector import label_head


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a model's folder."""
    with store.writing(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)


def write_localizer(folder: Path, labels: tuple[str, ...]) -> None:
    """Write a localizer of some ImageNet labels, with the built-in votes."""
    shipped = localizer.load()
    model = TunedLocalizer(shipped.head, len(labels))
    with torch.no_grad():
        model.labels.bias.zero_()
        for row, label in enumerate(labels):
            model.labels.weight[row] = imagenet.mean_row(shipped.backbone, imagenet.classes_of(label))
    shared = finetuned_localizer.fingerprint(shipped.head, shipped.backbone)
    spec = finetuned_localizer.spec_of("labels", shared, labels)
    write(folder, store.pack(finetuned_localizer.own_tensors(model, "labels"), spec))


def write_detector(folder: Path, labels: tuple[str, ...]) -> None:
    """Write a detector of some COCO labels, over the built-in network."""
    network, head = rcnn_tiny.load(masks=False), LabelHead(len(labels))
    label_head.initialize(head, labels, network)
    shared = detector.shared_weights(network)
    assert shared is not None
    write(folder, store.pack(head.state_dict(), detector.spec_of("detect", "names", True, shared, labels)))
