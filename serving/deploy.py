"""Starts Ray Serve, the tasks and the gateway within a time limit, and reports the reason if one of them fails.

Import this module after Ray's variables are set (ray_internals/environment.py).
"""

import logging
import math
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import ray
from ray import serve

from foursight.models.engines import environment as cpu_environment
from foursight.serving.gateway import Gateway
from foursight.serving.preflight import LaunchError
from foursight.serving.ray_internals import environment, loopback
from foursight.serving.settings import Settings
from foursight.serving.worker import Worker

POLL_S = 0.25
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
# Ray counts resources in ten-thousandths.
RESOURCE_UNITS = 10_000


class DeployError(Exception):
    """A task did not start; the message names it and the reason."""


class StartTimeout(BaseException):
    """The time limit has expired. Not an Exception, so that no handler in Ray swallows it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise StartTimeout in the block when the time has expired, even while Ray blocks. Only for the main thread."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise StartTimeout(f"it was not ready after {seconds} seconds (start_timeout_s).")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def start_ray(settings: Settings, folder: Path) -> None:
    """Start Ray, then Serve, with HAProxy at the server's port. Raises LaunchError for cuda without a GPU."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        num_cpus=cpu_environment.available_cpus(),
        # Ray's minimum. The store holds only images of /v1/analyze; what does not fit is written to files in the
        # private folder.
        object_store_memory=80 * 2**20,
        **environment.init_arguments(folder),
    )
    if settings.device == "cuda" and not _count_gpus():
        raise LaunchError("--device cuda: this machine has no NVIDIA GPU that Ray can see. Use --device cpu or auto.")
    serve.start(
        proxy_location="HeadOnly",
        # The address is a placeholder: haproxy_config writes the one that HAProxy listens on.
        http_options={"host": loopback.ADDRESS, "port": settings.port},
        logging_config=LOGGING,
    )


def applications(settings: Settings) -> list[serve.RunTarget]:
    """Return one application per task, at /v1/<task>, and the gateway, at /."""
    gpus = _count_gpus() if settings.device != "cpu" else 0
    # The classes are wrapped here and not where they are defined, so that a replica imports them by name.
    worker = serve.deployment(
        serve.ingress()(Worker),
        num_replicas=settings.replicas,
        # The worker rejects requests itself when its queue is full, with a better answer than Serve's.
        max_ongoing_requests=100_000,
        # A constructor that failed would fail again, so it is not retried. This does not limit later restarts.
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": 0, "num_gpus": gpu_share(gpus, len(settings.tasks) * settings.replicas)},
        logging_config=LOGGING,
    )
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        # Slow uploads to `analyze`, which refuses requests itself, must not stop requests to the other paths.
        max_ongoing_requests=100_000,
        ray_actor_options={"num_cpus": 0},
        logging_config=LOGGING,
    )
    return [
        *(
            serve.RunTarget(worker.bind(task, settings), name=task, route_prefix=f"/v1/{task}")
            for task in settings.tasks
        ),
        serve.RunTarget(gateway.bind(settings), name="gateway", route_prefix="/"),
    ]


def _count_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def gpu_share(gpus: int, workers: int) -> float:
    """Return the part of a GPU that each worker gets, such that all workers fit; at most 1, and 0 without GPUs.

    A worker cannot be split between GPUs, so each GPU has ceil(workers / gpus) equal shares. The share is rounded down:
    Ray rounds to ten-thousandths, and 7 workers of 0.1429 would not fit on one GPU.
    """
    if not gpus:
        return 0.0
    shares = math.ceil(workers / gpus)
    return math.floor(RESOURCE_UNITS / shares) / RESOURCE_UNITS


def deploy(targets: Sequence[serve.RunTarget]) -> None:
    """Deploy applications and wait until all are running.

    Raises DeployError for the first that fails or, if StartTimeout ends the wait, for those that are not running yet.
    """
    reasons = {target.name: "" for target in targets}
    try:
        serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        while reasons:
            for name, application in serve.status().applications.items():
                if name not in reasons:
                    continue
                messages = [application.message, *(one.message for one in application.deployments.values())]
                reason = next((_reason(message) for message in reversed(messages) if message), "")
                if application.status == "DEPLOY_FAILED":
                    raise DeployError(f"{name!r} failed to start: {reason}")
                if application.status == "RUNNING":
                    del reasons[name]
                else:
                    reasons[name] = reason
            time.sleep(POLL_S)
    except StartTimeout:
        states = "; ".join(f"{name!r} is not ready: {reason or 'still loading'}" for name, reason in reasons.items())
        raise DeployError(f"the time limit (start_timeout_s) has expired; {states}") from None


def _reason(message: str) -> str:
    """Return the error in one of Serve's messages, which end with a traceback, as one line."""
    lines = message.strip().splitlines()
    errors = [index for index, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    reason = " ".join(line.strip() for line in lines[errors[-1] :]) if errors else " ".join(lines)
    if reason.startswith("ActorDiedError"):
        return "its process died; perhaps it was killed, or ran out of memory."
    return re.sub(r"^(\w+\.)+(?=\w+(Error|Exception|Exit)\b)", "", reason)
