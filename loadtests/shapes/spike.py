"""A spike: few users, ten times as many at once, few again. Refused requests (503) count as failures.

locust -f loadtests/locustfile.py,loadtests/shapes/spike.py --headless
"""

from locust import LoadTestShape

CALM, SPIKE = 4, 40
# Seconds at which the spike begins, the spike ends, and the run ends.
BEGINS, ENDS, OVER = 30, 50, 90


class Spike(LoadTestShape):
    """Few users, then many, then few."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users for now, and how many may start per second."""
        now = self.get_run_time()
        if now >= OVER:
            return None
        return (SPIKE, SPIKE) if BEGINS <= now < ENDS else (CALM, SPIKE)
