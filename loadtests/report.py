"""Plot a run of locust: throughput and latency over time and by number of users.

    locust -f loadtests/locustfile.py,loadtests/shapes/ramp.py --headless --csv out/run --csv-full-history
    python loadtests/report.py out/run --out out/report.png

`make load` does both. The knee is the step after which more users add less than a tenth to the throughput.
"""

import argparse
import csv
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

KNEE = 1.1
# The columns of locust's CSV file.
COLUMNS = {"rate": "Requests/s", "failures": "Failures/s", "p50": "50%", "p95": "95%", "p99": "99%"}


@dataclass(frozen=True)
class Load:
    """A number of users with its requests and failures per second, and percentiles in milliseconds."""

    users: int
    rate: float
    failures: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Second(Load):
    """A row of locust's history, `time` seconds after the first; percentiles are over the last ten seconds."""

    time: float


def read(prefix: Path) -> list[Second]:
    """Return the aggregated rows of `PREFIX_stats_history.csv` that have an answer."""
    with prefix.with_name(prefix.name + "_stats_history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated" and row["50%"] != "N/A"]
    if not rows:
        raise SystemExit(f"{prefix}: this run has no answer.")
    start = float(rows[0]["Timestamp"])
    return [
        Second(
            time=float(row["Timestamp"]) - start,
            users=int(row["User Count"]),
            **{name: float(row[column]) for name, column in COLUMNS.items()},
        )
        for row in rows
    ]


def steps(seconds: list[Second]) -> list[Load]:
    """Return the medians of the second half of each step, which the step before does not affect."""
    found = []
    for users in sorted({second.users for second in seconds}):
        held = [second for second in seconds if second.users == users]
        settled = held[len(held) // 2 :]
        medians = {name: round(statistics.median(getattr(one, name) for one in settled), 2) for name in COLUMNS}
        found.append(Load(users, **medians))
    return found


def knee(found: list[Load]) -> Load:
    """Return the step after which more users add less than a tenth of successful answers."""
    best = found[0]
    for step in found[1:]:
        if step.rate - step.failures >= KNEE * (best.rate - best.failures):
            best = step
    return best


def plot(seconds: list[Second], found: list[Load], path: Path) -> None:
    """Plot over time on the left, by users on the right."""
    figure, ((rate, load), (latency, spread)) = plt.subplots(2, 2, figsize=(12, 7), layout="constrained")
    times = [second.time for second in seconds]
    rate.plot(times, [second.rate for second in seconds], label="requests/s")
    rate.plot(times, [second.failures for second in seconds], label="failures/s", color="tab:red")
    rate.plot(times, [second.users for second in seconds], label="users", color="tab:gray", linestyle=":")
    rate.set(xlabel="seconds", ylim=(0, None))
    users = [step.users for step in found]
    load.plot(users, [step.rate for step in found], marker="o", label="requests/s")
    load.plot(users, [step.failures for step in found], marker="o", label="failures/s", color="tab:red")
    load.axvline(knee(found).users, color="tab:gray", linestyle="--", label="knee")
    load.set(xlabel="users", ylim=(0, None))
    for name in ("p50", "p95", "p99"):
        latency.plot(times, [getattr(second, name) for second in seconds], label=name)
        spread.plot(users, [getattr(step, name) for step in found], marker="o", label=name)
    latency.set(xlabel="seconds", ylabel="ms", yscale="log")
    spread.set(xlabel="users", ylabel="ms", yscale="log")
    for axes in (rate, load, latency, spread):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Read, plot, and print the steps as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prefix", type=Path, help="the prefix that was passed to locust as --csv")
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    chosen = parser.parse_args()
    seconds = read(chosen.prefix)
    found = steps(seconds)
    plot(seconds, found, chosen.out)
    print(json.dumps({"knee": asdict(knee(found)), "steps": [asdict(step) for step in found]}, indent=1))


if __name__ == "__main__":
    main()
