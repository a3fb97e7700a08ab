"""Keeping Ray's own ports on loopback, whatever address the server listens on: only HAProxy is reached from outside.

Ray 2.60 binds its ports to the node's address, if that is 127.0.0.1. On Linux it replaces 127.0.0.1 with the machine's
address unless clusters are switched off. One port ignores the address: the gRPC server of a replica, for calls between
deployments, binds all interfaces (ray/serve/_private/replica.py).
"""

import ipaddress

ADDRESS = "127.0.0.1"
CLUSTER_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# To be set before ray is imported.
ENVIRONMENT = {CLUSTER_SWITCH: "0"}


def is_loopback(host: str) -> bool:
    """Whether `host` cannot be reached from other machines."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind_replica() -> None:
    """Bind this replica's gRPC server to loopback. Call it in a replica's constructor."""
    from ray.serve._private import replica  # noqa: PLC0415

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))
