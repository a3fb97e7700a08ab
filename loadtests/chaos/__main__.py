"""Faults at random, under traffic whose every answer is checked.

    python -m loadtests.chaos --minutes 10 --seed 1 --report chaos.md
    python -m loadtests.chaos --rounds 1 --faults kill-worker,bombs
    python -m loadtests.chaos --url http://127.0.0.1:8000

Without --url, it starts a server and ends it. The status is 1 if an answer was wrong, if a request failed while no
fault was open, if the server did not recover from a fault in time, or if its memory grew beyond the limit. Hosts other
than loopback are refused. Linux only.
"""

import argparse
import math
import resource
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from foursight.schema.tasks import TASKS
from loadtests.chaos import report, schedule, verdict
from loadtests.chaos.faults import CONNECTIONS, FAULTS
from loadtests.chaos.mixture import mixture
from loadtests.chaos.run import Broken, Run, wait_until_ready
from loadtests.chaos.server import OtherServer, OwnServer, Server
from loadtests.chaos.traffic import NotRight, new_client, with_references


def main(arguments: Sequence[str]) -> int:
    """Run, write the report, and return the exit status."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    faults = chosen.faults or [name for name, fault in FAULTS.items() if not (chosen.url and fault.ends_server)]
    if chosen.url and urlsplit(chosen.url).hostname not in ("127.0.0.1", "localhost", "::1"):
        parser.error("only a server on this machine may be harmed")
    if chosen.url and any(FAULTS[name].ends_server for name in faults):
        parser.error("a server that was started elsewhere is not started again: leave out the faults that end it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _allow_connections()
    steps = schedule.steps(chosen.seed, faults, chosen.tasks)
    seconds = 60 * chosen.minutes
    if chosen.rounds:
        steps, seconds = islice(steps, chosen.rounds * len(faults)), math.inf
    try:
        with _server(chosen.url, chosen.tasks) as server:
            with new_client(server.url) as client:
                asks = with_references(client, mixture(chosen.tasks))
            run = Run(server, asks, chosen.recovery_s)
            record = run.go(steps, seconds, chosen.rate, chosen.seed, chosen.growth_mib)
    except (Broken, NotRight) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    command = f"python -m loadtests.chaos {shlex.join(arguments)}"
    text = report.render(record, command, chosen.seed, chosen.growth_mib)
    if chosen.report:
        chosen.report.write_text(text)
    else:
        print(text)
    found = verdict.problems(record, chosen.growth_mib)
    for problem in found:
        print(f"chaos: {problem}", file=sys.stderr)
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--minutes", type=float, default=10, help="after which no further fault begins (default 10)")
    time.add_argument("--rounds", type=int, help="instead: so many times each fault")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the faults and requests")
    parser.add_argument("--faults", type=_names(FAULTS), help=f"comma-separated (default: all of {', '.join(FAULTS)})")
    parser.add_argument("--tasks", type=_names(TASKS), default=list(TASKS), help="comma-separated (default: all)")
    parser.add_argument("--url", help="a running server, whose default options answer; without it, one is started")
    parser.add_argument("--rate", type=float, default=5, help="requests per second (default 5)")
    parser.add_argument("--recovery-s", type=float, default=180, help="limit of a recovery in seconds (default 180)")
    parser.add_argument("--growth-mib", type=float, default=300, help="limit of the growth of memory (default 300)")
    parser.add_argument("--report", type=Path, help="the file to write; without it, the report is printed")
    return parser


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return read


@contextmanager
def _server(url: str | None, tasks: Sequence[str]) -> Iterator[Server]:
    if url:
        yield OtherServer(url)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        server = OwnServer(tasks, port, Path(folder))
        try:
            server.start()
            wait_until_ready(server, tasks)
            yield server
        finally:
            server.end()


def _allow_connections() -> None:
    """Raise the limit of open files, which each connection of a flood needs one of."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
