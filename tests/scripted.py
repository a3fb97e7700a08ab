"""An HTTP/1.1 server on loopback whose responses a test defines."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

from tests.stubs import Loopback


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    path: str
    query: dict[str, str]
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Reply:
    """A response; with `body` None, the connection is closed instead."""

    body: bytes | None = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Scripted(Loopback):
    """Responds with what `script` returns for a request; counts connections and simultaneous requests."""

    def __init__(self, script: Callable[[Asked], Reply]) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes, of which Nagle's algorithm would delay the second by 40 ms.
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with scripted._lock:
                    scripted.connections += 1

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = Asked(parts.path, dict(parse_qsl(parts.query)), self.headers, body)
                with scripted._lock:
                    scripted.asked.append(asked)
                    scripted._at_once += 1
                    scripted.most_at_once = max(scripted.most_at_once, scripted._at_once)
                reply = script(asked)
                with scripted._lock:
                    scripted._at_once -= 1
                if reply.body is None:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                headers = {"Content-Length": str(len(reply.body)), **reply.headers}
                for name, value in headers.items():
                    if value:
                        self.send_header(name, value)
                self.close_connection = not headers["Content-Length"]
                self.end_headers()
                self.wfile.write(reply.body)

            do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)
