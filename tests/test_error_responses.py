"""Wrong input over a real socket: status, code and hint, no internals leaked, and the server stays up."""

import gzip
import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from foursight.schema import Problem
from tests.photos import encoded, photo
from tests.test_analyze import PLACES, full

PNG = encoded(photo("coffee"))
JPEG = encoded(photo("coffee"), "JPEG", quality=90)

CASES = {
    "an empty body": (("POST", "/v1/classify", b"", {}), 400, "empty_body"),
    "text": (("POST", "/v1/classify", b"hello world, this is text", {}), 415, "not_an_image"),
    "a PDF": (("POST", "/v1/detect", b"%PDF-1.7 blah", {}), 415, "unsupported_image_type"),
    "a video by its type": (
        ("POST", "/v1/detect", b"\x00\x00\x00\x18ftypmp42", {"Content-Type": "video/mp4"}),
        415,
        "unsupported_media_type",
    ),
    "a compressed body": (
        ("POST", "/v1/detect", gzip.compress(JPEG), {"Content-Encoding": "gzip"}),
        415,
        "unsupported_media_type",
    ),
    "an open quote": (("POST", '/v1/detect?classes="dog', JPEG, {}), 400, "invalid_parameter"),
    "half a JPEG": (("POST", "/v1/segment", JPEG[: len(JPEG) // 2], {}), 422, "truncated_image"),
    "half a PNG": (("POST", "/v1/segment", PNG[: len(PNG) // 2], {}), 422, "truncated_image"),
    "an unknown parameter": (("POST", "/v1/classify?topk=3", JPEG, {}), 400, "unknown_parameter"),
    "a parameter of another task": (("POST", "/v1/classify?mask_format=rle", JPEG, {}), 400, "unknown_parameter"),
    "a value out of range": (("POST", "/v1/detect?score_threshold=1.5", JPEG, {}), 400, "invalid_parameter"),
    "a value that is no number": (("POST", "/v1/classify?top_k=many", JPEG, {}), 400, "invalid_parameter"),
    "not a number": (("POST", "/v1/detect?score_threshold=nan", JPEG, {}), 400, "invalid_parameter"),
    "an unknown mask format": (("POST", "/v1/segment?mask_format=png", JPEG, {}), 400, "invalid_parameter"),
    "a parameter given twice": (("POST", "/v1/classify?top_k=1&top_k=2", JPEG, {}), 400, "invalid_parameter"),
    "an unknown class": (("POST", "/v1/detect?classes=persn", JPEG, {}), 400, "unknown_class"),
    "no acceptable format": (("POST", "/v1/detect", JPEG, {"Accept": "text/html"}), 406, "not_acceptable"),
    "an unknown path": (("GET", "/v2/nothing", None, {}), 404, "not_found"),
    "a path below a task": (("POST", "/v1/detect/more", JPEG, {}), 404, "not_found"),
    "GET on a task": (("GET", "/v1/detect", None, {}), 405, "method_not_allowed"),
    "POST on a page": (("POST", "/v1/models", b"", {}), 405, "method_not_allowed"),
    "a broken multipart body": (
        ("POST", "/v1/detect", b"nothing", {"Content-Type": "multipart/form-data"}),
        400,
        "invalid_multipart",
    ),
    "too large a body": (("POST", "/v1/detect", bytes(33 * 2**20), {}), 413, "body_too_large"),
}


@pytest.fixture(scope="module")
def client(server: str):
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_answered_with_problem_details(client: httpx.Client, case: str) -> None:
    (method, path, content, headers), status, code = CASES[case]
    response = client.request(method, path, content=content, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content)
    assert (problem.status, problem.code) == (status, code)
    assert problem.detail
    assert problem.hint
    assert response.headers["x-request-id"]
    assert not re.search(r"Traceback|File \"|/site-packages|/home|/tmp|0x[0-9a-f]{6,}", response.text)


def test_errors_name_the_first_bytes_the_closest_class_and_the_field(client: httpx.Client) -> None:
    assert "68 65 6c 6c 6f" in client.post("/v1/classify", content=b"hello").json()["detail"]
    assert "person" in client.post("/v1/detect?classes=persn", content=JPEG).json()["hint"]
    assert "image" in client.post("/v1/detect", data={"photo": "x"}, files={"image": JPEG}).json()["hint"]
    compressed = client.post("/v1/detect", content=gzip.compress(JPEG), headers={"Content-Encoding": "gzip"})
    assert "gzip" in compressed.json()["detail"]


def test_a_method_that_a_path_lacks_is_refused_in_the_same_words_everywhere(client: httpx.Client) -> None:
    for method, path, allowed in (("GET", "/v1/detect", "POST"), ("GET", "/v1/analyze", "POST")):
        refused = client.request(method, path)
        assert refused.headers["allow"] == allowed
        assert refused.json()["detail"] == f"{path} does not support {method}."
        assert refused.json()["hint"] == f"Use {allowed}."


def test_a_body_without_length_is_cut_off_at_the_limit(server: str) -> None:
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=60)
    chunks = (bytes(2**20) for _ in range(64))
    connection.request(
        "POST", "/v1/classify", body=chunks, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert json.loads(connection.getresponse().read())["code"] == "body_too_large"


def test_more_than_32_images_are_refused(client: httpx.Client) -> None:
    response = client.post("/v1/classify", files=[("image", JPEG)] * 33)
    assert (response.status_code, response.json()["code"]) == (400, "too_many_images")


def test_a_full_queue_refuses_at_once_with_retry_after(client: httpx.Client, server: str) -> None:
    with full(server, client, "segment"):
        refused = client.post("/v1/segment", content=JPEG)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        # Each task has its own queue.
        assert client.post("/v1/localize", content=JPEG).status_code == 200


def test_as_many_concurrent_requests_as_places_are_answered(server: str) -> None:
    limits = httpx.Limits(max_connections=PLACES)
    with ThreadPoolExecutor(PLACES) as pool, httpx.Client(base_url=server, timeout=120, limits=limits) as many:
        responses = list(pool.map(lambda _: many.post("/v1/classify", content=JPEG), range(PLACES)))
    assert {response.status_code for response in responses} == {200}
