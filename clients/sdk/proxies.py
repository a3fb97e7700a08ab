"""The proxies in the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), which httpx uses."""

import os
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

import httpx


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine. A proxy is never meant for it, and could not reach it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def through(url: httpx.URL) -> str:
    """Return " through the proxy ..." if requests for `url` take one, else ""; without the proxy's password."""
    found = getproxies()
    proxy = found.get(url.scheme) or found.get("all")
    if not proxy or is_loopback(url.host) or proxy_bypass(url.host):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"


def variables() -> str:
    """Return the names of the variables that are set."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    return ", ".join(name for name in os.environ if name.lower() in names and os.environ[name])
