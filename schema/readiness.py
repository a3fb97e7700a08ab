"""The state of a server, as `GET /readyz` returns it."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from foursight.schema.base import Wire


class Fault(Wire):
    """A part of the server that does not work; part and state are words of the line on standard error."""

    part: str = Field(description="As in: the worker of 'classify'.")
    state: str = Field(description="As in: has ended and is started again.")
    since: datetime = Field(description="When it was noticed.")


class Readiness(Wire):
    """`ready` is true if every task answers."""

    ready: bool
    tasks: dict[str, Literal["ready", "not ready"]]
    faults: list[Fault]
