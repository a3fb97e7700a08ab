"""Fine-tuning a classifier: its parts compared with plain torch, what it learns, and how bad data is reported."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50

from foursight.models.errors import DataError, StoreError
from foursight.models.finetuned import classifier, store
from foursight.models.networks import backbone, stages
from foursight.models.networks.backbone import Backbone, ResNet50
from foursight.models.networks.head import ClassifierHead, HeadSpec, pool
from foursight.models.training import classification_data, report
from foursight.models.training.checkpoints import CHECKPOINT, prepare, work_folder
from foursight.models.training.classification_data import Dataset
from foursight.models.training.classifier import Options, Outcome, finetune
from foursight.models.training.loop import Progress
from tests.shapes import KINDS, folders

CPU = torch.device("cpu")
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def base() -> Backbone:
    """The tiny profile's backbone, with a tenth of its pixels."""
    whole = backbone.load("tiny")
    return replace(whole, view=replace(whole.view, resize=72, crop=64))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return classification_data.read(folders(tmp_path_factory.mktemp("shapes") / "data"), seed=0)


def train(data: Dataset, base: Backbone, **values: object) -> Outcome:
    return finetune(data, base, Options.model_validate({"epochs": 6, "lr": 5e-3, "batch": 8} | values), CPU)


def equal(one: nn.Module, other: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.allclose(x, y, rtol=tolerance, atol=tolerance) for (a, x), (b, y) in pairs)


def test_pooling_is_that_of_torch() -> None:
    maps = torch.randn(3, 5, 7, 4)
    assert torch.allclose(pool(maps, "avg"), F.adaptive_avg_pool2d(maps, 1).flatten(1), atol=1e-6)
    assert torch.equal(pool(maps, "max"), F.adaptive_max_pool2d(maps, 1).flatten(1))
    # torch's L2 pooling sums, the generalised mean averages: they differ by the square root of the number of cells.
    assert torch.allclose(pool(maps, "l2"), F.lp_pool2d(maps, 2, (7, 4)).flatten(1) / 28**0.5, atol=1e-6)


def test_l2_pooling_of_a_silent_channel_has_a_finite_gradient() -> None:
    maps = torch.zeros(1, 2, 3, 3, requires_grad=True)
    pool(maps, "l2").sum().backward()
    assert maps.grad.isfinite().all()


def test_a_hidden_convolution_is_a_linear_layer_at_every_place() -> None:
    head = ClassifierHead(HeadSpec(hidden=6, pool="avg"), 5, 4).eval()
    maps = torch.randn(2, 5, 3, 3)
    weight, bias = head.conv.weight.flatten(1), head.conv.bias
    places = [F.relu(F.linear(maps[:, :, y, x], weight, bias)) for y in range(3) for x in range(3)]
    expected = F.linear(torch.stack(places).mean(0), head.fc.weight, head.fc.bias)
    assert torch.allclose(head(maps), expected, atol=1e-6)


def test_dropout_drops_in_training_only_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    head = ClassifierHead(HeadSpec(dropout=0.5), 4000, 1)
    nn.init.constant_(head.fc.weight, 1 / 4000)
    vectors = torch.ones(1, 4000)
    assert head.train().classify(vectors) != head.classify(vectors)
    assert head.classify(vectors).item() == pytest.approx(1, abs=0.1)
    assert head.eval().classify(vectors).item() == pytest.approx(1 + head.fc.bias.item(), abs=1e-4)


@pytest.mark.parametrize("network", ["lite0", "resnet50"])
def test_the_stages_of_a_backbone_compute_its_features(network: str) -> None:
    torch.manual_seed(0)
    whole = backbone.load("tiny").network if network == "lite0" else ResNet50(resnet50()).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        published = stages.split(whole)
        found = stages.run(published, pixels)
        assert torch.equal(found, whole.features(pixels))
    assert len(published) == {"lite0": 9, "resnet50": 5}[network]
    assert found.shape[1] == classifier.channels(published) == {"lite0": 1280, "resnet50": 2048}[network]


def test_a_head_on_frozen_features_learns_and_the_backbone_does_not_change(data: Dataset, base: Backbone) -> None:
    before = stages.fingerprint(stages.split(base.network))
    outcome = train(data, base, epochs=20)
    assert outcome.cached
    assert outcome.epochs[outcome.best].accuracy >= 0.8
    assert outcome.confusion.sum() == len(data.validation) == 6
    assert outcome.confusion.diagonal().sum() / 6 == pytest.approx(outcome.epochs[outcome.best].accuracy)
    assert stages.fingerprint(stages.split(base.network)) == before
    assert not len(outcome.model.stages)


def test_trained_stages_are_copies_with_their_own_statistics(data: Dataset, base: Backbone) -> None:
    published = stages.split(base.network)
    before = stages.fingerprint(published)
    model = train(data, base, freeze="stage8", epochs=2, head={"hidden": 8, "pool": "l2"}).model
    assert stages.fingerprint(published) == before
    (name,) = model.stages
    assert name == "stage9"
    for changed in ("0.weight", "1.running_mean", "1.weight"):
        assert not torch.equal(model.stages[name].state_dict()[changed], published[8].state_dict()[changed])


@pytest.mark.parametrize("values", [{}, {"head": {"hidden": 8}}, {"freeze": "stage8"}], ids=["pooled", "map", "stages"])
def test_cached_features_give_the_same_model_as_online_features(
    data: Dataset, base: Backbone, values: dict[str, object]
) -> None:
    cached, online = (train(data, base, epochs=2, cache=cache, **values) for cache in (True, False))
    assert (cached.cached, online.cached) == (True, False)
    # The batches differ, so the last bits differ.
    assert equal(cached.model, online.model, 1e-4)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(data: Dataset, base: Backbone) -> None:
    first, second, third = (train(data, base, seed=seed, augment=True, epochs=1) for seed in (1, 1, 2))
    assert equal(first.model, second.model)
    assert not equal(first.model, third.model, 1e-3)


def test_an_interrupted_run_keeps_its_best_epoch_and_a_resumed_one_ends_like_an_uninterrupted_one(
    data: Dataset, base: Backbone, tmp_path: Path
) -> None:
    options = Options(epochs=6, lr=5e-3, batch=8)
    whole = finetune(data, base, options, CPU)

    def interrupt(progress: Progress) -> None:
        if len(progress.epochs) == 3:
            raise KeyboardInterrupt

    broken = finetune(data, base, options, CPU, interrupt, tmp_path)
    assert broken.interrupted
    assert broken.epochs == whole.epochs[:3]
    assert broken.epochs[broken.best].accuracy == max(epoch.accuracy for epoch in broken.epochs)
    with pytest.raises(DataError, match="other data, options or backbone"):
        finetune(data, base, options.model_copy(update={"lr": 1e-3}), CPU, work=tmp_path)
    # The last epoch has no checkpoint, so it is trained again.
    resumed = finetune(data, base, options, CPU, work=tmp_path)
    assert resumed.epochs == whole.epochs
    assert equal(resumed.model, whole.model)


def test_an_interruption_before_the_first_epoch_is_raised(data: Dataset, base: Backbone) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(data, base, Options(), CPU, interrupt)


def test_the_model_folder_has_a_card_with_the_validation_figures(data: Dataset, base: Backbone, tmp_path: Path) -> None:
    outcome = train(data, base)
    report.write_classifier(
        tmp_path / "shapes", data, base, Options(), outcome, {"command": "foursight finetune shapes"}
    )
    card = json.loads((tmp_path / "shapes" / "card.json").read_text())
    assert card["validation"]["top1"] == pytest.approx(outcome.epochs[outcome.best].accuracy, abs=1e-4)
    assert card["validation"]["top5"] == 1
    assert [(row["label"], row["training"], row["validation"]) for row in card["classes"]] == [(k, 8, 2) for k in KINDS]
    page = (tmp_path / "shapes" / "README.md").read_text()
    assert all(kind in page for kind in KINDS)
    assert "foursight finetune shapes" in page
    for picture in ("training.png", "confusion.png"):
        with Image.open(tmp_path / "shapes" / picture) as image:
            image.load()
    published = stages.split(base.network)
    loaded, spec = classifier.load("shapes", tmp_path / "shapes", base, published, stages.fingerprint(published))
    assert spec.labels == KINDS
    assert equal(loaded, outcome.model)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(text: str) -> None:
        with store.writing(tmp_path / "model") as new:
            (new / "model.json").write_text(text)
            if text == "bad":
                raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        fill("bad")
    assert not list(tmp_path.iterdir())
    fill("first")
    with pytest.raises(OSError, match="no space"):
        fill("bad")
    assert (tmp_path / "model" / "model.json").read_text() == "first"
    fill("second")
    assert (tmp_path / "model" / "model.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_split_keeps_copies_together_and_is_always_the_same(tmp_path: Path) -> None:
    root = folders(tmp_path / "data", each=6)
    for number in range(6):
        # Each image of a class has a copy under another name.
        (root / "disc" / f"copy-{number}.png").write_bytes((root / "disc" / f"{number}.png").read_bytes())
    first, again, other = (classification_data.read(root, seed) for seed in (0, 0, 3))
    assert first == again
    assert {sample.path for sample in first.validation} != {sample.path for sample in other.validation}
    digests = [{sample.digest for sample in side} for side in (first.training, first.validation)]
    assert not digests[0] & digests[1]
    assert len(first.training) + len(first.validation) == 24


def test_folders_train_and_val_are_the_split(tmp_path: Path) -> None:
    folders(tmp_path / "data" / "train", each=3)
    folders(tmp_path / "data" / "val", each=2)
    (tmp_path / "data" / "val" / "grid").rename(tmp_path / "data" / "val" / "grids")
    with pytest.raises(DataError) as refused:
        classification_data.read(tmp_path / "data", 0)
    assert refused.value.problems == ("val/: unknown category 'grids', which train/ does not have",)
    (tmp_path / "data" / "val" / "grids").rename(tmp_path / "data" / "val" / "grid")
    found = classification_data.read(tmp_path / "data", 0)
    assert (len(found.training), len(found.validation)) == (9, 6)
    assert "train/ and val/" in found.split


@pytest.mark.parametrize(
    ("training", "held_out"),
    [
        ("train", "test"),
        ("Train", "TEST"),
        ("training_set", "test_set"),
        ("training", "valid"),
        ("in/train", "in/test"),
    ],
)
def test_split_folders_are_never_classes(training: str, held_out: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    folders(root / training, each=3)
    folders(root / held_out, each=2)
    for leftover in ("__MACOSX/train", ".ipynb_checkpoints"):
        folders(root / leftover, each=1)
    folders(root / training / KINDS[0] / ".ipynb_checkpoints", each=1)
    found = classification_data.read(root, 0)
    assert found.labels == tuple(sorted(KINDS))
    assert {sample.path.parent.parent for sample in found.training} == {root / training}
    assert {sample.path.parent.parent for sample in found.validation} == {root / held_out}
    assert (len(found.training), len(found.validation)) == (9, 6)


def test_test_is_not_read_beside_train_and_val(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        folders(tmp_path / name, each=2)
    found = classification_data.read(tmp_path, 0)
    assert {sample.path.parent.parent.name for sample in found.validation} == {"val"}
    assert "left out: test/, beside the split" in found.notes


def test_folders_that_could_be_the_same_side_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        folders(tmp_path / name, each=2)
    with pytest.raises(DataError, match="val/ and valid/"):
        classification_data.read(tmp_path, 0)


@pytest.mark.parametrize("names", [("images", "labels"), ("val", "test"), ("JPEGImages", "Annotations")])
def test_parts_of_a_data_set_are_not_classes(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        folders(tmp_path / name, each=2)
    with pytest.raises(DataError) as refused:
        classification_data.read(tmp_path, 0)
    assert {line.split("/")[0] for line in refused.value.problems} == set(names)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folders(tmp_path, each=3)
    (tmp_path / KINDS[0]).rename(tmp_path / "train")
    assert "train" in classification_data.read(tmp_path, 0).labels


def test_all_problems_of_folders_are_reported_at_once(tmp_path: Path) -> None:
    root = folders(tmp_path / "data", each=3)
    (root / "empty").mkdir()
    whole = (root / "disc" / "0.png").read_bytes()
    (root / "disc" / "0.png").write_bytes(whole[:-200])
    (root / "grid" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as refused:
        classification_data.read(root, 0)
    empty, cut, text = refused.value.problems
    assert empty == "class 'empty' is empty"
    assert cut.startswith("disc/0.png: The PNG image is truncated")
    assert text.startswith("grid/1.png: The 10 bytes are not an image")


def test_unreadable_images_are_reported_together_after_the_pass(tmp_path: Path, base: Backbone) -> None:
    root = folders(tmp_path / "data", each=3)
    for kind in ("disc", "grid"):
        (root / kind / "2.png").write_bytes(b"no picture of a " + kind.encode())
    for cache in (True, False):
        with pytest.raises(DataError) as refused:
            train(classification_data.read(root, 0), base, cache=cache)
        assert {line.split(":")[0] for line in refused.value.problems} == {"disc/2.png", "grid/2.png"}


def test_one_class_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        classification_data.read(tmp_path / "nowhere", 0)
    with pytest.raises(DataError, match=r"has no data set\. The formats are COCO"):
        classification_data.read(tmp_path, 0)
    root = folders(tmp_path / "data", each=3)
    for kind in KINDS[1:]:
        (root / kind).rename(tmp_path / kind)
    with pytest.raises(DataError) as refused:
        classification_data.read(root, 0)
    assert refused.value.problems == ("only one class (disc): a classifier needs two or more",)


def listing(root: Path, annotations: list[dict[str, object]]) -> Path:
    (root / "images").mkdir(parents=True)
    images = []
    for number in range(1, 11):
        Image.new("RGB", (200, 100), (20 * number, 0, 0)).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 100})
    categories = [{"id": 3, "name": "left"}, {"id": 7, "name": "right"}]
    rows = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(rows))
    return root


def annotation(number: int, image: int, category: int, *box: float, crowd: int = 0) -> dict[str, object]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": crowd}


def test_each_object_of_a_coco_file_is_an_example_cut_out_as_a_square(tmp_path: Path) -> None:
    rows = [annotation(2 * n, n, 3, 10, 30, 40, 20) for n in range(1, 11)]
    rows += [annotation(2 * n + 1, n, 7, 150, 20, 50, 60) for n in range(1, 11)]
    rows += [annotation(90, 1, 3, 0, 0, 8, 8), annotation(91, 1, 3, 0, 0, 200, 100, crowd=1)]
    with pytest.raises(DataError) as refused:
        classification_data.read(listing(tmp_path / "small", rows), 0)
    # Objects of 20 pixels are too small.
    assert "class 'left' is empty" in refused.value.problems
    rows[:10] = [annotation(2 * n, n, 3, 10, 30, 40, 40) for n in range(1, 11)]
    found = classification_data.read(listing(tmp_path / "data", rows), 0)
    assert found.labels == ("left", "right")
    assert (len(found.training), len(found.validation)) == (16, 4)
    boxes = {found.labels[sample.label]: sample.box for sample in found.training}
    # 1.1 times the longer side, moved into the image.
    assert boxes == {"left": (8, 28, 52, 72), "right": (134, 17, 200, 83)}
    # Both objects of an image are on the same side.
    assert not {s.path for s in found.training} & {s.path for s in found.validation}
    assert found.notes == ("left out: 1 crowds", "left out: 1 objects under 32 pixels")
    assert found.training[0].image().size == (44, 44)


def test_all_problems_of_a_coco_file_are_reported_at_once(tmp_path: Path) -> None:
    good = [annotation(n, n, 3 if n % 2 else 7, 10, 10, 50, 50) for n in range(1, 9)]
    bad = [
        annotation(1, 9, 3, 10, 10, 50, 50),
        annotation(20, 1, 5, 10, 10, 50, 50),
        annotation(21, 99, 3, 10, 10, 50, 50),
        annotation(22, 1, 3, 180, 10, 50, 50),
        annotation(23, 1, 3, 10, 10, 0, 50),
    ]
    root = listing(tmp_path / "data", good + bad)
    (root / "images" / "10.png").unlink()
    with pytest.raises(DataError) as refused:
        classification_data.read(root, 0)
    assert refused.value.problems == (
        "instances.json: annotation id 1 occurs 2 times",
        "instances.json: image 10: 10.png does not exist in images/",
        "instances.json: annotation 20: unknown category 5",
        "instances.json: annotation 21: unknown image 99",
        "instances.json: annotation 22: the box [180, 10, 50, 50] is outside 1.png (200 x 100)",
        "instances.json: annotation 23: the box [10, 10, 0, 50] of 1.png has no area",
    )


def test_an_unknown_stage_is_refused() -> None:
    # Lite0 has nine stages, ResNet-50 five.
    assert Options(freeze="stage9").frozen(9) == 9
    with pytest.raises(ValueError, match=r"stage1 \.\. stage5"):
        Options(freeze="stage9").frozen(5)
    with pytest.raises(ValueError, match="must be all, none, stage1"):
        Options(freeze="layer1")


def test_a_name_that_is_taken_is_refused_unless_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StoreError, match="A model named 'taken' already exists"):
        prepare(tmp_path / "taken", resume=False, replace=False)
    assert prepare(tmp_path / "taken", resume=False, replace=True) == work_folder(tmp_path / "taken")
    for name in (".hidden", "classify"):
        with pytest.raises(StoreError, match="Invalid model name"):
            prepare(tmp_path / name, resume=False, replace=False)
    with pytest.raises(StoreError, match="There is no run of 'new' to resume"):
        prepare(tmp_path / "new", resume=True, replace=False)


def test_a_killed_run_leaves_no_model_and_can_be_resumed(tmp_path: Path) -> None:
    root, models = folders(tmp_path / "data", each=4), tmp_path / "models"
    command = [sys.executable, "-m", "foursight", "finetune", str(root), "--name", "shapes", "--epochs", "2000"]
    environment = os.environ | {"FOURSIGHT_MODELS_DIR": str(models), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("epoch 3:") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert store.names(models) == []
    assert [path.name for path in models.iterdir()] == [".shapes.training"]
    with subprocess.Popen([*command, "--resume"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        said = iter(process.stdout)
        # It resumes from the checkpoint, which was written after the second epoch or later.
        assert int(next(line for line in said if line.startswith("epoch ")).split()[1].rstrip(":")) >= 2
        process.send_signal(signal.SIGINT)
        assert "The best one is kept; --resume continues" in "".join(said)
        assert process.wait() == 0
    assert store.names(models) == ["shapes"]
    base = backbone.load("tiny")
    published = stages.split(base.network)
    _, spec = classifier.load("shapes", models / "shapes", base, published, stages.fingerprint(published))
    assert spec.labels == KINDS
    assert (work_folder(models / "shapes") / CHECKPOINT).exists()
