"""The log of a server: what goes wrong in a worker is on the standard error of its process."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve.context import _set_request_context

from foursight.serving import logs
from foursight.serving.endpoint import Endpoint
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.ray_internals import environment
from foursight.serving.settings import Settings
from tests.photos import encoded, photo
from tests.test_pipeline import Brightness


class Broken(Brightness):
    def predict(self, batch: list[Any]) -> list[float]:
        raise ArithmeticError("the network is on fire\nand smokes")


def test_an_unexpected_error_is_logged_with_its_traceback_and_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(environment.CONFIG_FILE, str(tmp_path / "haproxy.cfg"))
    made = Endpoint("classify", Broken(), Settings(), WorkerMetrics("classify", "one"))

    async def ask() -> httpx.Response:
        # As Serve does for each request.
        _set_request_context(request_id="mine-1")
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/", content=encoded(photo("coffee")))

    with logs.received(tmp_path):
        logs.send("classify")
        answer = asyncio.run(ask())
    made.close()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "fire" not in answer.text
    first, *rest = capsys.readouterr().err.splitlines()
    assert " ERROR classify mine-1: " in first
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-2:] == ["ArithmeticError: the network is on fire", "and smokes"]
