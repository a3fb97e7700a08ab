"""Which fault comes when: a sequence that depends on the seed alone."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Seconds without a fault before each one. In them, no request may fail.
QUIET_S = (3.0, 8.0)


@dataclass(frozen=True)
class Step:
    """A fault by its name, the task that it is for, and the quiet seconds before it."""

    fault: str
    task: str
    quiet_s: float


def steps(seed: int, faults: Sequence[str], tasks: Sequence[str]) -> Iterator[Step]:
    """Yield steps without end: rounds in which each fault comes once, each round in another order."""
    chance = random.Random(seed)
    while True:
        for fault in chance.sample(faults, len(faults)):
            yield Step(fault, chance.choice(tasks), chance.uniform(*QUIET_S))
