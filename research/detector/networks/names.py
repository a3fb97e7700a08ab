"""COCO's 80 categories with their ids in COCO, which are their columns among the SSD's 91 logits."""

from foursight.models.networks import rcnn_tiny

CATEGORIES = rcnn_tiny.CATEGORIES
CLASS_IDS = tuple(number for number, _ in CATEGORIES)
