"""The front application at `/`: what is for no task, or for several. It is light: no torch, and not in a task's way."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ray import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from foursight.models.errors import ModelError
from foursight.models.options import LayersOptions
from foursight.serving import answers, loopback, metrics, openapi, web
from foursight.serving.analyze import Analyzer
from foursight.serving.errors import Refusal, refusal_of
from foursight.serving.metrics import RequestMetrics
from foursight.serving.settings import Settings
from foursight.serving.upload import parse_options
from foursight.wire import LayerTable, ModelCard, ModelCards

TIMEOUT_S = 5.0
# The standard profile's Mask R-CNN at 1088 x 800 takes 8 s on two cores; the table is then kept.
LAYERS_TIMEOUT_S = 120.0


class Front:
    """Readiness, the list of models, metrics and documentation, gathered from the tasks' workers."""

    def __init__(self, settings: Settings) -> None:
        loopback.bind_replica()
        self._tasks = settings.tasks
        self._metrics = RequestMetrics("analyze", serve.get_replica_context().replica_id.unique_id)
        self._analyzer = Analyzer(settings, self._metrics)

    def __serve_build_asgi_app__(self) -> Starlette:
        """What Serve calls to get the ASGI application."""
        routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/v1/models": self.models,
            "/v1/models/{name}/layers": self.layers,
            "/openapi.json": self.openapi,
            "/docs": self.docs,
        }
        return Starlette(
            routes=[
                Route("/v1/analyze", self._analyzer.answer, methods=["POST"]),
                *(Route(path, handler, methods=["GET"]) for path, handler in routes.items()),
                *web.routes(),
            ],
            exception_handlers={
                HTTPException: _refuse_path,
                Refusal: _refuse,
                ModelError: _refuse,
                Exception: _refuse,
            },
        )

    async def healthz(self, request: Request) -> Response:
        """The server runs."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 only when every task answers."""
        answered = await self._ask_all("ping")
        state = {task: "ready" if answered[task] else "not ready" for task in self._tasks}
        ready = all(answered[task] for task in self._tasks)
        return JSONResponse({"ready": ready, "tasks": state}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """All workers' metrics for Prometheus."""
        pages = [page for pages in (await self._ask_all("metrics")).values() for page in pages]
        pages.append(self._metrics.page())
        return PlainTextResponse(metrics.merge(pages), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """Each task's model."""
        cards: list[ModelCard] = [
            found[0].model_copy(update={"replicas": len(found)})
            for found in (await self._ask_all("card")).values()
            if found
        ]
        return Response(ModelCards(models=cards).model_dump_json(), media_type="application/json")

    async def layers(self, request: Request) -> Response:
        """The layers of a model, named by its task or by its own name, for an input size."""
        options = parse_options(request.url.query, LayersOptions)
        task = await self._task_of(request.path_params["name"])
        response = serve.get_app_handle(task).layers.remote(options.size)
        try:
            table: LayerTable = await asyncio.wait_for(response, LAYERS_TIMEOUT_S)
        except TimeoutError:
            response.cancel()
            raise Refusal(
                "unavailable", f"The worker of {task!r} did not answer in time.", "Try again when it is less busy."
            ) from None
        return Response(table.model_dump_json(), media_type="application/json")

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document of all tasks."""
        return JSONResponse(await self._document())

    async def docs(self, request: Request) -> Response:
        """The same document for people."""
        return HTMLResponse(openapi.page(await self._document(), str(request.base_url).rstrip("/")))

    async def _task_of(self, name: str) -> str:
        """The task that a model serves. Raises Refusal (unknown_model)."""
        if name in self._tasks:
            return name
        names = {found[0].name: task for task, found in (await self._ask_all("card")).items() if found}
        if name not in names:
            known = ", ".join([*self._tasks, *names])
            raise Refusal("unknown_model", f"There is no model {name!r} here.", f"There are: {known}.")
        return names[name]

    async def _document(self) -> dict[str, Any]:
        schemas = await self._ask_all("options")
        return openapi.document({task: found[0] for task, found in schemas.items() if found})

    async def _ask_all(self, method: str) -> dict[str, list[Any]]:
        """What each replica of each task answers; of a task that is not there, or too slow, an empty list."""
        found = await asyncio.gather(*(_ask(task, method) for task in self._tasks))
        return dict(zip(self._tasks, found, strict=True))


async def _ask(task: str, method: str) -> list[Any]:
    try:
        response = serve.get_app_handle(task).broadcast(method)
        results = await response.results_async(timeout_s=TIMEOUT_S, return_exceptions=True)
        return [result for result in results if not isinstance(result, BaseException)]
    except Exception:
        # Not there yet, restarting, or hanging: all the same to who asks.
        return []


async def _refuse_path(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    if status == 405:
        detail = f"{request.method} is not possible on {request.url.path}."
        allowed = getattr(error, "headers", None) or {"Allow": "GET"}
        hint = f"Use {allowed['Allow'].split(',')[0]}."
        return answers.refusal_response(Refusal("method_not_allowed", detail, hint, allowed))
    refusal = Refusal("not_found", f"There is no {request.url.path}.", "GET /docs lists all paths.")
    return answers.refusal_response(refusal)


async def _refuse(request: Request, error: Exception) -> Response:
    return answers.refusal_response(refusal_of(error))
