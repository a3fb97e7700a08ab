"""What one client can take from the others, over a real socket: nothing that lasts."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from foursight.schema.limits import Limits
from foursight.serving import upload
from foursight.serving.endpoint import Endpoint
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.settings import Settings
from tests.conftest import ALLOWED_ORIGIN
from tests.photos import encoded, photo
from tests.test_analyze import PLACES
from tests.test_pipeline import Brightness

PHOTO = encoded(photo("coffee").resize((64, 48)))
# 1.6 MB, and 2.2 MB in base64.
BMP = encoded(photo("coffee").resize((900, 600)), "BMP")
TEXT = base64.b64encode(BMP).decode()


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


@contextmanager
def endpoint(task: Brightness, **settings: int) -> Iterator[Endpoint]:
    made = Endpoint("classify", task, Settings(**settings), WorkerMetrics("classify", "one"))
    try:
        yield made
    finally:
        task.gate.set()
        made.close()


def client_of(endpoint: Endpoint) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://x")


def test_every_limit_is_shown(client: httpx.Client) -> None:
    found = Limits.model_validate_json(client.get("/v1/limits").content)
    assert found.queue_images == PLACES
    assert found.image_pixels == Settings().max_image_pixels


def test_bodies_that_never_end_take_no_place(server: str, client: httpx.Client) -> None:
    host, port = server.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for path in ("classify", "classify/huggingface", "analyze"):
            for _ in range(2 * PLACES):
                slow = stack.enter_context(socket.create_connection((host, int(port))))
                slow.sendall(f"POST /v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx".encode())
        for _ in range(3):
            assert client.post("/v1/classify", content=PHOTO).status_code == 200
            assert client.post("/v1/analyze?tasks=classify", content=PHOTO).status_code == 200


def test_tables_of_layers_are_bounded_and_health_does_not_wait_for_them(client: httpx.Client) -> None:
    with ThreadPoolExecutor(40) as pool:
        sizes = range(128, 448, 8)
        asked = [pool.submit(client.get, f"/v1/models/classify/layers?size={size}") for size in sizes]
        for _ in range(5):
            assert client.get("/readyz").status_code == 200
        answers = [one.result() for one in asked]
    refused = [one for one in answers if one.status_code != 200]
    assert 0 < len(refused) < len(answers)
    assert {(one.status_code, one.json()["code"]) for one in refused} == {(503, "overloaded")}
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", {"content": BMP}),
        ("/", {"files": {"image": BMP}}),
        ("/", {"json": {"image": TEXT}}),
        ("/huggingface", {"json": {"inputs": TEXT}}),
    ],
    ids=["bytes", "multipart", "JSON", "Hugging Face"],
)
def test_bytes_in_flight_are_bounded_and_given_back(path: str, body: dict[str, Any]) -> None:
    task = Brightness()

    async def test(made: Endpoint) -> list[int | str]:
        async with client_of(made) as client:
            first = asyncio.create_task(client.post(path, **body))
            await asyncio.to_thread(task.started.wait, 60)
            second = await client.post(path, **body)
            task.gate.set()
            third = (await first, await client.post(path, **body))
            assert second.headers["retry-after"] == "1"
            return [*(one.status_code for one in third), second.json()["code"]]

    with endpoint(task, max_uploads_mib=3) as made:
        assert asyncio.run(test(made)) == [200, 200, "too_many_uploads"]


async def _slowly() -> AsyncIterator[bytes]:
    yield PHOTO[:100]
    await asyncio.sleep(3600)


def answer_of(made: Endpoint, seconds: str, body: Any = PHOTO, path: str = "/") -> httpx.Response:
    """The answer to a request with this Request-Timeout."""

    async def ask() -> httpx.Response:
        async with client_of(made) as client:
            return await client.post(path, content=body, headers={"Request-Timeout": seconds})

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/", "/huggingface"])
@pytest.mark.parametrize("body", [PHOTO, None], ids=["computing", "uploading"])
def test_what_is_not_answered_in_the_clients_time_is_ended(path: str, body: bytes | None) -> None:
    with endpoint(Brightness()) as made:
        late = answer_of(made, "0.2", body or _slowly(), path)
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        assert made.admission.admitted == 0


@pytest.mark.parametrize("path", ["/", "/huggingface"])
def test_a_queue_that_is_too_long_for_the_client_refuses_before_the_body_is_read(path: str) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    with endpoint(Brightness()) as made:
        made.admission.assume(8)
        with made.admission.reserve(1):
            assert answer_of(made, "10", never(), path).json()["code"] == "overloaded"


def test_an_upload_that_trickles_is_refused_and_one_that_keeps_pace_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "GRACE_S", 1)
    monkeypatch.setattr(upload, "MIN_RATE", len(PHOTO))

    async def trickle(pieces: int, size: int) -> AsyncIterator[bytes]:
        for start in range(0, pieces * size, size):
            yield PHOTO[start : start + size]
            await asyncio.sleep(0.1)

    task = Brightness()
    task.gate.set()
    with endpoint(task) as made:
        slow = answer_of(made, "60", trickle(pieces=100, size=1))
        assert (slow.status_code, slow.json()["code"]) == (408, "upload_too_slow")
        # It takes longer than the grace, too.
        assert answer_of(made, "60", trickle(pieces=15, size=len(PHOTO) // 15 + 1)).status_code == 200


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf"])
def test_a_timeout_that_is_no_time_is_refused(text: str) -> None:
    with endpoint(Brightness()) as made:
        refused = answer_of(made, text)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_timeout")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/analyze"), ("GET", "/v1/models/segment/layers?size=640")])
def test_the_gateway_keeps_to_the_clients_time(client: httpx.Client, method: str, path: str) -> None:
    late = client.request(method, path, content=PHOTO, headers={"Request-Timeout": "0.001"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")


def test_an_engine_that_does_not_return_from_a_batch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foursight.serving.endpoint.STUCK_S", 0)
    task = Brightness()
    with endpoint(task) as made:

        async def test() -> None:
            async with client_of(made) as client:
                assert not made.is_stuck
                asked = asyncio.create_task(client.post("/", content=PHOTO))
                await asyncio.to_thread(task.started.wait, 60)
                while not made.is_stuck:
                    await asyncio.sleep(0.01)
                task.gate.set()
                assert (await asked).status_code == 200
                assert not made.is_stuck

        asyncio.run(test())


def test_only_a_page_of_an_allowed_origin_may_post_and_no_other_name_of_the_server_is_known(
    client: httpx.Client,
) -> None:
    for origin, status in ((ALLOWED_ORIGIN, 200), ("https://evil.example", 403)):
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        assert client.post("/v1/classify", content=PHOTO, headers=headers).status_code == status
    assert client.get("/readyz", headers={"Host": "rebound.example"}).json()["code"] == "unknown_host"
