"""The server over a real socket: correct answers in every format, metrics and documents."""

import io
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import skimage.data
from openapi_spec_validator import validate
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from pycocotools import mask as coco_mask

from foursight.models import TASKS
from foursight.schema import Answer, ModelCards
from tests.conftest import process_of
from tests.photos import encoded, photo

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture(scope="module")
def client(server: str):
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


def ask(client: httpx.Client, task: str, image: Image.Image, **parameters: object) -> Answer:
    response = client.post(f"/v1/{task}", content=encoded(image), params=parameters)
    assert response.status_code == 200, response.text
    return Answer.model_validate_json(response.content)


def test_chelsea_is_a_cat_and_coffee_is_espresso(client: httpx.Client) -> None:
    cat = ask(client, "classify", photo("chelsea"), top_k=3)
    assert [one.label for one in cat.predictions] == ["tiger cat", "Egyptian cat", "tabby"]
    assert [one.score for one in cat.predictions] == pytest.approx([0.395, 0.355, 0.17], abs=0.002)
    assert cat.predictions[0].wnid == "n02123159"
    espresso = ask(client, "classify", photo("coffee"), top_k=1).predictions[0]
    assert (espresso.label, espresso.score) == ("espresso", pytest.approx(0.951, abs=0.002))


def test_localize_returns_one_box_inside_the_image(client: httpx.Client) -> None:
    (cat,) = ask(client, "localize", photo("chelsea")).predictions
    assert cat.label in {"tiger cat", "Egyptian cat", "tabby"}
    left, top, right, bottom = cat.box
    assert 0 <= left < right <= 451
    assert 0 <= top < bottom <= 300


def test_the_astronaut_is_detected_as_a_person(client: httpx.Client) -> None:
    answer = ask(client, "detect", photo("astronaut"))
    best = answer.predictions[0]
    assert (best.label, best.class_id, best.mask) == ("person", 1, None)
    left, top, right, bottom = best.box
    # Eileen Collins' face is around (225, 115).
    assert left < 225 < right
    assert top < 115 < bottom


def test_masks_are_read_by_pycocotools_and_lie_in_their_boxes(client: httpx.Client) -> None:
    answer = ask(client, "segment", photo("astronaut"))
    assert answer.predictions
    for one in answer.predictions:
        mask = coco_mask.decode({"size": list(one.mask.size), "counts": one.mask.counts})
        assert mask.shape == (512, 512)
        rows, columns = np.nonzero(mask)
        left, top, right, bottom = one.box
        assert columns.min() >= left - 2
        assert columns.max() <= right + 2
        assert rows.min() >= top - 2
        assert rows.max() <= bottom + 2
    person = coco_mask.decode(answer.predictions[0].mask.model_dump())
    assert person[115, 225]


def test_polygons_cover_what_the_rle_covers(client: httpx.Client) -> None:
    rle = ask(client, "segment", photo("astronaut")).predictions[0].mask.model_dump()
    polygons = ask(client, "segment", photo("astronaut"), mask_format="polygon").predictions[0].mask
    drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, 512, 512))
    # Polygons have no holes: the two differ by the holes of the mask.
    assert coco_mask.iou([drawn], [rle], [0])[0, 0] > 0.95


def test_options_narrow_the_answer(client: httpx.Client) -> None:
    everything = ask(client, "detect", photo("astronaut"), score_threshold=0.05)
    people = ask(client, "detect", photo("astronaut"), score_threshold=0.05, classes="person")
    assert {one.label for one in people.predictions} == {"person"}
    assert len(everything.predictions) >= len(people.predictions) > 0
    assert len(ask(client, "detect", photo("astronaut"), score_threshold=0.05, max_detections=1).predictions) == 1
    unmasked = ask(client, "segment", photo("astronaut"), mask_format="none")
    assert unmasked.predictions
    assert all(one.mask is None for one in unmasked.predictions)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("media_type", "name"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
def test_accept_returns_the_image_with_the_answer_drawn_on_it(
    client: httpx.Client, task: str, media_type: str, name: str
) -> None:
    original = photo("astronaut")
    response = client.post(f"/v1/{task}", content=encoded(original), headers={"Accept": media_type})
    assert response.headers["content-type"] == media_type
    drawn = Image.open(io.BytesIO(response.content))
    assert (drawn.format, drawn.size) == (name, original.size)
    changed = np.abs(np.asarray(drawn.convert("RGB")).astype(int) - np.asarray(original)).max(2) > 60
    assert 0.002 < changed.mean() < 0.9


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_gets_the_same_first_label(client: httpx.Client, name: str) -> None:
    response = client.post("/v1/classify", content=encoded(photo("coffee"), name))
    assert response.json()["predictions"][0]["label"] == "espresso"


def test_coordinates_are_in_the_upright_image(client: httpx.Client) -> None:
    upright = photo("astronaut").crop((0, 0, 400, 512))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    straight = ask(client, "detect", upright)
    response = Answer.model_validate_json(client.post("/v1/detect", content=turned).content)
    assert (response.image.width, response.image.height) == (400, 512)
    assert response == straight


def test_several_images_are_answered_in_order_and_a_bad_one_does_not_affect_the_rest(client: httpx.Client) -> None:
    files = [encoded(photo("chelsea")), b"no picture", encoded(photo("coffee"))]
    response = client.post("/v1/classify?top_k=1", files=[("image", (f"{i}", data)) for i, data in enumerate(files)])
    assert response.status_code == 200
    cat, bad, coffee = response.json()["results"]
    assert cat["predictions"][0]["label"] == "tiger cat"
    assert bad["error"]["code"] == "not_an_image"
    assert coffee["predictions"][0]["label"] == "espresso"


def test_one_multipart_image_is_answered_like_a_raw_body(client: httpx.Client) -> None:
    data = encoded(photo("coffee"))
    assert client.post("/v1/classify", files={"image": data}).json() == client.post("/v1/classify", content=data).json()


@pytest.mark.parametrize("task", TASKS)
def test_images_in_one_batch_get_the_answers_they_get_alone(client: httpx.Client, task: str) -> None:
    astronaut = photo("astronaut")
    images = [
        astronaut,
        photo("coffee"),
        photo("chelsea"),
        astronaut.resize((300, 420)),
        astronaut.crop((0, 0, 500, 300)),
    ]
    alone = [ask(client, task, image) for image in images]
    with ThreadPoolExecutor(len(images)) as pool:
        together = list(pool.map(lambda image: ask(client, task, image), images))
    for one, other in zip(alone, together, strict=True):
        assert [p.label for p in one.predictions] == [p.label for p in other.predictions]
        for before, after in zip(one.predictions, other.predictions, strict=True):
            assert before.score == pytest.approx(after.score, abs=0.002)
            if before.box:
                assert before.box == pytest.approx(after.box, abs=0.5)


def test_queued_images_are_computed_in_batches(client: httpx.Client) -> None:
    data = encoded(photo("astronaut"))
    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda _: client.post("/v1/segment", content=data), range(12)))
    sizes = [int(re.search(r'batch;desc="(\d+)"', one.headers["server-timing"])[1]) for one in responses]
    assert max(sizes) > 1


def test_headers_have_the_time_of_each_step_and_the_request_id(client: httpx.Client) -> None:
    response = client.post("/v1/classify", content=encoded(photo("coffee")), headers={"X-Request-ID": "my-id"})
    assert response.headers["x-request-id"] == "my-id"
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"]))
    assert {"decode", "queue", "inference", "total"} <= timing.keys()
    assert float(timing["total"]) >= float(timing["decode"]) + float(timing["inference"])


def test_the_list_of_models_describes_each_task(client: httpx.Client) -> None:
    cards = ModelCards.model_validate(client.get("/v1/models").json()).models
    assert [card.task for card in cards] == list(TASKS)
    by_task = {card.task: card for card in cards}
    # 4,652,008 is the size of the published weights without running statistics.
    assert by_task["classify"].parameters == 4_652_008
    assert len(by_task["classify"].labels) == 1000
    assert "person" in by_task["detect"].labels
    assert {card.profile for card in cards} == {"tiny"}


def test_health_readiness_and_metrics_are_reported(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json() == {"ready": True, "tasks": dict.fromkeys(TASKS, "ready"), "faults": []}
    before = counted(client)
    client.post("/v1/classify", content=encoded(photo("coffee")))
    client.post("/v1/classify", content=b"no picture")
    after = counted(client)
    assert after["200"] == before.get("200", 0) + 1
    assert after["415"] == before.get("415", 0) + 1


def counted(client: httpx.Client, task: str = "classify") -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families if family.name == "foursight_requests" for sample in family.samples]
    return {
        sample.labels["status"]: sample.value
        for sample in samples
        if sample.labels["task"] == task and sample.name.endswith("_total")
    }


def test_one_valid_openapi_document_describes_all_tasks(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    assert {f"/v1/{task}" for task in TASKS} <= document["paths"].keys()
    names = [parameter["name"] for parameter in document["paths"]["/v1/segment"]["post"]["parameters"]]
    options = ["model", "score_threshold", "max_detections", "classes", "tiles", "mask_format"]
    assert names == [*options, "Request-Timeout"]
    page = client.get("/docs").text
    assert all(f"/v1/{task}" in page for task in TASKS)
    assert "http" not in re.sub(re.escape(str(client.base_url).rstrip("/")), "", page)


def test_nothing_listens_beyond_loopback(server: str) -> None:
    root = process_of(server)
    listeners = [
        connection.laddr
        for process in [root, *root.children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
    ]
    assert len(listeners) > len(TASKS)
    assert {address.ip for address in listeners} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_an_image_of_twelve_megapixels_is_answered(client: httpx.Client) -> None:
    big = Image.fromarray(skimage.data.astronaut()).resize((4000, 3000))
    answer = ask(client, "segment", big)
    assert (answer.image.width, answer.image.height) == (4000, 3000)
    assert answer.predictions
