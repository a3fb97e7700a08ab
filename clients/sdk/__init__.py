"""The Python SDK. It needs neither ray nor torch.

The package exports the same names: `from foursight import Client`.
"""

from foursight.clients.sdk.async_client import AsyncClient
from foursight.clients.sdk.client import Client
from foursight.clients.sdk.errors import (
    ApiError,
    CannotConnect,
    DeadlineExceeded,
    FoursightError,
    InvalidAnswer,
    Overloaded,
    Rejected,
    ServerError,
    TimedOut,
    UnreadableImage,
)
from foursight.clients.sdk.many import Failed
from foursight.clients.sdk.results import Analysis, Prediction, Result

__all__ = [
    "Analysis",
    "ApiError",
    "AsyncClient",
    "CannotConnect",
    "Client",
    "DeadlineExceeded",
    "Failed",
    "FoursightError",
    "InvalidAnswer",
    "Overloaded",
    "Prediction",
    "Rejected",
    "Result",
    "ServerError",
    "TimedOut",
    "UnreadableImage",
]
