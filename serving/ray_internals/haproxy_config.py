"""Hardening of the HAProxy configuration that Serve writes from its template (ray/serve/_private/haproxy_templates.py).

The template has unsafe defaults that no variable changes:

- the metrics page on :9101 and the statistics page on :8404 listen on all interfaces: both are removed;
- the admin socket is world-writable: it is made private;
- HAProxy's own 502, 503 and 504 are sent as a plain 500: they become 503 problem details with Retry-After;
- one line per request is logged to a syslog that does not exist: logging is removed;
- a client may take any time to send its headers: it gets a timeout.
"""

import re
from pathlib import Path

HEADER_TIMEOUT_S = 30
# A file beside the configuration with the reason why it was rejected.
REJECTED = "haproxy-rejected.txt"

# The lines of the template that patch_config changes.
TEMPLATE_LINES = (
    "\nfrontend prometheus\n",
    "\nlisten stats\n",
    "stats socket {{ config.socket_path }} mode 666",
    "    errorfile 502 ",
    "    errorfile 503 ",
    "    errorfile 504 ",
    "timeout connect {{",
)


def patch_config(config: str, error_file: Path) -> str:
    """Return the hardened configuration; `error_file` holds the response for 502, 503 and 504.

    Raises RuntimeError if an unsafe default remains, which means that Ray's template has changed.
    """
    config = "".join(text for text in _sections(config) if not text.startswith(("frontend prometheus", "listen stats")))
    config = re.sub(r"(?m)^ *log .*\n", "", config)
    config = re.sub(r"(stats socket \S+) mode 666", r"\1 mode 600", config)
    config = re.sub(r"(?m)^( *errorfile 50[234]) .*$", rf"\1 {error_file}", config)
    config = re.sub(
        r"(?m)^( *)timeout connect ",
        rf"\1timeout http-request {HEADER_TIMEOUT_S}s\n\1timeout connect ",
        config,
        count=1,
    )
    check_hardened(config, error_file)
    return config


def check_hardened(config: str, error_file: Path) -> None:
    """Raise RuntimeError, naming what is missing, if an unsafe default remains."""
    defaults = next((text for text in _sections(config) if text.startswith("defaults")), "")
    required = {
        "one `bind`": len(re.findall(r"(?m)^ *bind ", config)) == 1,
        "`stats socket` with mode 600": re.findall(r"stats socket \S+ mode (\d+)", config) == ["600"],
        "`errorfile` for 502, 503 and 504": all(
            f"errorfile {code} {error_file}\n" in defaults for code in (502, 503, 504)
        ),
        "`timeout http-request` in its defaults": f"timeout http-request {HEADER_TIMEOUT_S}s\n" in defaults,
    }
    missing = [name for name, found in required.items() if not found]
    if missing:
        raise RuntimeError(f"Ray's HAProxy configuration has changed: after patching it lacks {', '.join(missing)}.")


def _sections(config: str) -> list[str]:
    return re.split(r"(?m)^(?=\S)", config)
