"""Requests in the forms that other servers' clients send, over a real socket."""

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from foursight.schema.tasks import TASKS
from tests.conftest import ALLOWED_ORIGIN
from tests.photos import encoded, photo

JPEG = encoded(photo("coffee"), "JPEG")
TEXT = base64.b64encode(JPEG).decode()
SMALL = encoded(photo("coffee").resize((120, 80)), "JPEG")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def client(server: str):
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


UPLOADS: dict[str, dict[str, Any]] = {
    "JSON": {"json": {"image": TEXT}},
    "a list in JSON": {"json": {"image": [TEXT]}},
    "a data: URL in JSON": {"json": {"image": f"data:image/jpeg;base64,{TEXT}"}},
    "JSON in Roboflow's form": {"json": {"image": {"type": "base64", "value": TEXT}}},
    "JSON that curl -d sends": {"content": json.dumps({"image": TEXT}), "headers": FORM},
    "lines of base64": {"content": base64.encodebytes(JPEG), "headers": {"Content-Type": "text/plain"}},
    "base64 that curl -d sends": {"content": TEXT, "headers": FORM},
    "base64 for URLs without padding": {"content": base64.urlsafe_b64encode(JPEG).rstrip(b"="), "headers": FORM},
    "a data: URL": {"content": f"data:image/jpeg;base64,{TEXT}", "headers": {"Content-Type": "text/plain"}},
    "a form field": {"data": {"image": TEXT}},
    "a form field that is not encoded": {"content": f"image={TEXT}", "headers": FORM},
    "bytes labelled as a form": {"content": JPEG, "headers": FORM},
    "bytes without a type": {"content": JPEG},
    "multipart field `file`": {"files": {"file": ("photo.jpg", JPEG, "image/jpeg")}},
    "multipart field `images[]`": {"files": [("images[]", JPEG)]},
    "a slash at the end": {"url": "/v1/classify/", "content": JPEG},
}


@pytest.mark.parametrize("form", UPLOADS)
def test_an_image_gets_the_same_answer_in_every_form(client: httpx.Client, form: str) -> None:
    response = client.post(**{"url": "/v1/classify"} | UPLOADS[form])
    assert response.status_code == 200, response.text
    assert response.json() == client.post("/v1/classify", content=JPEG).json()


def test_several_images_in_json_are_answered_in_order_and_analyze_takes_one(client: httpx.Client) -> None:
    small = base64.b64encode(SMALL).decode()
    answers = client.post("/v1/classify", json={"image": [TEXT, small]}).json()["results"]
    assert [answer["image"]["width"] for answer in answers] == [600, 120]
    assert client.post("/v1/analyze/", json={"image": small}).json()["image"] == {"width": 120, "height": 80}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "options in JSON": ({"json": {"image": TEXT, "top_k": 3}}, "invalid_json", "query"),
    "no image in JSON": ({"json": {}}, "invalid_json", "image"),
    "a list as JSON": ({"json": [TEXT]}, "invalid_json", "object"),
    "broken JSON": (
        {"content": b'{"image": ', "headers": {"Content-Type": "application/json"}},
        "invalid_json",
        "JSON",
    ),
    "deep JSON": ({"content": 100_000 * b"[", "headers": {"Content-Type": "application/json"}}, "invalid_json", "JSON"),
    "a number": ({"json": {"image": 7}}, "invalid_json", "base64"),
    "a URL": ({"json": {"image": "https://example.org/a.jpg"}}, "invalid_base64", "does not fetch"),
    "no base64": ({"json": {"image": "photo.jpg"}}, "invalid_base64", "base64"),
    "a data: URL without base64": ({"json": {"image": "data:image/svg+xml,<svg/>"}}, "invalid_base64", "base64"),
    "33 images in JSON": ({"json": {"image": [TEXT[:400]] * 33}}, "too_many_images", "32"),
    "base64 of text": ({"json": {"image": "aGVsbG8gd29ybGQ="}}, "not_an_image", "hello"),
    "an option as a multipart field": (
        {"data": {"top_k": "3"}, "files": {"image": SMALL}},
        "invalid_multipart",
        "query",
    ),
    "a file's name instead of the file": ({"files": {"image": (None, "photo.jpg")}}, "invalid_multipart", "@photo.jpg"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(client: httpx.Client, case: str) -> None:
    request, code, said = REFUSED[case]
    response = client.post("/v1/classify", **request)
    problem = response.json()
    assert (problem["code"], 400 <= response.status_code < 500) == (code, True)
    assert said in problem["detail"] + problem["hint"]


def test_curl_without_binary_is_told_what_to_type(server: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    command = ["curl", "-s", "-d", f"@{tmp_path}/photo.jpg", f"{server}/v1/classify"]
    problem = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (problem["code"], "--data-binary" in problem["hint"]) == ("truncated_image", True)


@pytest.mark.parametrize("query", ['classes=dog,"person"', "classes=dog&classes=person", "classes=dog%2Cperson"])
def test_labels_are_quoted_repeated_or_separated_by_commas(client: httpx.Client, query: str) -> None:
    answer = client.post(f"/v1/detect?{query}", content=encoded(photo("astronaut")))
    assert {one["label"] for one in answer.json()["predictions"]} == {"person"}


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/models/classify/layers/", "/readyz/"])
def test_a_slash_at_the_end_of_a_path_changes_nothing(client: httpx.Client, path: str) -> None:
    response, without = client.get(path), client.get(path.rstrip("/"))
    assert (response.status_code, response.content) == (200, without.content)


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/analyze", "/v1/models"])
def test_pages_of_an_allowed_origin_may_call_the_server(client: httpx.Client, path: str) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = client.options(path, headers={"Origin": ALLOWED_ORIGIN} | asks)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ALLOWED_ORIGIN)
    refused = client.options(path, headers={"Origin": "https://other.example"} | asks)
    assert "access-control-allow-origin" not in refused.headers
    # Errors have the header too, or the page could not read them.
    answer = client.post(path, content=b"", headers={"Origin": ALLOWED_ORIGIN})
    assert answer.status_code in {400, 405}
    assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


@pytest.fixture(scope="module")
def hugging(server: str) -> Callable[[str], InferenceClient]:
    return lambda task: InferenceClient(model=f"{server}/v1/{task}/huggingface", token="unused")


def test_hugging_faces_client_classifies(hugging: Callable[[str], InferenceClient], client: httpx.Client) -> None:
    ours = client.post("/v1/classify", content=JPEG).json()["predictions"]
    found = hugging("classify").image_classification(JPEG)
    assert [(one.label, one.score) for one in found] == [(one["label"], one["score"]) for one in ours]
    assert len(hugging("classify").image_classification(JPEG, top_k=2, function_to_apply="softmax")) == 2
    with pytest.raises(HfHubHTTPError, match="Bad request"):
        hugging("classify").image_classification(JPEG, function_to_apply="sigmoid")


def test_hugging_faces_client_detects(hugging: Callable[[str], InferenceClient], client: httpx.Client) -> None:
    astronaut = encoded(photo("astronaut"))
    ours = client.post("/v1/detect?score_threshold=0.1", content=astronaut).json()["predictions"]
    found = hugging("detect").object_detection(astronaut, threshold=0.1)
    assert [(one.label, one.score) for one in found] == [(one["label"], one["score"]) for one in ours]
    box = found[0].box
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == tuple(map(round, ours[0]["box"]))
    assert len(hugging("detect").object_detection(astronaut)) <= len(found)


def test_hugging_faces_client_segments(hugging: Callable[[str], InferenceClient], client: httpx.Client) -> None:
    astronaut = encoded(photo("astronaut"))
    drawn = client.post("/v1/segment?mask_format=polygon", content=astronaut).json()["predictions"]
    parameters = {"threshold": 0.5, "mask_threshold": 0.5, "subtask": "instance"}
    for found in (
        hugging("segment").image_segmentation(astronaut),
        hugging("segment").image_segmentation(astronaut, **parameters),
    ):
        assert [(one.label, one.score) for one in found] == [(one["label"], one["score"]) for one in drawn]
        mask = np.asarray(found[0].mask)
        assert (found[0].mask.size, set(np.unique(mask))) == ((512, 512), {0, 255})
        x1, y1, x2, y2 = drawn[0]["box"]
        ys, xs = np.nonzero(mask)
        assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx((x1, y1, x2, y2), abs=12)


def test_the_hugging_face_form_names_what_is_wrong(client: httpx.Client) -> None:
    path = "/v1/detect/huggingface"
    for request, code in (
        ({"json": {"inputs": TEXT, "parameters": {"top": 1}}}, "unknown_parameter"),
        ({"json": {"inputs": TEXT, "parameters": {"top_k": 1}}}, "unknown_parameter"),
        ({"json": {"inputs": TEXT, "parameters": {"threshold": 2}}}, "invalid_parameter"),
        ({"json": {"image": TEXT}}, "invalid_json"),
        ({"json": {"inputs": None}}, "invalid_json"),
        ({"content": b"hello"}, "not_an_image"),
        ({"files": {"image": SMALL}}, "invalid_multipart"),
    ):
        assert client.post(path, **request).json()["code"] == code
    assert client.get(path).status_code == 405


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
@pytest.mark.parametrize("task", TASKS)
def test_an_image_of_any_shape_is_answered_and_drawn(client: httpx.Client, task: str, size: tuple[int, int]) -> None:
    thin = encoded(photo("coffee").resize(size))
    response = client.post(f"/v1/{task}", content=thin)
    assert (response.status_code, response.json()["image"]) == (200, {"width": size[0], "height": size[1]})
    assert client.post(f"/v1/{task}", content=thin, headers={"Accept": "image/png"}).status_code == 200
