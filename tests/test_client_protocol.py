"""The SDK with servers that fail, are slow or send nonsense: errors, retries, many images, and imports."""

import io
import itertools
import json
import logging
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import foursight
from foursight import (
    CannotConnect,
    Client,
    DeadlineExceeded,
    Failed,
    FoursightError,
    InvalidAnswer,
    Overloaded,
    Rejected,
    Result,
    ServerError,
    TimedOut,
    UnreadableImage,
)
from foursight.clients.sdk import async_client, client, protocol
from foursight.clients.sdk.responses import retry_delay
from foursight.schema import Problem
from tests import twins
from tests.conftest import free_port
from tests.photos import encoded
from tests.scripted import Asked, Reply, Scripted

ANSWER = {
    "model": "stub",
    "image": {"width": 8, "height": 6},
    "predictions": [{"label": "cat", "class_id": 3, "score": 0.75, "box": [1, 2, 5, 6]}],
}
GOOD = Reply(json.dumps(ANSWER).encode())
PHOTO = encoded(Image.new("RGB", (8, 6)))


def problem(status: int, code: str = "some_code") -> Problem:
    return Problem(type=f"/docs#{code}", title="Title", status=status, code=code, detail="Wrong.", hint="Do right.")


def refusal(status: int, **headers: str) -> Reply:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(problem(status).model_dump_json().encode(), status, headers)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the delays of a client without waiting."""
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(client.time, "sleep", waited.append)
    monkeypatch.setattr(async_client.asyncio, "sleep", note)
    return waited


@pytest.mark.parametrize("kind", twins.KINDS)
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refusal(404), Rejected),
        (refusal(413), Rejected),
        (refusal(429), Overloaded),
        (refusal(500), ServerError),
        (refusal(503), Overloaded),
        (Reply(b"<html>bad gateway", 502), ServerError),
        (Reply(b"<html>hello", 200), InvalidAnswer),
        (Reply(b'{"predictions": 3}', 200), InvalidAnswer),
        (Reply(b"", 302, {"Location": "/elsewhere"}), InvalidAnswer),
        (Reply(None), CannotConnect),
    ],
)
def test_each_failure_is_an_error_with_the_request_id(kind: str, reply: Reply, error: type[FoursightError]) -> None:
    with Scripted(lambda _: reply) as server, twins.make(kind, server.url, retries=0) as asking:
        with pytest.raises(FoursightError) as caught:
            asking.classify(PHOTO)
        assert type(caught.value) is error
        assert caught.value.request_id == server.asked[0].headers["X-Request-ID"]
        assert caught.value.request_id in str(caught.value)
        if reply.body and b"some_code" in reply.body:
            told = caught.value
            assert (told.status, told.code, told.detail, told.hint) == (
                reply.status,
                "some_code",
                "Wrong.",
                "Do right.",
            )
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (error, str(caught.value))


@pytest.mark.parametrize("kind", twins.KINDS)
def test_a_model_that_a_lost_attempt_has_unloaded_is_unloaded(kind: str, pauses: list[float]) -> None:
    missing = Reply(problem(404, "unknown_model").model_dump_json().encode(), 404)
    replies = iter([Reply(None), missing, missing])
    with Scripted(lambda _: next(replies)) as server, twins.make(kind, server.url, retries=1) as asking:
        asking.unload_model("cups")
        assert len(server.asked) == 2
        # Without an earlier attempt, the 404 means that the model never existed.
        with pytest.raises(Rejected) as refused:
            asking.unload_model("cups")
    assert refused.value.code == "unknown_model"


@pytest.mark.parametrize("kind", twins.KINDS)
def test_the_request_id_of_the_response_is_reported(kind: str) -> None:
    reply = refusal(400, X_Request_ID="the-servers-own")
    with Scripted(lambda _: reply) as server, twins.make(kind, server.url) as asking:
        with pytest.raises(Rejected) as caught:
            asking.classify(PHOTO)
        assert caught.value.request_id == "the-servers-own"


@pytest.mark.parametrize("kind", twins.KINDS)
def test_a_server_that_does_not_respond_times_out_and_is_not_retried(kind: str, pauses: list[float]) -> None:
    given_up = threading.Event()

    def slow(_: Asked) -> Reply:
        given_up.wait(60)
        return GOOD

    with Scripted(slow) as server, twins.make(kind, server.url, timeout=1) as asking:
        with pytest.raises(TimedOut):
            asking.classify(PHOTO)
        given_up.set()
        assert len(server.asked) == 1


@pytest.mark.parametrize("kind", twins.KINDS)
def test_the_server_is_told_the_timeout_and_may_give_up_first(kind: str) -> None:
    late = Reply(problem(504, "deadline_exceeded").model_dump_json().encode(), 504)
    replies = iter([GOOD, late])
    with Scripted(lambda _: next(replies)) as server, twins.make(kind, server.url, timeout=2.5) as asking:
        asking.classify(PHOTO)
        with pytest.raises(TimedOut) as caught:
            asking.classify(PHOTO)
        assert isinstance(caught.value, DeadlineExceeded)
        assert pickle.loads(pickle.dumps(caught.value)).code == "deadline_exceeded"
    assert [asked.headers["Request-Timeout"] for asked in server.asked] == ["2.5", "2.5"]


@pytest.mark.parametrize("kind", twins.KINDS)
def test_temporary_failures_are_retried_and_logged(
    kind: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    replies = iter([Reply(None), refusal(503, Retry_After="3"), refusal(429), GOOD])
    with (
        caplog.at_level(logging.WARNING, "foursight"),
        Scripted(lambda _: next(replies)) as server,
        twins.make(kind, server.url) as asking,
    ):
        assert asking.classify(PHOTO).predictions[0].label == "cat"
    assert len(server.asked) == 4
    assert {asked.body for asked in server.asked} == {PHOTO}
    assert len({asked.headers["X-Request-ID"] for asked in server.asked}) == 1
    first, second, third = pauses
    assert 0 < first <= 0.25
    assert 3 < second <= 3.5
    assert 0 < third <= 1
    assert ["attempt 2 of 6" in caplog.messages[0], "attempt 4 of 6" in caplog.messages[2]] == [True, True]


@pytest.mark.parametrize("kind", twins.KINDS)
def test_retries_end(kind: str, pauses: list[float]) -> None:
    with Scripted(lambda _: refusal(503)) as server, twins.make(kind, server.url, retries=3) as asking:
        with pytest.raises(Overloaded):
            asking.classify(PHOTO)
        assert len(server.asked) == 4
    with twins.make(kind, f"http://127.0.0.1:{free_port()}", retries=2) as asking:
        with pytest.raises(CannotConnect):
            asking.classify(PHOTO)
        assert asking.ready() is False
    assert len(pauses) == 3 + 2


def test_retry_after_may_be_a_number_or_a_date_and_a_long_one_is_an_error(pauses: list[float]) -> None:
    asked_for = ["7", formatdate(time.time() + 30, usegmt=True), "soon"]
    replies = iter([*(refusal(503, Retry_After=value) for value in asked_for), GOOD, refusal(503, Retry_After="3600")])
    with Scripted(lambda _: next(replies)) as server, Client(server.url) as asking:
        asking.classify(PHOTO)
        assert pauses == [pytest.approx(7.2, abs=0.3), pytest.approx(30, abs=5), pytest.approx(0.75, abs=0.25)]
        with pytest.raises(Overloaded) as caught:
            asking.classify(PHOTO)
    assert caught.value.retry_after == 3600
    assert len(pauses) == 3


def test_the_retry_delay_grows_and_is_random_and_bounded() -> None:
    error = CannotConnect("no")
    waits = [[retry_delay(error, attempt, 99) for _ in range(200)] for attempt in range(12)]
    for attempt, found in enumerate(waits):
        longest = min(8.0, 0.25 * 2**attempt)
        assert longest / 2 <= min(found) < 0.6 * longest
        assert 0.9 * longest < max(found) <= longest
    for hopeless in (TimedOut("no"), Rejected(problem(400)), ServerError(problem(500)), UnreadableImage("no")):
        assert retry_delay(hopeless, 0, 99) is None


@pytest.mark.parametrize("kind", twins.KINDS)
def test_the_api_key_is_sent_as_a_bearer_token_with_every_request(kind: str) -> None:
    with Scripted(lambda _: GOOD) as server, twins.make(kind, server.url, api_key="secret") as asking:
        asking.classify(PHOTO)
        asking.ready()
    assert [asked.headers["Authorization"] for asked in server.asked] == ["Bearer secret"] * 2


@pytest.mark.parametrize("kind", twins.KINDS)
@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("missing.jpg", "missing.jpg"),
        (Path("/"), "/"),
        (np.zeros((4, 4, 3)), "uint8"),
        (np.zeros((3, 5, 5), np.uint8), "[3, 5, 5]"),
        (np.zeros((0, 4, 3), np.uint8), "[0, 4, 3]"),
        (io.StringIO("text"), "'rb'"),
        (17, "int"),
        ("http://127.0.0.1:9/photo.jpg", "http://127.0.0.1:9/photo.jpg"),
        ("http://", "http://"),
    ],
)
def test_an_unreadable_image_is_an_error_and_nothing_is_sent(kind: str, image: Any, said: str) -> None:
    with Scripted(lambda _: GOOD) as server, twins.make(kind, server.url) as asking:
        with pytest.raises(UnreadableImage) as caught:
            asking.classify(image)
        assert said in str(caught.value)
        assert server.asked == []


@pytest.mark.parametrize("kind", twins.KINDS)
def test_a_fetched_image_has_a_size_limit_and_follows_redirects(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_DOWNLOAD_BYTES", 1000)
    pages = {
        "/good": Reply(PHOTO),
        "/moved": Reply(b"", 302, {"Location": "/good"}),
        "/large": Reply(bytes(1001)),
        # Without Content-Length, the end of the connection ends the body.
        "/endless": Reply(bytes(1_000_000), headers={"Content-Length": ""}),
        "/missing": Reply(b"no", 404),
    }
    with (
        Scripted(lambda asked: pages[asked.path]) as web,
        Scripted(lambda _: GOOD) as server,
        twins.make(kind, server.url) as asking,
    ):
        for path in ("/good", "/moved"):
            asking.classify(web.url + path)
        assert [asked.body for asked in server.asked] == [PHOTO, PHOTO]
        for path, said in (("/large", "1,000 bytes"), ("/endless", "1,000 bytes"), ("/missing", "404")):
            with pytest.raises(UnreadableImage, match=said):
                asking.classify(web.url + path)
        assert len(server.asked) == 2


@pytest.mark.parametrize("kind", twins.KINDS)
def test_concurrency_limits_requests_and_connections_and_little_is_read_ahead(kind: str) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for taken in itertools.count(1):  # noqa: B007
            yield PHOTO

    def answer(asked: Asked) -> Reply:
        time.sleep(0.01)
        return GOOD

    with Scripted(answer) as server, twins.make(kind, server.url) as asking:
        results = asking.classify_many(endless(), concurrency=3)
        assert len(list(itertools.islice(results, 40))) == 40
        results.close()
        assert taken <= 40 + 5 * 3
        assert server.most_at_once == 3
        assert server.connections == 3


@pytest.mark.parametrize("kind", twins.KINDS)
def test_a_slow_image_keeps_its_place_and_each_failure_is_reported(kind: str) -> None:
    def answer(asked: Asked) -> Reply:
        number = int(asked.body)
        time.sleep(0.3 if number == 0 else 0)
        if number % 5 == 3:
            return refusal(500)
        return Reply(json.dumps(ANSWER | {"model": str(number)}).encode())

    images = [str(number).encode() for number in range(20)]
    with Scripted(answer) as server, twins.make(kind, server.url) as asking:
        outcomes = list(asking.detect_many(images, concurrency=4))
    for number, outcome in enumerate(outcomes):
        if number % 5 == 3:
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, ServerError)
            assert outcome.image == images[number]
        else:
            assert outcome.model == str(number)


@pytest.mark.parametrize("kind", twins.KINDS)
def test_a_list_of_all_results_does_not_hold_the_images(kind: str) -> None:
    photos = (number.to_bytes(2) * 200_000 for number in range(100))
    with Scripted(lambda _: GOOD) as server, twins.make(kind, server.url) as asking:
        # The bodies that the server records must not be counted.
        server.asked = _Nothing()
        tracemalloc.start()
        results = list(asking.classify_many(photos, concurrency=2))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(results) == 100
    # All 100 images together are 40 MB. At most 8 are in flight, each of them here, in socket buffers and in the
    # server.
    assert peak < 20_000_000
    with pytest.raises(ValueError, match=r"result\.draw\(image\)"):
        results[0].draw()
    assert results[0].draw(Image.new("RGB", (8, 6))).size == (8, 6)
    with pytest.raises(UnreadableImage, match="9 x 6"):
        results[0].draw(Image.new("RGB", (9, 6)))


class _Nothing(list[Any]):
    def append(self, _: Any) -> None:
        pass


@pytest.mark.parametrize("images", ["photo.jpg", b"bytes", Path("photo.jpg")])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_a_single_image_instead_of_many_is_an_error(kind: str, images: Any) -> None:
    with twins.make(kind, "http://127.0.0.1:9") as asking, pytest.raises(TypeError, match="list"):
        list(asking.classify_many(images))


@pytest.mark.parametrize("kind", twins.KINDS)
def test_an_analysis_has_a_result_or_an_error_for_each_task(kind: str) -> None:
    detected = {"label": "dog", "class_id": 18, "score": 0.5, "box": [1, 1, 4, 3]}
    breed = {"label": "pug", "class_id": 254, "score": 0.9, "wnid": "n02110958"}
    analysis = {
        "image": {"width": 8, "height": 6},
        "tasks": {
            "classify": ANSWER | {"predictions": [breed]},
            "detect": ANSWER | {"predictions": [detected | {"classification": [breed]}]},
            "segment": {"error": problem(503, "unavailable").model_dump()},
        },
        "then": {"error": problem(500, "internal_error").model_dump()},
    }
    with (
        Scripted(lambda _: Reply(json.dumps(analysis).encode())) as server,
        twins.make(kind, server.url) as asking,
    ):
        found = asking.analyze(PHOTO, tasks=["classify", "detect", "segment"], then="classify")
        (again,) = asking.analyze_many([PHOTO])
        large = asking.analyze(Image.new("RGB", (80, 60)), max_side=8)
    assert server.asked[0].path == "/v1/analyze"
    assert server.asked[0].query == {"tasks": "classify,detect,segment", "then": "classify"}
    assert found["detect"].predictions[0].classification[0].label == "pug"
    assert (
        json.loads(found.model_dump_json(exclude_none=True))
        == analysis
        == again.model_dump(exclude_none=True, mode="json")
    )
    assert list(found.failed) == list(large.failed) == ["segment", "then"]
    with pytest.raises(Overloaded) as caught:
        found["segment"]
    assert caught.value.code == "unavailable"
    assert found.draw().size == (8, 6)
    assert large["detect"].predictions[0].box == (10, 10, 40, 30)
    assert large.draw().size == (80, 60)


@pytest.mark.parametrize("kind", twins.KINDS)
def test_any_task_is_run_by_its_name_with_its_own_options(kind: str) -> None:
    with Scripted(lambda _: GOOD) as server, twins.make(kind, server.url) as asking:
        options = {"count": 3, "names": ["red", "blue"], "rounded": True, "unit": 0.5, "model": None}
        assert asking.run("colours", PHOTO, **options).predictions[0].label == "cat"
        (result,) = asking.run_many("colours", [Image.new("RGB", (80, 60))], max_side=8, **options)
        asking.run("a/b", PHOTO)
    assert result.predictions[0].box == (10, 20, 50, 60)
    first, second, third = server.asked
    assert first.path == second.path == "/v1/colours"
    assert first.query == second.query == {"count": "3", "names": "red,blue", "rounded": "true", "unit": "0.5"}
    assert third.path == "/v1/a%2Fb"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", ""])
@pytest.mark.parametrize("kind", twins.KINDS)
def test_an_invalid_address_is_an_error(kind: str, url: str) -> None:
    with pytest.raises(ValueError, match="http://"):
        twins.make(kind, url)


HEAVY = {"ray", "torch", "torchvision", "starlette", "fastapi", "pandas", "supervision"}


@pytest.mark.parametrize(
    ("statement", "foreign"),
    [
        ("import foursight", {"ray", "torch", "click", "rich", "httpx", "numpy"}),
        ("from foursight import *", HEAVY),
        ("import foursight.clients.sdk", HEAVY),
    ],
)
def test_the_client_imports_nothing_heavy(statement: str, foreign: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert foreign.isdisjoint(loaded)


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_a_missing_optional_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = Result.model_validate({"model": "stub", "image": {"width": 1, "height": 1}, "predictions": []})
    with pytest.raises(ModuleNotFoundError, match=f"{package} is not installed: pip install {package}"):
        getattr(result, f"to_{package}")()


def test_all_exported_names_exist() -> None:
    for name in foursight.__all__:
        assert getattr(foursight, name).__name__ == name
    with pytest.raises(AttributeError):
        foursight.nothing  # noqa: B018


@pytest.mark.parametrize("url", ["HTTP://{}", "http://{}/v1", "http://{}/v1/", " http://{}/\n", "http://{}/?x=1"])
def test_an_address_is_understood_as_it_was_meant(url: str) -> None:
    with Scripted(lambda _: GOOD) as server, Client(url.format(server.url.removeprefix("http://"))) as asking:
        asking.classify(PHOTO)
        assert server.asked[0].path == "/v1/classify"


def test_an_address_may_have_the_path_of_a_reverse_proxy() -> None:
    with Scripted(lambda _: GOOD) as server, Client(f"{server.url}/vision/v1/") as asking:
        asking.classify(PHOTO)
        assert server.asked[0].path == "/vision/v1/classify"


@pytest.mark.parametrize("kind", twins.KINDS)
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks4://127.0.0.1:9", "http://127.0.0.1:9", "nonsense"])
@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy", "HTTPS_PROXY"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(
    kind: str, variable: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy)
    with Scripted(lambda _: GOOD) as server, twins.make(kind, server.url) as asking:
        assert asking.classify(PHOTO).predictions[0].label == "cat"


@pytest.mark.parametrize("kind", twins.KINDS)
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ALL_PROXY": "socks5://proxy.example:1080"}, ["ALL_PROXY", "httpx[socks]"]),
        ({"HTTP_PROXY": "socks4://proxy.example:1080"}, ["HTTP_PROXY", "socks4"]),
        ({"NO_PROXY": "fe80::/10", "HTTP_PROXY": "http://127.0.0.1:9"}, ["NO_PROXY", "HTTP_PROXY"]),
        ({"http_proxy": "http://name:secret@127.0.0.1:9"}, ["through the proxy 127.0.0.1:9"]),
    ],
)
def test_an_error_names_the_proxy(
    kind: str, variables: dict[str, str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asking = twins.make(kind, "http://vision.example:8000", retries=0)
    with pytest.raises(CannotConnect) as caught:
        asking.classify(PHOTO)
    assert [part for part in said if part not in str(caught.value)] == []
    assert "secret" not in str(caught.value)


def test_a_response_of_a_proxy_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted(lambda _: Reply(b"<html>denied", 403)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with Client("http://vision.example") as asking, pytest.raises(Rejected) as caught:
            asking.classify(PHOTO)
    assert f"through the proxy {proxy.url}" in caught.value.detail
