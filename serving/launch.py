"""Start to finish of a server on this machine: Ray, Serve, the tasks, and the end of them all."""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from foursight.models import catalogue
from foursight.models.engines import environment
from foursight.models.errors import ModelError, StoreError
from foursight.models.finetuned import store
from foursight.serving import haproxy, loopback, registry
from foursight.serving.settings import Settings

READY_TIMEOUT_S = 300


class LaunchError(Exception):
    """The server cannot start; the message is one line for a person."""


@contextmanager
def running(settings: Settings) -> Iterator[str]:
    """A server that is ready, by its address; it ends with the context. Raises LaunchError.

    Ray's environment is set for the whole process, so a process can do this once.
    """
    _clear_away_the_killed()
    _require_port(settings)
    try:
        _require_precision(settings)
        _require_weights(settings)
        _require_models(settings)
    except ModelError as error:
        raise LaunchError(str(error)) from None
    with _private_folder() as folder:
        os.environ.update(_environment(settings, folder))
        try:
            _start(settings, folder)
            yield address(settings)
        finally:
            _stop()
            registry.remove(settings)


def address(settings: Settings) -> str:
    """Where people on this machine reach the server."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def wait_for_signal() -> None:
    """Sleep until SIGINT (Ctrl-C) or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _clear_away_the_killed() -> None:
    """End what servers left whose parent was killed, and remove their folders.

    Ray's processes notice the death by themselves, but take up to a minute, and hold the port meanwhile. They are known
    by the logs that they hold open.
    """
    for folder in Path("/tmp").glob(f"fs-{os.getuid()}-*"):
        owner = int(folder.name.split("-")[2])
        # In a container that is started again, this process has the number of the one that was killed.
        if psutil.pid_exists(owner) and owner != os.getpid():
            continue
        orphans = [process for process in psutil.process_iter() if _uses(process, folder)]
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(orphans, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def _uses(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(Path(file.path).is_relative_to(folder) for file in process.open_files())
    except psutil.Error:
        return False


def _require_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno not in (98, 48):
                raise LaunchError(f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.") from None
            owner = "A Foursight server runs" if _is_foursight(address(settings)) else "Another program listens"
            raise LaunchError(
                f"{owner} on {settings.host}:{settings.port} already; end it, or choose a port with --port."
            ) from None


def _is_foursight(url: str) -> bool:
    try:
        with urlopen(f"{url}/openapi.json", timeout=2) as response:
            return b'"Foursight"' in response.read()
    except (OSError, ValueError):
        return False


def _require_precision(settings: Settings) -> None:
    if settings.device == "cuda" and settings.precision != "float32":
        raise LaunchError(f"--precision {settings.precision} is for CPUs: on a GPU networks compute in float16.")
    settings.precision_config.require()


def _require_weights(settings: Settings) -> None:
    """Fetch the standard profile's files once, here, and not in each worker at the same time."""
    if settings.profile == "standard":
        for task in settings.tasks:
            catalogue.fetch(task)


def _require_models(settings: Settings) -> None:
    """Those that were named must be there; of the models folder, what is not whole is passed over."""
    for name in settings.models:
        registry.inspect(settings, name)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for sockets and logs that only this user can enter.

    Not in $TMPDIR: a socket's path may have 107 characters, of which Ray and HAProxy take 90.
    """
    folder = Path(f"/tmp/fs-{os.getuid()}-{os.getpid()}-{secrets.token_hex(2)}")
    folder.mkdir(mode=0o700)
    yield folder
    # Left in place where the start fails: the logs are the only witness.
    shutil.rmtree(folder, ignore_errors=True)


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        spare_port = probe.getsockname()[1]
    return {
        **haproxy.environment(folder, threads=max(1, environment.available_cpus() // 4)),
        **loopback.environment(settings.host),
        **environment.ENVIRONMENT,
        # By default Ray's workers give way to every other process. Here they are what the machine is there for.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(spare_port),
        # Replicas keep answering so long after they were told to go, for load balancers elsewhere: ours is told first.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_METRICS_EXPORT_ENABLED": "0",
        # Ray looks after a cluster ten times a second; on one machine, where nothing scales by itself, a glance now and
        # then does. All of this halves what an idle server takes of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        "RAY_raylet_report_resources_period_milliseconds": "1000",
        "RAY_memory_monitor_refresh_ms": "1000",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_event_stats": "0",
    }


def _start(settings: Settings, folder: Path) -> None:
    # Imported here, with the environment set: Serve reads its variables at import.
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    from foursight.serving.gateway import Front  # noqa: PLC0415
    from foursight.serving.worker import Worker  # noqa: PLC0415

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    logs = {"log_level": "WARNING", "enable_access_log": False}
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            num_cpus=environment.available_cpus(),
            # For the pixels of photos that are analysed; all else travels over sockets. It is the least that Ray takes;
            # what does not fit goes through files in the private folder.
            object_store_memory=80 * 2**20,
            _node_ip_address="127.0.0.1" if loopback.is_loopback(settings.host) else None,
            _temp_dir=str(folder / "ray"),
        )
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.host, "port": settings.port},
            logging_config=logs,
        )
        gpus = ray.cluster_resources().get("GPU", 0) if settings.device != "cpu" else 0
        share = min(1.0, gpus / (len(settings.tasks) * settings.replicas))
        # The classes are wrapped here, and not where they stand, so that a replica imports them by name.
        worker = serve.deployment(
            serve.ingress()(Worker),
            num_replicas=settings.replicas,
            # The worker itself refuses what it cannot take, with a better answer than Serve's.
            max_ongoing_requests=100_000,
            ray_actor_options={"num_cpus": 0, "num_gpus": share},
            logging_config=logs,
        )
        front = serve.deployment(
            serve.ingress()(Front),
            max_ongoing_requests=1000,
            ray_actor_options={"num_cpus": 0},
            logging_config=logs,
        )
        applications = [
            serve.RunTarget(worker.bind(task, settings), name=task, route_prefix=f"/v1/{task}")
            for task in settings.tasks
        ]
        _register_models(settings)
        serve.run_many([*applications, serve.RunTarget(front.bind(settings), name="front", route_prefix="/")])
        _wait_until_ready(f"{address(settings)}/readyz")
    except Exception as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise LaunchError(f"The server did not start: {reason} Logs: {folder}/ray/session_latest/logs") from error


def _register_models(settings: Settings) -> None:
    """Write down which models the workers are to load: those named, and those of the models folder that are whole."""
    entries = {}
    for name in (*settings.models, *(n for n in store.names(settings.models_dir) if n not in settings.models)):
        try:
            entries[name] = registry.inspect(settings, name)
        except StoreError as error:
            print(f"Not served: {error}", file=sys.stderr)
    # Where there are no models, no folder is made for them.
    if entries or registry.path(settings).exists():
        registry.write(settings, entries)


def _wait_until_ready(url: str) -> None:
    """Ask as a user would, through the router, until every task answers."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            with urlopen(url, timeout=10):
                return
        except (URLError, OSError):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not ready after {READY_TIMEOUT_S} seconds.") from None
            time.sleep(0.1)


def _stop() -> None:
    if "ray" not in sys.modules:
        return
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    # A second Ctrl-C must not leave processes behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Serve kills its controller, and Ray's listener then reports the loss of it: not for people.
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
