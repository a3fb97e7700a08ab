"""A soak: a steady, bearable load for long, to see whether memory or latency creeps; `memory.py` tells the memory.

locust -f loadtests/locustfile.py,loadtests/shapes/soak.py --headless [--soak-minutes 30]
"""

from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser

USERS = 4


def add_options(parser: LocustArgumentParser) -> None:
    """How long."""
    parser.add_argument("--soak-minutes", type=float, default=30, help="Length of the soak.")


class Soak(LoadTestShape):
    """The same users all the time."""

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be now, and how many may start in a second."""
        environment = self.runner.environment if self.runner else None
        minutes = environment.parsed_options.soak_minutes if environment and environment.parsed_options else 0
        return (USERS, USERS) if self.get_run_time() < 60 * minutes else None


events.init_command_line_parser.add_listener(add_options)
