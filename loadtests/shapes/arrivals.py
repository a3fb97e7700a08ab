"""An open loop: requests arrive at a constant rate, whatever the response times, so queueing is not hidden.

    locust -f loadtests/locustfile.py,loadtests/shapes/arrivals.py --headless Application --arrivals 20

Each user sends a request every PERIOD_S seconds; the number of users sets the rate. An answer that takes longer than
PERIOD_S delays its user; `foursight benchmark --rate` has no such limit.
"""

from locust import LoadTestShape, constant_pacing, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

PERIOD_S = 10


def add_options(parser: LocustArgumentParser) -> None:
    """Add the rate and the duration to the options."""
    parser.add_argument("--arrivals", type=float, default=20, help="Requests per second.")
    parser.add_argument("--arrivals-seconds", type=float, default=60, help="Length of the run.")


def be_on_time(environment: Environment, **_: object) -> None:
    """Make every user send a request every PERIOD_S seconds."""
    for user in environment.user_classes:
        user.wait_time = constant_pacing(PERIOD_S)


class Arrivals(LoadTestShape):
    """Starts the users over one period, so that their requests are spread over it."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users for now, and how many may start per second."""
        options = self.runner.environment.parsed_options if self.runner else None
        if options is None or self.get_run_time() >= options.arrivals_seconds:
            return None
        return max(1, round(options.arrivals * PERIOD_S)), options.arrivals


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(be_on_time)
