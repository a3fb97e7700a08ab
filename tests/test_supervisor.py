"""The supervisor, with real processes that have the titles of Serve's."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from foursight.serving import supervisor
from foursight.serving.ray_internals import environment

TITLE = "ray::ServeReplica:classify:Worker"


def start() -> psutil.Popen:
    """Start a process that does nothing, with the title of a worker."""
    return psutil.Popen([TITLE, "600"], executable="/bin/sleep")


@pytest.fixture
def worker() -> Iterator[psutil.Popen]:
    with start() as process:
        yield process
        if process.poll() is None:
            process.kill()


def until(text: str, capfd: pytest.CaptureFixture[str], said: list[str]) -> None:
    """Wait until the supervisor has said something."""
    deadline = time.monotonic() + 60
    while text not in "".join(said):
        assert time.monotonic() < deadline, said
        said.append(capfd.readouterr().err)
        time.sleep(0.05)


def test_a_stopped_worker_is_killed_and_the_next_one_counts(
    worker: psutil.Popen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(environment.CONFIG_FILE, str(tmp_path / "haproxy.cfg"))
    monkeypatch.setattr(supervisor, "INTERVAL_S", 0.1)
    monkeypatch.setattr(supervisor, "STOPPED_S", 0.5)
    stop, said = threading.Event(), [""]
    # It counts the workers that it finds at its start, so this one must have its title by then.
    assert worker.cmdline()[0] == TITLE
    thread = threading.Thread(target=supervisor.watch, args=(stop,))
    thread.start()
    try:
        time.sleep(0.3)
        worker.suspend()
        until("has ended and is started again", capfd, said)
        assert f"the worker of 'classify' (process {worker.pid}) has been stopped for" in "".join(said)
        assert worker.wait(timeout=60) == -9
        with start() as again:
            until("runs again after", capfd, said)
            again.kill()
    finally:
        stop.set()
        thread.join()


def test_a_full_disk_does_not_end_the_server() -> None:
    code = (
        "from foursight.serving import logs, supervisor\n"
        "supervisor.say('the router has ended')\n"
        "logs.say('json', 'Stopping ...')\n"
        "import sys; sys.exit(3)"
    )
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=full, check=False)
    assert done.returncode == 3
