"""Rows of measurements, ratios within a round, and medians with their spread."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """A measurement: rate in answers per second, latencies in ms. Ratios pair rows of the same `run` and `round`."""

    run: str
    round: int
    task: str
    server: str
    connections: int
    rate: float
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True)
class Spread:
    """The median, minimum and maximum of some values."""

    median: float
    least: float
    most: float
    count: int

    def text(self, digits: int = 2) -> str:
        """Return `2.31 (2.20..2.44)`; for a single value, only that."""
        if self.count == 1:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}..{self.most:.{digits}f})"


def rate(connections: int, answered: int, spent: float) -> float:
    """Return the answers per second of a closed loop whose requests took `spent` seconds in total.

    By Little's law (1961), connections = rate x mean latency. Counting answers within a window would be off by a
    quarter if it holds only four round trips, as for the slowest servers.
    """
    return connections * answered / spent if spent else 0.0


def spread(values: Iterable[float]) -> Spread | None:
    """Return the spread of values, or None if there are none."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1], len(found)) if found else None


def select(rows: Iterable[Row], task: str, server: str, connections: int) -> list[Row]:
    """Return the measurements of one server under one load."""
    return [row for row in rows if (row.task, row.server, row.connections) == (task, server, connections)]


def ratio(rows: list[Row], task: str, connections: int, over: str, under: str, figure: str = "rate") -> Spread | None:
    """Return the ratio of `over`'s figure to `under`'s, taken within each round of each run that has both."""
    below = {(row.run, row.round): getattr(row, figure) for row in select(rows, task, under, connections)}
    pairs = [
        (getattr(row, figure), below[row.run, row.round])
        for row in select(rows, task, over, connections)
        if (row.run, row.round) in below
    ]
    return spread(above / beneath for above, beneath in pairs if beneath)


@dataclass(frozen=True)
class Goal:
    """A goal of the comparison: a ratio, and its lower or upper bound."""

    task: str
    connections: int
    over: str
    under: str
    bound: float
    figure: str = "rate"
    at_most: bool = False

    def met(self, found: Spread) -> bool:
        """Return whether the median meets the bound."""
        return found.median <= self.bound if self.at_most else found.median >= self.bound


GOALS = (
    Goal("classify", 16, "foursight", "limit", 0.9),
    *(Goal("classify", 16, "foursight", name, 2.0) for name in ("fastapi", "litserve", "bentoml")),
    *(Goal("classify", 16, "foursight", f"{name}+engine", 1.2) for name in ("fastapi", "litserve", "bentoml")),
    Goal("classify", 1, "foursight", "limit", 1.25, "p50", at_most=True),
    *(
        Goal(task, connections, "foursight", "fastapi", 2.0)
        for task in ("detect", "segment")
        for connections in (1, 16)
    ),
)


def goals(rows: list[Row]) -> str:
    """Return a Markdown table of the goals and what was measured."""
    lines = ["| task, connections | ratio | goal | median (range) | rounds | met |", "|---|---|---|---|---|---|"]
    for goal in GOALS:
        found = ratio(rows, goal.task, goal.connections, goal.over, goal.under, goal.figure)
        if found:
            name = "answers/s" if goal.figure == "rate" else goal.figure
            lines.append(
                f"| {goal.task}, {goal.connections} | {name} of {goal.over} / {goal.under} "
                f"| {'at most' if goal.at_most else 'at least'} {goal.bound} | {found.text()} | {found.count} "
                f"| {'yes' if goal.met(found) else 'no'} |"
            )
    return "\n".join(lines)


def table(rows: list[Row], task: str, names: Iterable[str]) -> str:
    """Return a Markdown table of one task: each server's figures, and Foursight's rate as a multiple of its rate."""
    counts = sorted({row.connections for row in rows if row.task == task})
    lines = [
        "| server | connections | answers/s | p50 ms | p99 ms | failed | foursight / it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        for count in counts:
            mine = select(rows, task, name, count)
            if not mine:
                continue
            figures = (spread(getattr(row, figure) for row in mine) for figure in ("rate", "p50", "p99"))
            cells = " | ".join(found.text(1) for found in figures if found)
            times = ratio(rows, task, count, "foursight", name)
            lines.append(
                f"| {name} | {count} | {cells} "
                f"| {sum(row.failed for row in mine)} | {times.text() if times and name != 'foursight' else ''} |"
            )
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """Read a file of results: `runs` (their machine and versions) and `rows`. A missing file counts as empty."""
    if not path.exists():
        return {"runs": [], "rows": []}
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def rows_of(content: dict[str, Any]) -> list[Row]:
    """Return the rows of a file's content."""
    return [Row(**row) for row in content["rows"]]


def append(path: Path, run: dict[str, Any], rows: list[Row]) -> None:
    """Add a run to a file; the rows of the same run are replaced."""
    content = read(path)
    content["runs"] = [one for one in content["runs"] if one["run"] != run["run"]] + [run]
    content["rows"] = [row for row in content["rows"] if row["run"] != run["run"]] + [asdict(row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in content["rows"])
    runs = ",\n".join(json.dumps(one) for one in content["runs"])
    path.write_text(f'{{"runs": [\n{runs}\n],\n"rows": [\n{lines}\n]}}\n')
