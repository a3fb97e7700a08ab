"""Training data, random views and metrics, on small data sets made here."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from foursight.models import coco
from foursight.models.evaluation import measure
from foursight.models.training.imagenet import IMAGENET_OF_COCO
from tools import training_data

PERSON, DOG = 1, 18


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two data sets of ten images in COCO's format, each image with a polygon, an RLE and a crowd."""
    source = random.Random(0)
    for name in training_data.FOLDERS:
        (tmp_path / name / "images").mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, 11):
            image = Image.new("RGB", (200, 150), "white")
            x, y = source.randrange(20, 100), source.randrange(20, 60)
            ImageDraw.Draw(image).rectangle((x, y, x + 59, y + 39), fill="red")
            image.save(tmp_path / name / "images" / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 150, "width": 200})
            mask = np.zeros((150, 200), np.uint8, order="F")
            mask[y : y + 40, x : x + 60] = 1
            rle = coco_mask.encode(mask)
            rle["counts"] = rle["counts"].decode()
            polygon = [5, 100, 45, 100, 45, 140, 5, 140]
            for category, segmentation, box, crowd in (
                (PERSON, rle, [x, y, 60, 40], 0),
                (DOG, [polygon], [5, 100, 40, 40], 0),
                (PERSON, rle, [0, 0, 200, 150], 1),
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": category,
                        "segmentation": segmentation,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": crowd,
                    }
                )
        categories = [{"id": PERSON, "name": "person"}, {"id": DOG, "name": "dog"}]
        listing = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / name / "instances.json").write_text(json.dumps(listing))
    return tmp_path


def test_images_are_read_without_crowds_and_always_split_the_same_way(folder: Path) -> None:
    photos = training_data.read(folder)
    assert len(photos) == 20
    assert all(len(photo.objects) == 2 for photo in photos)
    assert photos[0].boxes()[1].tolist() == [5, 100, 45, 140]
    sides = [photo.is_validation for photo in photos]
    assert sides == [photo.is_validation for photo in training_data.read(folder)]
    assert 0 < sum(sides) < 20


def test_perfect_predictions_score_one_and_missing_ones_less(folder: Path) -> None:
    photos = training_data.read(folder, ("coco",))
    perfect = [
        {
            "image_id": photo.image_id,
            "category_id": item["category_id"],
            "bbox": item["bbox"],
            "segmentation": item["segmentation"],
            "score": 0.9,
        }
        for photo in photos
        for item in photo.objects
    ]
    instances = folder / "coco" / "instances.json"
    image_ids = [photo.image_id for photo in photos]
    for kind in ("bbox", "segm"):
        figures = measure.measure(instances, image_ids, perfect, kind).classes
        assert {number: row["ap"] for number, row in figures.items()} == pytest.approx({PERSON: 1, DOG: 1})
    dogs = [answer for answer in perfect if answer["category_id"] == DOG]
    halved = measure.measure(instances, image_ids, dogs[::2], "bbox").classes
    assert halved[PERSON]["ap50"] == 0
    assert halved[DOG]["ap50"] == pytest.approx(0.5, abs=0.02)


def test_results_in_cocos_format_have_xywh_boxes_and_masks_as_segmentation() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:10, 4:8] = True
    (result,) = measure.coco_results(7, [[4, 5, 8, 10]], [0.5], [3], [mask])
    assert {key: result[key] for key in ("image_id", "category_id", "bbox", "score")} == {
        "image_id": 7, "category_id": 3, "bbox": [4, 5, 4, 5], "score": 0.5,
    }  # fmt: skip
    assert np.array_equal(coco_mask.decode(result["segmentation"]), mask)
    assert measure.coco_results(7, [[4, 5, 8, 10]], [0.5], [3], [result["segmentation"]]) == [result]
    assert measure.coco_results(7, np.zeros((0, 4)), [], []) == []


def test_each_imagenet_class_belongs_to_one_coco_category_at_most() -> None:
    counts = Counter(index for classes in IMAGENET_OF_COCO.values() for index in classes)
    assert max(counts.values()) == 1
    assert counts.keys() <= set(range(1000))
    assert IMAGENET_OF_COCO.keys() <= set(coco.NAMES)
