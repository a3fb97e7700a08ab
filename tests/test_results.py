"""Results as people use them: like a list, in notebooks, and in the formats of other programs."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from foursight import Analysis, Result, UnreadableImage

SQUARE = [10.0, 10.0, 50.0, 10.0, 50.0, 40.0, 10.0, 40.0]
DOG = {"label": "dog", "class_id": 0, "score": 0.75, "box": [10, 10, 50, 40]}
CUP = {"label": "cup", "class_id": 1, "score": 0.5, "box": [0, 0, 20, 30]}


def result(*predictions: dict[str, Any], model: str = "stub") -> Result:
    answer = {"model": model, "image": {"width": 200, "height": 100}, "predictions": list(predictions)}
    return Result.model_validate_json(json.dumps(answer))


def test_a_result_is_used_like_a_list() -> None:
    found = result(DOG, CUP)
    assert [one.label for one in found] == ["dog", "cup"]
    assert (len(found), found[0].label, found[-1].label) == (2, "dog", "cup")
    assert [one.label for one in found[1:]] == ["cup"]
    assert not result()
    with pytest.raises(IndexError):
        found[2]


def test_an_analysis_is_used_like_a_dict_of_tasks() -> None:
    size = {"width": 200, "height": 100}
    parts = {"detect": result(DOG).model_dump(mode="json"), "segment": result().model_dump(mode="json")}
    found = Analysis.model_validate_json(json.dumps({"image": size, "tasks": parts}))
    assert (list(found), len(found), "detect" in found) == (["detect", "segment"], 2, True)
    # `segment` is the more detailed task and found nothing.
    blank = Image.new("RGB", (200, 100))
    assert np.array_equal(np.asarray(found.draw(blank)), np.asarray(blank))


def test_every_table_has_the_same_columns() -> None:
    label = {"label": "pug", "class_id": 254, "score": 0.9}
    tables = [result().to_pandas(), result(DOG).to_pandas(), result(label).to_pandas(), result(DOG, label).to_pandas()]
    assert {tuple(table.columns) for table in tables} == {("label", "class_id", "score", "x1", "y1", "x2", "y2")}
    assert tables[3]["x1"].tolist()[0] == 10
    assert tables[3]["x1"].isna().tolist() == [False, True]


def test_arrays_have_a_row_per_prediction() -> None:
    arrays = result(DOG | {"mask": [SQUARE]}, CUP | {"mask": [SQUARE]}).to_numpy()
    assert {name: (value.dtype.kind, value.shape) for name, value in arrays.items()} == {
        "label": ("U", (2,)),
        "class_id": ("i", (2,)),
        "score": ("f", (2,)),
        "box": ("f", (2, 4)),
        "mask": ("b", (2, 100, 200)),
    }
    assert arrays["mask"][0].sum() == 40 * 30
    assert result().to_numpy()["box"].shape == (0, 4)
    assert "box" not in result({"label": "pug", "class_id": 254, "score": 0.9}).to_numpy()


def test_coco_entries_have_the_ids_of_the_listing() -> None:
    listing = COCO()
    listing.dataset = {
        "info": {},
        "images": [{"id": 7, "width": 200, "height": 100}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 70, "name": "cup"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 10, 40, 30], "area": 1200, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 70, "bbox": [0, 0, 20, 30], "area": 600, "iscrowd": 0},
        ],
    }
    listing.createIndex()
    categories = {category["name"]: category["id"] for category in listing.dataset["categories"]}
    entries = result(DOG, CUP).to_coco(7, categories)
    evaluation = COCOeval(listing, listing.loadRes(entries), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    with pytest.raises(KeyError, match="dog"):
        result(DOG).to_coco(7, {"cat": 17})


def test_label_studio_gets_rectangles_polygons_and_choices_in_percent() -> None:
    label = {"label": "pug", "class_id": 254, "score": 0.9}
    made = result(DOG, CUP | {"mask": [SQUARE, SQUARE]}, label, model="mine").to_label_studio("kind", "photo")
    assert (made["model_version"], made["score"]) == ("mine", pytest.approx((0.75 + 0.5 + 0.9) / 3))
    rectangle, polygon, again, choice = made["result"]
    assert rectangle["value"] == {
        "x": 5,
        "y": 10,
        "width": 20,
        "height": 30,
        "rotation": 0,
        "rectanglelabels": ["dog"],
    }
    assert (rectangle["type"], rectangle["original_width"], rectangle["score"]) == ("rectanglelabels", 200, 0.75)
    assert polygon["value"]["points"] == [[5, 10], [25, 10], [25, 40], [5, 40]]
    assert polygon["value"]["polygonlabels"] == again["value"]["polygonlabels"] == ["cup"]
    assert (choice["type"], choice["value"]) == ("choices", {"choices": ["pug"]})
    assert {(one["from_name"], one["to_name"]) for one in made["result"]} == {("kind", "photo")}
    assert len({one["id"] for one in made["result"]}) == 4
    assert json.loads(json.dumps(made)) == made
    with pytest.raises(ValueError, match="polygon"):
        result(DOG | {"mask": {"size": [100, 200], "counts": "0"}}).to_label_studio()


def test_a_notebook_shows_the_drawn_image() -> None:
    found = result(DOG)
    assert found._repr_png_() is None
    found._original = Image.new("RGB", (200, 100), "navy")
    shown = Image.open(io.BytesIO(found._repr_png_() or b""))
    assert np.array_equal(np.asarray(shown), np.asarray(found.draw()))
    found._original = Path("moved-away.png")
    assert found._repr_png_() is None


def test_a_large_picture_is_shown_at_a_smaller_size() -> None:
    large = Result.model_validate_json(result(DOG).model_dump_json().replace("200", "4000").replace("100", "2000"))
    large._original = Image.new("RGB", (4000, 2000))
    assert Image.open(io.BytesIO(large._repr_png_() or b"")).size == (800, 400)


def test_the_name_of_a_picture_to_write_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"result\.draw\(\)\.save"):
        result(DOG).draw(str(tmp_path / "out.png"))


NOTEBOOK = """
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from tests.test_results import DOG, result
found = result(DOG)
found._original = Image.new("RGB", (200, 100))
print(sorted(DisplayFormatter().format(found)[0]))
"""


def test_ipython_finds_the_picture() -> None:
    pytest.importorskip("IPython")
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "['image/png', 'text/plain']"
