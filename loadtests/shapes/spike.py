"""A spike: calm, ten times the users at once, calm again. What is refused comes back as 503 and counts as a failure.

locust -f loadtests/locustfile.py,loadtests/shapes/spike.py --headless
"""

from locust import LoadTestShape

CALM, SPIKE = 4, 40
# Seconds at which the spike begins, it ends, and all ends.
BEGINS, ENDS, OVER = 30, 50, 90


class Spike(LoadTestShape):
    """Few users, then many, then few."""

    def tick(self) -> tuple[int, float] | None:
        """How many users there are to be now, and how many may start in a second."""
        now = self.get_run_time()
        if now >= OVER:
            return None
        return (SPIKE, SPIKE) if BEGINS <= now < ENDS else (CALM, SPIKE)
