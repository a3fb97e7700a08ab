"""Initial weights for a label, from the rows of the ImageNet classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foursight.models import coco
from foursight.models import labels as names
from foursight.models.networks.lite0 import EfficientNetLite0

# fmt: off
# ImageNet's class indices of COCO's categories. A class belongs to a category if WordNet has it below the category's
# word, or if COCO's annotators box such things under that name. So boats are all vessels that float (container ship 510
# and pirate ship 724, but neither submarine nor wreck), trucks are also vans (police van 734; WordNet has the minivan
# below car), and parts are left out (an aeroplane's wing, 908).
IMAGENET_OF_COCO: dict[str, tuple[int, ...]] = {
    "bicycle": (444, 671), "car": (436, 468, 511, 609, 627, 656, 661, 751, 817), "motorcycle": (665, 670),
    "airplane": (404, 895), "bus": (654, 779, 874), "train": (466, 547, 820),
    "truck": (555, 569, 675, 717, 734, 864, 867),
    "boat": (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914), "traffic light": (920,),
    "stop sign": (919,), "parking meter": (704,), "bench": (703,),
    "bird": (*range(10, 24), *range(80, 101), *range(127, 147)),
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


def classes_of(label: str) -> tuple[int, ...]:
    """Return the ImageNet class indices of a label: those of a COCO category, or those with this name; may be empty."""
    name = label.casefold()
    # For COCO's categories only the map counts: ImageNet's kite is a bird.
    if name in coco.NAMES:
        return IMAGENET_OF_COCO.get(name, ())
    return tuple(index for index, (_, known) in enumerate(names.imagenet()) if known.casefold() == name)


def initialize(weight: Tensor, labels: Sequence[str], network: EfficientNetLite0) -> list[str]:
    """Set each label's row of a weight [K, 1280] to the mean of its ImageNet rows, or to zero if it has none.

    Returns a line for each label that says how it was initialized.
    """
    notes = []
    with torch.no_grad():
        weight.zero_()
        for row, label in enumerate(labels):
            classes = classes_of(label)
            if classes:
                weight[row] = mean_row(network, classes)
            notes.append(f"{label}: initialized {'from ImageNet' if classes else 'with zeros'}")
    return notes


def mean_row(network: EfficientNetLite0, classes: Sequence[int]) -> Tensor:
    """Return the mean of the classifier's rows of these classes, minus the mean of all rows, float32 [1280]."""
    rows = network._fc.weight.detach()
    return (rows - rows.mean(0))[list(classes)].mean(0)
