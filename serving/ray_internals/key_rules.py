"""The lines of HAProxy's configuration that ask for an API key, check its scope, and limit its rate.

HAProxy's map of keys has one line per key:

    <SHA-256 of the key, in hex> <name>|<scope>,<scope>|<requests per second; 0: no limit>

A request that passes has the key's name in HEADER instead of the key: no worker sees keys.
"""

from collections.abc import Iterable
from pathlib import Path

from foursight.serving.api_keys import SCOPES, Key
from foursight.serving.errors import CODES

# A file in the server's folder.
MAP = "keys.map"
HEADER = "X-Foursight-Key"
# What a client sends there would be taken for the name of its key.
FORGET = f"http-request del-header {HEADER}"
# Requests that passed in the last second, by the name of their key.
TABLE = """
backend foursight_keys
    stick-table type string len 64 size 10k expire 60s store gpc0_rate(1s)
"""
# The page asks for a key, so it must load without one.
_PUBLIC = ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/-/healthz")
_READ_WITH_ANY_KEY = ("/v1/models", "/v1/limits")


def answer(name: str, folder: Path) -> str:
    """Return the action that answers with the file <name>.http; a name is an error code, or <code>.<variant>."""
    status = CODES[name.partition(".")[0]].status
    return f"http-request return status {status} errorfile {folder}/{name}.http"


def map_lines(keys: Iterable[Key]) -> list[str]:
    """Return the lines of the map."""
    # In upper case, as HAProxy's converter `hex` writes.
    return [f"{key.sha256.upper()} {key.name}|{','.join(key.scopes)}|{key.rate}" for key in keys]


def rules(folder: Path) -> list[str]:
    """Return the lines of the frontend."""
    private = "!{ var(txn.needs) -m str nothing }"
    return [
        FORGET,
        # As the application reads it: /%6detrics is /metrics.
        "http-request set-var(txn.path) path,url_dec",
        "http-request set-var(txn.needs) str(infer)",
        f"http-request set-var(txn.needs) str(any) if {_path(_READ_WITH_ANY_KEY)}",
        "http-request set-var(txn.needs) str(metrics) if { var(txn.path) -m beg /metrics }",
        "http-request set-var(txn.needs) str(models) if !{ method GET HEAD POST }",
        f"http-request set-var(txn.needs) str(nothing) if {_path(_PUBLIC)}",
        "http-request set-var(txn.needs) str(nothing) if { var(txn.path) -m beg /page/ }",
        # A browser asks with OPTIONS, and without a key, whether it may send one.
        "http-request set-var(txn.needs) str(nothing) if METH_OPTIONS",
        f"http-request set-var(txn.key) http_auth_bearer,sha2(256),hex,map_str({folder}/{MAP})",
        f"{answer('missing_key', folder)} if {private} !{{ req.hdr(authorization) -m found }}",
        f"{answer('invalid_key', folder)} if {private} !{{ var(txn.key) -m found }}",
        "http-request del-header Authorization",
        "http-request set-var(txn.name) var(txn.key),field(1,|)",
        "http-request set-var(txn.scopes) var(txn.key),field(2,|)",
        "http-request set-var(txn.rate) var(txn.key),field(3,|)",
        *(
            f"{answer(f'insufficient_scope.{scope}', folder)} "
            f"if {{ var(txn.needs) -m str {scope} }} !{{ var(txn.scopes) -m sub {scope} }}"
            for scope in SCOPES
        ),
        f"http-request track-sc1 var(txn.name) table foursight_keys if {private}",
        f"{answer('rate_limited', folder)} if {private} {{ var(txn.rate) -m int gt 0 }} "
        "{ sc1_gpc0_rate(foursight_keys),sub(txn.rate) -m int ge 0 }",
        f"http-request sc-inc-gpc0(1) if {private}",
        f"http-request set-header {HEADER} %[var(txn.name)] if {{ var(txn.name) -m found }}",
    ]


def _path(paths: Iterable[str]) -> str:
    # The application accepts a slash at the end.
    both = " ".join(f"{path} {path}/" if path != "/" else path for path in paths)
    return f"{{ var(txn.path) -m str {both} }}"
