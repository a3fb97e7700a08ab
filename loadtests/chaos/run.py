"""A run: traffic, one fault after the other, and what came of each."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import httpx

from loadtests.chaos import server as servers
from loadtests.chaos.faults import FAULTS
from loadtests.chaos.mixture import Ask
from loadtests.chaos.schedule import Step
from loadtests.chaos.server import OwnServer, Server
from loadtests.chaos.traffic import Sample, Traffic, new_client, send
from loadtests.chaos.watch import Event, Watch, notice

POLL_S = 0.25
# A fault that lasts until the server notices it ends after this time, at the latest.
HOLD_S = 15.0
# So many times in a row, everything must be right.
CONFIRMATIONS = 3
PROBE_TIMEOUT_S = 10.0
START_S = 300.0
# The text of the event that the server has ended.
ENDED = "end with status"
SETTLE_S = 60.0


@dataclass
class Strike:
    """A fault that happened. Times are seconds of the monotonic clock.

    It is open from `began` to `closed`, lasted until `released`, and everything was right again at `recovered`, unless
    that took too long. `ended` is the status of a server that ended, and `left_over` counts processes that it left.
    """

    fault: str
    task: str
    began: float
    released: float
    recovered: float | None = None
    closed: float = math.inf
    events: list[Event] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    ended: int | None = None
    left_over: int = 0

    @property
    def noticed(self) -> Event | None:
        """What first showed the fault."""
        return notice(self.events, self.began)


@dataclass
class Record:
    """What happened in a run, which began at `start`. Memory is in MiB by role; `broken` says why the run was cut."""

    start: float
    samples: list[Sample] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    end: float = math.inf
    broken: str = ""


class Broken(Exception):
    """The run cannot go on."""


class Run:
    """Puts faults on a server that answers `asks`. `recovery_s` limits the time until all is right again."""

    def __init__(self, server: Server, asks: Sequence[Ask], recovery_s: float) -> None:
        self._server = server
        self._asks = asks
        self._recovery_s = recovery_s
        # The first request of each task.
        self._probes = list({ask.task: ask for ask in reversed(asks)}.values())
        self._roles: set[str] = set()
        self._samples: list[Sample] = []

    def go(self, steps: Iterable[Step], seconds: float, rate: float, seed: int, growth_mib: float) -> Record:
        """Take the steps until they or the seconds are over; the last one is finished."""
        record = Record(time.monotonic())
        with Traffic(self._server.url, self._asks, rate, seed) as traffic, Watch(self._server) as watch:
            record.samples = self._samples = traffic.samples
            try:
                while len(traffic.samples) < len(self._asks):
                    self._rest(POLL_S)
                record.before = servers.memory(self._server.root)
                self._roles = set(servers.by_role(self._server.root))
                for step in steps:
                    self._rest(step.quiet_s)
                    if time.monotonic() > record.start + seconds:
                        break
                    self._strike(step, record, watch)
                self._rest(CONFIRMATIONS)
                record.after = servers.memory(self._server.root)
            except Broken as error:
                record.broken = str(error)
            except KeyboardInterrupt:
                record.broken = "it was interrupted"
        record.end = time.monotonic()
        if not record.broken:
            record.settled = self._settle(record.before.total() + growth_mib)
        return record

    def _strike(self, step: Step, record: Record, watch: Watch) -> None:
        fault = FAULTS[step.fault]
        if isinstance(self._server, OwnServer):
            self._server.remember()
        now = time.monotonic()
        strike = Strike(step.fault, step.task, now, now)
        record.strikes.append(strike)
        try:
            with fault.put(self._server, step.task) as strike.statuses:
                if fault.until == "noticed":
                    self._wait_for_notice(strike, watch)
                elif fault.until == "recovered":
                    strike.recovered = self._recover()
                if fault.ends_server:
                    self._restart(strike)
            if fault.until != "recovered":
                if not fault.ends_server:
                    strike.released = time.monotonic()
                strike.recovered = self._recover()
            # The end of a fault may help where the server could not.
            if strike.recovered is None and (fault.until != "recovered" or self._recover() is None):
                raise Broken(f"after {strike.fault}, not all was right within {self._recovery_s:.0f} s")
            strike.closed = time.monotonic()
        finally:
            strike.events = watch.events(strike.began)

    def _wait_for_notice(self, strike: Strike, watch: Watch) -> None:
        while time.monotonic() < strike.began + HOLD_S:
            if notice(watch.events(strike.began), strike.began):
                return
            self._rest(POLL_S)

    def _restart(self, strike: Strike) -> None:
        """Wait for the end of the server, and start it again."""
        assert isinstance(self._server, OwnServer)
        while not self._server.has_ended():
            if time.monotonic() > strike.began + self._recovery_s:
                raise Broken(f"after {strike.fault}, the server did not end within {self._recovery_s:.0f} s")
            time.sleep(POLL_S)
        strike.ended = self._server.root.returncode
        self._server.said.append((time.monotonic(), f"{ENDED} {strike.ended}"))
        self._server.start()
        wait_until_ready(self._server)
        strike.left_over = len(self._server.left_over())

    def _recover(self) -> float | None:
        """Return when everything was right several times in a row; None if that takes too long."""
        deadline = time.monotonic() + self._recovery_s
        rounds, first = 0, 0.0
        with new_client(self._server.url, PROBE_TIMEOUT_S) as client:
            while time.monotonic() < deadline:
                rounds = rounds + 1 if self._all_right(client) else 0
                if rounds == 1:
                    first = time.monotonic()
                if rounds == CONFIRMATIONS:
                    return first
                self._rest(POLL_S)
        return None

    def _all_right(self, client: httpx.Client) -> bool:
        """Return whether every part runs, the server is ready, and every task is answered right."""
        if not self._roles <= set(servers.by_role(self._server.root)) or not is_ready(client):
            return False
        found = [send(client, probe) for probe in self._probes]
        self._samples += found
        return all(one.verdict.kind == "right" for one in found)

    def _rest(self, seconds: float) -> None:
        """Wait. Raises Broken if the server has ended."""
        time.sleep(seconds)
        if self._server.has_ended():
            raise Broken("the server has ended, though no fault should end it")

    def _settle(self, bound_mib: float) -> Counter[str]:
        """Return the memory once it is below a bound, or after SETTLE_S."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            found = servers.memory(self._server.root)
            if found.total() <= bound_mib or time.monotonic() > deadline:
                return found
            time.sleep(1)


def is_ready(client: httpx.Client, tasks: Sequence[str] = ()) -> bool:
    """Return whether the server says that it is ready, and the router knows the workers of these tasks."""
    try:
        # A worker refuses GET; without a route to it, the answer is 503.
        known = all(client.get(f"/v1/{task}").status_code == 405 for task in tasks)
        return known and client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def wait_until_ready(server: OwnServer, tasks: Sequence[str] = ()) -> None:
    """Wait until a server that was started is ready. Raises Broken."""
    deadline = time.monotonic() + START_S
    with new_client(server.url, PROBE_TIMEOUT_S) as client:
        while not is_ready(client, tasks):
            if server.has_ended() or time.monotonic() > deadline:
                raise Broken(f"the server did not start: {'; '.join(line for _, line in server.said[-3:])}")
            time.sleep(POLL_S)
