"""A soak: a steady, moderate load for a long time, to see whether memory (`memory.py`) or latency grows.

locust -f loadtests/locustfile.py,loadtests/shapes/soak.py --headless [--soak-minutes 30]
"""

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser

USERS = 4


def add_options(parser: LocustArgumentParser) -> None:
    """Add the duration to the options."""
    parser.add_argument("--soak-minutes", type=float, default=30, help="Length of the soak.")


class Soak(LoadTestShape):
    """A constant number of users."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users for now, and how many may start per second."""
        environment = self.runner.environment if self.runner else None
        minutes = environment.parsed_options.soak_minutes if environment and environment.parsed_options else 0
        return (USERS, USERS) if self.get_run_time() < 60 * minutes else None


events.init_command_line_parser.add_listener(add_options)
