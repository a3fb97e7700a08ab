"""Fine-tuning detectors, segmenters and localizers: what they learn, that they are served as trained, and errors."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from foursight import models
from foursight.clients.cli.app import main
from foursight.models import coco
from foursight.models.errors import DataError, OptionError, StoreError
from foursight.models.finetuned import detector as finetuned_detector
from foursight.models.finetuned import networks, store
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.tasks import instances, localize, objects
from foursight.models.training import detection_data, detector, jobs
from foursight.models.training.detection_data import DetectionDataset
from foursight.models.training.detector import Options, Outcome, heads
from foursight.models.training.detector.finetune import predict
from foursight.models.training.loop import Progress
from foursight.schema.options import SegmentOptions
from tests.helpers import as_tensor, iou
from tests.photos import encoded, photo

CPU = torch.device("cpu")
# Sorted by name, as in a model; the files have another order.
LABELS = ("brew", "tom")
torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("no_engines")


def pasted(root: Path, count: int = 10, **more: Any) -> Path:
    """Write a COCO data set with a cat and a cup pasted on grey at random places; `more` changes the file."""
    chance = random.Random(0)
    parts = photo("chelsea").crop((40, 10, 330, 290)), photo("coffee").crop((150, 60, 460, 330))
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        canvas = Image.new("RGB", (320, 200), (chance.randrange(90, 160),) * 3)
        for category, left in enumerate(chance.sample((8, 165), 2)):
            side = chance.randrange(90, 140)
            x, y = left + chance.randrange(10), chance.randrange(200 - side)
            canvas.paste(parts[category].resize((side, side)), (x, y))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 10 + category,
                    "bbox": [x, y, side, side],
                    "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
                    "iscrowd": 0,
                }
            )
        canvas.save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 320, "height": 200})
    categories = [{"id": 10 + index, "name": label} for index, label in enumerate(reversed(LABELS))]
    listing = {"images": images, "annotations": annotations, "categories": categories} | more
    (root / "instances.json").write_text(json.dumps(listing))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pasted(tmp_path_factory.mktemp("sets") / "pasted")


@pytest.fixture(scope="module")
def data(folder: Path) -> DetectionDataset:
    return detection_data.read([folder], 0, "content", masks=True)


@pytest.fixture(scope="module")
def outcome(data: DetectionDataset) -> Outcome:
    return detector.finetune(data, "segment", Options(epochs=12, batch=4), CPU)


@pytest.fixture(scope="module")
def written(data: DetectionDataset, outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model "pets"."""
    path = tmp_path_factory.mktemp("models") / "pets"
    detector.write(path, data, Options(), outcome, {"command": "foursight finetune pasted"})
    return path


@pytest.fixture(scope="module")
def segmenter() -> instances.Rcnn:
    return models.load("segment", "tiny", "cpu")  # type: ignore[return-value]


def test_own_labels_are_learnt_over_the_frozen_network(outcome: Outcome) -> None:
    assert outcome.epochs[outcome.best].ap50 > 0.8
    assert outcome.epochs[-1].loss < 0.7 * outcome.epochs[0].loss
    assert outcome.metrics["box"].overall["ap50"] == pytest.approx(outcome.epochs[outcome.best].ap50)
    assert outcome.metrics["mask"].overall["ap50"] > 0.5


def test_mask_figures_are_measured_from_masks(data: DetectionDataset, segmenter: instances.Rcnn) -> None:
    results = predict(segmenter, data.validation)
    found = [models.run(segmenter, image.image(), score_threshold=0.05) for image in data.validation]
    masks = [mask.full(200, 320) for one in found for mask in one.masks or ()]
    assert len(results) == len(masks) > 0
    for result, mask in zip(results, masks, strict=True):
        assert np.array_equal(coco_mask.decode(result["segmentation"]), mask)


def test_the_served_model_returns_what_torchvisions_forward_returns_with_its_labels(
    outcome: Outcome, written: Path, segmenter: instances.Rcnn, folder: Path
) -> None:
    segmenter.install("pets", written)
    (card,) = segmenter.finetuned_cards()
    assert (card.labels, card.parameters) == (LABELS, sum(t.numel() for t in outcome.tensors.values()))
    # Of the size that the network sees: nothing is resized.
    image = Image.open(folder / "images" / "1.png").convert("RGB").resize((480, 480))
    found = models.run(segmenter, image, model="pets", score_threshold=0.05)
    with torch.inference_mode():
        (expected,) = networks.load("pets", written)([as_tensor(image)])
    # 0 is background.
    assert found.labels == tuple(LABELS[index - 1] for index in expected["labels"])
    # The ids of the data set.
    assert found.class_ids.tolist() == [{"tom": 10, "brew": 11}[label] for label in found.labels]
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.01)
    assert all(
        iou(ours.full(480, 480), theirs > 0.5) > 0.99
        for ours, theirs in zip(found.masks, expected["masks"][:, 0].numpy(), strict=True)
    )
    assert {label for label, score in zip(found.labels, found.scores, strict=True) if score > 0.5} == set(LABELS)
    segmenter.remove("pets")


def test_a_batch_of_mixed_models_takes_one_pass_and_returns_the_same_answers(
    written: Path, segmenter: instances.Rcnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter.install("pets", written)
    photos = [photo("chelsea"), photo("coffee").resize((451, 300)), photo("chelsea")]
    options = [SegmentOptions(model=name, score_threshold=0.05) for name in (None, "pets", "pets")]
    requests = [segmenter.resolve(one) for one in options]
    alone = [segmenter.finish(*answer(segmenter, one, mine)) for one, mine in zip(photos, requests, strict=True)]
    seen: list[int] = []
    scene = segmenter.network.scene
    watched = replace(scene, run=lambda images: seen.append(len(images)) or scene.run(images))
    watching = replace(segmenter, network=replace(segmenter.network, scene=watched))
    outputs = watching.predict([(segmenter.prepare(one), mine) for one, mine in zip(photos, requests, strict=True)])
    assert seen == [3]
    assert alone[0].labels != alone[2].labels
    for output, mine, expected in zip(outputs, requests, alone, strict=True):
        found = segmenter.finish(output, mine)
        assert found.labels == expected.labels
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
    # The model that a request was resolved with answers it.
    segmenter.remove("pets")
    assert segmenter.finish(*answer(segmenter, photos[1], requests[1])).labels == alone[1].labels
    with pytest.raises(OptionError, match="There is no model 'pets'"):
        segmenter.resolve(SegmentOptions(model="pets"))


def answer(
    task: instances.Rcnn, image: Image.Image, request: objects.Request
) -> tuple[objects.RawDetections, objects.Request]:
    (output,) = task.predict([(task.prepare(image), request)])
    return output, request


def test_models_of_another_task_network_or_shape_are_refused(
    written: Path, segmenter: instances.Rcnn, tmp_path: Path
) -> None:
    spec = json.loads((written / store.SPEC).read_text())
    for change, code, said in (
        ({"task": "detect"}, "model_mismatch", "it is for detect"),
        ({"labels": ["one"]}, "model_corrupt", "category_ids must have one id for each label"),
        ({"labels": ["one"], "category_ids": None}, "model_mismatch", "size mismatch"),
        ({"head": {"own": "all"}}, "model_mismatch", "do not match model.json"),
        (
            {"backbone": {"name": "efficientnet-lite0", "sha256": "0" * 64, "frozen": 9}},
            "model_mismatch",
            "it was trained on the network efficientnet-lite0 (000000000000), which is not this one",
        ),
        ({"sha256": "0" * 64}, "model_corrupt", "SHA-256"),
    ):
        (tmp_path / store.WEIGHTS).write_bytes((written / store.WEIGHTS).read_bytes())
        (tmp_path / store.SPEC).write_text(json.dumps(spec | change))
        with pytest.raises(StoreError) as refused:
            segmenter.install("odd", tmp_path)
        assert refused.value.code == code
        assert said in refused.value.detail
    assert segmenter.finetuned_cards() == []


@pytest.mark.parametrize(("task", "freeze"), [("detect", "all"), ("segment", "backbone")])
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    data: DetectionDataset, tmp_path: Path, task: detector.Task, freeze: Any
) -> None:
    options = Options(epochs=3, batch=4, freeze=freeze)
    whole = detector.finetune(data, task, options, CPU)

    def interrupt(progress: Progress) -> None:
        if len(progress.epochs) == 2:
            raise KeyboardInterrupt

    broken = detector.finetune(data, task, options, CPU, interrupt, tmp_path)
    assert broken.interrupted
    assert broken.epochs == whole.epochs[:2]
    resumed = detector.finetune(data, task, options, CPU, work=tmp_path)
    assert resumed.epochs == whole.epochs
    assert all(torch.equal(resumed.tensors[name], value) for name, value in whole.tensors.items())


@pytest.mark.parametrize("own", ["labels", "labels and masks"])
def test_untrained_heads_for_known_labels_find_what_the_built_in_network_finds(own: finetuned_detector.Own) -> None:
    network, image = ssd_rcnn.load(masks=True), as_tensor(photo("chelsea"))
    own_heads = finetuned_detector.build(3, own)
    said = heads.initialize(own_heads, ("dog", "Cat", "thing"))
    assert [line.split(": ")[1] for line in said] == [
        "initialized as the built-in dog", "initialized as the built-in cat", "initialized as any object",
    ]  # fmt: skip
    if own == "labels":
        ssd_rcnn.share_masks(own_heads, network.roi_heads)
    else:
        heads.initialize_masks(own_heads, network.roi_heads)
    with torch.inference_mode():
        (expected,) = network([image])
        network.roi_heads = own_heads
        (found,) = network([image])
    cats = expected["labels"] == coco.NAMES.index("cat") + 1
    mine = found["labels"] == 2
    best, objects = found["scores"][found["labels"] == 3].max(), expected["scores"].max()
    torch.testing.assert_close(best, objects, atol=1e-4, rtol=1e-4)
    assert cats.sum() == mine.sum() > 0
    for key in ("boxes", "scores", "masks"):
        torch.testing.assert_close(found[key][mine], expected[key][cats], atol=1e-4, rtol=1e-4)


def test_all_problems_of_a_data_set_are_reported_at_once(tmp_path: Path) -> None:
    root = pasted(tmp_path / "bad", 4)
    listing = json.loads((root / "instances.json").read_text())
    rows = listing["annotations"]
    rows[0]["bbox"], rows[1]["category_id"], rows[2]["id"] = [300, 10, 90, 90], 12, 4
    (root / "instances.json").write_text(json.dumps(listing))
    with pytest.raises(DataError) as refused:
        detection_data.read([root], 0, "content", masks=True)
    assert [line.split(": ", 1)[1] for line in refused.value.problems] == [
        "annotation id 4 occurs 2 times",
        "annotation 1: the box [300, 10, 90, 90] is outside 1.png (320 x 200)",
        "annotation 2: unknown category 12",
    ]
    unused = pasted(tmp_path / "unused", 4, categories=[{"id": n, "name": str(n)} for n in (10, 11, 12)])
    found = detection_data.read([unused], 0, "content", masks=False)
    assert found.labels == ("10", "11")
    assert "left out: no annotation has the category 12" in found.notes
    with pytest.raises(DataError) as refused:
        detection_data.read([tmp_path], 0, "content", masks=False)
    assert "folder-per-class format and has no boxes" in refused.value.problems[0]


def test_a_segmenter_needs_segmentations_and_a_detector_does_not(tmp_path: Path) -> None:
    root = pasted(tmp_path / "boxes", 4)
    listing = json.loads((root / "instances.json").read_text())
    polygons = [row.pop("segmentation") for row in listing["annotations"]]
    (root / "instances.json").write_text(json.dumps(listing))
    with pytest.raises(DataError) as refused:
        detection_data.read([root], 0, "content", masks=True)
    assert "no object has a segmentation" in refused.value.problems[0]
    assert len(detection_data.read([root], 0, "content", masks=False).training) == 3
    for row, polygon in zip(
        listing["annotations"], [[[1, 2]], {"size": [9, 9], "counts": [81]}, *polygons], strict=False
    ):
        row["segmentation"] = polygon
    listing["annotations"][3]["segmentation"] = []
    (root / "instances.json").write_text(json.dumps(listing))
    with pytest.raises(DataError) as refused:
        detection_data.read([root], 0, "content", masks=True)
    first, second, third = sorted(refused.value.problems)
    assert "annotation 1: the segmentation is neither polygons nor RLE" in first
    assert "annotation 2: the mask is 9 x 9, 1.png is 320 x 200" in second
    assert "annotation 4: no segmentation" in third
    # Boxes need no outlines.
    assert len(detection_data.read([root], 0, "content", masks=False).training) == 3


@pytest.mark.parametrize(
    ("file", "images", "prefix"),
    [
        ("result.json", "images", "images/"),  # Label Studio
        ("annotations/instances_default.json", "images", ""),  # CVAT
        ("_annotations.coco.json", ".", ""),  # Roboflow
        ("labels.json", "data", ""),  # FiftyOne
        ("set/annotations/instances_default.json", "set/images", ""),  # an archive's own folder around it
    ],
)
def test_the_layouts_of_tools_give_the_same_examples(file: str, images: str, prefix: str, tmp_path: Path) -> None:
    plain = pasted(tmp_path / "plain", 4)
    listing = json.loads((plain / "instances.json").read_text())
    expected = detection_data.read([plain], 0, "content", masks=True)
    for image in listing["images"]:
        image["file_name"] = prefix + image["file_name"]
    for row in listing["annotations"]:
        row["iscrowd"] = None
    listing["categories"].insert(0, {"id": 0, "name": "root"})
    root = tmp_path / "exported"
    (root / file).parent.mkdir(parents=True)
    shutil.copytree(plain / "images", root / images, dirs_exist_ok=True)
    (root / file).write_text(json.dumps(listing))
    found = detection_data.read([root], 0, "content", masks=True)
    assert found.labels == expected.labels
    for side, other in ((found.training, expected.training), (found.validation, expected.validation)):
        assert [(one.digest, one.objects) for one in side] == [(one.digest, one.objects) for one in other]


def test_the_official_layout_of_coco_is_a_split(tmp_path: Path) -> None:
    for name, count in (("train2017", 4), ("val2017", 3)):
        plain = pasted(tmp_path / "plain" / name, count)
        shutil.copytree(plain / "images", tmp_path / "coco" / name)
        (tmp_path / "coco" / "annotations").mkdir(exist_ok=True)
        shutil.copy(plain / "instances.json", tmp_path / "coco" / "annotations" / f"instances_{name}.json")
    found = detection_data.read([tmp_path / "coco"], 0, "content", masks=True)
    assert (len(found.training), len(found.validation)) == (4, 3)
    assert {image.path.parent.name for image in found.validation} == {"val2017"}
    assert not [note for note in found.notes if "annotations" in note]


def test_unreadable_images_are_reported_after_the_pass(tmp_path: Path) -> None:
    root = pasted(tmp_path / "cut", 4)
    for number in (1, 2):
        (root / "images" / f"{number}.png").write_bytes(b"no picture %d" % number)
    found = detection_data.read([root], 0, "content", masks=False)
    with pytest.raises(DataError) as refused:
        detector.finetune(found, "detect", Options(epochs=1), CPU)
    assert refused.value.problems[0].startswith("images/")


@pytest.mark.parametrize(
    ("task", "given", "said"),
    [
        ("detect", {"pool": "max"}, "'pool' is not an option for fine-tuning detect"),
        ("segment", {"hidden": 8}, "'hidden' is not an option for fine-tuning segment"),
        ("classify", {"split": "name"}, "'split' is not an option for fine-tuning classify"),
        ("detect", {"freeze": "stage8"}, "Invalid value for 'freeze'"),
        ("detect", {"freeze": "backbone"}, "detect is trained with freeze=all only"),
        ("detect", {"epochs": 0}, "Invalid value for 'epochs'"),
    ],
)
def test_invalid_options_are_refused_by_name(task: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said) as refused:
        jobs.plan(task, [Path("nowhere")], given, "tiny", "cpu")
    assert refused.value.option == next(iter(given))


def test_the_standard_profile_is_refused() -> None:
    with pytest.raises(OptionError, match="The profile 'standard' can be fine-tuned for classify only"):
        jobs.plan("detect", [Path("nowhere")], {}, "standard", "cpu")


def test_a_running_server_loads_and_unloads_a_segmenter(
    server: str, models_dir: Path, written: Path, data: DetectionDataset, folder: Path
) -> None:
    with store.writing(models_dir / "pets") as new:
        for path in written.iterdir():
            (new / path.name).write_bytes(path.read_bytes())
    body = (folder / "images" / "1.png").read_bytes()
    with httpx.Client(base_url=server, timeout=60) as http:
        card = http.put("/v1/models/pets").json()
        assert (card["task"], card["labels"], card["finetuned"]) == ("segment", list(LABELS), True)
        own = http.post("/v1/segment", content=body, params={"model": "pets"}).json()
        assert own["model"] == "pets"
        assert {one["label"] for one in own["predictions"]} == set(LABELS)
        assert all(one["mask"]["size"] == [200, 320] for one in own["predictions"])
        assert (
            http.post("/v1/segment", content=encoded(photo("coffee"))).json()["model"] == "mask-rcnn-ssd-mobilenet-v2"
        )
        analysis = http.post("/v1/analyze", content=body, params={"model": "pets", "tasks": "classify,segment"}).json()
        assert {task: part["model"] for task, part in analysis["tasks"].items()} == {
            "classify": "efficientnet-lite0",
            "segment": "pets",
        }
        unknown = http.post("/v1/detect", content=body, params={"model": "pets"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")
        assert http.delete("/v1/models/pets").status_code == 204
        assert http.post("/v1/segment", content=body, params={"model": "pets"}).status_code == 404


def test_the_command_trains_and_writes_a_folder_with_its_card(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--task", "detect", "--name", "pets", "--models-dir", str(tmp_path), "--epochs", "2"]
    assert main(["finetune", str(folder), *options]) == 0
    said = capsys.readouterr().out
    assert ": 8 training images (16 objects), 2 validation images (4 objects)" in said
    assert {path.name for path in (tmp_path / "pets").iterdir()} == {
        "model.safetensors", "model.json", "card.json", "README.md", "training.png", "precision-recall.png",
    }  # fmt: skip
    card = json.loads((tmp_path / "pets" / "card.json").read_text())
    assert [(row["label"], row["training"], row["validation"]) for row in card["classes"]] == [
        ("brew", 8, 2),
        ("tom", 8, 2),
    ]
    assert 0 <= card["validation"]["box"]["ap"] <= card["validation"]["box"]["ap50"] <= 1
    assert (
        finetuned_detector.load("pets", tmp_path / "pets", "detect", ssd_rcnn.shared_weights(ssd_rcnn.load(False)))[
            0
        ].labels
        == LABELS
    )
    assert main(["finetune", str(folder), *options]) == 1
    assert "A model named 'pets' already exists" in capsys.readouterr().err


def test_a_localizer_learns_labels_and_is_served_beside_the_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--task", "localize", "--models-dir", str(tmp_path), "--epochs", "8", "--freeze"]
    assert main(["finetune", str(folder), "--name", "one", *options, "all"]) == 0
    assert main(["finetune", str(folder), "--name", "two", *options, "backbone"]) == 0
    assert "8 training images, 2 validation images, each with its largest object" in capsys.readouterr().out
    task = models.load("localize", "tiny", "cpu")
    assert isinstance(task, localize.Localization)
    for name in ("one", "two"):
        task.install(name, tmp_path / name)
    shared, own = task.finetuned_cards()
    assert (shared.parameters, shared.labels) == (1280 * 2 + 2, LABELS)
    assert own.parameters > 10_000
    images = [Image.open(folder / "images" / f"{number}.png").convert("RGB") for number in (1, 2, 3)]
    names = ("one", None, "two")
    requests = [task.resolve(task.options(model=name)) for name in names]
    outputs = task.predict([(task.prepare(image), mine) for image, mine in zip(images, requests, strict=True)])
    for image, name, mine, output in zip(images, names, requests, outputs, strict=True):
        alone, found = models.run(task, image, model=name), task.finish(output, mine)
        assert found.labels == alone.labels
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-2)
        assert (found.labels[0] in LABELS) == (name is not None) == (found.wnids is None)
    (tmp_path / "one" / store.WEIGHTS).write_bytes((tmp_path / "two" / store.WEIGHTS).read_bytes())
    with pytest.raises(StoreError, match="SHA-256"):
        task.install("one", tmp_path / "one")


def test_an_own_mask_branch_is_trained_stored_and_served(data: DetectionDataset, folder: Path, tmp_path: Path) -> None:
    options = Options(freeze="backbone", epochs=12, batch=4)
    outcome = detector.finetune(data, "segment", options, CPU)
    assert outcome.metrics["box"].overall["ap50"] > 0.8
    # The pasted squares fill their boxes: the outlines of cats and cups that the built-in branch draws do not.
    labels_only = detector.finetune(data, "segment", Options(epochs=12, batch=4), CPU)
    assert outcome.metrics["mask"].overall["ap75"] > labels_only.metrics["mask"].overall["ap75"]
    detector.write(tmp_path / "own", data, options, outcome, {"command": "foursight finetune pasted"})
    task = models.load("segment", "tiny", "cpu")
    assert isinstance(task, instances.Rcnn)
    task.install("own", tmp_path / "own")
    image = Image.open(folder / "images" / "1.png").convert("RGB").resize((480, 480))
    found = models.run(task, image, model="own", score_threshold=0.05)
    with torch.inference_mode():
        (expected,) = networks.load("own", tmp_path / "own")([as_tensor(image)])
    assert found.labels == tuple(LABELS[index - 1] for index in expected["labels"])
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.05)
    overlaps = [
        iou(ours.full(480, 480), theirs > 0.5)
        for ours, theirs in zip(found.masks or (), expected["masks"][:, 0].numpy(), strict=True)
    ]
    assert np.mean(overlaps) > 0.99
