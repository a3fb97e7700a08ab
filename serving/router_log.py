"""Requests that the router answers itself: it refuses them, or has no worker. The gateway logs and counts them."""

import os
import socketserver
import threading
from pathlib import Path

from foursight.serving.metrics import RequestMetrics
from foursight.serving.ray_internals import environment
from foursight.serving.ray_internals.haproxy_config import LOG_SOCKET
from foursight.serving.request_log import RequestRecord


def follow(metrics: RequestMetrics) -> None:
    """Log and count what the router reports, in a thread, for as long as this process lives."""

    class Report(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            record, status, seconds = read(self.packet.decode(errors="replace"))
            metrics.answered(status, seconds, record.code)
            record.log(status, seconds)

    path = Path(os.environ[environment.CONFIG_FILE]).parent / LOG_SOCKET
    # A gateway that ended has left it.
    path.unlink(missing_ok=True)
    server = socketserver.UnixDatagramServer(str(path), Report)
    threading.Thread(target=server.serve_forever, name="router-log", daemon=True).start()


def read(line: str) -> tuple[RequestRecord, int, float]:
    """Return the record of a request, its status and its seconds, from a line in haproxy_config's LOG_FORMAT."""
    known = [None if field == "-" else field for field in line.rstrip("\n").split("\t")]
    request_id, client, key, path, code, status, milliseconds = known
    record = RequestRecord("router", request_id, client, key, path, code=code)
    return record, int(status or 0), int(milliseconds or 0) / 1000
