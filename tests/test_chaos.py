"""The chaos suite finds what is wrong: with the real server's answers, and with servers that lie or fail."""

import copy
import json
import math
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from foursight.schema.tasks import TASKS
from loadtests.chaos import __main__ as chaos
from loadtests.chaos import report, schedule, verdict
from loadtests.chaos.answers import Verdict, difference
from loadtests.chaos.faults import FAULTS
from loadtests.chaos.mixture import Ask, mixture
from loadtests.chaos.run import Record, Strike
from loadtests.chaos.server import OTHER, by_role
from loadtests.chaos.traffic import NotRight, Sample, new_client, send, with_references
from loadtests.chaos.watch import READY, Event
from tests.conftest import process_of
from tests.scripted import Reply, Scripted

RIGHT = Verdict("right")
FAILED = Verdict("failure", "503 unavailable")


@pytest.fixture(scope="module")
def asks(server: str) -> dict[str, Ask]:
    """The requests of two tasks by name, with the real server's answers."""
    with new_client(server) as client:
        return {ask.name: ask for ask in with_references(client, mixture(["classify", "segment"]))}


def judged(ask: Ask, reply: Reply) -> Verdict:
    """The verdict about a reply to a request."""
    with Scripted(lambda _: reply) as server, new_client(server.url) as client:
        return send(client, ask).verdict


def changed(content: Any, change: Callable[[Any], object]) -> Reply:
    copied = copy.deepcopy(content)
    change(copied)
    return Reply(json.dumps(copied).encode())


# Changes of an answer to the photo of a cup.
LIES: dict[str, Callable[[Any], object]] = {
    "another label": lambda answer: answer["predictions"][0].update(label="bowl"),
    "another id": lambda answer: answer["predictions"][0].update(class_id=1),
    "another score": lambda answer: answer["predictions"][0].update(score=answer["predictions"][0]["score"] - 0.01),
    "a score that is text": lambda answer: answer["predictions"][0].update(score="high"),
    "a box that has moved": lambda answer: answer["predictions"][0]["box"].__setitem__(0, 0.0),
    "no box": lambda answer: answer["predictions"][0].pop("box"),
    "another object's mask": lambda answer: answer["predictions"][0].update(mask=answer["predictions"][1]["mask"]),
    "a mask that is none": lambda answer: answer["predictions"][0].update(mask={"size": [1, 1], "counts": "?"}),
    "one object less": lambda answer: answer["predictions"].pop(),
    "an object twice": lambda answer: answer["predictions"].__setitem__(1, answer["predictions"][0]),
    "another size": lambda answer: answer["image"].update(width=1),
    "another model": lambda answer: answer.update(model="other"),
}


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_a_wrong_answer(asks: dict[str, Ask], lie: str) -> None:
    ask = asks["segment coffee score_threshold=0.3"]
    assert ask.expected
    found = judged(ask, changed(ask.expected.content, LIES[lie]))
    assert found.kind == "wrong"
    assert found.cause


def test_what_batches_may_change_is_right(asks: dict[str, Ask]) -> None:
    ask = asks["segment coffee score_threshold=0.3"]
    assert ask.expected

    def change(answer: Any) -> None:
        answer["predictions"].reverse()
        answer["predictions"][0]["score"] += 0.001
        answer["predictions"][0]["box"][0] += 0.5

    assert judged(ask, changed(ask.expected.content, change)) == RIGHT


def error(status: int, code: str) -> Reply:
    return Reply(json.dumps({"status": status, "code": code}).encode(), status)


def test_errors_are_wrong_answers_unless_the_server_fails(asks: dict[str, Ask]) -> None:
    photo, text = asks["classify coffee"], asks["classify text"]
    assert photo.expected
    answer = Reply(json.dumps(photo.expected.content).encode())
    in_part = changed(
        photo.expected.content,
        lambda value: value.update(tasks={"x": {"error": {"status": 503, "code": "unavailable"}}}),
    )
    wrong = [
        (photo, error(415, "not_an_image")),
        (photo, Reply(b"<html>")),
        (photo, error(404, "not_found")),
        (text, answer),
        (text, error(422, "truncated_image")),
        (text, error(415, "unsupported_image_type")),
    ]
    assert [judged(*one).kind for one in wrong] == ["wrong"] * len(wrong)
    failed = [
        (photo, error(503, "overloaded"), "503 overloaded"),
        (text, error(500, "internal_error"), "500 internal_error"),
        (photo, Reply(b"Internal Server Error", 500), "500 without a code"),
        (photo, error(422, "decode_timeout"), "422 decode_timeout"),
        (photo, in_part, "200 with unavailable in it"),
        (photo, Reply(None), "closed without an answer"),
    ]
    assert [judged(ask, reply) for ask, reply, _ in failed] == [Verdict("failure", cause) for _, _, cause in failed]


def test_a_server_that_is_not_there_is_a_failure(asks: dict[str, Ask]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with new_client(url, 0.2) as client:
            assert send(client, asks["limits"]).verdict == Verdict("failure", "no answer in time")
    with new_client(url) as client:
        assert send(client, asks["limits"]).verdict == Verdict("failure", "connection refused")


def test_a_server_that_lies_from_the_start_has_no_references(asks: dict[str, Ask]) -> None:
    accepts_all = Reply(json.dumps({"predictions": []}).encode())
    with Scripted(lambda _: accepts_all) as server, new_client(server.url) as client, pytest.raises(NotRight):
        with_references(client, [asks["classify text"]])


def test_the_schedule_depends_on_the_seed_alone() -> None:
    names, tasks = list(FAULTS), list(TASKS)
    first, again, other = (list(islice(schedule.steps(seed, names, tasks), 60)) for seed in (1, 1, 2))
    assert first == again != other
    for start in range(0, 60, len(names)):
        assert sorted(step.fault for step in first[start : start + len(names)]) == sorted(names)
    assert {step.task for step in first} == set(tasks)


def test_the_roles_of_a_servers_processes(server: str) -> None:
    parts = {"server", "GCS", "raylet", "controller", "manager", "proxy", "router", "gateway", *TASKS, OTHER}
    assert set(by_role(process_of(server))) == parts


def strike(fault: str, began: float, closed: float, **values: Any) -> Strike:
    return Strike(fault, "classify", began, began, **{"recovered": closed, "closed": closed} | values)


def sample(start: float, end: float, found: Verdict = FAILED) -> Sample:
    return Sample("classify coffee", "classify", start, end, found)


def test_a_failure_belongs_to_the_fault_that_was_open() -> None:
    strikes = [strike("bombs", 10, 20), strike("kill-worker", 30, math.inf)]
    times = {(8, 9): "no fault", (8, 10): "bombs", (12, 13): "bombs", (20, 21): "bombs", (21, 29): "no fault"}
    times |= {(5, 25): "bombs", (99, 100): "kill-worker"}
    assert {time: verdict.fault_of(sample(*time), strikes) for time in times} == times


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (Record(0, [sample(1, 2)]), "1 failures without a fault: 503 unavailable"),
        (Record(0, [sample(11, 12, Verdict("wrong", ".model: 1, not 2"))], [strike("bombs", 10, 20)]), ".model: 1"),
        (Record(0, [], [strike("bombs", 10, 200, recovered=None)]), "did not recover from bombs"),
        (Record(0, [], [strike("kill-gcs", 10, 20, ended=0)]), "status 0"),
        (Record(0, [], [strike("kill-gcs", 10, 20, ended=1, left_over=2)]), "2 processes"),
        (Record(0, settled=Counter(server=101)), "grew by 101 MiB"),
        (Record(0, broken="the server has ended"), "the server has ended"),
    ],
)
def test_a_run_passes_only_without_problems(record: Record, named: str) -> None:
    (problem,) = verdict.problems(record, growth_mib=100)
    assert named in problem
    assert problem in report.render(replace(record, end=60), "chaos", 1, 100)


def test_a_run_with_failures_under_faults_passes_and_has_its_times() -> None:
    events = [Event(9, "/readyz 503"), Event(11.5, READY), Event(13, "the router has ended")]
    hit = strike("kill-router", 10, 18, recovered=17.0, events=events, ended=1)
    samples = [sample(9, 9.5, RIGHT), sample(11, 12), sample(12, 16, RIGHT), sample(13, 17, RIGHT)]
    record = Record(0, samples, [hit], Counter(router=10), Counter(router=30), Counter(router=11), end=60)
    assert verdict.problems(record, growth_mib=10) == []
    text = report.render(record, "chaos", 1, 10)
    assert "| HAProxy is killed | 1 | 3.0 / 3.0 | 6.0 / 6.0 | 7.0 / 7.0 | 1 of 3 |" in text
    assert "| kill-router | 503 unavailable | 1 |" in text
    assert "| router | 10 | 30 | 11 |" in text
    assert "passed" in text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--url http://foursight.invalid", "only a server on this machine"),
        ("--url http://127.0.0.1:9 --faults kill-gcs", "is not started again"),
        ("--faults kill-everything", "kill-worker"),
    ],
)
def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str], words: str, named: str) -> None:
    with pytest.raises(SystemExit):
        chaos.main(words.split())
    assert named in capsys.readouterr().err


def test_equal_values_have_no_difference() -> None:
    value = {"a": [1, 2.5, "x", None, True], "predictions": []}
    assert difference(value, copy.deepcopy(value)) == ""
    assert difference(value, value | {"a": [1, 2.5, "x", None, 1]}) != ""
