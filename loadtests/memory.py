"""Print the memory of a running server: proportional set size (PSS) of each process, and the sum.

    python loadtests/memory.py --port 8000

PSS counts a page that n processes share as 1/n in each, so the sum is the server's memory (Linux only).
"""

import argparse
from contextlib import suppress

import psutil


def main() -> None:
    """Print a row for each process, largest first, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000)
    root = server_process(parser.parse_args().port)
    rows = []
    for process in [root, *root.children(recursive=True)]:
        # Ray starts and ends processes of its own.
        with suppress(psutil.NoSuchProcess):
            memory = process.memory_full_info()
            rows.append((memory.pss, memory.uss, " ".join(process.cmdline())[:60] or process.name()))
    for pss, uss, name in sorted(rows, reverse=True):
        print(f"{pss / 2**20:8.1f} MiB PSS  {uss / 2**20:8.1f} MiB USS  {name}")
    print(f"{sum(row[0] for row in rows) / 2**20:8.1f} MiB PSS in {len(rows)} processes")


def server_process(port: int) -> psutil.Process:
    """Return the `foursight serve` process that owns the listener on a port."""
    listeners = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    owners = [c.pid for c in listeners if c.laddr and c.laddr[1] == port]
    if not owners:
        raise SystemExit(f"nothing listens on port {port}")
    process: psutil.Process | None = psutil.Process(owners[0])
    while process is not None and "serve" not in process.cmdline():
        process = process.parent()
    if process is None:
        raise SystemExit(f"the listener on port {port} is not a Foursight server")
    return process


if __name__ == "__main__":
    main()
