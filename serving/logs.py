"""What goes wrong while requests are answered, from all processes, on the standard error of `foursight serve`.

Workers send each record as a datagram to a socket in the server's folder: whole, in order, and without waiting. Ray
keeps a file for each process, which is deleted with the folder.
"""

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import DatagramHandler
from pathlib import Path

from foursight.serving.errors import logger
from foursight.serving.ray_internals import environment, request_context

_SOCKET = "log.sock"
# Longer records are cut.
_MAX_BYTES = 2**16


class _Sender(DatagramHandler):
    """Sends records as text. They are lost if nothing receives them."""

    def makePickle(self, record: logging.LogRecord) -> bytes:  # noqa: N802
        """Return the bytes of a datagram."""
        return self.format(record).encode(errors="replace")[:_MAX_BYTES]

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Do nothing: the server's process has ended, or does not keep up."""


class _AddRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ID of the request that is being answered."""
        record.request_id = request_context.request_id() or "-"
        return True


def send(part: str) -> None:
    """Send the records of this process to the server's. `part` is its name, as "classify"."""
    folder = Path(os.environ[environment.CONFIG_FILE]).parent
    handler = _Sender(str(folder / _SOCKET), None)
    handler.addFilter(_AddRequestId())
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {part} %(request_id)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


@contextmanager
def received(folder: Path) -> Iterator[None]:
    """Write the records of the server's processes to standard error while the context lasts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(folder / _SOCKET))
        thread = threading.Thread(target=_copy, args=(receiver,), name="logs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            receiver.shutdown(socket.SHUT_RD)
            thread.join()


def _copy(receiver: socket.socket) -> None:
    while record := receiver.recv(_MAX_BYTES):
        print(record.decode(errors="replace"), file=sys.stderr, flush=True)
