"""Teaches the tiny detector its names: a linear layer over frozen ImageNet features, averaged in the objects' boxes.

It needs no box or mask head, so it can be done again alone; the head's own share in the names stays as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.functional import hflip, pil_to_tensor

from foursight.models.networks import rcnn_tiny
from foursight.models.training.detection_data import AnnotatedImage

EPOCHS = 5
BATCH = 64
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.5
DROPOUT = 0.3
# Boxes as proposals have them: each corner is off by a normal of so much of the box's side.
JITTER = 0.08
VIEWS = 3


@dataclass(frozen=True)
class Objects:
    """M boxes: `features` float16 [M, 1280 + 112 + 1280], what `names`, `texture`, `scene` see; `labels` int64 [M]."""

    features: Tensor
    labels: Tensor


@torch.inference_mode()
def collect(network: GeneralizedRCNN, photos: list[AnnotatedImage], indices: dict[int, int], seed: int) -> Objects:
    """The features of all objects, as they are and mirrored, each in its box and in VIEWS jittered ones.

    `indices` maps a COCO category id to its class index, which starts at 1; `labels` are class indices less 1.
    """
    generator = torch.Generator().manual_seed(seed)
    features, labels = [], []
    for photo in photos:
        known = [item for item in photo.objects if item["category_id"] in indices]
        if not known:
            continue
        pixels = pil_to_tensor(photo.image()).float() / 255
        boxes = torch.tensor([item["bbox"] for item in known], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        flipped = pixels.shape[2] - boxes[:, [2, 1, 0, 3]]
        flipped[:, [1, 3]] = boxes[:, [1, 3]]
        for view, found in ((pixels, boxes), (hflip(pixels), flipped)):
            sides = (found[:, 2:] - found[:, :2]).repeat(1, 2)
            shifts = torch.randn(VIEWS, *found.shape, generator=generator) * JITTER
            every = torch.cat([found[None], found + shifts * sides]).flatten(0, 1)
            features.append(_features(network, view, every).half())
            labels += [indices[item["category_id"]] - 1 for item in known] * (VIEWS + 1)
    return Objects(torch.cat(features), torch.tensor(labels))


def _features(network: GeneralizedRCNN, pixels: Tensor, boxes: Tensor) -> Tensor:
    images, targets = network.transform([pixels], [{"boxes": boxes}])
    ((height, width),) = images.image_sizes
    boxes = targets[0]["boxes"]
    whole = boxes.new_tensor([[0, 0, width, height]])
    maps = network.backbone.network.pyramid(images.tensors.contiguous(memory_format=torch.channels_last))
    semantic = network.backbone.network.semantic(maps[-1])
    average = rcnn_tiny.average
    scene = average(semantic, [whole], 32).expand(len(boxes), -1)
    return torch.cat([average(semantic, [boxes], 32), average(maps[2], [boxes], 16), scene], 1)


def fit(network: GeneralizedRCNN, objects: Objects, seed: int) -> None:
    """Train the evidence for names in place, from the weights that it has; rare categories weigh more."""
    torch.manual_seed(seed)
    layers = (network.backbone.names, network.backbone.texture, network.backbone.scene)
    features = objects.features.float()
    mean, spread = features.mean(0), features.std(0) + 1e-3
    features = (features - mean) / spread
    linear = nn.Linear(features.shape[1], layers[0].out_channels)
    with torch.no_grad():
        start = torch.cat([layer.weight.flatten(1) for layer in layers], 1)
        linear.weight.copy_(start * spread)
        linear.bias.copy_(layers[0].bias + start @ mean)
    counts = torch.bincount(objects.labels, minlength=layers[0].out_channels).clamp(min=1).float()
    weights = counts.rsqrt() / counts.rsqrt()[objects.labels].mean()
    optimizer = torch.optim.AdamW(linear.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batch = min(BATCH, len(features))
    steps = len(features) // batch
    # Two steps at least to rise in, however few objects there are.
    rise = max(0.1, 2 / (EPOCHS * steps))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * steps, pct_start=rise)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(features))[: steps * batch].view(-1, batch):
            logits = linear(F.dropout(features[rows], DROPOUT))
            value = F.cross_entropy(logits, objects.labels[rows], weights)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        weight = linear.weight / spread
        parts = torch.split(weight, [layer.in_channels for layer in layers], 1)
        for layer, part in zip(layers, parts, strict=True):
            layer.weight.copy_(part[:, :, None, None])
        layers[0].bias.copy_(linear.bias - weight @ mean)
