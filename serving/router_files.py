"""The router's copies of the user's files: API keys, and the TLS certificate with its private key.

A change to the user's files takes effect within seconds, without a restart. If the new content is not valid, it is
reported, and the previous one stays in effect.
"""

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foursight.serving import api_keys, supervisor
from foursight.serving.api_keys import KeysError
from foursight.serving.preflight import LaunchError
from foursight.serving.ray_internals import admin_socket, haproxy_config, key_rules
from foursight.serving.settings import Settings

INTERVAL_S = 1.0
# A command has at most 16 kB.
_LINES_PER_COMMAND = 100
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.*?\n-----END \1-----", re.DOTALL)
# Modification time and inode of each source; None for one that is missing.
_Version = list[tuple[int, int] | None]


class NotValid(Exception):
    """Files cannot be used; the message is one line for a person."""


@dataclass(frozen=True)
class _Copy:
    """A file in the server's folder: what it is of, its sources, its content, and how the running router gets it."""

    what: str
    name: str
    sources: tuple[Path, ...]
    content: Callable[[], str]
    send: Callable[[Path, str], None]

    def version(self) -> _Version:
        return [_version(source) for source in self.sources]

    def write(self, folder: Path) -> str:
        """Write the file, and return its content. Raises NotValid, OSError."""
        content = self.content()
        new = folder / f"{self.name}.new"
        # The folder is private.
        new.write_text(content)
        new.replace(folder / self.name)
        return content


@contextmanager
def followed(settings: Settings, folder: Path, own_key: str) -> Iterator[None]:
    """Write the files to the server's folder, and repeat it in the block when a source changes. Raises LaunchError.

    `own_key` is an API key for the server itself.
    """
    copies = _copies(settings, own_key)
    versions = [copy.version() for copy in copies]
    try:
        for copy in copies:
            copy.write(folder)
    except NotValid as error:
        raise LaunchError(str(error)) from None
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(copies, versions, folder, stop), name="router-files", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _copies(settings: Settings, own_key: str) -> list[_Copy]:
    copies = []
    if settings.needs_keys:
        keys = settings.keys_file
        copies.append(_Copy("API keys", key_rules.MAP, (keys,), lambda: _read_keys(keys, own_key), _send_keys))
    if settings.tls_cert:
        certificate, key = settings.tls_cert, settings.tls_key or settings.tls_cert
        copies.append(
            _Copy(
                "certificate and key",
                haproxy_config.CERTIFICATE,
                (certificate, key),
                lambda: _read_certificate(certificate, key),
                _send_certificate,
            )
        )
    return copies


def _follow(copies: list[_Copy], versions: list[_Version], folder: Path, stop: threading.Event) -> None:
    while not stop.wait(INTERVAL_S):
        for number, copy in enumerate(copies):
            version = copy.version()
            if version == versions[number]:
                continue
            try:
                # A router that Serve starts from now on reads the file; the present one is told.
                copy.send(folder, copy.write(folder))
                supervisor.say(f"The new {copy.what} took effect.")
            except NotValid as error:
                supervisor.say(f"{error} The previous {copy.what} remain in effect.")
            except OSError:
                # The router restarts.
                continue
            versions[number] = version


def _read_keys(file: Path, own_key: str) -> str:
    try:
        keys = [api_keys.to_key("server", own_key, ["infer"]), *api_keys.load(file)]
    except KeysError as error:
        raise NotValid(str(error)) from None
    return "".join(f"{line}\n" for line in key_rules.map_lines(keys))


def _send_keys(folder: Path, content: str) -> None:
    file = folder / key_rules.MAP
    prepared = admin_socket.command(folder, f"prepare map {file}")
    version = re.search(r"\d+", prepared)
    if not version:
        raise NotValid(f"The router does not accept API keys: {prepared.strip()}")
    lines = content.splitlines(keepends=True)
    for start in range(0, len(lines), _LINES_PER_COMMAND):
        some = "".join(lines[start : start + _LINES_PER_COMMAND])
        admin_socket.command(folder, f"add map @{version[0]} {file} <<\n{some}")
    admin_socket.command(folder, f"commit map @{version[0]} {file}")


def _read_certificate(certificate: Path, key: Path) -> str:
    try:
        texts = [path.read_text() for path in dict.fromkeys((certificate, key))]
        # Without a password, an encrypted key would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise NotValid(f"The TLS certificate {certificate} with the key {key} cannot be used: {reason}.") from None
    except OSError as error:
        raise NotValid(f"The TLS certificate or key {error.filename} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise NotValid(f"The TLS certificate {certificate} or its key {key} is not in PEM.") from None
    # Without empty lines, which would end the router's command.
    return "".join(f"{block[0]}\n" for text in texts for block in _PEM.finditer(text.replace("\r\n", "\n")))


def _send_certificate(folder: Path, content: str) -> None:
    file = folder / haproxy_config.CERTIFICATE
    admin_socket.command(folder, f"set ssl cert {file} <<\n{content}")
    answer = admin_socket.command(folder, f"commit ssl cert {file}")
    if "Success" not in answer:
        raise NotValid(f"The router does not accept the TLS certificate: {' '.join(answer.split())}")


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
