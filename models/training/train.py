"""Makes the detector's weights: `python -m foursight.models.training.train --data DATA --out FOLDER`.

The backbone is frozen. Pyramid, proposals, boxes, masks and names train together on both sets; the boxes and masks of
all categories are one. Then the evidence for names is learnt again, on objects' boxes alone.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from foursight.models import rcnn_tiny
from foursight.models.training import card, data, names
from foursight.models.training.data import Photo

View = tuple[Tensor, dict[str, Tensor]]

SEED = 0
EPOCHS = 20
# Photos of a step, of each process.
BATCH = 2
LEARNING_RATE = 1e-3
# Evidence for names starts from ImageNet's classifier and is not to leave it at once.
NAMES_LEARNING_RATE = 2e-4
WEIGHT_DECAY = 0.05
# Trained on photos a little smaller than they are answered: AP50 of person on COCO is .475 so, and .412 at one size.
MIN_SIZE, MAX_SIZE = 480, 640
# Boxes were the weak side: their loss weighs more than the others.
LOSS_WEIGHTS = {"loss_box_reg": 2.0}
NAME_LAYERS = ("backbone.names", "backbone.texture", "backbone.scene")
# fmt: off
# ImageNet's class indices of COCO's categories, where there are some.
IMAGENET_OF_COCO: dict[str, tuple[int, ...]] = {
    "bicycle": (444, 671), "car": (436, 468, 511, 609, 627, 656, 661, 751, 817), "motorcycle": (665, 670),
    "airplane": (404, 895), "bus": (654, 779, 874), "train": (466, 547, 820), "truck": (555, 569, 675, 717, 864, 867),
    "boat": (403, 472, 484, 554, 576, 625, 628, 780, 814, 871, 914), "traffic light": (920,), "stop sign": (919,),
    "parking meter": (704,), "bench": (703,), "bird": (*range(10, 24), *range(80, 101), *range(127, 147)),
    "cat": tuple(range(281, 286)), "dog": tuple(range(151, 269)), "horse": (339,), "sheep": (348, 349),
    "cow": (345, 346), "elephant": (385, 386), "bear": (294, 295, 296, 297), "zebra": (340,), "backpack": (414,),
    "umbrella": (879,), "handbag": (636, 748), "tie": (457, 906), "skis": (795,),
    "sports ball": (429, 430, 522, 574, 722, 768, 805, 852, 890), "tennis racket": (752,),
    "bottle": (440, 720, 737, 898, 907), "wine glass": (966,), "cup": (504, 967, 968), "knife": (499,),
    "spoon": (910,), "bowl": (659, 809), "banana": (954,), "apple": (948,), "sandwich": (933,), "orange": (950,),
    "broccoli": (937,), "hot dog": (934,), "pizza": (963,), "donut": (931,), "cake": (927,), "chair": (423, 559, 765),
    "couch": (831,), "potted plant": (738,), "bed": (520, 564), "dining table": (532,), "toilet": (861,),
    "tv": (664, 782, 851), "laptop": (620, 681), "mouse": (673,), "remote": (761,), "keyboard": (508, 878),
    "cell phone": (487,), "microwave": (651,), "oven": (766, 827), "toaster": (859,), "sink": (896,),
    "refrigerator": (760,), "book": (917, 921), "clock": (409, 530, 892), "vase": (883,), "teddy bear": (850,),
    "hair drier": (589,),
}
# fmt: on
# A COCO category id to its class index.
INDICES = {number: index + 1 for index, (number, _) in enumerate(rcnn_tiny.CATEGORIES)}


def initialise(network: GeneralizedRCNN) -> None:
    """Start the evidence for names from ImageNet's classifier: the mean row of a category's classes, or nothing."""
    pyramid = network.backbone
    rows = pyramid.network._fc.weight.detach()
    rows = rows - rows.mean(0)
    with torch.no_grad():
        for layer in (pyramid.names, pyramid.texture, pyramid.scene):
            layer.weight.zero_()
        pyramid.names.bias.zero_()
        for index, (_, name) in enumerate(rcnn_tiny.CATEGORIES):
            if name in IMAGENET_OF_COCO:
                pyramid.names.weight[index, :, 0, 0] = rows[list(IMAGENET_OF_COCO[name])].mean(0)


def shrink(network: GeneralizedRCNN) -> None:
    """Let the network see photos at the size of training."""
    network.transform.min_size, network.transform.max_size = (MIN_SIZE,), MAX_SIZE


def fit(
    network: GeneralizedRCNN, photos: list[Photo], indices: dict[int, int], epochs: int, seed: int
) -> Iterator[dict[str, float]]:
    """Train in place by AdamW, one cycle of the learning rate (Smith 2018); gives the mean losses after each epoch.

    `indices` maps a COCO category id to its class index; other objects are not trained on. Where several processes of
    torch.distributed call this, each takes its share of every epoch's photos, and their gradients are averaged.
    """
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(seed + rank)
    chance = random.Random(seed)
    windows = random.Random(seed + rank)
    fast: list[nn.Parameter] = []
    slow: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (slow if name.startswith(NAME_LAYERS) else fast).append(parameter)
    rates = [LEARNING_RATE, NAMES_LEARNING_RATE]
    groups = [{"params": fast}, {"params": slow}]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    steps = len(photos) // (BATCH * processes)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, epochs * steps, pct_start=0.15)
    for _ in range(epochs):
        network.train()
        batches = _shuffle(photos, chance)[rank::processes][:steps]
        sums: dict[str, float] = {}
        for views in _ahead(batches, lambda photo: data.sample(photo, indices, windows)):
            losses = _step(network, [pixels for pixels, _ in views], [target for _, target in views], optimizer)
            schedule.step()
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
        # Each process has normalised its own batches only.
        _average([buffer for buffer in network.buffers() if buffer.is_floating_point()])
        yield {name: round(value / steps, 4) for name, value in sums.items()}


def _ahead(batches: list[list[Photo]], view: Callable[[Photo], View]) -> Iterator[list[View]]:
    """The batches of an epoch; while one is trained on, a thread prepares the next."""
    with ThreadPoolExecutor(1) as loader:
        following = loader.submit(lambda batch: [view(photo) for photo in batch], batches[0])
        for batch in [*batches[1:], []]:
            ready = following.result()
            following = loader.submit(lambda batch: [view(photo) for photo in batch], batch)
            yield ready


def _shuffle(photos: list[Photo], chance: random.Random) -> list[list[Photo]]:
    """Batches in random order, each of photos of like proportions, for a batch is padded to its largest sides."""
    order = chance.sample(photos, len(photos))
    groups = [
        sorted(order[start : start + 8 * BATCH], key=Photo.proportion) for start in range(0, len(order), 8 * BATCH)
    ]
    batches = [group[start : start + BATCH] for group in groups for start in range(0, len(group), BATCH)]
    return chance.sample(batches, len(batches))


def _step(
    network: GeneralizedRCNN, images: list[Tensor], targets: list[dict[str, Tensor]], optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    with torch.autocast("cpu", torch.bfloat16):
        losses: dict[str, Tensor] = network(images, targets)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        # Not None: a batch without an object has no gradient for masks, and the other process may have one.
        parameter.grad = torch.zeros_like(parameter)
    total = sum((value * LOSS_WEIGHTS.get(name, 1.0) for name, value in losses.items()), torch.zeros(()))
    total.backward()  # type: ignore[no-untyped-call]
    _average([parameter.grad for parameter in parameters if parameter.grad is not None])
    norm = nn.utils.clip_grad_norm_(parameters, 5.0)
    if norm.isfinite():
        optimizer.step()
    return {name: value.item() for name, value in losses.items()}


def _average(tensors: list[Tensor]) -> None:
    """Put the mean over all processes in the place of these tensors."""
    if dist.is_initialized():
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        means = torch.split(flat / dist.get_world_size(), [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))


def save(network: GeneralizedRCNN, path: Path) -> None:
    """Write the trained parameters, all that have more than one dimension as float16."""
    state = {
        key: (value.half() if value.ndim > 1 else value).contiguous()
        for key, value in rcnn_tiny.trained_state(network).items()
    }
    save_file(state, path)


def restore(network: GeneralizedRCNN, path: Path) -> None:
    """Read what `save` wrote."""
    rcnn_tiny.restore(network, {key: value.float() for key, value in load_file(path).items()})


def train(rank: int, arguments: argparse.Namespace) -> None:
    """One of the processes that train together; the first writes the weights."""
    if arguments.processes > 1:
        torch.set_num_threads(1)
        meeting = f"file://{arguments.out.resolve()}/processes"
        dist.init_process_group("gloo", meeting, rank=rank, world_size=arguments.processes)
    torch.manual_seed(SEED)
    network = rcnn_tiny.build(masks=True).to(memory_format=torch.channels_last)
    initialise(network)
    shrink(network)
    training = [photo for photo in data.read(arguments.data) if not photo.is_validation]
    started = time.monotonic()
    for epoch, losses in enumerate(fit(network, training, INDICES, arguments.epochs, SEED), 1):
        if rank == 0:
            save(network, arguments.out / "rcnn.safetensors")
            print(f"epoch {epoch}/{arguments.epochs}, {time.monotonic() - started:.0f} s: {losses}", flush=True)


def main() -> None:
    """Train, choose the categories to be served, and write rcnn.safetensors and rcnn.json into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with coco/ and pennfudan/")
    parser.add_argument("--out", type=Path, required=True, help="where the weights and their card go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--processes", type=int, default=2, help="that train together, each on one core")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "processes").unlink(missing_ok=True)
    started = time.monotonic()
    spawn(train, (arguments,), arguments.processes)  # type: ignore[no-untyped-call]
    weights = arguments.out / "rcnn.safetensors"
    network = rcnn_tiny.build(masks=True).to(memory_format=torch.channels_last)
    restore(network, weights)
    # Names again, apart and from the start: AP50 over all categories rose from .142 to .157 on the COCO photos.
    initialise(network)
    shrink(network)
    photos = data.read(arguments.data)
    learnt_from = [photo for photo in photos if not photo.is_validation and photo.folder == "coco"]
    names.fit(network.eval(), names.collect(network, learnt_from, INDICES, SEED), SEED)
    save(network, weights)
    seconds = round(time.monotonic() - started)
    # Measured as shipped: rounded to float16, photos at their full size.
    network = rcnn_tiny.build(masks=True)
    restore(network, weights)
    described = {
        "command": f"python -m foursight.models.training.train --data DATA --out FOLDER --epochs {arguments.epochs}",
        "seconds": seconds,
        "parameters": sum(value.numel() for value in rcnn_tiny.trained_state(network).values()),
    } | card.describe(network, arguments.data, photos)
    (arguments.out / "rcnn.json").write_text(json.dumps(described, indent=2) + "\n")
    print(json.dumps(described["validation"], indent=2))


if __name__ == "__main__":
    main()
