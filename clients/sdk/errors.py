"""What can go wrong for a client: one tree; each error has the id of its request, by which the server's log knows it.

FoursightError
├── UnreadableImage     the image cannot be opened, fetched or understood here; nothing was sent
├── CannotConnect       no connection to the server, or it broke
├── TimedOut            no answer in time
├── InvalidAnswer       an answer that no Foursight server gives
└── Refused             the server answered with an error (RFC 9457)
    ├── Rejected        4xx: the request itself must change
    ├── Overloaded      429 or 503: the server is busy, or is starting
    └── ServerError     any other 5xx
"""

from foursight.schema import Problem


class FoursightError(Exception):
    """Base of all errors here. `request_id` is None where nothing was sent."""

    def __init__(self, message: str, request_id: str | None = None) -> None:
        # All arguments are the exception's own, so that it can be pickled.
        super().__init__(message, request_id)
        self.message = message
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message} [request {self.request_id}]" if self.request_id else self.message


class UnreadableImage(FoursightError):
    """The image cannot be opened, fetched or understood here; nothing was sent to the server."""


class CannotConnect(FoursightError):
    """There is no connection to the server, or it broke before the answer was there."""


class TimedOut(FoursightError):
    """The server did not answer in time."""


class InvalidAnswer(FoursightError):
    """The answer is none that a Foursight server gives: most likely, another program listens there."""


class Refused(FoursightError):
    """The server answered with an error: the fields of its problem details, and `status`, the HTTP status.

    `code` is stable and made for machines, `detail` says what was wrong and `hint` what would be right.
    `retry_after` is the wait in seconds that the server asks for, or None.
    """

    def __init__(self, problem: Problem, request_id: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(f"{problem.detail} {problem.hint}".strip(), request_id)
        self.args = (problem, request_id, retry_after)
        self.problem = problem
        self.retry_after = retry_after
        self.status = problem.status
        self.code = problem.code
        self.detail = problem.detail
        self.hint = problem.hint


class Rejected(Refused):
    """4xx: the request cannot be answered as it is."""


class Overloaded(Refused):
    """429 or 503: the server is busy, or is starting. The client tried again before it gave up."""


class ServerError(Refused):
    """5xx: the server failed."""


def refused(problem: Problem, request_id: str | None = None, retry_after: float | None = None) -> Refused:
    """The error for a problem that the server told, by its status."""
    if problem.status in (429, 503):
        return Overloaded(problem, request_id, retry_after)
    kind = Rejected if problem.status < 500 else ServerError
    return kind(problem, request_id, retry_after)
