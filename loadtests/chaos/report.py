"""The report of a run, in Markdown."""

import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence

from loadtests.chaos.faults import FAULTS
from loadtests.chaos.run import ENDED, Record, Strike
from loadtests.chaos.verdict import NO_FAULT, failures, fault_of, first_right, problems


def render(record: Record, command: str, seed: int, growth_mib: float) -> str:
    """Return the report."""
    found = problems(record, growth_mib)
    kinds = Counter(sample.verdict.kind for sample in record.samples)
    seconds = record.end - record.start
    parts = [
        "# Chaos",
        f"`{command}` (seed {seed})",
        f"{len(record.strikes)} faults in {seconds / 60:.1f} minutes, on {os.cpu_count()} cores.",
        f"{len(record.samples)} requests: {kinds['right']} right, {kinds['wrong']} wrong, {kinds['failure']} failed, "
        f"{_without_fault(record)} of these while no fault was open.",
        "Result: " + ("passed." if not found else "\n\n" + "\n".join(f"- {one}" for one in found)),
        "Each answer was compared with that of the quiet server. A fault is open until everything has been right three "
        "times in a row: `/readyz`, each task, and the list of processes.",
        "## Faults",
        "Times are in seconds, median / longest. Recovery counts from the end of a fault, or from its begin if the "
        "server has to recover by itself.",
        _faults(record),
        "## What was said",
        _said(record),
        "## Failures by cause",
        _failures(record),
        "## Requests",
        _requests(record),
        "## Memory",
        "PSS in MiB: under the traffic before the first fault, after the last one, and at most a minute after the end.",
        _memory(record),
    ]
    return "\n\n".join(parts) + "\n"


def _without_fault(record: Record) -> int:
    return sum(count for (fault, _), count in failures(record).items() if fault == NO_FAULT)


def _faults(record: Record) -> str:
    rows = []
    for name, strikes in _by_fault(record).items():
        noticed = [strike.noticed.time - strike.began for strike in strikes if strike.noticed]
        firsts = [
            max(0.0, first - strike.released)
            for strike in strikes
            if (first := first_right(strike, record.samples)) is not None
        ]
        recovered = [strike.recovered - strike.released for strike in strikes if strike.recovered is not None]
        during = [one for one in record.samples if fault_of(one, strikes) == name]
        answered = [one.end - one.start for one in during if one.verdict.kind == "right"]
        failed = sum(one.verdict.kind == "failure" for one in during)
        rows.append(
            (
                FAULTS[name].text,
                len(strikes),
                _spread(noticed),
                _spread(firsts),
                _spread(recovered),
                f"{failed} of {len(during)}",
                _spread(answered),
            )
        )
    heads = (
        "fault",
        "times",
        "noticed after",
        "first right answer of the task",
        "all right again",
        "failed",
        "right answers took",
    )
    return _table(heads, rows)


def _said(record: Record) -> str:
    rows = []
    for name, strikes in _by_fault(record).items():
        texts = dict.fromkeys(_shown(event.text) for strike in strikes for event in strike.events)
        floods: Counter[str] = sum((strike.statuses for strike in strikes), Counter())
        rows.append((name, "<br>".join(text.replace("|", "\\|") for text in texts), _counts(floods)))
    return _table(("fault", "seen", "answers to a flood"), rows)


def _shown(text: str) -> str:
    """Return what the report shows of an event: no numbers of processes, and no paths."""
    if not text.startswith(("/readyz", "foursight serve: ", ENDED)):
        return "other lines on standard error"
    return re.sub(r" \(process \d+\)| Logs: .*", "", text)


def _failures(record: Record) -> str:
    counted = failures(record)
    if not counted:
        return "None."
    return _table(("fault", "cause", "requests"), [(*key, count) for key, count in sorted(counted.items())])


def _requests(record: Record) -> str:
    by_task: dict[str, Counter[str]] = {}
    for sample in record.samples:
        by_task.setdefault(sample.task, Counter())[sample.verdict.kind] += 1
    rows = [(task, counts["right"], counts["wrong"], counts["failure"]) for task, counts in sorted(by_task.items())]
    return _table(("task", "right", "wrong", "failed"), rows)


def _memory(record: Record) -> str:
    columns = (record.before, record.after, record.settled)
    roles = sorted(record.before | record.after | record.settled)
    rows: list[tuple[object, ...]] = [(role, *(column[role] for column in columns)) for role in roles]
    return _table(("part", "before", "after", "settled"), [*rows, ("all", *(column.total() for column in columns))])


def _by_fault(record: Record) -> dict[str, list[Strike]]:
    found: dict[str, list[Strike]] = {}
    for name in FAULTS:
        if strikes := [strike for strike in record.strikes if strike.fault == name]:
            found[name] = strikes
    return found


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} / {max(values):.1f}" if values else "-"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items()))


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
