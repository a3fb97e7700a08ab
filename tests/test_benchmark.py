"""`foursight benchmark`, against servers whose times and answers are known, and against the real one."""

import asyncio
import itertools
import json

import numpy as np
import pytest

from foursight.clients import benchmark
from foursight.clients.benchmark import Sample, Target
from foursight.clients.cli.app import main
from tests.conftest import free_port
from tests.scripted import Reply, Scripted
from tests.stubs import Stub

ANSWER = b'{"model": "stub", "image": {"width": 1, "height": 1}, "predictions": []}'
SERVICE = 0.02


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the warm-up to half a second."""
    monkeypatch.setattr(benchmark, "WARM_UP_S", 0.5)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the command's exit status, standard output and standard error."""
    status = main(["benchmark", *arguments])
    return status, *capsys.readouterr()


async def one_at_a_time(port: int) -> asyncio.Server:
    """Start a server that needs SERVICE seconds per request and answers one request at a time."""
    turn = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
            async with turn:
                await asyncio.sleep(SERVICE)
            timing = b"Server-Timing: queue;dur=1.5, inference;dur=18.5, batch;desc=1"
            length = str(len(ANSWER)).encode()
            writer.write(b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: %b\r\n\r\n%b" % (timing, length, ANSWER))

    return await asyncio.start_server(serve, "127.0.0.1", port)


def test_an_open_loop_counts_the_time_that_a_request_waited_to_be_sent_and_queued() -> None:
    port, rate, seconds = free_port(), 100.0, 0.5

    async def measure() -> list[Sample]:
        async with await one_at_a_time(port):
            return await benchmark.open_loop(Target(f"http://127.0.0.1:{port}/", [b"x"]), rate, seconds)

    samples = asyncio.run(measure())
    # Every request that was due was sent, although the server can answer only half of them in time.
    assert len(samples) == rate * seconds
    assert {sample.status for sample in samples} == {200}
    # A lower bound on any machine: the n-th answer takes at least n times SERVICE.
    first = round(rate * benchmark.WARM_UP_S)
    answered = np.sort([sample.due + sample.latency for sample in samples]) - (samples[0].due - first / rate)
    assert (answered >= SERVICE * np.arange(first + 1, first + 1 + len(samples)) - 0.01).all()
    found = benchmark.report("", samples, seconds)
    middle = benchmark.WARM_UP_S + seconds / 2
    assert found.p50 >= 1000 * (SERVICE * middle * rate - middle) - 20
    assert found.steps == {"queue": 1.5, "inference": 18.5}


def test_a_closed_loop_never_asks_twice_at_once() -> None:
    port = free_port()

    async def measure() -> list[Sample]:
        async with await one_at_a_time(port):
            return await benchmark.closed_loop(Target(f"http://127.0.0.1:{port}/", [b"x"]), 2, 1.0)

    samples = asyncio.run(measure())
    spans = sorted((sample.due, sample.due + sample.latency) for sample in samples)
    # With two connections, the first of three consecutive requests ends before the third begins.
    assert all(one[1] <= third[0] for one, third in zip(spans, spans[2:], strict=False))
    assert 3 <= len(samples) <= 1.5 / SERVICE


def test_quantiles_are_numpys_nearest_rank() -> None:
    for count in (1, 2, 7, 100, 101):
        values = np.sort(np.random.default_rng(count).uniform(0, 50, count).round(2))
        for share in (0.5, 0.95, 0.99, 1.0):
            expected = np.quantile(values, share, method="inverted_cdf")
            assert benchmark.quantile(values.tolist(), share) == pytest.approx(expected)


def test_answers_that_were_not_computed_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    # One third each: computed, from the cache, and shared with another request.
    said = ["foursight; fwd=miss; stored", "foursight; hit", "foursight; fwd=miss; collapsed"]
    turns = itertools.cycle(said)
    with Scripted(lambda _: Reply(ANSWER, headers={"Cache-Status": next(turns)})) as server:
        status, out, _ = run(capsys, server.url, "--connections", "1", "--seconds", "1", "--json")
        (load,) = json.loads(out)["loads"]
        assert status == 0
        assert load["cached"] == pytest.approx(2 / 3 * load["answered"], abs=1)
        _, out, _ = run(capsys, server.url, "--connections", "1", "--seconds", "1")
    assert "answers came from the server's cache" in out


def test_the_real_server_is_measured(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, server, "--connections", "2", "--rate", "8", "--seconds", "1", "--json")
    assert status == 0, err
    closed, opened = json.loads(out)["loads"]
    assert closed["answered"] > 0
    assert opened["answered"] == 8
    for load in (closed, opened):
        assert load["failed"] == load["refused"] == load["cached"] == 0
        assert 0 < load["p50"] <= load["p95"] <= load["p99"] <= load["longest"]
        assert set(load["steps"]) == {"decode", "queue", "inference", "total"}


@pytest.mark.parametrize(
    ("status", "body", "column"), [(503, b"{}", "refused"), (500, b"{}", "failed"), (200, b"<html>", "failed")]
)
def test_what_is_no_answer_is_not_counted_as_one(
    capsys: pytest.CaptureFixture[str], status: int, body: bytes, column: str
) -> None:
    with Stub(body, status) as stub:
        ended, out, _ = run(capsys, stub.url, "--connections", "1", "--seconds", "1", "--json")
    assert ended == 1
    (load,) = json.loads(out)["loads"]
    assert load["answered"] == load["rate"] == load["p50"] == 0
    assert load[column] > 0


def test_no_server_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, f"http://127.0.0.1:{free_port()}", "--seconds", "1")
    assert status == 3
    assert len(err.splitlines()) == 1
    assert "foursight serve" in err


@pytest.mark.parametrize("words", [("--connections", "x"), ("--rate", "-1"), ("--image", "nowhere.jpg")])
def test_wrong_use_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    status, _, err = run(capsys, *words)
    assert status == 2
    assert words[0] in err
