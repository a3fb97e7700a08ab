"""A server on this machine from start to shutdown: checks, Ray, Serve, the tasks, and the cleanup."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http import HTTPStatus
from io import StringIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from foursight.models.engines import environment as cpu_environment
from foursight.models.errors import StoreError
from foursight.models.finetuned import store
from foursight.serving import api_keys, draining, haproxy, interrupt, logs, preflight, router_files, run_folder
from foursight.serving.finetuned import served_models
from foursight.serving.preflight import LaunchError, address
from foursight.serving.ray_internals import checks, environment, haproxy_config, loopback, signals
from foursight.serving.settings import Settings
from foursight.serving.supervisor import ServerFailed

__all__ = ["LaunchError", "Server", "address", "running"]


@dataclass(frozen=True)
class Server:
    """A server that is ready: its URL on this machine, and an event that SIGINT (Ctrl-C) or SIGTERM sets."""

    address: str
    stop: threading.Event


@contextmanager
def running(settings: Settings, interrupted: str = "Stopped before it was ready.") -> Iterator[Server]:
    """Start a server, yield it when it is ready, and stop it at the end of the context.

    It sets Ray's environment and signal handlers for the whole process: call it once per process, in the main thread. A
    signal during the start ends the process with status 130 and the message `interrupted`. Raises LaunchError.
    """
    run_folder.clean_up_orphans()
    checks.check()
    preflight.check(settings)
    interrupt.exit_on_signal(lambda: _clean_up(settings), interrupted)
    own_key = api_keys.generate()
    with (
        run_folder.create() as folder,
        logs.printing(folder, settings.log_format),
        router_files.followed(settings, folder, own_key),
    ):
        os.environ.update(_environment(settings, folder))
        haproxy.prepare(folder, _edge(settings))
        try:
            _start(settings, folder, own_key)
            server = Server(address(settings), _event_of_signals())
            yield server
            # A second signal ends the wait.
            server.stop.clear()
            draining.drain(folder, settings.stop_timeout_s, server.stop)
            # A further one must not leave processes behind.
            for number in interrupt.SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        except ServerFailed as error:
            # Ray cannot stop in order without these processes.
            message = f"foursight serve: {error} The server ends. Logs: {folder}/ray/session_latest/logs"
            interrupt.end(lambda: served_models.remove(settings), message, status=1)
        finally:
            _stop()
            served_models.remove(settings)


def _event_of_signals() -> threading.Event:
    stop = threading.Event()
    for number in interrupt.SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    return stop


def _clean_up(settings: Settings) -> None:
    run_folder.remove()
    served_models.remove(settings)


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        spare_port = probe.getsockname()[1]
    threads = max(1, cpu_environment.available_cpus() // 4)
    return environment.variables(folder, threads, spare_port) | cpu_environment.ENVIRONMENT


def _edge(settings: Settings) -> haproxy_config.Edge:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    # Its own names are always allowed: it asks itself whether it is ready.
    hosts = tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", host, *settings.allowed_hosts)))
    any_host = not settings.allowed_hosts and not loopback.is_loopback(settings.host)
    return haproxy_config.Edge(
        address=f"{host}:{settings.port}",
        tls=settings.tls_cert is not None,
        keys=settings.needs_keys,
        tasks=settings.tasks,
        hosts=() if any_host or "*" in hosts else hosts,
        origins=settings.allowed_origins,
        client_connections=settings.max_client_connections,
    )


def _start(settings: Settings, folder: Path, own_key: str) -> None:
    # Imported only now that the environment is set: Ray and Serve read their variables at import.
    from foursight.serving import deploy  # noqa: PLC0415

    signals.keep_handlers()
    try:
        with deploy.time_limit(settings.start_timeout_s):
            deploy.start_ray(settings, folder)
            targets = deploy.applications(settings)
            _list_models(settings)
            deploy.deploy(targets)
            _wait_until_ready(settings, own_key)
    except LaunchError:
        raise
    except (Exception, deploy.StartTimeout) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if (rejected := folder / haproxy_config.REJECTED).exists():
            reason = rejected.read_text()
        raise LaunchError(f"The server did not start: {reason} Logs: {folder}/ray/session_latest/logs") from error


def _list_models(settings: Settings) -> None:
    """Write the list of models to serve: those of the settings, and the valid ones in the models folder."""
    entries = {}
    for name in (*settings.models, *(n for n in store.names(settings.models_dir) if n not in settings.models)):
        try:
            entries[name] = served_models.inspect(settings, name)
        except StoreError as error:
            print(f"Not served: {error}", file=sys.stderr)
    # Without models, no models folder is created.
    if entries or served_models.path(settings).exists():
        served_models.write(settings, entries)


def _wait_until_ready(settings: Settings, own_key: str) -> None:
    """Send requests through HAProxy, as a client would, until every task answers."""
    # A worker refuses GET; without a route to it, the answer is 503.
    expected = {"/readyz": HTTPStatus.OK} | {f"/v1/{task}": HTTPStatus.METHOD_NOT_ALLOWED for task in settings.tasks}
    while any(_status(address(settings) + path, own_key) != status for path, status in expected.items()):
        time.sleep(0.1)


def _status(url: str, own_key: str) -> int | None:
    try:
        request = Request(url, headers={"X-Request-ID": logs.OWN_ID, "Authorization": f"Bearer {own_key}"})
        with urlopen(request, timeout=10, context=preflight.UNVERIFIED) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return None


def _stop() -> None:
    if "ray" not in sys.modules:
        return
    import ray  # noqa: PLC0415
    from ray import serve  # noqa: PLC0415

    # Serve kills its controller, and Ray's listener then prints an error about it.
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
