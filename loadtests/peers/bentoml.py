"""BentoML with adaptive batching: `PEER_TASK=detect bentoml serve loadtests.peers.bentoml:Peer`.

Tuning: batches of up to 8, as ours; how long to wait for one, BentoML learns from the load. `max_latency_ms` is the
documentation's default, a minute: what would take longer is refused. One worker, whose PyTorch uses both cores.
https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
"""

import os
from pathlib import Path

import bentoml

from loadtests.peers import inside


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Peer:
    """One batchable endpoint; its requests and answers are lists, of one photo each."""

    def __init__(self) -> None:
        self._model = inside.load(os.environ["PEER_TASK"], os.environ.get("PEER_ENGINE") == "1")

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(self, image: list[Path]) -> list[inside.Json]:
        """Answers in the order of the photos."""
        return self._model.predict([self._model.prepare(path.read_bytes()) for path in image])
