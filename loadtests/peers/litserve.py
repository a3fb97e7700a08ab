"""LitServe with batches.

Tuning: batches of up to 8, as ours. `batch_timeout` is 0, the default: a batch is whatever has arrived, and a single
request does not wait. One worker with all cores: `workers_per_device=2` would be two models with a core each.
https://lightning.ai/docs/litserve/features/batching  https://lightning.ai/docs/litserve/features/multiple-workers
"""

from typing import Any

import litserve
from fastapi import Request

from loadtests.peers import inside
from loadtests.peers.arguments import parse


class Peer(litserve.LitAPI):  # type: ignore[misc]
    """LitServe's four steps. The form arrives as a mapping with the field `image`."""

    def __init__(self, task: str, engine: bool, **batching: Any) -> None:
        super().__init__(**batching)
        self._name, self._engine = task, engine

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self._model = inside.load(self._name, self._engine)

    def decode_request(self, request: Request) -> Any:
        """Decode one image."""
        return self._model.prepare(request["image"].file.read())

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Leave the batch a list, because its images may differ in size."""
        return list(inputs)

    def predict(self, batch: list[Any]) -> list[inside.Json]:
        """Return the answers of a batch."""
        return self._model.predict(batch)

    def unbatch(self, output: list[inside.Json]) -> list[inside.Json]:
        """Return the answers one by one."""
        return output

    def encode_response(self, output: inside.Json) -> inside.Json:
        """Return the answer; LitServe converts it to JSON."""
        return output


if __name__ == "__main__":
    chosen = parse()
    api = Peer(chosen.task, chosen.engine, max_batch_size=8, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=chosen.port, log_level="warning", generate_client_file=False)
