"""What keeps Ray's own ports on loopback when the server is.

Ray 2.60 listens on loopback alone where the node's address is 127.0.0.1, but on Linux it replaces that address by the
machine's own, unless it is told that it is on a system without clusters. One port is left: a replica's gRPC server for
calls between deployments binds all interfaces whatever the address (`serve/_private/replica.py`).
"""

import ipaddress
import os
from collections.abc import Mapping

_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def environment(host: str) -> Mapping[str, str]:
    """The variables to set before ray is imported, for a server that listens on `host`."""
    return {_SWITCH: "0"} if is_loopback(host) else {}


def is_loopback(host: str) -> bool:
    """Whether nothing outside this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind_replica() -> None:
    """In a replica's constructor: bind its gRPC server to loopback, where the whole server is on loopback."""
    if os.environ.get(_SWITCH) != "0":
        return
    from ray.serve._private import replica  # noqa: PLC0415

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))
