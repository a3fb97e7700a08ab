"""The program `foursight`, which `python -m foursight` runs as well."""

import signal
import sys


def main() -> int:
    """Run a command and return its exit status."""
    # Without it, Ctrl-C during the imports would print a traceback.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from foursight.clients.cli import app  # noqa: PLC0415

    signal.signal(signal.SIGINT, before)
    return app.main()


if __name__ == "__main__":
    sys.exit(main())
