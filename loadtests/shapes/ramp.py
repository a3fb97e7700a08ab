"""Ramp to the knee: more users step by step, for two minutes in all; see `loadtests/report.py` for where the knee is.

locust -f loadtests/locustfile.py,loadtests/shapes/ramp.py --headless
"""

from locust import LoadTestShape

STEP_S = 15
USERS = (1, 2, 4, 8, 16, 24, 32, 48)


class Ramp(LoadTestShape):
    """Each step holds so many users."""

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be now, and how many may start in a second."""
        step = int(self.get_run_time() // STEP_S)
        return (USERS[step], USERS[step]) if step < len(USERS) else None
