"""Data sets of every format: what is read, that formats make no difference, and how faults are reported."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import supervision as sv
import torch
import yaml
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save
from torchvision.datasets import VOCDetection

from foursight.clients.cli.app import main
from foursight.models.datasets import reading
from foursight.models.datasets.value import DataSet
from foursight.models.errors import DataError
from foursight.models.training import classification_data, detection_data, jobs
from tests import data_sets
from tests.data_sets import HEIGHT, NAMES, WIDTH, scenes
from tests.shapes import KINDS, folders

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("no_engines")
Boxes = dict[str, list[tuple[str, tuple[float, ...]]]]


def write_all(root: Path) -> dict[str, Path]:
    """Write the same data set, with a split, in each format that has boxes."""
    training, validation = scenes(4), scenes(2, 5)
    for name, found in (("train", training), ("val", validation)):
        data_sets.coco(root / "coco" / name, found)
        data_sets.huggingface(root / "huggingface" / name, found)
    data_sets.yolo(root / "yolo", training, validation)
    data_sets.voc(root / "voc", training, validation)
    return {name: root / name for name in ("coco", "yolo", "voc", "huggingface")}


def boxes(found: DataSet) -> Boxes:
    """Return labels and boxes (x, y, width, height) by file name."""
    return {
        photo.path.name: sorted((one.label, one.box) for one in photo.objects)
        for part in found.parts
        for photo in part.photos
    }


def expected(found: list[data_sets.Scene]) -> Boxes:
    return {f"{one.stem}.png": sorted((label, tuple(box)) for label, *box in one.objects) for one in found}


def problems(read: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(DataError) as refused:
        read()
    return refused.value.problems


def trained(task: str, root: Path) -> str:
    """Return the SHA-256 of the file of the tensors, after one epoch."""
    outcome = jobs.plan(task, [root], {"epochs": 1}, "tiny", "cpu").train(lambda progress: None, None)
    tensors = outcome.model.state_dict() if task == "classify" else outcome.tensors
    return hashlib.sha256(save(dict(tensors))).hexdigest()


def test_a_detector_of_the_same_photos_is_the_same_bit_for_bit_in_every_format(tmp_path: Path) -> None:
    sets = write_all(tmp_path)
    assert len({trained("detect", root) for root in sets.values()}) == 1
    # Another data set gives another model.
    assert trained("detect", data_sets.yolo(tmp_path / "other", scenes(3), scenes(2, 5))) != trained(
        "detect", sets["yolo"]
    )


def test_a_classifier_of_the_same_photos_is_the_same_bit_for_bit_in_every_format(tmp_path: Path) -> None:
    folders(tmp_path / "folders", each=5)
    # The first layout is that of ultralytics' classification, and of torchvision's ImageFolder.
    for name in ("folder", "jsonl", "csv"):
        for kind in KINDS:
            for number in range(5):
                side = "val" if number == 4 else "train"
                place = tmp_path / name / side / (kind if name == "folder" else ".")
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(tmp_path / "folders" / kind / f"{number}.png", place / f"{kind}-{number}.png")
    for side in ("train", "val"):
        names = sorted(path.name for path in (tmp_path / "jsonl" / side).iterdir())
        rows = [{"file_name": name, "label": name.split("-")[0]} for name in reversed(names)]
        (tmp_path / "jsonl" / side / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
        (tmp_path / "csv" / side / "metadata.csv").write_text("\n".join(lines) + "\n")
    assert len({trained("classify", tmp_path / name) for name in ("folder", "jsonl", "csv")}) == 1


def test_the_command_names_the_format_and_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = data_sets.yolo(tmp_path / "yolo", scenes(4), scenes(2, 5))
    options = ["--name", "cups", "--task", "detect", "--epochs", "1", "--models-dir", str(tmp_path / "models")]
    assert main(["finetune", str(root), *options]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Read 6 photos in YOLO format from {root}.\n2 labels (brew, tom): 4 training images")


def test_an_evaluation_has_the_same_figures_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The built-in labels, so that something is found.
    names = {"tom": "cat", "brew": "cup"}
    found = set()
    for root in write_all(tmp_path).values():
        for file in root.rglob("*"):
            if file.suffix in (".json", ".jsonl", ".yaml", ".xml"):
                text = file.read_text()
                for old, new in names.items():
                    text = text.replace(old, new)
                file.write_text(text)
        assert main(["evaluate", str(root), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert "; the 2 of " in said["data"][0]
        assert (said["task"], said["photos"]) == ("detect", 2)
        assert said["overall"]["box"]["ap50"] > 0
        found.add(json.dumps([said["overall"], said["classes"], [one["what"] for one in said["worst"]]]))
    assert len(found) == 1


def test_an_evaluation_needs_boxes_or_labels_of_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = data_sets.coco(tmp_path / "coco", scenes(2))
    classes = folders(tmp_path / "folders", each=1)
    for root, task, said in (
        (coco, "classify", "classify is evaluated on photos with a label each, such as a folder per class"),
        (classes, "detect", "detect is evaluated on photos with boxes"),
        (coco, "segment", "no object has a segmentation"),
        (tmp_path / "nowhere", "detect", "nowhere does not exist"),
    ):
        assert main(["evaluate", str(root), "--task", task]) == 2
        assert said in capsys.readouterr().err
    assert main(["evaluate", str(classes), "--images", str(tmp_path)]) == 2
    assert "Leave the folder of the images out" in capsys.readouterr().err


def test_a_detector_has_the_ids_of_its_data_set(tmp_path: Path) -> None:
    def ids(*roots: Path) -> tuple[int, ...] | None:
        found = detection_data.read(roots, 0, "content", masks=False)
        assert found.labels == ("brew", "tom")
        return found.own_ids

    sets = write_all(tmp_path)
    assert ids(sets["coco"]) == (11, 10)
    assert ids(sets["yolo"]) == (1, 0)
    assert ids(sets["voc"]) is None
    others = data_sets.coco(tmp_path / "other", scenes(3), (7, 11))
    assert ids(others) == (11, 7)
    assert ids(others, sets["coco"] / "train") is None


def test_without_a_split_each_format_holds_back_the_same_photos(tmp_path: Path) -> None:
    found = scenes(7)
    data_sets.coco(tmp_path / "coco", found)
    data_sets.yolo(tmp_path / "yolo", found)
    data_sets.huggingface(tmp_path / "huggingface", found)
    sets = [
        detection_data.read([tmp_path / name], 0, "content", masks=False) for name in ("coco", "yolo", "huggingface")
    ]
    assert len({one.fingerprint() for one in sets}) == 1
    assert len(sets[0].validation) == 1


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "huggingface"])
def test_each_format_has_the_boxes_that_were_written(name: str, tmp_path: Path) -> None:
    found = reading.read(write_all(tmp_path)[name])
    assert boxes(found) == expected([*scenes(4), *scenes(2, 5)])
    assert [len(part.photos) for part in found.parts] == [4, 2]


def test_boxes_are_those_of_pycocotools_supervision_and_torchvision(tmp_path: Path) -> None:
    training, validation = scenes(3), scenes(2, 5)
    coco = data_sets.coco(tmp_path / "coco", training) / "instances.json"
    theirs = COCO(str(coco))
    assert boxes(reading.read(coco)) == {
        image["file_name"]: sorted(
            (theirs.cats[row["category_id"]]["name"], tuple(row["bbox"])) for row in theirs.imgToAnns[image["id"]]
        )
        for image in theirs.imgs.values()
    }
    yolo = data_sets.yolo(tmp_path / "yolo", training)
    by_supervision = sv.DetectionDataset.from_yolo(
        str(yolo / "images" / "train"), str(yolo / "labels" / "train"), str(yolo / "data.yaml")
    )
    ours = boxes(reading.read(yolo))
    assert len(by_supervision) == len(ours)
    for path, _, detections in by_supervision:
        rows = zip(detections.class_id, detections.xyxy.tolist(), strict=True)
        wanted = sorted((NAMES[index], (x, y, right - x, bottom - y)) for index, (x, y, right, bottom) in rows)
        for (label, box), (other, near) in zip(ours[Path(path).name], wanted, strict=True):
            assert label == other
            assert box == pytest.approx(near, abs=0.01)
    voc = data_sets.voc(tmp_path / "VOCdevkit" / "VOC2012", training, validation, ".jpg")
    ours = boxes(reading.read(voc))
    for _, content in VOCDetection(str(tmp_path), "2012", "train"):
        written = content["annotation"]
        edges = [
            (one["name"], *(float(one["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")))
            for one in written["object"]
        ]
        # VOC counts from 1, and the last pixel belongs to the box.
        wanted = sorted((name, (x - 1, y - 1, right - x + 1, bottom - y + 1)) for name, x, y, right, bottom in edges)
        assert ours[written["filename"]] == wanted


def test_roboflows_yolo_export_names_folders_beside_its_own_one(tmp_path: Path) -> None:
    for name, found in (("train", scenes(3)), ("valid", scenes(2, 5)), ("test", scenes(1, 9))):
        data_sets.save(tmp_path / name / "images", found)
        data_sets.yolo_labels(tmp_path / name / "labels", found)
    places = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    roboflow = {"workspace": "w", "project": "p", "version": 1, "license": "CC BY 4.0", "url": "https://example.com"}
    content = places | {"nc": 2, "names": list(NAMES), "roboflow": roboflow}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "README.roboflow.txt").write_text("Exported via roboflow.com")
    found = reading.read(tmp_path)
    assert boxes(found) == expected([*scenes(3), *scenes(2, 5)])
    assert "left out: test of data.yaml" in found.parts[0].notes


def test_ultralytics_lists_of_folders_and_of_files_are_read(tmp_path: Path) -> None:
    for name, found in (("a", scenes(2)), ("b", scenes(2, 5)), ("c", scenes(2, 9))):
        data_sets.save(tmp_path / "images" / name, found)
        data_sets.yolo_labels(tmp_path / "labels" / name, found)
    (tmp_path / "val.txt").write_text("./images/c/9.png\nimages/c/10.png\n\n")
    sides = {"train": ["images/a", "images/b"], "val": "val.txt"}
    content = {"path": "../datasets/elsewhere", "names": list(NAMES)} | sides
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    found = reading.read(tmp_path)
    assert [sorted(photo.path.name for photo in part.photos) for part in found.parts] == [
        ["1.png", "2.png", "5.png", "6.png"],
        ["10.png", "9.png"],
    ]
    assert boxes(reading.read(tmp_path / "own.yaml")) == boxes(found)


def test_cvats_yolo_exports_and_label_studios_are_read(tmp_path: Path) -> None:
    found = scenes(3)
    darknet = tmp_path / "cvat"
    data_sets.save(darknet / "obj_train_data", found)
    data_sets.yolo_labels(darknet / "obj_train_data", found)
    (darknet / "obj.names").write_text("".join(f"{name}\n" for name in NAMES))
    (darknet / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    (darknet / "train.txt").write_text("".join(f"data/obj_train_data/{one.stem}.png\n" for one in found))
    studio = tmp_path / "studio"
    data_sets.save(studio / "images", found)
    data_sets.yolo_labels(studio / "labels", found)
    (studio / "classes.txt").write_text("\n".join(NAMES))
    (studio / "notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": "tom"}], "info": {"year": 2024}}))
    for root in (darknet, studio):
        assert boxes(reading.read(root)) == expected(found)
        assert reading.read(root).format == "YOLO"


def test_ultralytics_outlines_are_read_for_segment(tmp_path: Path) -> None:
    found = scenes(6)
    root = data_sets.yolo(tmp_path / "yolo", found)
    data_sets.yolo_labels(root / "labels" / "train", found, polygons=True)
    assert boxes(reading.read(root)) == expected(found)
    data = detection_data.read([root], 0, "content", masks=True)
    # Each outline is the rectangle of its box.
    for image in data.training:
        assert all(item["area"] == item["bbox"][2] * item["bbox"][3] for item in image.objects)
    data_sets.yolo_labels(root / "labels" / "train", found)
    said = problems(lambda: detection_data.read([root], 0, "content", masks=True))
    assert said == ("no object has a segmentation; the task segment needs them, detect does not",)


def test_a_photo_without_a_label_file_counts_as_one_without_objects(tmp_path: Path) -> None:
    root = data_sets.yolo(tmp_path, scenes(5))
    (root / "labels" / "train" / "2.txt").unlink()
    found = reading.read(root)
    assert boxes(found)["2.png"] == []
    assert found.parts[0].notes == ("train: 1 images have no label file, and count as without objects",)


def test_yolo_boxes_that_reach_beyond_their_image_are_clipped_with_a_note(tmp_path: Path) -> None:
    root = data_sets.yolo(tmp_path, scenes(3))
    # 320 x 200 pixels: the first begins 48 pixels to the left, the second is a whole image that is rounded up.
    (root / "labels" / "train" / "1.txt").write_text("0 0.05 0.5 0.4 0.1\n0 0.500001 0.5 1 1\n")
    (part, *_) = reading.read(root).parts
    (photo,) = [one for one in part.photos if one.path.name == "1.png"]
    assert [one.box for one in photo.objects] == [(0, 0, 320, 200), (0, 90, 80, 20)]
    assert "train: 1 boxes reach beyond their image, and are clipped to it" in part.notes


def test_every_fault_of_yolo_labels_is_reported_with_its_line(tmp_path: Path) -> None:
    root = data_sets.yolo(tmp_path, scenes(3))
    labels = root / "labels" / "train"
    (labels / "1.txt").write_text(
        "2 0.5 0.5 0.1 0.1\n0 160 100 40 40\n0 0.5 0.5 nan 0.1\ncat 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n"
        "0 0.5 0.5 0.1 0.1 0.9\n0 0.5 0.5 0 0.1\n0.5 0.5 0.5 0.1 0.1\n-1 0.5 0.5 0.1 0.1\n0 1 0.5 0 0.1\n"
    )
    (labels / "2.txt").write_bytes(b"\xff\xfe0 0.5")
    (labels / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "images" / "train" / "3.png").write_bytes(b"no picture")
    said = problems(lambda: reading.read(root))
    for line, part in zip(
        said,
        [
            "labels/train/gone.txt: there is no image of this name",
            "labels/train/1.txt:1: class 2 is not in data.yaml, whose indices are 0 to 1 (brew)",
            "labels/train/1.txt:2: 160 is not between 0 and 1; divide pixels by the image's width or height",
            "labels/train/1.txt:3: nan is not a finite number",
            "labels/train/1.txt:4: the class is 'cat'; give its index in data.yaml",
            "labels/train/1.txt:5: 4 values; a line has 5 (class, centre x, centre y, width, height)",
            "labels/train/1.txt:6: 6 values",
            "labels/train/1.txt:7: the box [160, 90, 0, 20] of 1.png has no area",
            "labels/train/1.txt:8: class 0.5 is not in data.yaml",
            "labels/train/1.txt:9: class -1 is not in data.yaml",
            "labels/train/1.txt:10: the box [320, 90, 0, 20] of 1.png has no area",
            "labels/train/2.txt: not UTF-8 at byte 0; save it as UTF-8",
            "images/train/3.png: not an image that can be read",
        ],
        strict=True,
    ):
        assert line.startswith(part)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: images/train\nnames: [tom, brew]\nnc: 3", "nc is 3, but names has 2; correct one of them"),
        (
            "train: images/train\nnames: {0: tom, 2: brew}",
            "the keys of names are 0, 2; they must be 0 to 1",
        ),
        ("train: images/train\nnames:\n  0: tom\n  0: brew", "the key 0 occurs 2 times; keep one of them"),
        ("train: images/train\nnames: [tom, tom]", "2 classes have the name 'tom'; rename or merge them"),
        ("train: images/train\nnames: [no, yes]", "name 0 is False, not text; put it in quotes"),
        ("train: images/train\nnc: 2", "names is missing; list the classes"),
        ("names: [tom, brew]", "train is missing; give the folder of the training images"),
        ("train: images/nowhere\nnames: [tom, brew]", "train: images/nowhere does not exist; tried"),
        ("train: 7\nnames: [tom, brew]", "train is 7; give a folder, a list of folders, or a .txt file"),
        ("train: [images/train, images/train]\nnames: [tom, brew]", "1.png is listed twice; remove one"),
        ("names: [tom, brew", "data.yaml:1: not YAML"),
        ("just text", "data.yaml: not a mapping; it needs train, val and names"),
    ],
)
def test_faults_of_a_data_yaml_are_reported(text: str, said: str, tmp_path: Path) -> None:
    root = data_sets.yolo(tmp_path, scenes(2))
    (root / "data.yaml").write_text(text)
    assert said in "\n".join(problems(lambda: reading.read(root)))


def test_flat_folders_of_labelimg_cvat_and_roboflow_are_read_as_voc(tmp_path: Path) -> None:
    for name, found in (("train", scenes(3)), ("valid", scenes(2, 5))):
        data_sets.save(tmp_path / name, found)
        for one in found:
            (tmp_path / name / f"{one.stem}.xml").write_text(data_sets.voc_xml(one))
    assert boxes(reading.read(tmp_path)) == expected([*scenes(3), *scenes(2, 5)])
    # labelImg leaves a photo that was not looked at without a file.
    (tmp_path / "train" / "3.xml").unlink()
    assert reading.read(tmp_path).parts[0].notes == ("train/left out: 1 images without an XML file",)


def test_boxes_counted_from_0_are_recognized_by_an_edge_at_0(tmp_path: Path) -> None:
    corner = data_sets.Scene("9", scenes(1)[0].image, (("tom", 0, 20, 50, 60), ("brew", 100, 0, 50, 60)))
    found = [*scenes(3), corner]
    data_sets.save(tmp_path, found)
    for one in found:
        (tmp_path / f"{one.stem}.xml").write_text(data_sets.voc_xml(one, first=0))
    read = reading.read(tmp_path)
    assert boxes(read) == expected(found)
    assert "counted from 0 and not from 1" in read.parts[0].notes[0]


def test_difficult_objects_of_voc_are_crowds_and_parts_are_not_objects(tmp_path: Path) -> None:
    root = data_sets.voc(tmp_path, scenes(2), scenes(2, 5))
    part = "<name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    file = root / "Annotations" / "1.xml"
    text = data_sets.voc_xml(scenes(1)[0], part=part, occluded="1").replace("<difficult>0", "<difficult>1", 1)
    file.write_text(text)
    found = reading.read(root)
    assert boxes(found) == expected([*scenes(2), *scenes(2, 5)])
    assert [one.is_crowd for one in found.parts[0].photos[0].objects].count(True) == 1
    assert "left out: 1 difficult objects" in found.parts[0].notes


def test_every_fault_of_voc_is_reported_with_its_file(tmp_path: Path) -> None:
    root = data_sets.voc(tmp_path, scenes(7), scenes(1, 9))
    xml = {path.stem: path for path in (root / "Annotations").iterdir()}
    bomb = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    first = xml["1"].read_text()
    xml["1"].write_text(bomb + first.replace("tom", "&b;"))
    xml["2"].write_text(xml["2"].read_text().replace("<xmin>", "<xmin>inf", 1))
    xml["3"].write_text(xml["3"].read_text()[:200])
    xml["4"].write_text(data_sets.voc_xml(scenes(1, 4)[0], size=(HEIGHT, WIDTH)))
    xml["5"].write_text(xml["5"].read_text().replace("<xmax>", "<xmax>9", 1))
    xml["6"].write_text(xml["6"].read_text().replace("<name>brew", "<name>berw"))
    (root / "JPEGImages" / "7.png").unlink()
    classes = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ntom:1,0,0::\nbrew:2,0,0::\n"
    (root / "labelmap.txt").write_text(classes)
    with (root / "ImageSets" / "Main" / "train.txt").open("a") as file:
        file.write("1\nnowhere\n")
    said = "\n".join(problems(lambda: reading.read(root)))
    for part in (
        "ImageSets/Main/train.txt:8: 1 is listed twice; remove one",
        "ImageSets/Main/train.txt:9: Annotations/nowhere.xml does not exist",
        "Annotations/1.xml: it has a document type (<!DOCTYPE>), which VOC's files have not; remove it",
        "Annotations/2.xml: object 1 (tom): <xmin> is 'inf",
        "Annotations/3.xml: line 1: not XML: ",
        "Annotations/4.xml: 4.png is 320 x 200 pixels, <size> says 200 x 320",
        "Annotations/5.xml: object 1 (tom): the box [",
        "Annotations/6.xml: object 2 (berw): the class is not in labelmap.txt; did you mean brew?",
        "Annotations/7.xml: there is no image 7.jpg or 7.png in JPEGImages/; add it, or delete the file",
    ):
        assert part in said
    assert len(said.splitlines()) == 9


def test_every_fault_of_hugging_face_metadata_is_reported_with_its_line(tmp_path: Path) -> None:
    root = data_sets.huggingface(tmp_path, scenes(6))
    rows = [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]
    rows[0]["objects"]["bbox"][0][2] = float("nan")
    rows[1]["objects"]["categories"].pop()
    rows[2]["file_name"] = "1.png"
    rows[3]["file_name"] = "../4.png"
    rows[4]["objects"]["bbox"][0] = [300, 10, 90, 90]
    del rows[5]["file_name"]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    assert [line.split(": ", 1)[0] for line in problems(lambda: reading.read(root))] == [
        "metadata.jsonl:1", "metadata.jsonl:2", "metadata.jsonl:3", "metadata.jsonl:4", "metadata.jsonl:5",
        "metadata.jsonl:6", "metadata.jsonl:7", "3.png", "4.png", "6.png",
    ]  # fmt: skip


def test_numbers_of_the_hub_have_the_names_of_the_card(tmp_path: Path) -> None:
    root = data_sets.huggingface(tmp_path / "train", scenes(3)).parent
    data_sets.huggingface(tmp_path / "test", scenes(2, 5))
    for side in ("train", "test"):
        text = (root / side / "metadata.jsonl").read_text()
        (root / side / "metadata.jsonl").write_text(text.replace('"tom"', "0").replace('"brew"', "1"))
    assert "the labels are numbers" in reading.read(root).parts[0].notes[0]
    feature = {"name": "category", "dtype": {"class_label": {"names": {"0": "tom", "1": "brew"}}}}
    card = {"dataset_info": {"features": [{"name": "objects", "sequence": [feature]}]}}
    (root / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# Cups\n")
    assert boxes(reading.read(root)) == expected([*scenes(3), *scenes(2, 5)])


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "huggingface"])
def test_a_category_that_only_the_validation_side_has_is_refused(name: str, tmp_path: Path) -> None:
    root = write_all(tmp_path)[name]
    training = {
        "coco": root / "train" / "instances.json",
        "yolo": root / "labels" / "train",
        "voc": root / "Annotations",
        "huggingface": root / "train" / "metadata.jsonl",
    }[name]
    if name == "yolo":
        for path in training.iterdir():
            path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if line[0] != "1"))
    elif name == "voc":
        for number in range(1, 5):
            file = training / f"{number}.xml"
            file.write_text(file.read_text().replace("<name>brew", "<name>tom"))
    elif name == "huggingface":
        training.write_text(training.read_text().replace('"brew"', '"tom"'))
    else:
        content = json.loads(training.read_text())
        content["annotations"] = [row for row in content["annotations"] if row["category_id"] == 10]
        training.write_text(json.dumps(content))
    (line,) = problems(lambda: detection_data.read([root], 0, "content", masks=False))
    assert "unknown category 'brew', which" in line


def test_a_folder_with_two_formats_is_refused_and_its_files_are_read(tmp_path: Path) -> None:
    data_sets.coco(tmp_path, scenes(3))
    data_sets.yolo(tmp_path, scenes(3))
    (line,) = problems(lambda: reading.read(tmp_path))
    assert "has data in 2 formats: COCO (instances.json) and YOLO (data.yaml); pass the file of one of them" in line
    assert reading.read(tmp_path / "data.yaml").format == "YOLO"
    assert reading.read(tmp_path / "instances.json").format == "COCO"


def test_other_json_beside_classes_is_not_a_coco_file(tmp_path: Path) -> None:
    root = folders(tmp_path, each=3)
    (root / "package.json").write_text('{"name": "shapes", "class_to_idx": {"disc": 0}}')
    assert classification_data.read(root, 0).labels == KINDS


def test_a_lone_class_with_folders_in_it_stays_a_class(tmp_path: Path) -> None:
    root = folders(tmp_path / "cats", each=3).parent
    found = reading.read(root)
    assert {photo.label for photo in found.parts[0].photos} == {"cats"}
    (line,) = problems(lambda: classification_data.read(root, 0))
    assert line == (
        "only one class (cats): a classifier needs two or more; "
        f"if the classes are disc, grid, stripes, pass {root / 'cats'}"
    )
    # A side of a split may have one class only.
    for name in ("train", "val"):
        shutil.copytree(root / "cats", tmp_path / "set" / name / "cats")
    (tmp_path / "set" / "train" / "dogs").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "set" / "train" / "dogs" / "1.png")
    split = classification_data.read(tmp_path / "set", 0)
    assert (split.labels, {sample.label for sample in split.validation}) == (("cats", "dogs"), {0})


def test_at_most_twenty_faults_are_printed_and_the_others_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_sets.yolo(tmp_path, scenes(3))
    (root / "labels" / "train" / "1.txt").write_text("".join(f"{number} 0.5 0.5 0.1 0.1\n" for number in range(2, 29)))
    assert main(["finetune", str(root), "--name", "bad", "--task", "detect", "--models-dir", str(tmp_path / "m")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 22
    assert lines[20] == "  ... and 7 more"
    assert "The data cannot be used: 27 problems." in lines[21]
