"""uvicorn and FastAPI, as most people serve a model: an upload to a `def` endpoint, without batching.

Tuning: one uvicorn process, as `fastapi run` starts; a second one would be a second copy of the model, and PyTorch
already uses both cores for one image. FastAPI runs `def` endpoints in a thread pool, so requests overlap.
https://fastapi.tiangolo.com/async/  https://fastapi.tiangolo.com/deployment/server-workers/
"""

from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from loadtests.peers import inside
from loadtests.peers.arguments import parse


def app(task: str, engine: bool) -> FastAPI:
    """Return the application."""
    model = inside.load(task, engine)
    server = FastAPI()
    # An engine takes one call at a time; PyTorch modules take concurrent calls.
    turn = Lock()

    @server.post("/predict")
    def predict(image: UploadFile) -> dict[str, Any]:
        prepared = model.prepare(image.file.read())
        if not engine:
            return model.predict([prepared])[0]
        with turn:
            return model.predict([prepared])[0]

    return server


if __name__ == "__main__":
    chosen = parse()
    uvicorn.run(app(chosen.task, chosen.engine), host="127.0.0.1", port=chosen.port, log_level="warning")
