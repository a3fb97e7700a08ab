"""The SDK with a real server, compared with plain HTTP, pycocotools and the server's own drawings."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from foursight import Client, Failed, Rejected, Result
from foursight.models import TASKS
from tests import twins
from tests.helpers import iou
from tests.photos import encoded, photo
from tests.scripted import Asked, Reply, Scripted


@pytest.fixture(scope="module", params=twins.KINDS)
def client(server: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    with twins.make(request.param, server) as client:
        yield client


@pytest.fixture(scope="module")
def plain(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60) as plain:
        yield plain


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    path.write_bytes(encoded(photo("astronaut")))
    return path


@pytest.mark.parametrize("task", TASKS)
def test_a_result_equals_the_answer_over_http(client: Any, plain: httpx.Client, astronaut: Path, task: str) -> None:
    answer = plain.post(f"/v1/{task}", content=astronaut.read_bytes()).json()
    result = getattr(client, task)(astronaut)
    assert json.loads(result.model_dump_json(exclude_none=True)) == answer
    assert [one.label for one in result.predictions] == [one["label"] for one in answer["predictions"]]


KINDS_OF_IMAGE: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "name of a file": str,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "file": lambda path: io.BytesIO(path.read_bytes()),
    "PIL image": Image.open,
    "array": lambda path: np.asarray(Image.open(path)),
    "array that is a view": lambda path: np.asarray(Image.open(path))[:, ::-1][:, ::-1],
    "PIL image with alpha": lambda path: Image.open(path).convert("RGBA"),
}


@pytest.mark.parametrize("kind", KINDS_OF_IMAGE)
def test_every_kind_of_image_gets_the_same_answer(client: Any, astronaut: Path, kind: str) -> None:
    image = KINDS_OF_IMAGE[kind](astronaut)
    result = client.localize(image)
    assert result.predictions == client.localize(astronaut).predictions
    # Drawing also works for each kind.
    assert result.draw().size == (512, 512)


def test_a_url_is_fetched_by_the_client_without_the_api_key(server: str, astronaut: Path) -> None:
    with Scripted(lambda _: Reply(astronaut.read_bytes())) as web, Client(server, api_key="secret") as client:
        fetched = client.classify(f"{web.url}/some/photo")
        assert fetched.predictions == client.classify(astronaut).predictions
    (asked,) = web.asked
    assert asked.path == "/some/photo"
    assert "secret" not in str(asked.headers)


def test_options_reach_the_task_and_invalid_ones_raise_rejected(client: Any, astronaut: Path) -> None:
    several = client.detect(astronaut, score_threshold=0.05, classes=["person", "dog"])
    assert {one.label for one in several.predictions} <= {"person", "dog"}
    assert len(client.detect(astronaut, score_threshold=0.05, max_detections=1).predictions) == 1
    with pytest.raises(Rejected) as caught:
        client.classify(astronaut, top_k=0)
    error = caught.value
    assert (error.status, error.code) == (400, "invalid_parameter")
    assert "top_k" in error.detail
    assert error.hint
    assert error.request_id
    assert error.request_id in str(error)


@pytest.mark.parametrize("mask_format", ["rle", "polygon"])
def test_masks_are_arrays_as_pycocotools_reads_them(
    client: Any, plain: httpx.Client, astronaut: Path, mask_format: str
) -> None:
    parameters = {"mask_format": mask_format}
    answer = plain.post("/v1/segment", params=parameters, content=astronaut.read_bytes()).json()
    result = client.segment(astronaut, **parameters)
    assert result.predictions
    for one, raw in zip(result.predictions, answer["predictions"], strict=True):
        if mask_format == "rle":
            expected = coco_mask.decode(raw["mask"]).astype(bool)
        else:
            expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(raw["mask"], 512, 512))).astype(bool)
        assert one.mask.dtype == bool
        assert one.mask.shape == (512, 512)
        # pycocotools rounds a polygon's corners to whole pixels.
        assert iou(one.mask, expected) > (0.999 if mask_format == "rle" else 0.96)
    assert client.detect(astronaut).predictions[0].mask is None


@pytest.mark.parametrize("task", TASKS)
def test_drawing_a_result_equals_the_drawing_of_the_server(
    client: Any, plain: httpx.Client, astronaut: Path, task: str
) -> None:
    response = plain.post(f"/v1/{task}", content=astronaut.read_bytes(), headers={"Accept": "image/png"})
    theirs = np.asarray(Image.open(io.BytesIO(response.content)))
    assert np.array_equal(np.asarray(getattr(client, task)(astronaut).draw()), theirs)


def test_an_image_with_exif_orientation_is_drawn_upright(client: Any) -> None:
    upright = photo("astronaut").crop((0, 0, 400, 512))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    result = client.detect(turned)
    assert np.array_equal(np.asarray(result.draw()), np.asarray(client.detect(upright).draw()))


def test_coco_entries_are_loaded_by_pycocotools(client: Any, astronaut: Path) -> None:
    result = client.segment(astronaut)
    entries = json.loads(json.dumps(result.to_coco(image_id=7)))
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 7, "height": 512, "width": 512}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(entries)
    assert len(loaded.anns) == len(result.predictions) > 0
    for annotation, one in zip(loaded.anns.values(), result.predictions, strict=True):
        assert np.array_equal(loaded.annToMask(annotation), one.mask)
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == pytest.approx(one.box, abs=0.01)
        assert (annotation["category_id"], annotation["score"]) == (one.class_id, one.score)
    assert client.classify(astronaut).to_coco(image_id=7) == []


def test_conversions_to_supervision_and_pandas_keep_the_values(client: Any, astronaut: Path) -> None:
    result = client.segment(astronaut)
    detections = result.to_supervision()
    assert len(detections) == len(result.predictions)
    assert detections.xyxy[0] == pytest.approx(result.predictions[0].box)
    assert detections.area.tolist() == [one.mask.sum() for one in result.predictions]
    assert detections["class_name"][0] == result.predictions[0].label
    assert len(client.detect(astronaut, classes="dog").to_supervision()) == 0
    table = result.to_pandas()
    assert table[["x1", "y1", "x2", "y2"]].to_numpy() == pytest.approx(np.array([p.box for p in result.predictions]))
    assert table["score"].is_monotonic_decreasing
    labels = client.classify(astronaut, top_k=3).to_pandas()
    assert labels["x1"].isna().tolist() == [True] * 3
    assert client.detect(astronaut, classes="dog").to_pandas().empty


@pytest.mark.parametrize("mask_format", ["rle", "polygon"])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_an_image_shrunk_before_the_upload_is_answered_in_pixels_of_the_original(
    server: str, plain: httpx.Client, kind: str, mask_format: str
) -> None:
    large = photo("astronaut").crop((0, 0, 400, 512)).resize((1600, 2048))
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = encoded(large.transpose(Image.Transpose.ROTATE_270), "JPEG", exif=exif, quality=95)
    answers = []

    def forward(asked: Asked) -> Reply:
        response = plain.post(asked.path, params=asked.query, content=asked.body)
        answers.append((Image.open(io.BytesIO(asked.body)), response.json()))
        return Reply(response.content)

    with Scripted(forward) as between, twins.make(kind, between.url) as client:
        result = client.segment(turned, max_side=512, mask_format=mask_format)
    ((uploaded, answer),) = answers
    assert uploaded.size == (400, 512)
    assert np.abs(np.asarray(uploaded).astype(float) - np.asarray(large.resize((400, 512)))).mean() < 5
    assert (result.image.width, result.image.height) == (1600, 2048)
    assert len(result.predictions) == len(answer["predictions"]) > 0
    for one, raw in zip(result.predictions, answer["predictions"], strict=True):
        assert one.box == pytest.approx([4 * side for side in raw["box"]], abs=0.01)
        if mask_format == "rle":
            expected = coco_mask.decode(raw["mask"]).repeat(4, axis=0).repeat(4, axis=1).astype(bool)
            assert one.mask.shape == (2048, 1600)
            assert iou(one.mask, expected) > 0.98
        else:
            assert one.encoded_mask == [pytest.approx([4 * side for side in line], abs=0.05) for line in raw["mask"]]
    assert result.draw().size == (1600, 2048)


def test_many_images_are_answered_in_order_and_failures_keep_their_place(client: Any, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(encoded(photo("chelsea")))
    (tmp_path / "coffee.png").write_bytes(encoded(photo("coffee")))
    (tmp_path / "text.png").write_text("no picture")
    names = ["cat.png", "text.png", "coffee.png", "missing.png"] * 5
    outcomes = list(client.classify_many((tmp_path / name for name in names), concurrency=4, top_k=1))
    assert len(outcomes) == len(names)
    for name, outcome in zip(names, outcomes, strict=True):
        match name:
            case "cat.png":
                assert outcome.predictions[0].label == "tiger cat"
            case "coffee.png":
                assert outcome.predictions[0].label == "espresso"
            case "text.png":
                assert isinstance(outcome, Failed)
                assert outcome.image == tmp_path / name
                assert outcome.error.code == "not_an_image"
            case "missing.png":
                assert isinstance(outcome, Failed)
                assert "missing.png" in str(outcome.error)
    assert isinstance(outcomes[0], Result)
    assert outcomes[0].draw().size == photo("chelsea").size


def test_an_analysis_equals_the_answer_over_http(client: Any, plain: httpx.Client, astronaut: Path) -> None:
    parameters = {"tasks": "segment,localize", "then": "classify"}
    answer = plain.post("/v1/analyze", params=parameters, content=astronaut.read_bytes()).json()
    analysis = client.analyze(astronaut, tasks=["segment", "localize"], then="classify")
    assert json.loads(analysis.model_dump_json(exclude_none=True)) == answer
    assert (list(analysis.tasks), analysis.failed) == (["segment", "localize"], {})
    person, raw = analysis["segment"].predictions[0], answer["tasks"]["segment"]["predictions"][0]
    assert np.array_equal(person.mask, coco_mask.decode(raw["mask"]))
    assert [one.label for one in person.classification] == [one["label"] for one in raw["classification"]]
    assert analysis.request_id
    with pytest.raises(KeyError):
        analysis["detect"]
    # An analysis draws the objects of its most detailed task. The server draws only single tasks, so compare with that
    # one.
    alone = plain.post("/v1/segment", content=astronaut.read_bytes(), headers={"Accept": "image/png"})
    assert np.array_equal(np.asarray(analysis.draw()), np.asarray(Image.open(io.BytesIO(alone.content))))


def test_many_analyses_have_all_tasks_in_pixels_of_the_original_and_one_may_fail(client: Any, astronaut: Path) -> None:
    large = Image.open(astronaut).resize((1536, 1536))
    good, bad = client.analyze_many([large, b"no picture"], max_side=512, top_k=2, mask_format="polygon")
    assert list(good.tasks) == list(TASKS)
    assert (good.image.width, good.image.height) == (1536, 1536)
    options = {"classify": {"top_k": 2}, "localize": {"top_k": 2}, "detect": {}, "segment": {"mask_format": "polygon"}}
    for task, own in options.items():
        assert good[task].predictions == getattr(client, task)(large, max_side=512, **own).predictions
    assert good["segment"].predictions[0].mask.shape == (1536, 1536)
    assert good.draw(large).size == (1536, 1536)
    assert isinstance(bad, Failed)
    assert bad.error.code == "not_an_image"
    with pytest.raises(Rejected) as caught:
        client.analyze(astronaut, tasks="describe")
    assert (caught.value.code, len(caught.value.request_id)) == ("invalid_parameter", 42)


def test_models_and_readiness_are_those_of_the_server(client: Any, plain: httpx.Client) -> None:
    cards = client.models()
    assert [card.model_dump() for card in cards] == plain.get("/v1/models").json()["models"]
    assert client.ready() is True
