"""Which failures belong to which fault, and what was wrong in a run."""

from collections import Counter
from collections.abc import Sequence

from loadtests.chaos.run import Record, Strike
from loadtests.chaos.traffic import Sample

NO_FAULT = "no fault"


def fault_of(sample: Sample, strikes: Sequence[Strike]) -> str:
    """Return the fault that was open while a request was in flight."""
    open_ones = (one.fault for one in strikes if one.began <= sample.end and sample.start <= one.closed)
    return next(open_ones, NO_FAULT)


def failures(record: Record) -> Counter[tuple[str, str]]:
    """Count the failures by their fault and cause."""
    failed = (sample for sample in record.samples if sample.verdict.kind == "failure")
    return Counter((fault_of(sample, record.strikes), sample.verdict.cause) for sample in failed)


def problems(record: Record, growth_mib: float) -> list[str]:
    """Return what must not be, one sentence each."""
    found = [f"The run was cut: {record.broken}."] if record.broken else []
    wrong = Counter(f"{one.name}: {one.verdict.cause}" for one in record.samples if one.verdict.kind == "wrong")
    found += [f"Wrong answer, {count} times: {text}." for text, count in wrong.items()]
    found += [
        f"{count} failures without a fault: {cause}."
        for (fault, cause), count in failures(record).items()
        if fault == NO_FAULT
    ]
    for strike in record.strikes:
        if strike.recovered is None:
            found.append(f"The server did not recover from {strike.fault} ({strike.task}) in time.")
        if strike.ended == 0:
            found.append(f"After {strike.fault}, the server ended with status 0, so nothing would start it again.")
        if strike.left_over:
            found.append(f"After {strike.fault}, {strike.left_over} processes of the old server were left.")
    growth = record.settled.total() - record.before.total()
    if growth > growth_mib:
        found.append(f"The memory grew by {growth} MiB; the limit is {growth_mib:g} MiB.")
    return found


def first_right(strike: Strike, samples: Sequence[Sample]) -> float | None:
    """Return the time of the first right answer to a request of the strike's task that was sent after it began."""
    ends = [
        one.end
        for one in samples
        if one.task == strike.task and one.start >= strike.began and one.verdict.kind == "right"
    ]
    return min(ends, default=None)
