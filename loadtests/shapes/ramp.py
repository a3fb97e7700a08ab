"""A ramp to the knee: more users step by step, for two minutes; `loadtests/report.py` finds the knee.

locust -f loadtests/locustfile.py,loadtests/shapes/ramp.py --headless
"""

from locust import LoadTestShape

STEP_S = 15
USERS = (1, 2, 4, 8, 16, 24, 32, 48)


class Ramp(LoadTestShape):
    """Each step has the number of users in USERS."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users for now, and how many may start per second."""
        step = int(self.get_run_time() // STEP_S)
        return (USERS[step], USERS[step]) if step < len(USERS) else None
