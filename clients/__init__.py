"""Foursight's client side: what people use to reach a server. It needs neither ray nor torch.

    from foursight import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.detect("photo.jpg").predictions)

Nothing is imported until it is used: the server's own processes import this package too, on their way to its parts.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foursight.async_client import AsyncClient
    from foursight.client import Client
    from foursight.errors import (
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
    from foursight.many import Failed
    from foursight.results import Analysis, Prediction, Result

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

_HOMES = {
    "Analysis": "results",
    "AsyncClient": "async_client",
    "Client": "client",
    "Failed": "many",
    "Prediction": "results",
    "Result": "results",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'foursight' has no attribute {name!r}")
    return getattr(import_module(f"foursight.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
