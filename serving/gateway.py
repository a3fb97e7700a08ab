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
from foursight.schema import LayerTable, ModelCard, ModelCards
from foursight.schema.layers import LayersOptions
from foursight.serving import loopback, metrics, openapi, responses, web
from foursight.serving.analyze import Analyzer
from foursight.serving.errors import ApiError, as_api_error
from foursight.serving.metrics import RequestMetrics
from foursight.serving.query import parse_options
from foursight.serving.settings import Settings
from foursight.serving.shelf import Shelf, ask_workers, unknown_model

# The standard profile's Mask R-CNN at 1088 x 800 takes 8 s on two cores; the table is then kept.
LAYERS_TIMEOUT_S = 120.0


class Front:
    """Readiness, the list of models, metrics and documentation, gathered from the tasks' workers."""

    def __init__(self, settings: Settings) -> None:
        loopback.bind_replica()
        self._tasks = settings.tasks
        self._metrics = RequestMetrics("analyze", serve.get_replica_context().replica_id.unique_id)
        self._analyzer = Analyzer(settings, self._metrics)
        self._shelf = Shelf(settings)

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
                Route("/v1/models/{name}", self.model, methods=["GET", "PUT", "DELETE"]),
                *web.routes(),
            ],
            exception_handlers={
                HTTPException: _refuse_path,
                ApiError: _refuse,
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
        """Each task's models."""
        body = ModelCards(models=await self._cards()).model_dump_json()
        return Response(body, media_type="application/json")

    async def model(self, request: Request) -> Response:
        """Show one model, load it (PUT), or drop it (DELETE)."""
        name = request.path_params["name"]
        cards = await self._cards()
        if request.method == "PUT":
            await self._shelf.put(name, [card.name for card in cards if not card.finetuned])
        elif request.method == "DELETE":
            await self._shelf.drop(name, cards)
            return Response(status_code=204)
        found = [card for card in await self._cards() if card.name == name]
        if not found:
            raise unknown_model(name, cards)
        return Response(found[0].model_dump_json(), media_type="application/json")

    async def _cards(self) -> list[ModelCard]:
        counted: dict[tuple[str, str], list[ModelCard]] = {}
        for found in (await self._ask_all("cards")).values():
            for card in (card for cards in found for card in cards):
                counted.setdefault((card.task, card.name), []).append(card)
        return [cards[0].model_copy(update={"replicas": len(cards)}) for cards in counted.values()]

    async def layers(self, request: Request) -> Response:
        """The layers of a model, named by its task or by its own name, for an input size."""
        options = parse_options(request.url.query, LayersOptions)
        task, model = await self._network_of(request.path_params["name"])
        response = serve.get_app_handle(task).layers.remote(options.size, model)
        try:
            table: LayerTable | ApiError = await asyncio.wait_for(response, LAYERS_TIMEOUT_S)
        except TimeoutError:
            response.cancel()
            raise ApiError(
                "unavailable", f"The worker of {task!r} did not answer in time.", "Try again when it is less busy."
            ) from None
        if isinstance(table, ApiError):
            raise table
        return Response(table.model_dump_json(), media_type="application/json")

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document of all tasks."""
        return JSONResponse(openapi.document(self._tasks))

    async def docs(self, request: Request) -> Response:
        """The same document for people."""
        return HTMLResponse(openapi.page(openapi.document(self._tasks), str(request.base_url).rstrip("/")))

    async def _network_of(self, name: str) -> tuple[str, str | None]:
        """The task that a model serves, and its name where it is a fine-tuned one. Raises ApiError (unknown_model)."""
        if name in self._tasks:
            return name, None
        cards = await self._cards()
        found = [(card.task, name if card.finetuned else None) for card in cards if card.name == name]
        if not found:
            raise unknown_model(name, cards)
        return found[0]

    async def _ask_all(self, method: str) -> dict[str, list[Any]]:
        """What each replica of each task answers; of a task that is not there, or too slow, an empty list."""
        found = await asyncio.gather(*(ask_workers(task, method) for task in self._tasks))
        return dict(zip(self._tasks, found, strict=True))


async def _refuse_path(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    if status == 405:
        detail = f"{request.method} is not possible on {request.url.path}."
        allowed = ", ".join(sorted((getattr(error, "headers", None) or {}).get("Allow", "GET").split(", ")))
        return responses.error_response(ApiError("method_not_allowed", detail, f"Use {allowed}.", {"Allow": allowed}))
    missing = ApiError("not_found", f"There is no {request.url.path}.", "GET /docs lists all paths.")
    return responses.error_response(missing)


async def _refuse(request: Request, error: Exception) -> Response:
    return responses.error_response(as_api_error(error))
