"""`foursight evaluate`: its figures equal those of pycocotools used directly, and its worst examples are the worst."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from foursight.clients.cli.app import main
from foursight.models.evaluation.measure import OVERALL, measure
from foursight.models.networks import backbone
from tests.photos import encoded, photo
from tests.shapes import KINDS, folders, write_model
from tests.stubs import Stub
from tests.tuned_models import write_detector, write_localizer

# The data has other ids and spellings than the model: labels are matched by name.
CATEGORIES = [{"id": 7, "name": "Person"}, {"id": 3, "name": "cup"}, {"id": 9, "name": "unicorn"}]
IDS = {"person": 7, "cup": 3}


def by_pycocotools(file: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    truth = COCO(str(file))
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [round(float(value), 4) for value in evaluation.stats]


def figures(overall: dict[str, float | None]) -> list[float]:
    return [-1 if overall[name] is None else overall[name] for name in OVERALL]


@pytest.fixture(scope="module")
def answers(server: str) -> dict[str, dict[str, Any]]:
    """Every object that segmentation finds in three photos, by file name, requested without our client."""
    return {
        f"{name}.png": httpx.post(
            f"{server}/v1/segment?score_threshold=0.05", content=encoded(photo(name)), timeout=120
        ).json()
        for name in ("astronaut", "chelsea", "coffee")
    }


@pytest.fixture(scope="module")
def data(answers: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file with roughly the objects that the server finds, and a person and a unicorn in the coffee photo."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    images, annotations = [], []
    for number, (name, answer) in enumerate(answers.items()):
        (folder / "images" / name).write_bytes(encoded(photo(name.removesuffix(".png"))))
        images.append({"id": number, "file_name": name} | answer["image"])
        for one in answer["predictions"]:
            if one["score"] > 0.3 and one["label"] in IDS:
                left, top, right, bottom = one["box"]
                annotations.append(
                    {
                        "image_id": number,
                        "category_id": IDS[one["label"]],
                        "bbox": [left, top, right - left - 3, bottom - top - 2],
                        "area": (right - left) * (bottom - top),
                        "iscrowd": 0,
                        "segmentation": one["mask"],
                    }
                )
    for category in (7, 9):
        annotations.append(
            {
                "image_id": 2,
                "category_id": category,
                "bbox": [10, 5, 50, 40],
                "area": 2000,
                "iscrowd": 0,
                "segmentation": [[10, 5, 60, 5, 60, 45, 10, 45]],
            }
        )
    for number, item in enumerate(annotations, 1):
        item["id"] = number
    listing = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "instances.json").write_text(json.dumps(listing))
    return folder / "instances.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["evaluate", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_server_is_measured_as_pycocotools_measures_its_answers(
    server: str, answers: dict[str, dict[str, Any]], data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = [
        {
            "image_id": number,
            "category_id": IDS[one["label"]],
            "bbox": [one["box"][0], one["box"][1], one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]],
            "segmentation": one["mask"],
            "score": one["score"],
        }
        for number, answer in enumerate(answers.values())
        for one in answer["predictions"]
        if one["label"] in IDS
    ]
    sheet = tmp_path / "worst.png"
    status, out, _ = run(capsys, data, "--task", "segment", "--url", server, "--json", "--sheet", sheet)
    said = json.loads(out)
    assert status == 0
    assert (said["model"], said["photos"]) == ("mask-rcnn-ssd-mobilenet-v2", 3)
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        expected = by_pycocotools(data, results, kind)
        assert 0 < expected[0] < 1
        assert figures(said["overall"][name]) == pytest.approx(expected, abs=0.002)
    assert said["classes"]["unicorn"]["box"] == {"ap": 0, "ap50": 0, "ap75": 0, "ar100": 0, "objects": 1}
    assert said["not_a_label_of_the_model"] == ["unicorn"]
    # The coffee photo has two annotated objects that cannot be found.
    assert Path(said["worst"][0]["file"]).name == "coffee.png"
    assert Image.open(sheet).convert("L").getextrema() != (0, 0)
    assert Image.open(sheet).height > 300


def test_the_model_in_this_process_gets_the_same_figures_as_the_server(
    server: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = json.loads(run(capsys, data, "--url", server, "--json")[1])
    here = json.loads(run(capsys, data, "--json")[1])
    assert here["model"] == there["model"] == "faster-rcnn-ssd-mobilenet-v2"
    assert figures(here["overall"]["box"]) == pytest.approx(figures(there["overall"]["box"]), abs=0.005)
    people = json.loads(run(capsys, data, "--json", "--classes", "person")[1])
    assert people["classes"].keys() == {"Person"}
    assert people["overall"]["box"]["ap"] == people["classes"]["Person"]["box"]["ap"]


def test_a_folder_of_classes_gives_top_1_and_top_5_and_what_cannot_be_read_is_told(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The labels for Chelsea, best first: tiger cat, Egyptian cat, tabby (n02123045).
    for label, name in (
        ("tiger_cat", "chelsea"),
        ("Egyptian cat", "chelsea"),
        ("n02123045", "chelsea"),
        ("Espresso", "coffee"),
        ("revolver", "coffee"),
    ):
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{name}.png").write_bytes(encoded(photo(name)))
    status, out, _ = run(capsys, tmp_path, "--url", server, "--json")
    said = json.loads(out)
    assert status == 0
    assert said["overall"] == {"top1": 0.4, "top5": 0.8, "photos": 5}
    assert said["classes"]["Egyptian cat"] == {"top1": 0, "top5": 1, "photos": 1}
    # The most confident wrong answer comes first: espresso, at 95 %.
    assert [Path(one["file"]).parent.name for one in said["worst"]] == ["revolver", "Egyptian cat", "n02123045"]
    (tmp_path / "Espresso" / "broken.jpg").write_bytes(b"no picture")
    status, out, err = run(capsys, tmp_path, "--url", server)
    assert status == 1
    assert "broken.jpg" in err
    assert "0.400" in out
    assert "top-5" in out


PHOTOS = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10]}],
        "categories": [{"id": 1, "name": "person"}],
    }
)


@pytest.mark.parametrize(
    ("content", "options", "status", "named"),
    [
        (None, [], 2, "does not exist"),
        ("{", [], 2, "1 problem"),
        ('{"images": [], "annotations": [], "categories": []}', [], 2, "1 problem"),
        (PHOTOS, ["--task", "classify"], 2, "a folder per class"),
        (PHOTOS, ["--url", "http://127.0.0.1:9"], 3, "foursight serve"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    content: str | None,
    options: list[str],
    status: int,
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "instances.json"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    if content is not None:
        file.write_text(content)
    cards = json.dumps({"models": [CARD]}).encode()
    with Stub(cards) as stub:
        code, _, err = run(capsys, file, *(options or ["--url", stub.url]))
    assert code == status
    assert named in err
    assert len([line for line in err.splitlines() if not line.startswith("  ")]) == 1


CARD = {
    "task": "detect", "name": "m", "profile": "tiny", "labels": ["person"], "input_size": "1", "max_batch": 1,
    "replicas": 1, "device": "cpu", "dtype": "float32", "parameters": 1, "bytes": 1,
}  # fmt: skip


def test_a_label_that_the_model_lacks_is_refused_with_the_closest_ones(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "expresso").mkdir()
    (tmp_path / "expresso" / "1.jpg").write_bytes(encoded(photo("coffee"), "JPEG"))
    status, _, err = run(capsys, tmp_path, "--url", server)
    assert status == 2
    assert "espresso" in err


def test_an_annotation_with_the_id_0_counts_and_what_a_tool_left_out_is_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    boxes = [[10, 10, 50, 40], [100, 20, 30, 60]]
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 0, "file_name": "a.png", "width": 200, "height": 100}],
                "annotations": [{"id": n, "image_id": 0, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)],
                "categories": [{"id": 1, "name": "person"}],
            }
        )
    )
    results = [{"image_id": 0, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    perfect = measure(file, [0], results, "bbox")
    assert perfect.overall["ap"] == 1
    assert (perfect.images[0].found, perfect.images[0].missed, perfect.images[0].wrong) == (2, 0, 0)
    half = measure(file, [0], [results[0], results[1] | {"bbox": [150, 20, 30, 60]}], "bbox")
    assert (half.images[0].found, half.images[0].missed, half.images[0].wrong, half.images[0].f1) == (1, 1, 1, 0.5)
    assert measure(file, [0], [], "bbox").overall["ap"] == 0


@pytest.fixture(scope="module")
def tuned(server: str, models_dir: Path) -> Iterator[Path]:
    """The models folder with fine-tuned models for three of the tasks, loaded into the server."""
    write_detector(models_dir / "named", ("cup", "person", "vase"))
    write_localizer(models_dir / "main", ("espresso", "tiger cat"))
    write_model(models_dir / "shapes", backbone.load("tiny"), seed=1)
    names = ("named", "main", "shapes")
    for name in names:
        httpx.put(f"{server}/v1/models/{name}", timeout=60).raise_for_status()
    yield models_dir
    for name in names:
        httpx.delete(f"{server}/v1/models/{name}", timeout=60).raise_for_status()
        shutil.rmtree(models_dir / name)


def test_a_fine_tuned_detector_is_measured_by_its_own_labels(
    server: str, tuned: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for number, name in enumerate(("astronaut", "chelsea", "coffee")):
        asked = {"model": "named", "score_threshold": 0.05}
        answer = httpx.post(f"{server}/v1/detect", params=asked, content=encoded(photo(name)), timeout=60).json()
        for one in answer["predictions"]:
            if one["label"] in IDS:
                left, top, right, bottom = one["box"]
                box = [left, top, right - left, bottom - top]
                results.append(
                    {"image_id": number, "category_id": IDS[one["label"]], "bbox": box, "score": one["score"]}
                )
    expected = by_pycocotools(data, results, "bbox")
    assert 0 < expected[0] < 1
    # The task follows from the model.
    there = json.loads(run(capsys, data, "--model", "named", "--url", server, "--json")[1])
    here = json.loads(run(capsys, data, "--model", "named", "--models-dir", tuned, "--json")[1])
    for said in (there, here):
        assert (said["task"], said["model"], said["not_a_label_of_the_model"]) == ("detect", "named", ["unicorn"])
    assert figures(there["overall"]["box"]) == pytest.approx(expected, abs=0.002)
    assert figures(here["overall"]["box"]) == pytest.approx(expected, abs=0.005)


def test_a_localizer_is_measured_by_the_share_of_main_objects_that_it_hits(
    server: str, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, dict[str, list[float]]] = {}
    for name in ("astronaut", "chelsea", "coffee"):
        (tmp_path / f"{name}.png").write_bytes(encoded(photo(name)))
        for model in (None, "main"):
            asked = {"model": model} if model else {}
            answer = httpx.post(f"{server}/v1/localize", content=encoded(photo(name)), params=asked, timeout=60).json()
            given.setdefault(answer["model"], {})[name] = answer["predictions"][0]["box"]
            if name == "chelsea":
                assert answer["predictions"][0]["label"] == "tiger cat"
    left, top, right, bottom = given["main"]["chelsea"]
    boxes = {"chelsea": [left, top, right - 12, bottom]}
    left, top, right, bottom = given["main"]["coffee"]
    # A quarter of the box: a miss, but still a main object, beside a smaller one. Astronaut's box is too small to be
    # one.
    boxes["coffee"] = [left, top, (left + right) / 2, (top + bottom) / 2]
    boxes["astronaut"] = [10.0, 10.0, 110.0, 110.0]
    annotations = [
        {"id": number, "image_id": list(boxes).index(name), "category_id": category, "iscrowd": crowd}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, (name, category, (x1, y1, x2, y2), crowd) in enumerate(
            (
                ("chelsea", 1, boxes["chelsea"], 0),
                ("chelsea", 2, (0, 0, 451, 300), 1),
                ("coffee", 1, (0, 0, 30, 20), 0),
                ("coffee", 2, boxes["coffee"], 0),
                ("astronaut", 1, boxes["astronaut"], 0),
            )
        )
    ]
    listing = {
        "images": [
            dict(zip(("width", "height"), photo(name).size, strict=True)) | {"id": number, "file_name": f"{name}.png"}
            for number, name in enumerate(boxes)
        ],
        "annotations": annotations,
    }
    file, sheet = tmp_path / "instances.json", tmp_path / "worst.png"
    words = [file, "--json", "--sheet", sheet]
    for cat, options, model, tolerance in (
        ("Tiger_cat", ["--task", "localize", "--url", server], "ssd-mobilenet-v2-efficientnet-lite0", 1e-3),
        ("Tiger_cat", ["--model", "main", "--url", server], "main", 1e-3),
        ("espresso", ["--model", "main", "--url", server], "main", 1e-3),
        ("Tiger_cat", ["--model", tuned / "main"], "main", 0.02),
    ):
        named = {"categories": [{"id": 1, "name": cat}, {"id": 2, "name": "mug shot"}]}
        file.write_text(json.dumps(listing | named))
        overlap = {
            name: float(box_iou(torch.tensor([given[model][name]]), torch.tensor([boxes[name]]))) for name in boxes
        }
        assert overlap["chelsea"] > 0.5 > overlap["coffee"]
        status, out, _ = run(capsys, *words, *options)
        said = json.loads(out)
        assert (status, said["model"], said["photos"], said["without_a_main_object"]) == (0, model, 2, 1)
        assert said["overall"]["max_box_acc_50"] == 0.5
        expected = (overlap["chelsea"] + overlap["coffee"]) / 2
        assert said["overall"]["mean_iou"] == pytest.approx(expected, abs=tolerance)
        # Of the true labels, the model knows only the first.
        is_right = cat == "Tiger_cat"
        assert (said["overall"]["label"], said["overall"]["label_and_box"]) == (is_right, is_right)
        assert said["classes"]["mug shot"]["label"] is None
        assert said["not_a_label_of_the_model"] == ["mug shot"]
        # A wrong box is worse than a wrong label.
        wrong = ["coffee.png"] if is_right else ["coffee.png", "chelsea.png"]
        assert [Path(one["file"]).name for one in said["worst"]] == wrong
        assert Image.open(sheet).height > 200
    file.write_text(json.dumps(listing | {"categories": [{"id": 1, "name": "Tiger_cat"}, {"id": 2, "name": "mug"}]}))
    assert "MaxBoxAcc" in run(capsys, file, "--model", "main", "--url", server, "--classes", "tiger cat")[1]


def test_five_labels_or_fewer_have_no_top_5(
    server: str, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders(tmp_path, 3)
    right = []
    for path in sorted(folder.glob("*/*.png")):
        answer = httpx.post(f"{server}/v1/classify?model=shapes", content=path.read_bytes(), timeout=60).json()
        assert {one["label"] for one in answer["predictions"]} == set(KINDS)
        right.append(answer["predictions"][0]["label"] == path.parent.name)
    status, out, _ = run(capsys, folder, "--model", "shapes", "--url", server, "--json")
    assert status == 0
    assert json.loads(out)["overall"] == {"top1": round(sum(right) / 9, 4), "top5": None, "photos": 9}
    (tmp_path / "n02123045").mkdir()
    (tmp_path / "n02123045" / "1.png").write_bytes(encoded(photo("chelsea")))
    # Only ImageNet's labels can be given as WordNet ids.
    assert run(capsys, folder, "--model", "shapes", "--url", server)[0] == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model", "nothing"], "no model 'nothing'"),
        (["--model", "shapes"], "a folder"),
        (["--model", "named", "--task", "segment"], "'named'"),
        (["--model", "named", "--classes", "unicorn"], "No category of the data is a label of named: cup"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(
    server: str, tuned: Path, data: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for where in (["--url", server], ["--models-dir", str(tuned)]):
        status, _, err = run(capsys, data, *options, *where)
        assert (status, named in err, len(err.splitlines())) == (2, True, 1), err
