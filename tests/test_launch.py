"""The parts of a start: shares of GPUs, deployments that cannot succeed, and what killed servers leave behind."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from foursight.serving import run_folder
from foursight.serving.deploy import gpu_share
from foursight.serving.launch import LaunchError, running
from foursight.serving.settings import Settings
from tests.conftest import free_port, gone

# The minimum for a deployment: Ray with one GPU, and Serve without HTTP.
DEPLOY = """
import logging, os, signal
import ray
from ray import serve
from foursight.serving.deploy import DeployError, deploy, time_limit

class Ready:
    pass

class Broken:
    def __init__(self):
        raise RuntimeError("no weights here")

class Killed:
    def __init__(self):
        os._exit(1)

logging.getLogger("ray.serve").setLevel(logging.ERROR)
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=1, num_gpus=1)
serve.start(proxy_location="Disabled")

def target(name, cls, gpus=0):
    deployment = serve.deployment(
        cls, max_constructor_retry_count=1, ray_actor_options={"num_cpus": 0, "num_gpus": gpus}
    )
    return serve.RunTarget(deployment.bind(), name=name, route_prefix=f"/{name}")

def attempt(*targets):
    try:
        with time_limit(300):
            deploy(targets)
    except DeployError as error:
        print("attempt:", error)
    else:
        print("attempt: running")

attempt(target("ready", Ready), target("whole", Ready, gpus=1))
attempt(target("broken", Broken))
attempt(target("killed", Killed))

status, waits = serve.status, False

def expiring():
    # The time limit expires once Serve has reported what `greedy` waits for and that `ready` runs.
    global waits
    if waits:
        signal.raise_signal(signal.SIGALRM)
    found = status()
    messages = [one.message for one in found.applications["greedy"].deployments.values()]
    waits = found.applications["ready"].status == "RUNNING" and any("GPU" in message for message in messages)
    return found

serve.status = expiring
attempt(target("ready", Ready), target("greedy", Ready, gpus=2))
serve.shutdown()
ray.shutdown()
"""


def fits(gpus: int, workers: int, share: float) -> bool:
    """Return whether Ray can place all workers, each on one GPU, counting in ten-thousandths as Ray does."""
    free, units = [10_000] * gpus, round(share * 10_000)
    for _ in range(workers):
        gpu = max(range(gpus), key=free.__getitem__)
        if free[gpu] < units:
            return False
        free[gpu] -= units
    return True


@pytest.mark.parametrize("gpus", range(1, 9))
@pytest.mark.parametrize("workers", range(1, 17))
def test_every_worker_fits_on_a_gpu(gpus: int, workers: int) -> None:
    share = gpu_share(gpus, workers)
    assert 0 < share <= 1
    assert fits(gpus, workers, share)
    # Simply dividing GPUs by workers would not fit.
    if (gpus, workers) == (3, 4):
        assert not fits(gpus, workers, gpus / workers)
        assert share == 0.5


def test_shares_are_whole_gpus_if_there_are_enough_and_none_without_a_gpu() -> None:
    assert gpu_share(4, 4) == 1
    assert gpu_share(8, 4) == 1
    assert gpu_share(0, 4) == 0
    assert fits(1, 256, gpu_share(1, 256))


def test_a_deployment_ends_with_the_reason_if_a_task_fails_and_at_the_time_limit() -> None:
    # After this time, Serve reports what a replica waits for.
    environment = os.environ | {"RAY_SERVE_SLOW_STARTUP_WARNING_S": "1", "RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    # Ray also writes to standard output.
    running_, broken, killed, greedy = re.findall(r"^attempt: (.*)$", done.stdout, re.MULTILINE)
    assert running_ == "running"
    assert broken == "'broken' failed to start: RuntimeError: no weights here"
    assert killed == "'killed' failed to start: its process died; perhaps it was killed, or ran out of memory."
    assert "'greedy' is not ready: " in greedy
    assert '"GPU": 2' in greedy
    assert "start_timeout_s" in greedy
    assert "'ready'" not in greedy


def test_a_task_that_fails_to_load_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    # Every Python process imports this module at its start; the workers inherit the path.
    (tmp_path / "sitecustomize.py").write_text(
        "import dataclasses\nfrom foursight.schema import tasks\n"
        "tasks.TASKS['classify'] = dataclasses.replace(tasks.TASKS['classify'], module='broken_task')\n"
    )
    (tmp_path / "broken_task.py").write_text("def load(*arguments):\n    raise OSError('the disk is on fire')\n")
    command = [sys.executable, "-m", "foursight", "serve", "--tasks", "classify", "--port", str(free_port())]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "--models-dir", str(tmp_path / "models")],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "foursight serve: The server did not start: 'classify' failed to start: OSError: the disk is"
    )
    assert "Logs: /tmp/fs-" in line


def test_the_time_limit_ends_a_start_wherever_it_is_and_leaves_no_process(tmp_path: Path) -> None:
    # Ray alone takes longer than a second.
    command = [sys.executable, "-m", "foursight", "serve", "--start-timeout-s", "1", "--port", str(free_port())]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = started.communicate(timeout=250)[1]
    assert started.returncode == 1
    (line,) = errors.splitlines()
    assert "The server did not start: it was not ready after 1 seconds (start_timeout_s)." in line
    folder = f"/tmp/fs-{os.getuid()}-{started.pid}-"
    # HAProxy and Ray's daemons have the folder in their command lines.
    family = [one.pid for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or [])]
    assert gone(family)


def test_the_device_cuda_without_a_gpu_is_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "foursight", "serve", "--device", "cuda", "--port", str(free_port())]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("foursight serve: --device cuda: this machine has no NVIDIA GPU")


def test_an_address_that_this_machine_does_not_have_is_one_line() -> None:
    # 192.0.2.0/24 is for documentation (RFC 5737).
    with (
        pytest.raises(LaunchError, match=r"^Cannot listen on 198\.51\.100\.7:\d+: "),
        running(Settings(host="198.51.100.7", port=free_port(), auth="off")),
    ):
        pass


@contextmanager
def process(*command: str, title: str | None = None) -> Iterator[psutil.Process]:
    """A process that runs for a while; `title` is its name in the list of processes."""
    with subprocess.Popen([title or command[0], *command[1:]], executable=command[0]) as opened:
        try:
            yield psutil.Process(opened.pid)
        finally:
            opened.kill()


def left_over(root: Path) -> Path:
    """The folder of a server whose process has ended, with a log."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = root / f"fs-{os.getuid()}-{ended.pid}-00ff"
    folder.mkdir()
    (folder / "log").touch()
    return folder


def holds_open(process: psutil.Process, file: Path) -> bool:
    return str(file) in {opened.path for opened in process.open_files()}


def test_orphans_of_a_killed_server_are_killed_and_a_reader_of_its_log_is_not(tmp_path: Path) -> None:
    folder = left_over(tmp_path)
    log = folder / "log"
    hold = f"import time; log = open({str(log)!r}); time.sleep(60)"
    with (
        process("/usr/bin/tail", "-f", str(log)) as reader,
        process(sys.executable, "-c", hold) as script,
        process(sys.executable, "-c", hold, title="ray::ServeReplica:classify:Worker") as orphan,
    ):
        while not all(holds_open(one, log) for one in (reader, script, orphan)):
            time.sleep(0.02)
        run_folder.clean_up_orphans(tmp_path)
        assert not folder.exists()
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert reader.status() != psutil.STATUS_ZOMBIE
        assert script.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("name", ["abc", "1-abc", "12x-00ff", "1-00ff-more", ""])
def test_a_folder_that_only_looks_like_a_servers_is_left_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / f"fs-{os.getuid()}-{name}"
    folder.mkdir()
    run_folder.clean_up_orphans(tmp_path)
    assert folder.exists()


def test_a_folder_of_another_user_and_a_link_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = left_over(tmp_path)
    target = tmp_path / "precious"
    target.mkdir()
    link = folder.with_name(folder.name.replace("00ff", "00aa"))
    link.symlink_to(target)
    uid = os.getuid()
    other = folder.with_name(folder.name.replace(f"fs-{uid}-", f"fs-{uid + 1}-"))
    folder.rename(other)
    # The folder belongs to us. To the other user, it has the right name but the wrong owner.
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    run_folder.clean_up_orphans(tmp_path)
    assert other.exists()
    monkeypatch.undo()
    run_folder.clean_up_orphans(tmp_path)
    assert link.is_symlink()
    assert target.exists()


def test_the_folder_of_a_server_that_runs_is_left_alone(tmp_path: Path) -> None:
    with process(sys.executable, "-c", "import time; time.sleep(60)") as owner:
        folder = tmp_path / f"fs-{os.getuid()}-{owner.pid}-00ff"
        folder.mkdir()
        run_folder.clean_up_orphans(tmp_path)
        assert folder.exists()
