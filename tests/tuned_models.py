"""Fine-tuned models that nobody trained: heads made of what the shipped networks know of their labels."""

from pathlib import Path

import torch

from foursight.models import localizer, localizer_tuned, rcnn_tiny, rcnn_tuned, store
from foursight.models.localizer_tuned import TunedLocalizer
from foursight.models.rcnn_tuned import NamesHead
from foursight.models.training import imagenet, names_head


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Fill a model's folder."""
    with store.writing(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)


def write_localizer(folder: Path, labels: tuple[str, ...]) -> None:
    """A localizer of some of ImageNet's labels, over the shipped votes."""
    shipped = localizer.load()
    model = TunedLocalizer(shipped.head, len(labels))
    with torch.no_grad():
        model.labels.bias.zero_()
        for row, label in enumerate(labels):
            model.labels.weight[row] = imagenet.mean_row(shipped.backbone, imagenet.classes_of(label))
    trunk = localizer_tuned.fingerprint(shipped.head, shipped.backbone)
    spec = localizer_tuned.spec_of("labels", trunk, labels)
    write(folder, store.pack(localizer_tuned.own_tensors(model, "labels"), spec))


def write_detector(folder: Path, labels: tuple[str, ...]) -> None:
    """A detector of some of COCO's labels, over the shipped network."""
    network, head = rcnn_tiny.load(masks=False), NamesHead(len(labels))
    names_head.initialise(head, labels, network)
    trunk = rcnn_tuned.trunk_of(network)
    assert trunk is not None
    write(folder, store.pack(head.state_dict(), rcnn_tuned.spec_of("detect", "names", True, trunk, labels)))
