"""BentoML with adaptive batching: `PEER_TASK=detect bentoml serve loadtests.peers.bentoml:Peer`.

Tuning: batches of up to 8, as ours; BentoML learns from the load how long to wait for one. `max_latency_ms` is the
documentation's default, a minute; slower requests are refused. The delay learned under 16 connections also applies to a
single request: p50 was 16 ms before such a load and 23 ms after it. One worker, whose PyTorch uses both cores.
https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
"""

import os
from pathlib import Path

import bentoml

from loadtests.peers import inside


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Peer:
    """One batchable endpoint; its requests and answers are lists with one image each."""

    def __init__(self) -> None:
        self._model = inside.load(os.environ["PEER_TASK"], os.environ.get("PEER_ENGINE") == "1")

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(self, image: list[Path]) -> list[inside.Json]:
        """Return the answers in the order of the images."""
        return self._model.predict([self._model.prepare(path.read_bytes()) for path in image])
