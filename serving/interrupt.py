"""An end without order, as at a stop during the start: the process ends at once, with all its children.

It is no exception, because Ray and imports may catch one, and Ray would then end its processes one by one.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STATUS = 130
_PR_SET_CHILD_SUBREAPER = 36


def exit_on_signal(clean_up: Callable[[], None], message: str) -> None:
    """From now on, SIGINT and SIGTERM end this process; see `end`."""
    if sys.platform == "linux":
        # Processes whose parent ends become children of this one, so that it can end them.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    for one in SIGNALS:
        signal.signal(one, lambda number, frame: end(clean_up, message, _STATUS))


def end(clean_up: Callable[[], None], message: str, status: int) -> NoReturn:
    """Kill all children, call `clean_up`, print `message` and end this process."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    # The time limit of the start must not interrupt this.
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        _kill_children()
        clean_up()
    finally:
        # Not `print`, which fails if a signal interrupted another one.
        os.write(2, f"{message}\n".encode())
        os._exit(status)


def _kill_children() -> None:
    """Kill all descendants and wait for their end."""
    with suppress(ChildProcessError):
        while True:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
