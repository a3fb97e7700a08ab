"""Commands to the running router, through HAProxy's admin socket."""

import socket
from pathlib import Path

NAME = "admin.sock"
_TIMEOUT_S = 5.0


def command(folder: Path, text: str) -> str:
    """Return the router's answer; `folder` is the server's. Raises OSError without a router that answers."""
    # Serve puts the socket into a folder that is named after the node.
    path = next(folder.glob(f"*/{NAME}"), folder / NAME)
    with socket.socket(socket.AF_UNIX) as admin, admin.makefile("rb") as answer:
        admin.settimeout(_TIMEOUT_S)
        admin.connect(str(path))
        admin.sendall(f"{text}\n".encode())
        return answer.read().decode()
