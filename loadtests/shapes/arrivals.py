"""An open loop: requests arrive at a constant rate, whatever comes back, so that queueing is not hidden.

    locust -f loadtests/locustfile.py,loadtests/shapes/arrivals.py --headless Application --arrivals 20

Each user asks once in PERIOD_S seconds, on time; so many users make the rate. An answer that takes longer than PERIOD_S
makes its user late: `foursight benchmark --rate` has no such limit.
"""

from locust import LoadTestShape, constant_pacing, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

PERIOD_S = 10


def add_options(parser: LocustArgumentParser) -> None:
    """How many, and how long."""
    parser.add_argument("--arrivals", type=float, default=20, help="Requests per second.")
    parser.add_argument("--arrivals-seconds", type=float, default=60, help="Length of the run.")


def be_on_time(environment: Environment, **_: object) -> None:
    """Give every user the same pace."""
    for user in environment.user_classes:
        user.wait_time = constant_pacing(PERIOD_S)


class Arrivals(LoadTestShape):
    """All users of the rate, started over one period, so that their requests are spread over it."""

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be now, and how many may start in a second."""
        options = self.runner.environment.parsed_options if self.runner else None
        if options is None or self.get_run_time() >= options.arrivals_seconds:
            return None
        return max(1, round(options.arrivals * PERIOD_S)), options.arrivals


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(be_on_time)
