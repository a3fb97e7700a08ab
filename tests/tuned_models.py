"""Fine-tuned models without training: heads made from the rows of the built-in networks."""

from pathlib import Path

import torch

from foursight.models.finetuned import detector, store
from foursight.models.finetuned import localizer as finetuned_localizer
from foursight.models.finetuned.localizer import TunedLocalizer
from foursight.models.networks import localizer
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.training import imagenet
from foursight.models.training.detector import heads


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
    network, own = ssd_rcnn.load(masks=False), detector.build(len(labels), "labels")
    heads.initialize(own, labels)
    shared = ssd_rcnn.shared_weights(network)
    assert shared is not None
    write(folder, store.pack(own.state_dict(), detector.spec_of("detect", "labels", shared, labels)))
