"""The gateway: the application at `/`, for everything that does not belong to one task. It never imports torch.

Requests to a task do not pass through it: HAProxy sends them to the task's workers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Literal

from ray import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from foursight.models.errors import ModelError
from foursight.schema import LayerTable, ModelCard, ModelCards
from foursight.schema.layers import LayersOptions
from foursight.schema.readiness import Fault, Readiness
from foursight.serving import logs, metrics, openapi, responses, router_log, supervisor, traces, web
from foursight.serving.analyze import Analyzer
from foursight.serving.deadline import read_deadline
from foursight.serving.errors import ApiError, as_api_error, method_not_allowed, unavailable
from foursight.serving.finetuned.manager import ModelManager, unknown_model
from foursight.serving.limits import limits
from foursight.serving.metrics import RequestMetrics
from foursight.serving.query import parse_options
from foursight.serving.ray_internals import loopback
from foursight.serving.ray_internals.haproxy_config import UNROUTED
from foursight.serving.request_log import Logged
from foursight.serving.settings import Settings
from foursight.serving.task_handles import TaskHandles


class Gateway:
    """Readiness, models, metrics, documentation, analyses and the web page."""

    def __init__(self, settings: Settings) -> None:
        loopback.bind_replica()
        logs.connect("gateway", settings.log_level)
        self._tasks = settings.tasks
        self._origins = settings.allowed_origins
        self._limits = limits(settings)
        self._timeout_s = settings.request_timeout_s
        replica = serve.get_replica_context().replica_id.unique_id
        self._metrics = RequestMetrics("analyze", replica)
        self._refusals = RequestMetrics("router", replica)
        router_log.follow(self._refusals)
        self._traces = traces.connect(replica)
        self._handles = TaskHandles()
        # The tasks that do not answer, although their workers run.
        self._silent: dict[str, Fault] = {}
        self._known: dict[str, list[ModelCard]] = {}
        self._manager = ModelManager(settings, self._handles)
        self._analyzer = Analyzer(settings, self._metrics, self._handles, self._manager.task_of)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the ASGI application. Serve calls this method."""
        routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/v1/limits": self.limits,
            "/v1/models": self.models,
            "/v1/models/{name}/layers": self.layers,
            "/openapi.json": self.openapi,
            "/docs": self.docs,
        }
        api: list[tuple[str, Callable[[Request], Awaitable[Response]], list[str]]] = [
            ("/v1/analyze", self._analyzer.answer, ["POST"]),
            *((path, handler, ["GET"]) for path, handler in routes.items()),
            ("/v1/models/{name}", self.model, ["GET", "PUT", "DELETE"]),
        ]
        app = Starlette(
            routes=[
                # HAProxy sends these here only until the task has its first worker.
                *(
                    Route(f"/v1/{task}{below}", self.absent, methods=["GET", "POST"])
                    for task in self._tasks
                    for below in ("", "/{below:path}")
                ),
                # A slash at the end is not a redirection, in which some clients lose their body.
                *(Route(path + end, handler, methods=methods) for path, handler, methods in api for end in ("", "/")),
                *web.routes(),
            ],
            exception_handlers={
                HTTPException: _refuse_path,
                ApiError: _refuse,
                ModelError: _refuse,
                Exception: _refuse,
            },
        )
        return Logged(web.with_cors(app, self._origins), self._traces)

    def __del__(self) -> None:
        if self._traces:
            self._traces.close()

    async def healthz(self, request: Request) -> Response:
        """200 while the gateway runs."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 if every task has a worker that answers, else 503; the body names what does not work, and since when."""
        answers = await self._broadcast_all("ping")
        unrouted = request.headers.getlist(UNROUTED)
        tasks: dict[str, Literal["ready", "not ready"]] = {}
        faults = supervisor.faults()
        for task in self._tasks:
            part = supervisor.worker_of(task)
            tasks[task] = "ready" if answers[task] and task not in unrouted else "not ready"
            if tasks[task] == "ready":
                self._silent.pop(task, None)
            elif part not in {fault.part for fault in faults}:
                what = "gets no requests yet" if answers[task] else "does not answer"
                faults.append(self._silent.setdefault(task, supervisor.fault(part, what)))
        ready = "not ready" not in tasks.values()
        state = Readiness(ready=ready, tasks=tasks, faults=faults)
        return Response(state.model_dump_json(), 200 if ready else 503, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """The metrics of the gateway and of all workers, in Prometheus' text format."""
        pages = [page for pages in (await self._broadcast_all("metrics")).values() for page in pages]
        pages += [self._metrics.page(), self._refusals.page()]
        return PlainTextResponse(metrics.merge(pages), media_type="text/plain; version=0.0.4")

    async def absent(self, request: Request) -> Response:
        """503 for a task that has no worker yet."""
        raise unavailable(request.url.path.split("/")[2])

    async def limits(self, request: Request) -> Response:
        """Show every limit of this server."""
        return Response(self._limits.model_dump_json(), media_type="application/json")

    async def models(self, request: Request) -> Response:
        """List all models, built-in and fine-tuned."""
        body = ModelCards(models=await self._cards()).model_dump_json()
        return Response(body, media_type="application/json")

    async def model(self, request: Request) -> Response:
        """Show one model (GET), or load (PUT) or unload (DELETE) a fine-tuned one."""
        name = request.path_params["name"]
        cards = await self._cards()
        if request.method == "PUT":
            await self._manager.load(name, [card.name for card in cards if not card.finetuned])
        elif request.method == "DELETE":
            await self._manager.unload(name, cards)
            return Response(status_code=204)
        found = [card for card in await self._cards() if card.name == name]
        if not found:
            raise unknown_model(name, cards)
        return Response(found[0].model_dump_json(), media_type="application/json")

    async def layers(self, request: Request) -> Response:
        """Return the layers of a network for an input size; the path names a task or a fine-tuned model."""
        deadline = read_deadline(request, perf_counter(), self._timeout_s)
        options = parse_options(request.url.query, LayersOptions)
        task, model = await self._network_of(request.path_params["name"])
        table: LayerTable | ApiError = await self._handles.call(
            task, deadline, lambda handle: handle.layers.remote(options.size, model)
        )
        if isinstance(table, ApiError):
            raise table
        return Response(table.model_dump_json(), media_type="application/json")

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document of all tasks."""
        return JSONResponse(openapi.document(self._tasks))

    async def docs(self, request: Request) -> Response:
        """The OpenAPI document as a web page."""
        return HTMLResponse(openapi.page(openapi.document(self._tasks), _address(request)))

    async def _cards(self) -> list[ModelCard]:
        """Return one card per model, with the number of workers that serve it.

        A task none of whose workers answers keeps the cards of its last answer. Raises ApiError (unavailable) if it has
        not answered yet.
        """
        for task, workers in (await self._broadcast_all("cards")).items():
            answered: dict[str, list[ModelCard]] = {}
            for card in (card for cards in workers for card in cards):
                answered.setdefault(card.name, []).append(card)
            if answered:
                self._known[task] = [_counted(cards[0], len(cards)) for cards in answered.values()]
            elif task not in self._known:
                raise unavailable(task)
            else:
                # Models may be unloaded meanwhile.
                served = (one for one in self._known[task] if not one.finetuned or self._manager.task_of(one.name))
                self._known[task] = [_counted(card, 0) for card in served]
        return [card for task in self._tasks for card in self._known[task]]

    async def _network_of(self, name: str) -> tuple[str, str | None]:
        """Return the task of a model, and the model's name if it is fine-tuned. Raises ApiError (unknown_model)."""
        if name in self._tasks:
            return name, None
        cards = await self._cards()
        found = [(card.task, name if card.finetuned else None) for card in cards if card.name == name]
        if not found:
            raise unknown_model(name, cards)
        return found[0]

    async def _broadcast_all(self, method: str) -> dict[str, list[Any]]:
        """Call a method of all workers of all tasks; a task that does not answer in time has an empty list."""
        results = await asyncio.gather(*(self._handles.broadcast(task, method) for task in self._tasks))
        return dict(zip(self._tasks, results, strict=True))


def _address(request: Request) -> str:
    """Return the server's address as the client wrote it. The router has set the scheme."""
    scheme = request.headers.get("x-forwarded-proto", "http")
    return str(request.base_url.replace(scheme=scheme)).rstrip("/")


def _counted(card: ModelCard, workers: int) -> ModelCard:
    return card.model_copy(update={"replicas": workers})


async def _refuse_path(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    if status == 405:
        allowed = ", ".join(sorted((getattr(error, "headers", None) or {}).get("Allow", "GET").split(", ")))
        return await _refuse(request, method_not_allowed(request.method, request.url.path, allowed))
    missing = ApiError("not_found", f"The path {request.url.path} does not exist.", "GET /docs lists all paths.")
    return await _refuse(request, missing)


async def _refuse(request: Request, error: Exception) -> Response:
    api_error = as_api_error(error)
    request.scope["record"].code = api_error.code
    return responses.error_response(api_error)
