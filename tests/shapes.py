"""Small images that a classifier can learn to tell apart, and models with random weights."""

import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from foursight.models.finetuned import classifier, store
from foursight.models.finetuned.classifier import TunedClassifier
from foursight.models.networks import stages
from foursight.models.networks.backbone import Backbone
from foursight.models.networks.head import ClassifierHead, HeadSpec

KINDS = ("disc", "grid", "stripes")


def shape(kind: str, chance: random.Random) -> Image.Image:
    """Return an image of 96 x 80 pixels in random colours."""
    back, front = (tuple(chance.randrange(256) for _ in range(3)) for _ in range(2))
    image = Image.new("RGB", (96, 80), back)
    pen = ImageDraw.Draw(image)
    x, y = chance.randrange(5, 40), chance.randrange(5, 30)
    if kind == "disc":
        pen.ellipse((x, y, x + 45, y + 45), fill=front)
    for offset in range(x % 8, 96, 12):
        if kind in ("stripes", "grid"):
            pen.rectangle((offset, 0, offset + 4, 80), fill=front)
        if kind == "grid":
            pen.rectangle((0, offset, 96, offset + 4), fill=front)
    return image


def folders(root: Path, each: int = 10) -> Path:
    """Write a folder for each kind, with `each` images."""
    chance = random.Random(0)
    for kind in KINDS:
        (root / kind).mkdir(parents=True)
        for number in range(each):
            shape(kind, chance).save(root / kind / f"{number}.png")
    return root


def write_model(
    folder: Path,
    base: Backbone,
    *,
    seed: int,
    frozen: int | None = None,
    labels: tuple[str, ...] = KINDS,
    **head: object,
) -> TunedClassifier:
    """Write a classifier with random weights to a model's folder, as finetune does, and return it."""
    torch.manual_seed(seed)
    published = stages.split(base.network)
    frozen = len(published) if frozen is None else frozen
    spec = HeadSpec.model_validate(head)
    model = TunedClassifier(published, frozen, ClassifierHead(spec, classifier.channels(published), len(labels))).eval()
    with torch.no_grad():
        # Make its own stages differ from the published ones.
        for parameter in model.stages.parameters():
            parameter.mul_(1 + 0.1 * seed)
    files = store.pack(model.state_dict(), classifier.spec_of(base, model, stages.fingerprint(published), labels))
    with store.writing(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)
    return model
