"""The comparison with other servers: its arithmetic, its page, and the check of the answers."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pycocotools import mask as coco

from loadtests import page
from loadtests.peers import check, results
from loadtests.peers.results import Row

MADE = {"run": "a", "cpu": "a processor", "cores": 2, "load": 0.5, "python": "3.11", "versions": {"torch": "2.6"}}


def rows(run: str, server: str, rates: list[float], task: str = "classify", connections: int = 16) -> list[Row]:
    return [Row(run, n, task, server, connections, rate, 1000 / rate, 2000 / rate, 0) for n, rate in enumerate(rates)]


def test_a_ratio_is_taken_within_each_round_of_each_run() -> None:
    # The machine is twice as fast in the second run; the third run has no round of the other server.
    ours = {"a": [90.0, 110.0, 100.0], "b": [200.0, 240.0], "c": [1.0]}
    theirs = {"a": [45.0, 50.0, 40.0], "b": [100.0, 100.0, 7.0]}
    every = [row for run, rates in ours.items() for row in rows(run, "foursight", rates)]
    every += [row for run, rates in theirs.items() for row in rows(run, "fastapi", rates)]
    every += rows("a", "fastapi", [1.0, 1.0, 1.0], connections=1) + rows("a", "fastapi", [1.0], task="detect")
    expected = np.array([90 / 45, 110 / 50, 100 / 40, 200 / 100, 240 / 100])
    found = results.ratio(every, "classify", 16, "foursight", "fastapi")
    assert found is not None
    assert (found.median, found.least, found.most, found.count) == (np.median(expected), 2.0, 2.5, 5)
    assert results.ratio(every, "classify", 16, "foursight", "bentoml") is None


def test_a_rate_is_right_if_round_trips_do_not_fit_the_window() -> None:
    # 16 connections and batches of 8 that take 2 s each make 4 images per second, however many requests are complete.
    for batches in (2, 3, 7):
        assert results.rate(16, 8 * batches, 8 * batches * 4.0) == 4.0
    assert results.rate(16, 0, 0.0) == 0.0


def test_a_run_is_added_to_the_others_and_replaces_itself(tmp_path: Path) -> None:
    file = tmp_path / "results" / "peers.json"
    results.append(file, MADE, rows("a", "limit", [1.0, 2.0]))
    results.append(file, MADE | {"run": "b"}, rows("b", "limit", [3.0]))
    results.append(file, MADE, rows("a", "limit", [4.0]))
    content = results.read(file)
    assert [run["run"] for run in content["runs"]] == ["b", "a"]
    assert [(row.run, row.rate) for row in results.rows_of(content)] == [("b", 3.0), ("a", 4.0)]


def test_the_page_has_what_was_measured_and_which_goals_are_met(tmp_path: Path) -> None:
    every = rows("a", "foursight", [80.0, 100.0, 90.0]) + rows("a", "limit", [100.0, 100.0, 100.0])
    every += rows("a", "fastapi", [50.0, 50.0, 50.0])
    times = {"latency": 10.0, "total": 8.0, "decode": 2.0, "queue": 0.0, "inference": 4.0, "finish": 0.5, "encode": 0.5}
    costs: dict[str, list[dict[str, Any]]] = {
        "steps": [{"task": "classify", "round": 0} | times],
        "batches": [{"task": "detect", "round": 0, "batch": size, "ms": 100 / size} for size in (1, 2)],
        "objects": [{"round": turn, "objects": 3, "p50": p50} for turn, p50 in enumerate((5.0, 7.0, 6.0))],
    }
    (tmp_path / "peers.json").write_text(json.dumps({"runs": [MADE], "rows": [asdict(row) for row in every]}))
    kept = {part: {"made": MADE, "rows": found} for part, found in costs.items()}
    (tmp_path / "costs.json").write_text(json.dumps(kept))
    page.write(tmp_path / "costs.json", tmp_path / "peers.json", tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "answers/s of foursight / limit | at least 0.9 | 0.90 (0.80..1.00) | 3 | yes |" in text
    assert "answers/s of foursight / fastapi | at least 2.0 | 1.80 (1.60..2.00) | 3 | no |" in text
    # HTTP 10 - 8, parse 8 - 7, and the sum is the whole latency.
    assert "| classify | 2.00 | 1.00 | 2.00 | 0.00 | 4.00 | 0.50 | 0.50 | 10.00 |" in text
    assert "| detect | 100.0 | 50.0 |" in text
    assert "| 3 | 6.0 (5.0..7.0) |" in text
    plots = re.findall(r"\]\((.*?\.svg)\)", text)
    assert len(plots) == 4
    for plot in plots:
        ElementTree.parse(tmp_path / plot)


def _object(left: int, score: float = 0.9, label: str = "cat", wide: int = 40) -> dict[str, Any]:
    mask = np.zeros((60, 80), dtype=np.uint8, order="F")
    mask[10:30, left : left + wide] = 1
    encoded = coco.encode(mask)
    outline = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    return {"label": label, "score": score, "box": [float(left), 10.0, float(left + 40), 30.0], "mask": outline}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ([_object(5)], True),
        ([_object(5), _object(20, score=0.505)], True),
        ([_object(5, label="dog")], False),
        ([_object(8)], False),
        ([_object(5, wide=20)], False),
        ([_object(5), _object(20)], False),
        ([], False),
    ],
)
def test_an_answer_is_right_if_its_objects_are_ours(answer: list[dict[str, Any]], right: bool) -> None:
    assert (check.differences("segment", [{"predictions": [_object(5)]}], [{"predictions": answer}]) == []) is right


def test_labels_are_right_in_our_order_with_our_scores() -> None:
    ours = [{"label": "tabby", "score": 0.5}, {"label": "lynx", "score": 0.25}]
    near = [{"label": "tabby", "score": 0.5004}, {"label": "lynx", "score": 0.2496}]
    for theirs, right in ((near, True), (near[::-1], False), ([near[0], {"label": "lynx", "score": 0.252}], False)):
        assert (check.differences("classify", [{"predictions": ours}], [{"predictions": theirs}]) == []) is right
