"""Foursight: a vision inference server and its Python client.

    from foursight import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.detect("photo.jpg").predictions)

The names of `foursight.clients.sdk` are available here. They are imported on first use, because the server's processes
import this package too, and need no HTTP client.
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foursight.clients.sdk import *  # noqa: F403

__version__ = _version("foursight-vision")


def __getattr__(name: str) -> object:
    # `from foursight import *` reads __all__.
    if name == "__all__" or not name.startswith("_"):
        sdk = import_module("foursight.clients.sdk")
        if name in ("__all__", *sdk.__all__):
            return getattr(sdk, name)
    raise AttributeError(f"module 'foursight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*import_module("foursight.clients.sdk").__all__, "__version__"]
