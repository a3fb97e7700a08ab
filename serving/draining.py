"""The end of a server's work: the router refuses new requests, and those in flight are answered.

Serve itself stops its router at once, and with it the answers that are still being computed.
"""

import csv
import threading
import time
from pathlib import Path

from foursight.serving.ray_internals import admin_socket, haproxy_config

INTERVAL_S = 0.1


def drain(folder: Path, timeout_s: float, hurry: threading.Event) -> None:
    """Answer new requests with 503 and wait for the others, at most for `timeout_s` seconds or until `hurry` is set.

    `folder` is the server's. Without a router that answers, nothing is waited for.
    """
    deadline = time.monotonic() + timeout_s
    refused = folder / haproxy_config.REFUSED_PATHS
    # A router that Serve starts from now on reads the file; the present one is told.
    refused.write_text("/\n")
    try:
        admin_socket.command(folder, f"add acl {refused} /")
        while _in_flight(folder) and time.monotonic() < deadline and not hurry.wait(INTERVAL_S):
            pass
    except OSError:
        return


def _in_flight(folder: Path) -> int:
    """Return the number of requests that the router has passed on and that are not answered yet."""
    rows = csv.DictReader(admin_socket.command(folder, "show stat").removeprefix("# ").splitlines())
    return sum(int(row["scur"]) for row in rows if row["svname"] == "BACKEND")
