"""Several tasks for one upload, over a real socket: each part is what the task answers alone."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from math import ceil, floor

import httpx
import pytest
from openapi_spec_validator import validate
from PIL import Image

from foursight.schema import Analysis, Answer, Failure, Problem
from foursight.schema.readiness import Fault, Readiness
from foursight.schema.tasks import TASKS
from tests.conftest import MAX_QUEUE, kill_worker, log_of
from tests.photos import encoded, photo, run_length_bmp
from tests.test_server import counted

# Places of each task and of analyze: the queue and one batch of 8.
PLACES = MAX_QUEUE + 8
ASTRONAUT = encoded(photo("astronaut"), "JPEG", quality=95)


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=120) as client:
        yield client


def analyze(client: httpx.Client, data: bytes, **parameters: object) -> Analysis:
    response = client.post("/v1/analyze", content=data, params=parameters)
    assert response.status_code == 200, response.text
    return Analysis.model_validate_json(response.content)


def alone(client: httpx.Client, task: str, data: bytes, **parameters: object) -> Answer:
    return Answer.model_validate_json(client.post(f"/v1/{task}", content=data, params=parameters).content)


def assert_same(part: Answer | Failure, single: Answer) -> None:
    """Compare up to rounding: scores and boxes differ slightly if images are computed in other batches."""
    assert isinstance(part, Answer)
    assert (part.model, part.image) == (single.model, single.image)
    assert [one.label for one in part.predictions] == [one.label for one in single.predictions]
    for one, other in zip(part.predictions, single.predictions, strict=True):
        assert one.score == pytest.approx(other.score, abs=0.002)
        assert (one.box is None) == (other.box is None)
        if one.box and other.box:
            assert one.box == pytest.approx(other.box, abs=0.5)
        assert one.mask == other.mask


@pytest.fixture(scope="module")
def whole(client: httpx.Client) -> Analysis:
    return analyze(client, ASTRONAUT)


@pytest.mark.parametrize("task", TASKS)
def test_each_part_is_what_the_task_answers_alone(client: httpx.Client, whole: Analysis, task: str) -> None:
    assert list(whole.tasks) == list(TASKS)
    assert (whole.image.width, whole.image.height) == (512, 512)
    assert whole.tasks[task].predictions
    assert_same(whole.tasks[task], alone(client, task, ASTRONAUT))


def test_the_requested_tasks_answer_in_their_order_and_each_gets_the_options_it_has(client: httpx.Client) -> None:
    asked = {"top_k": 2, "score_threshold": 0.1, "mask_format": "none"}
    found = analyze(client, ASTRONAUT, tasks="segment,classify", **asked)
    assert list(found.tasks) == ["segment", "classify"]
    assert_same(found.tasks["segment"], alone(client, "segment", ASTRONAUT, score_threshold=0.1, mask_format="none"))
    assert_same(found.tasks["classify"], alone(client, "classify", ASTRONAUT, score_threshold=0.1, top_k=2))


def test_a_rotated_image_is_upright_for_every_task(client: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = photo("astronaut").crop((0, 0, 400, 512))
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    found = analyze(client, turned, tasks="classify,detect")
    assert (found.image.width, found.image.height) == (400, 512)
    for task, part in found.tasks.items():
        assert_same(part, alone(client, task, encoded(upright)))


def test_a_class_that_one_task_lacks_does_not_affect_the_others(client: httpx.Client) -> None:
    found = analyze(client, ASTRONAUT, tasks="classify,detect,localize", classes="person")
    assert isinstance(found.tasks["classify"], Failure)
    assert (found.tasks["classify"].error.code, found.tasks["classify"].error.status) == ("unknown_class", 400)
    assert_same(found.tasks["detect"], alone(client, "detect", ASTRONAUT, classes="person"))
    assert_same(found.tasks["localize"], alone(client, "localize", ASTRONAUT))


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("tasks=detect", "detect"),
        ("tasks=detect,segment&score_threshold=0.3", "segment"),
        ("tasks=localize&top_k=2", "localize"),
    ],
)
def test_each_object_is_classified_as_its_region_is_alone(client: httpx.Client, query: str, named: str) -> None:
    found = Analysis.model_validate_json(
        client.post(f"/v1/analyze?{query}&then=classify", content=encoded(photo("astronaut"))).content
    )
    assert found.then is None
    objects = found.tasks[named].predictions
    assert objects
    for one in objects:
        left, top, right, bottom = one.box
        x, y = (right - left) / 10, (bottom - top) / 10
        cut = photo("astronaut").crop(
            (max(0, floor(left - x)), max(0, floor(top - y)), min(512, ceil(right + x)), min(512, ceil(bottom + y)))
        )
        expected = alone(client, "classify", encoded(cut), top_k=2 if "top_k" in query else 5).predictions
        assert [label.wnid for label in one.classification] == [label.wnid for label in expected]
        assert [label.score for label in one.classification] == pytest.approx([e.score for e in expected], abs=0.002)


def test_only_the_sixteen_best_objects_are_classified(client: httpx.Client) -> None:
    found = analyze(client, ASTRONAUT, tasks="detect", then="classify", score_threshold=0.05)
    objects = found.tasks["detect"].predictions
    assert len(objects) > 16
    assert [one.score for one in objects] == sorted((one.score for one in objects), reverse=True)
    assert [one.classification is not None for one in objects] == [index < 16 for index in range(len(objects))]


def test_without_objects_nothing_is_classified(client: httpx.Client) -> None:
    grey = encoded(Image.new("RGB", (64, 48), "grey"))
    found = analyze(client, grey, tasks="detect", then="classify")
    assert found.tasks["detect"].predictions == []
    assert found.then is None


REFUSED = {
    "a task that is none": ("tasks=describe", 400, "invalid_parameter", "describe"),
    "no task": ("tasks=", 400, "invalid_parameter", "tasks"),
    "a parameter that nobody knows": ("topk=3", 400, "unknown_parameter", "topk"),
    "a parameter of a task not asked": (
        "tasks=classify,detect&mask_format=rle",
        400,
        "unknown_parameter",
        "mask_format",
    ),
    "a value that no task can take": ("top_k=0", 400, "invalid_parameter", "top_k"),
    "a value that one task cannot take": ("score_threshold=0.01", 400, "invalid_parameter", "score_threshold"),
    "a parameter given twice": ("top_k=1&top_k=2", 400, "invalid_parameter", "top_k"),
    "nothing to classify": ("tasks=classify&then=classify", 400, "invalid_parameter", "then"),
    "another step": ("then=segment", 400, "invalid_parameter", "then"),
    "a class that no task has": ("tasks=classify,detect&classes=persn", 400, "unknown_class", "persn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_query_is_refused(client: httpx.Client, case: str) -> None:
    query, status, code, named = REFUSED[case]
    response = client.post(f"/v1/analyze?{query}", content=ASTRONAUT)
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content)
    assert (response.status_code, problem.status, problem.code) == (status, status, code)
    assert named in problem.detail
    assert problem.hint


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"hello world, this is text", {}, 415, "not_an_image"),
        (b"", {}, 400, "empty_body"),
        (ASTRONAUT[: len(ASTRONAUT) // 2], {}, 422, "truncated_image"),
        (encoded(Image.new("1", (8000, 7000))), {}, 413, "too_many_pixels"),
        (bytes(33 * 2**20), {}, 413, "body_too_large"),
        (b"{}", {"Content-Type": "application/xml"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/json"}, 400, "invalid_json"),
        (ASTRONAUT, {"Accept": "image/png"}, 406, "not_acceptable"),
    ],
)
def test_an_error_of_the_image_is_one_error_for_the_whole_request(
    client: httpx.Client, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = client.post("/v1/analyze", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]


def test_a_form_with_one_image_is_answered_and_one_with_two_is_refused(client: httpx.Client) -> None:
    form = client.post("/v1/analyze?tasks=classify", files={"image": ASTRONAUT})
    assert form.json() == client.post("/v1/analyze?tasks=classify", content=ASTRONAUT).json()
    two = client.post("/v1/analyze", files=[("image", ASTRONAUT)] * 2)
    assert (two.status_code, two.json()["code"]) == (400, "too_many_images")
    assert "POST" in client.get("/v1/analyze").headers["allow"]


def test_concurrent_analyses_each_answer_their_own_image(client: httpx.Client) -> None:
    photos = [
        encoded(image.resize((width, height)))
        for image, width, height in [
            (photo("astronaut"), 512, 512),
            (photo("coffee"), 600, 400),
            (photo("chelsea"), 451, 300),
            (photo("astronaut"), 300, 420),
        ]
    ]
    single = [{task: alone(client, task, data) for task in TASKS} for data in photos]
    with ThreadPoolExecutor(len(photos)) as pool:
        together = list(pool.map(lambda data: analyze(client, data), photos))
    for found, expected in zip(together, single, strict=True):
        for task in TASKS:
            assert_same(found.tasks[task], expected[task])


# As large as is allowed: images of this size are decoded one at a time.
SLOW = run_length_bmp(49_000, 1_000)


@contextmanager
def full(server: str, client: httpx.Client, path: str) -> Iterator[None]:
    """Fill a task's queue with images that take seconds to decode, one after the other, until their callers leave."""
    host, port = server.removeprefix("http://").split(":")
    task = path.split("?", maxsplit=1)[0]
    with ExitStack() as stack:
        for _ in range(PLACES):
            caller = stack.enter_context(socket.create_connection((host, int(port))))
            head = f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(SLOW)}\r\n\r\n"
            caller.sendall(head.encode() + SLOW)
        until(lambda: waiting(client, task) == PLACES)
        yield
    until(lambda: waiting(client, task) == 0)


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail after two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def waiting(client: httpx.Client, task: str) -> float:
    """Return the number of images that a task has admitted and not yet answered."""
    return metric(client, "foursight_queue_images", task)


def metric(client: httpx.Client, name: str, task: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{") and f'"{task}"' in line)


def test_a_full_task_is_an_error_in_its_part_only(client: httpx.Client, server: str) -> None:
    with full(server, client, "segment"):
        found = analyze(client, ASTRONAUT, tasks="classify,segment")
        only = client.post("/v1/analyze?tasks=segment", content=ASTRONAUT)
    assert isinstance(found.tasks["classify"], Answer)
    assert isinstance(found.tasks["segment"], Failure)
    assert (found.tasks["segment"].error.code, found.tasks["segment"].error.status) == ("overloaded", 503)
    assert (only.status_code, only.json()["code"]) == (503, "overloaded")
    assert int(only.headers["retry-after"]) >= 1


def test_objects_are_returned_without_labels_if_the_classifier_is_full(client: httpx.Client, server: str) -> None:
    with full(server, client, "classify"):
        found = analyze(client, ASTRONAUT, tasks="localize", then="classify")
    assert found.tasks["localize"].predictions[0].classification is None
    assert found.then is not None
    assert found.then.error.code == "overloaded"


def test_a_full_analyze_queue_refuses_analyses_and_not_the_tasks(client: httpx.Client, server: str) -> None:
    with full(server, client, "analyze?tasks=classify"):
        # The request is refused by its headers alone: the body is never sent.
        host, port = server.removeprefix("http://").split(":")
        refused = http.client.HTTPConnection(host, int(port), timeout=60)
        refused.putrequest("POST", "/v1/analyze")
        refused.putheader("Content-Length", "1000")
        refused.endheaders()
        response = refused.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == (503, "overloaded")
        # It is estimated from earlier analyses.
        assert int(response.headers["Retry-After"]) > 1
        assert client.post("/v1/classify", content=ASTRONAUT).status_code == 200


def test_hanging_up_leaves_no_work_behind(client: httpx.Client, server: str) -> None:
    before = metric(client, "foursight_images_total", "segment")
    host, port = server.removeprefix("http://").split(":")
    head = f"POST /v1/analyze?tasks=segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(ASTRONAUT)}\r\n\r\n"
    callers = [socket.create_connection((host, int(port))) for _ in range(20)]
    for caller in callers:
        caller.sendall(head.encode() + ASTRONAUT)
    until(lambda: waiting(client, "segment") >= 10)
    for caller in callers:
        caller.close()
    until(lambda: waiting(client, "segment") + waiting(client, "analyze") == 0)
    # The batch in the network is finished; images in the queue are dropped.
    assert metric(client, "foursight_images_total", "segment") - before < len(callers)
    assert_same(analyze(client, ASTRONAUT, tasks="segment").tasks["segment"], alone(client, "segment", ASTRONAUT))


def test_a_killed_worker_fails_its_own_part_only_and_comes_back(client: httpx.Client, server: str) -> None:
    faults: list[Fault] = []

    def is_ready() -> bool:
        response = client.get("/readyz")
        state = Readiness.model_validate_json(response.content)
        assert state.ready == (response.status_code == 200)
        faults.extend(state.faults)
        return state.ready and not state.faults

    def is_back(path: str) -> bool:
        # Until then, a request is held, or refused with Retry-After. It uses a new connection, because HAProxy may
        # close a used one without an answer and leave the retry to the client.
        is_ready()
        response = httpx.post(f"{server}{path}", content=ASTRONAUT, timeout=60)
        if response.status_code == 200:
            return True
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert response.headers["retry-after"]
        return False

    models = client.get("/v1/models").json()["models"]
    before = datetime.now(UTC).replace(microsecond=0)
    kill_worker(server, "localize")
    layers = client.get("/v1/models/localize/layers")
    assert (layers.status_code, layers.json()["code"]) == (503, "unavailable")
    absent = client.get("/v1/models").json()["models"]
    assert absent == [one | {"replicas": int(one["task"] != "localize")} for one in models]
    found = analyze(client, ASTRONAUT, tasks="classify,localize")
    assert_same(found.tasks["classify"], alone(client, "classify", ASTRONAUT))
    assert isinstance(found.tasks["localize"], Failure)
    assert found.tasks["localize"].error.code == "unavailable"
    until(lambda: is_back("/v1/localize"))
    until(lambda: is_back("/v1/analyze?tasks=localize"))
    until(is_ready)
    assert {one.part for one in faults} == {"the worker of 'localize'"}
    assert "has ended and is started again" in {one.state for one in faults}
    assert all(before <= one.since <= datetime.now(UTC) for one in faults)
    assert "foursight serve: the worker of 'localize' has ended and is started again." in log_of(server)
    assert client.get("/readyz").json()["tasks"] == dict.fromkeys(TASKS, "ready")


def test_headers_and_metrics_cover_analyses(client: httpx.Client) -> None:
    before = counted(client, "analyze")
    response = client.post("/v1/analyze", content=ASTRONAUT, headers={"X-Request-ID": "mine"})
    client.post("/v1/analyze", content=b"no picture")
    after = counted(client, "analyze")
    assert response.headers["x-request-id"] == "mine"
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert timing.keys() == {"decode", *TASKS, "total"}
    assert float(timing["total"]) >= float(timing["decode"]) + max(float(timing[task]) for task in TASKS)
    assert after["200"] == before["200"] + 1
    assert after["415"] == before.get("415", 0) + 1


def test_the_openapi_document_has_the_options_of_all_tasks(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    operation = document["paths"]["/v1/analyze"]["post"]
    names = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"]
    assert names[:2] == ["tasks", "then"]
    assert set(names[2:]) == {"model", "top_k", "score_threshold", "classes", "max_detections", "tiles", "mask_format"}
    for task, options in ((name, spec.options) for name, spec in TASKS.items()):
        told = [parameter["name"] for parameter in document["paths"][f"/v1/{task}"]["post"]["parameters"]]
        assert told == [*options.model_fields, "Request-Timeout"]
