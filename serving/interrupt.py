"""A stop during the start: the process ends at once, with all its children.

It is no exception, because Ray and imports may catch one, and Ray would then end its processes one by one.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STATUS = 130
_PR_SET_CHILD_SUBREAPER = 36


def exit_on_signal(clean_up: Callable[[], None], message: str) -> None:
    """From now on, SIGINT and SIGTERM kill all children, call `clean_up`, print `message` and end this process."""

    def end(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        # The time limit of the start must not interrupt this.
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            _kill_children()
            clean_up()
        finally:
            # Not `print`, which fails if the signal interrupted another one.
            os.write(2, f"{message}\n".encode())
            os._exit(_STATUS)

    for one in SIGNALS:
        signal.signal(one, end)


def _kill_children() -> None:
    """Kill all descendants and wait for their end."""
    if sys.platform == "linux":
        # Those whose parent has ended become children of this process, so the search finds them.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with suppress(ChildProcessError):
        while True:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
