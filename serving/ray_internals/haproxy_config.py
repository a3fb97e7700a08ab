"""Hardening of the HAProxy configuration that Serve writes from its template (ray/serve/_private/haproxy_templates.py).

The template has unsafe defaults that no variable changes:

- the metrics page on :9101 and the statistics page on :8404 listen on all interfaces: both are removed;
- the admin socket is world-writable: it is made private;
- HAProxy's own 502, 503 and 504 are sent as a plain 500: they, 400, 408 and 500 become problem details;
- the router's own answers have no request ID: all get the client's, or a new one;
- until Serve has sent its routes, every path is a 404: it becomes a 503 with Retry-After;
- requests for a task without a worker wait in Serve's own proxy, with their bodies: without its `server` lines,
  they are a 503 at once;
- `/-/routes` tells everyone what is deployed: it is removed;
- one line per request is logged to a syslog that does not exist: what HAProxy answers itself is logged to the gateway;
- a client may take any time to send its headers: it gets a timeout;
- one client may hold all connections: they are limited by address;
- headers that only Serve's own proxy may set, and that fail if they are not UTF-8, reach the workers: they are removed;
- any `Host` is accepted, and any web page may post: names are checked, and what other sites post is refused;
- everyone may use everything: if keys are required, they are checked (key_rules.py).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foursight.serving.ray_internals import key_rules
from foursight.serving.ray_internals.key_rules import answer

HEADER_TIMEOUT_S = 30
# A file in the server's folder with the reason why the configuration was rejected.
REJECTED = "haproxy-rejected.txt"
# A socket in the server's folder, for a line about each request that HAProxy answers itself. Tabs separate its fields.
LOG_SOCKET = "router.sock"
LOG_FORMAT = "\\t".join(("%[var(txn.request_id)]", "%ci", "%[var(txn.name)]", "%HP", "%[var(txn.code)]", "%ST", "%Ta"))
# A header of requests for READYZ, one for each task whose workers HAProxy does not reach yet.
# The gateway may reach them already.
UNROUTED = "X-Foursight-Unrouted"
READYZ = "{ path /readyz /readyz/ }"
# The header of a response file with its error code, for the log; it is not sent.
CODE_HEADER = "X-Code"
# A file in the server's folder with the beginnings of paths that are refused, because the server stops.
REFUSED_PATHS = "refused-paths.txt"
# HAProxy's own errors, for which there is a file <status>.http. What is not HTTP, or ends before its headers do, gets
# one that no setting changes.
ERROR_STATUSES = (400, 408, 500, 502, 503, 504)
# The certificate chain and its private key, in the server's folder.
CERTIFICATE = "tls.pem"

# The lines of the template that patch_config changes.
TEMPLATE_LINES = (
    "\nfrontend prometheus\n",
    "\nlisten stats\n",
    "stats socket {{ config.socket_path }} mode 666",
    "    errorfile 502 ",
    "    errorfile 503 ",
    "    errorfile 504 ",
    "timeout connect {{",
    "\n    maxconn {{",
    "    bind {{ config.frontend_host }}:{{ config.frontend_port }}",
    "    acl routes path -i /-/routes",
    "    acl is_{{ backend.name or 'unknown' }} path {{ backend.path_prefix or '/' }}",
    "    http-request return status 404 content-type text/plain lf-string",
    "{{ backend.fallback_server.port }} check backup",
)
# HAProxy refuses to add a header that is longer than its reserve, 1024 bytes.
MAX_ID = 200
_SERVES_HEADERS = (
    "^(x-request-disconnect-disabled|x-request-timeout-seconds|x[-_]session[-_]id|serve[-_]multiplexed[-_]model[-_]id)$"
)


@dataclass(frozen=True)
class Edge:
    """Where HAProxy listens, and what it lets in.

    `address` is as in its `bind` line; with `tls`, it speaks HTTPS there. With `keys`, requests need an API key.
    `hosts` are the names that Host may have (empty: any) and `origins` those of web pages that may post ("*": any).
    `client_connections` limits those of one address (0: no limit), `connections` all. `tasks` have a path each.
    """

    address: str = "127.0.0.1:8000"
    tls: bool = False
    keys: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    client_connections: int = 0
    connections: int = 4096
    tasks: tuple[str, ...] = ()


def patch_config(config: str, folder: Path, edge: Edge) -> str:
    """Return the hardened configuration; `folder` has the file <name>.http for each response.

    Raises RuntimeError if an unsafe default remains, which means that Ray's template has changed.
    """
    config = "".join(text for text in _sections(config) if not text.startswith(("frontend prometheus", "listen stats")))
    config = re.sub(rf"(?m)^ *log (?!{re.escape(str(folder))}).*\n", "", config)
    config = re.sub(r"(?m)^.* if routes\n|^ *acl routes .*\n", "", config)
    config = re.sub(r"(?m)^ *server .* backup\n", "", config)
    config = re.sub(r"(stats socket \S+) mode 666", r"\1 mode 600", config)
    config = re.sub(
        r"(?m)^    maxconn (\d+)$", lambda found: f"    maxconn {min(int(found[1]), edge.connections)}", config, count=1
    )
    config = re.sub(r"(?m)^ *errorfile .*\n", "", config)
    defaults = "".join(f"    {line}\n" for line in _defaults(folder))
    config = re.sub(r"(?m)^ *timeout connect ", lambda found: defaults + found[0], config, count=1)
    unavailable = f"    {answer('unavailable', folder)}"
    config = re.sub(r"(?m)^ *http-request return status 404 .*$", lambda found: unavailable, config)
    config = re.sub(r"(?m)^(frontend http_frontend\n) *bind .*$", rf"\1    {_bind(folder, edge)}", config)
    rules = "".join(f"    {line}\n" for line in (*_rules(folder, edge), *_unrouted(config, edge)))
    if rules not in config:
        config = re.sub(r"(?m)^frontend http_frontend\n *bind .*\n", lambda found: found[0] + rules, config)
    if edge.keys and key_rules.TABLE not in config:
        config += key_rules.TABLE
    check_hardened(config, folder, edge)
    return config


def check_hardened(config: str, folder: Path, edge: Edge) -> None:
    """Raise RuntimeError, naming what is missing, if an unsafe default remains."""
    section = {text.splitlines()[0].strip(): text for text in _sections(config) if text}
    defaults = section.get("defaults", "")
    frontend = section.get("frontend http_frontend", "")
    required = {
        "one `bind`": re.findall(r"(?m)^ *(bind .*)$", config) == [_bind(folder, edge)],
        "`stats socket` with mode 600": re.findall(r"stats socket \S+ mode (\d+)", config) == ["600"],
        "`timeout http-request` and `errorfile` in its defaults": all(line in defaults for line in _defaults(folder)),
        "the rules of its frontend": all(line in frontend for line in _rules(folder, edge)),
        "503 without routes": answer("unavailable", folder) in section.get("backend default_backend", ""),
        "no list of routes": "path -i /-/routes" not in config,
        "no fallback to Serve's proxy": not re.search(r"(?m)^ *server .* backup *$", config),
    }
    missing = [name for name, found in required.items() if not found]
    if missing:
        raise RuntimeError(f"Ray's HAProxy configuration has changed: after patching it lacks {', '.join(missing)}.")


def _defaults(folder: Path) -> list[str]:
    return [
        f"timeout http-request {HEADER_TIMEOUT_S}s",
        *(f"errorfile {status} {folder}/{status}.http" for status in ERROR_STATUSES),
    ]


def _bind(folder: Path, edge: Edge) -> str:
    # At least TLS 1.2, as RFC 9325 recommends. No HTTP/2: curl 7.88 loses an answer that it gets during an upload.
    tls = f" ssl crt {folder}/{CERTIFICATE} alpn http/1.1 ssl-min-ver TLSv1.2" if edge.tls else ""
    return f"bind {edge.address}{tls}"


def _rules(folder: Path, edge: Edge) -> list[str]:
    """Return the lines of the frontend that decide what is let in."""
    refused = f"{{ path -m beg -f {folder}/{REFUSED_PATHS} }}"
    rules = [
        f"log {folder}/{LOG_SOCKET} len 8192 format raw local0 info",
        f'log-format "{LOG_FORMAT}"',
        f"http-after-response set-var(txn.code) res.fhdr({CODE_HEADER})",
        f"http-after-response del-header {CODE_HEADER}",
        # A worker has logged it.
        "http-response set-log-level silent",
        f"{answer('bad_request', folder)} if {{ req.fhdr(x-request-id) -m reg '[^!-~]|^.{{{MAX_ID + 1}}}' }}",
        "http-request set-header X-Request-ID %[uuid()] unless { req.fhdr(x-request-id) -m len gt 0 }",
        "http-request set-var(txn.request_id) req.fhdr(x-request-id)",
        "http-after-response set-header X-Request-ID %[var(txn.request_id)] if { var(txn.request_id) -m found }",
        f"{answer('stopping', folder)} if {refused}",
    ]
    if edge.client_connections:
        rules += [
            "stick-table type ipv6 size 100k expire 60s store conn_cur",
            "tcp-request connection track-sc0 src",
            f"tcp-request connection reject if {{ sc0_conn_cur gt {edge.client_connections} }}",
        ]
    if edge.hosts:
        known = f"{{ req.hdr(host),host_only,lower -m str {' '.join(edge.hosts)} }}"
        rules.append(f"{answer('unknown_host', folder)} unless {known}")
    if "*" not in edge.origins:
        foreign = "{ req.hdr(sec-fetch-site) -m str cross-site } !{ method GET HEAD OPTIONS }"
        allowed = f" !{{ req.hdr(origin) -m str {' '.join(edge.origins)} }}" if edge.origins else ""
        rules.append(f"{answer('cross_site', folder)} if {foreign}{allowed}")
    return [
        *rules,
        f"http-request del-header '{_SERVES_HEADERS}' -m reg",
        # The log names the client.
        "http-request set-header X-Forwarded-For %[src]",
        # The documentation's page names the server's address.
        f"http-request set-header X-Forwarded-Proto {'https' if edge.tls else 'http'}",
        *(key_rules.rules(folder) if edge.keys else [key_rules.FORGET]),
        "http-response set-header X-Content-Type-Options nosniff",
    ]


def _unrouted(config: str, edge: Edge) -> Iterator[str]:
    """Yield the lines that add the header UNROUTED."""
    yield f"http-request del-header {UNROUTED}"
    for task in edge.tasks:
        backend = re.search(rf"(?m)^ *acl is_(\S+) path /v1/{task}$", config)
        idle = f" !{{ nbsrv({backend[1]}) ge 1 }}" if backend else ""
        yield f"http-request add-header {UNROUTED} {task} if {READYZ}{idle}"


def _sections(config: str) -> list[str]:
    return re.split(r"(?m)^(?=\S)", config)
