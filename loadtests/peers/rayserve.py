"""Ray Serve as its documentation shows batching: `@serve.batch`, and its Python proxy.

Tuning: batches of up to 8, as ours, without a waiting time, so a single request does not wait. The replica has both
cores for PyTorch (Ray gives it `num_cpus` threads). `max_ongoing_requests` is above its default of 5, so that batches
can fill. Ray's workers run at normal priority, as ours do.
https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html
https://docs.ray.io/en/latest/serve/advanced-guides/performance.html
"""

import os
import signal
import tempfile
import threading
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from foursight.serving.ray_internals import loopback
from loadtests.peers import inside
from loadtests.peers.arguments import parse

os.environ.update(loopback.ENVIRONMENT)
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}

# Serve reads its variables at import.
import ray
from ray import serve


class Peer:
    """Decodes images as they arrive, and computes them in batches."""

    def __init__(self, task: str, engine: bool) -> None:
        loopback.bind_replica()
        self._model = inside.load(task, engine)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def predict(self, batch: list[Any]) -> list[inside.Json]:
        """Return the answers of a batch."""
        return self._model.predict(batch)

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer the form field `image`. A value that is not a Response would be sent in chunks, without a length."""
        async with request.form() as form:
            body = await form["image"].read()  # type: ignore[union-attr]
        return JSONResponse(await self.predict(self._model.prepare(body)))


if __name__ == "__main__":
    chosen = parse()
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            num_cpus=os.cpu_count(),
            object_store_memory=80 * 2**20,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        serve.start(
            http_options={"host": "127.0.0.1", "port": chosen.port}, logging_config={"enable_access_log": False}
        )
        peer = serve.deployment(Peer, max_ongoing_requests=100, ray_actor_options={"num_cpus": os.cpu_count()})
        serve.run(peer.bind(chosen.task, chosen.engine), route_prefix="/predict")
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        stop.wait()
        # Serve's own shutdown would wait for requests in flight, but none remain; Serve ends with Ray.
        ray.shutdown()
