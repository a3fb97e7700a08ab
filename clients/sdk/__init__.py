"""The Python SDK. It needs neither ray nor torch.

Its names are also those of the package: `from foursight import Client`.
"""

from foursight.clients.sdk.async_client import AsyncClient
from foursight.clients.sdk.client import Client
from foursight.clients.sdk.errors import (
    CannotConnect,
    FoursightError,
    InvalidAnswer,
    Overloaded,
    Refused,
    Rejected,
    ServerError,
    TimedOut,
    UnreadableImage,
)
from foursight.clients.sdk.many import Failed
from foursight.clients.sdk.results import Analysis, Prediction, Result

__all__ = [
    "Analysis",
    "AsyncClient",
    "CannotConnect",
    "Client",
    "Failed",
    "FoursightError",
    "InvalidAnswer",
    "Overloaded",
    "Prediction",
    "Refused",
    "Rejected",
    "Result",
    "ServerError",
    "TimedOut",
    "UnreadableImage",
]
