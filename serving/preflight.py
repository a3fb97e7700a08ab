"""Checks that run before anything is started, so that a wrong setting ends the start at once with a one-line error."""

import errno
import socket
import ssl
from urllib.request import urlopen

from foursight.models import catalogue
from foursight.models.errors import ModelError
from foursight.serving import api_keys, traces
from foursight.serving.api_keys import KeysError
from foursight.serving.finetuned import served_models
from foursight.serving.settings import Settings

# For requests to this machine by its address, which a certificate need not name.
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname = False
UNVERIFIED.verify_mode = ssl.CERT_NONE


class LaunchError(Exception):
    """The server cannot start; the message is one line for a person."""


def check(settings: Settings) -> None:
    """Raise LaunchError if something that the server needs cannot be used; downloads weights."""
    _check_keys(settings)
    _check_port(settings)
    _check_traces()
    try:
        _check_precision(settings)
        _fetch_weights(settings)
        for name in settings.models:
            served_models.inspect(settings, name)
    except ModelError as error:
        raise LaunchError(str(error)) from None


def address(settings: Settings) -> str:
    """Return the server's URL on this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://[{host}]:{settings.port}" if ":" in host else f"{scheme}://{host}:{settings.port}"


def _check_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            if error.errno != errno.EADDRINUSE:
                raise LaunchError(f"Cannot listen on {where}: {error.strerror}.") from None
            owner = "A Foursight server" if _is_foursight(address(settings)) else "Another program"
            raise LaunchError(
                f"{owner} already listens on {where}. Stop it, or choose another port with --port."
            ) from None


def _check_keys(settings: Settings) -> None:
    """Raise LaunchError if keys are required but there is none."""
    if not settings.needs_keys:
        return
    try:
        keys = api_keys.load(settings.keys_file)
    except KeysError as error:
        raise LaunchError(str(error)) from None
    if not keys:
        reason = "--auth keys" if settings.auth == "keys" else f"--host {settings.host}, which is not loopback,"
        raise LaunchError(
            f"{reason} needs API keys, and {settings.keys_file} has none. "
            "Create one with `foursight keys create NAME`, or let everyone in with --auth off."
        )


def _is_foursight(url: str) -> bool:
    try:
        with urlopen(f"{url}/openapi.json", timeout=2, context=UNVERIFIED) as response:
            return b'"Foursight"' in response.read()
    except (OSError, ValueError):
        return False


def _check_precision(settings: Settings) -> None:
    if settings.device == "cuda" and settings.precision != "float32":
        raise LaunchError(
            f"--precision {settings.precision} is for CPUs; on a GPU, networks always run in float16. "
            "Remove --precision, or use --device cpu."
        )
    settings.precision_config.require()


def _check_traces() -> None:
    if traces.endpoint():
        try:
            traces.exporter()
        except traces.TracesUnavailable as error:
            raise LaunchError(str(error)) from None


def _fetch_weights(settings: Settings) -> None:
    """Download the standard profile's weights once, here, and not in all workers at the same time."""
    if settings.profile == "standard":
        for task in settings.tasks:
            catalogue.fetch(task)
