"""All errors of the client. Each has the id of its request, under which the server logs it.

FoursightError
├── UnreadableImage     the image could not be opened, fetched or recognized; nothing was sent
├── CannotConnect       no connection to the server, or the connection broke
├── TimedOut            no response in time
├── InvalidAnswer       a response that no Foursight server sends
└── ApiError            the server responded with an error (RFC 9457)
    ├── Rejected        4xx: the request must be changed
    ├── Overloaded      429 or 503: the server is busy or starting
    └── ServerError     any other 5xx
        └── DeadlineExceeded  504: no answer within the client's timeout; a TimedOut too
"""

from foursight.schema import Problem


class FoursightError(Exception):
    """Base of all errors. `request_id` is None if nothing was sent."""

    def __init__(self, message: str, request_id: str | None = None) -> None:
        # The arguments must be the exception's `args`: pickle calls the class with them.
        super().__init__(message, request_id)
        self.message = message
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message} [request {self.request_id}]" if self.request_id else self.message


class UnreadableImage(FoursightError):
    """The image could not be opened, fetched or recognized. Nothing was sent to the server."""


class CannotConnect(FoursightError):
    """No connection to the server, or the connection broke before the response was complete."""


class TimedOut(FoursightError):
    """The server did not respond in time."""


class InvalidAnswer(FoursightError):
    """The response is not one that a Foursight server sends. Probably another program listens at the address."""


class ApiError(FoursightError):
    """The server responded with an error.

    `status` is the HTTP status, `code` is stable and machine-readable, `detail` says what was wrong and `hint` what
    would be right. `retry_after` is the delay in seconds that the server asked for, or None. `problem` has all fields.
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


class Rejected(ApiError):
    """4xx: the request must be changed."""


class Overloaded(ApiError):
    """429 or 503: the server is busy or starting. Raised after all retries failed."""


class ServerError(ApiError):
    """5xx: the server failed."""


class DeadlineExceeded(ServerError, TimedOut):
    """504: the server gave up, because the client's timeout, or its own limit, was over."""


def to_api_error(problem: Problem, request_id: str | None = None, retry_after: float | None = None) -> ApiError:
    """Return the error for the problem details of a response; its class follows from the status."""
    if problem.status in (429, 503):
        return Overloaded(problem, request_id, retry_after)
    if problem.code == "deadline_exceeded":
        return DeadlineExceeded(problem, request_id, retry_after)
    kind = Rejected if problem.status < 500 else ServerError
    return kind(problem, request_id, retry_after)
