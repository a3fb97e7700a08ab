"""The RAY_* variables of a server, and the private arguments of ray.init.

Ray and Serve read most variables when they are imported, so they must be set before.
"""

import secrets
import sys
from pathlib import Path

from foursight.serving.ray_internals import admin_socket, loopback

# The longest time in seconds that a worker may take to answer a request.
SERVER_TIMEOUT_S = 120
# Bytes that HAProxy reads at once.
HEAD_BYTES = 32 * 1024
# HAProxy's configuration. Serve writes it to a folder <node id> beside this path.
CONFIG_FILE = "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"


def variables(folder: Path, haproxy_threads: int, fallback_port: int) -> dict[str, str]:
    """Return the variables of a server that keeps its files in `folder`."""
    return {
        **loopback.ENVIRONMENT,
        **_haproxy_variables(folder, haproxy_threads),
        # Ray's default for a new local cluster; pinned, because "disabled" in the caller's environment would win.
        "RAY_AUTH_MODE": "token",
        # By default, Ray makes one that all servers share, in a file that everyone may read.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray's workers have a niceness of 15 by default. Here they are the machine's main work.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        # How long a stopping replica still answers, for remote load balancers (default 30 s). HAProxy runs on this
        # machine and is notified first.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Serve replaces a starting proxy after three failed checks, of 5 s each by default. On a busy machine that is
        # too short, for the replacement as well. The start as a whole has its own time limit.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
        # A router that has ended is replaced after three failed checks, which are 10 s apart by default. Until then
        # nothing is answered.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Each of Ray's logs grows to six files of 512 MB by default; an idle server's grow by about 1 MB per hour.
        "RAY_ROTATION_MAX_BYTES": str(10 * 2**20),
        "RAY_ROTATION_BACKUP_COUNT": "1",
        # Ray's own handler prints a trace at SIGTERM. Python's faulthandler, which Ray enables, reports crashes.
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
        # Ray checks on a cluster ten times a second. On one machine, without autoscaling, these intervals are enough;
        # they halve the CPU time of an idle server.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        "RAY_raylet_report_resources_period_milliseconds": "1000",
        "RAY_memory_monitor_refresh_ms": "1000",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_event_stats": "0",
    }


def init_arguments(folder: Path) -> dict[str, str]:
    """Return the private arguments of ray.init: Ray's address, and the folder for its sockets and logs."""
    return {
        "_node_ip_address": loopback.ADDRESS,
        "_temp_dir": str(folder / "ray"),
    }


def haproxy_program() -> Path:
    """Return the path of serving/haproxy.py as an installed program, which Serve starts instead of HAProxy."""
    return Path(sys.prefix) / "bin" / "foursight-haproxy"


def _haproxy_variables(folder: Path, threads: int) -> dict[str, str]:
    # Serve appends /<node id, 56 characters>/admin.sock.<pid>.tmp to the folder, and the path of a socket has at most
    # 107 characters.
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Deployments call each other over gRPC, and the router has no separate thread.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(haproxy_program()),
        CONFIG_FILE: str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / admin_socket.NAME),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(threads),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(SERVER_TIMEOUT_S),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "60",
        # A request's line and headers have to fit in: a list of all labels of ImageNet does.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(HEAD_BYTES),
        # The first failed connection takes a worker out of rotation; the periodic check only brings it back.
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    }
