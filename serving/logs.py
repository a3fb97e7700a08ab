"""The server's log, on its standard output: as JSON, or as text for people.

    worker, gateway: logger "foursight" -> queue -> thread -> socket -> thread in `foursight serve` -> standard output

The event loop only puts records into the queue. Images and keys are never logged.
"""

import json
import logging
import os
import queue
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, SocketHandler
from pathlib import Path
from typing import Any, Literal

from foursight.serving.ray_internals import environment, request_context

Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]

logger = logging.getLogger("foursight")
SOCKET = "log.sock"
# The id of the requests by which a starting server asks itself whether it is ready.
OWN_ID = "foursight-start"


class JsonFormatter(logging.Formatter):
    """Formats a record of a part of the server, a task or the gateway, as one line of JSON."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", None) or {"task": self._part, "id": _request_id()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None}, ensure_ascii=False)


def _request_id() -> str | None:
    """Return the id of the request that this process is answering."""
    return (request_context.request_id() or None) if "ray.serve" in sys.modules else None


class _LineHandler(SocketHandler):
    """Sends formatted records, one per line."""

    def makePickle(self, record: logging.LogRecord) -> bytes:  # noqa: N802
        return record.getMessage().encode() + b"\n"


def connect(part: str, level: Level) -> None:
    """Send the log of this process to the server's output, or to its standard error if that runs elsewhere.

    `part` is the name of the process's task, or "gateway".
    """
    path = Path(os.environ.get(environment.CONFIG_FILE, "")).parent / SOCKET
    target = _LineHandler(str(path), None) if path.exists() else logging.StreamHandler()
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = QueueHandler(waiting)
    # Formatted here, where the request's id and the traceback are.
    handler.setFormatter(JsonFormatter(part))
    QueueListener(waiting, target).start()
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


@contextmanager
def printing(folder: Path, chosen: LogFormat) -> Iterator[None]:
    """Print what the server's processes log; the socket is in the server's folder."""
    as_json = is_json(chosen)
    lock = threading.Lock()

    class Lines(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                text = line.decode() if as_json else to_text(json.loads(line)) + "\n"
                # The reader of the output may have gone, or its disk may be full: the requests are answered.
                with lock, suppress(OSError):
                    sys.stdout.write(text)
                    sys.stdout.flush()

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        # Lines that arrived before the end are printed.
        block_on_close = True

    with Server(str(folder / SOCKET), Lines) as server:
        thread = threading.Thread(target=server.serve_forever, name="log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


def say(chosen: LogFormat, text: str) -> None:
    """Print a message of the server's own process, as a line of the log if that is JSON."""
    if is_json(chosen):
        record = logger.makeRecord(logger.name, logging.INFO, "", 0, " ".join(text.split()), (), None)
        text = JsonFormatter("server").format(record)
    with suppress(OSError):
        print(text, flush=True)


def is_json(chosen: LogFormat) -> bool:
    """Whether lines are JSON: by default, if the output is no terminal."""
    return chosen == "json" or (chosen == "auto" and not sys.stdout.isatty())


def to_text(line: dict[str, Any]) -> str:
    """Return a line of the log for people."""
    at = datetime.fromisoformat(line["time"]).astimezone().strftime("%H:%M:%S")
    if line["event"] != "request":
        about = f" [{line['id']}]" if "id" in line else ""
        return f"{at} {line['task']} {line['level']}: {line['event']}{about}" + (
            f"\n{line['exception']}" if "exception" in line else ""
        )
    steps = [f"{name} {line[f'{name}_ms']:.0f}" for name in ("decode", "queue", "inference") if f"{name}_ms" in line]
    parts = [
        at,
        line.get("path", line["task"]),
        str(line["status"]),
        line.get("code", ""),
        f"{line['total_ms']:.0f} ms",
        f"({', '.join(steps)})" if steps else "",
        f"{line['bytes'] / 1000:.0f} kB" if "bytes" in line else "",
        f"{line['pixels'] / 1e6:.1f} MP" if "pixels" in line else "",
        line.get("model", ""),
        line.get("client", ""),
        line.get("id", ""),
    ]
    return " ".join(filter(None, parts))
