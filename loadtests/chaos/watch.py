"""When the server shows that something is wrong: what it says on standard error, its end, and /readyz."""

import threading
import time
from dataclasses import dataclass
from typing import Self

import httpx

from loadtests.chaos.answers import cause_of
from loadtests.chaos.server import Server

INTERVAL_S = 0.5
TIMEOUT_S = 10.0
READY = "/readyz 200"


@dataclass(frozen=True)
class Event:
    """What was seen at a time, in seconds of the monotonic clock."""

    time: float
    text: str


class Watch:
    """Asks /readyz while the context lasts. `readiness` has an event for each change."""

    def __init__(self, server: Server) -> None:
        self.readiness: list[Event] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def events(self, since: float) -> list[Event]:
        """Return what was seen since a time, in order."""
        said = [Event(when, line) for when, line in list(self._server.said) if line]
        found = [event for event in (*said, *self.readiness) if event.time >= since]
        return sorted(found, key=lambda event: event.time)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=TIMEOUT_S) as client:
            while not self._stop.wait(INTERVAL_S):
                try:
                    text = f"/readyz {client.get('/readyz').status_code}"
                except httpx.HTTPError as error:
                    text = f"/readyz: {cause_of(error)}"
                if not self.readiness or self.readiness[-1].text != text:
                    self.readiness.append(Event(time.monotonic(), text))


def notice(events: list[Event], since: float) -> Event | None:
    """Return the first event since a time that shows a fault."""
    return next((event for event in events if event.time >= since and event.text != READY), None)
