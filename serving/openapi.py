"""One OpenAPI 3.1 document for all tasks, and the same document as a web page without scripts."""

from collections.abc import Iterable
from html import escape
from importlib.metadata import version
from typing import Any

from foursight.schema import Analysis, Answer, Answers, LayerTable, ModelCards, Problem
from foursight.schema.analyze import AnalyzeOptions
from foursight.schema.layers import LayersOptions
from foursight.schema.limits import Limits
from foursight.schema.options import Options
from foursight.schema.readiness import Readiness
from foursight.schema.tasks import TASKS, TaskSpec
from foursight.serving import deadline
from foursight.serving.errors import CODES, MEDIA_TYPE
from foursight.serving.upload import MAX_IMAGES

_REF = "#/components/schemas/{model}"
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_BYTES = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
_TIMEOUT = {
    "name": deadline.HEADER,
    "in": "header",
    "description": "Seconds that the client waits. What cannot be answered in time is refused, or ends with 504.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_FINDS = {
    "labels": "labels of the whole image",
    "object": "the main object, with a box",
    "objects": "each object, with a box",
    "masks": "each object, with a box and a mask",
}


def document(tasks: Iterable[str]) -> dict[str, Any]:
    """Return the document of a server that serves these tasks."""
    specs = [TASKS[name] for name in tasks]
    schemas: dict[str, Any] = {}
    for model in (Analysis, Answer, Answers, LayerTable, Limits, ModelCards, Problem, Readiness):
        schema = model.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Foursight",
            "version": version("foursight-vision"),
            "description": "Vision inference: upload an image and get predictions.",
        },
        "paths": {f"/v1/{task.name}": {"post": _task(task)} for task in specs}
        | {"/v1/analyze": {"post": _analysis(specs)}}
        | _GATEWAY,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
        # Only some servers require a key.
        "security": [{"key": []}, {}],
    }


def _task(task: TaskSpec) -> dict[str, Any]:
    images = {"type": "array", "maxItems": MAX_IMAGES, "items": {"type": "string", "format": "binary"}}
    return {
        "operationId": task.name,
        # Tells the web page how to draw the answers.
        "x-finds": task.finds,
        "summary": task.summary,
        "description": f"Returns {_FINDS[task.finds]}. Send an image as the body, or up to {MAX_IMAGES} images as "
        "fields `image` of a multipart body.",
        "parameters": [*_parameters(task.options), _TIMEOUT],
        "requestBody": _request_body(images),
        "responses": {
            "200": {
                "description": "The answer, or the image with the answer drawn on it if the Accept header prefers one.",
                "content": {
                    "application/json": {"schema": {"anyOf": [_ref("Answer"), _ref("Answers")]}},
                    "image/jpeg": _BYTES,
                    "image/png": _BYTES,
                },
            },
            "default": _problem(),
        },
    }


def _analysis(tasks: list[TaskSpec]) -> dict[str, Any]:
    # Ranges and defaults differ between tasks, so only each parameter's name and the tasks that have it are listed.
    tasks_with: dict[str, list[str]] = {}
    for task in tasks:
        for name in task.options.model_fields:
            tasks_with.setdefault(name, []).append(task.name)
    return {
        "operationId": "analyze",
        "summary": "Run several tasks on one image.",
        "description": "The tasks run side by side, and the image is decoded once. If a task fails, its part of the "
        "answer is the error.",
        "parameters": [
            *_parameters(AnalyzeOptions),
            *(
                _parameter(name, {"type": "string", "description": f"Passed to {', '.join(names)}."})
                for name, names in tasks_with.items()
            ),
            _TIMEOUT,
        ],
        "requestBody": _request_body({"type": "string", "format": "binary"}),
        "responses": {
            "200": {
                "description": "An answer or an error for each task.",
                "content": {"application/json": {"schema": _ref("Analysis")}},
            },
            "default": _problem(),
        },
    }


def _request_body(image: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "object", "properties": {"image": image}, "required": ["image"]}
    return {
        "required": True,
        "content": {
            "image/*": _BYTES,
            "application/octet-stream": _BYTES,
            "multipart/form-data": {"schema": form},
        },
    }


def _parameters(options: type[Options]) -> list[dict[str, Any]]:
    return [_parameter(name, schema) for name, schema in options.model_json_schema()["properties"].items()]


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": schema.get("description", ""),
        "schema": {key: value for key, value in schema.items() if key not in ("description", "title", "synonyms")},
        # Lists are comma-separated.
        **({"style": "form", "explode": False} if _is_list(schema) else {}),
    }


def _is_list(schema: dict[str, Any]) -> bool:
    return any(part.get("type") == "array" for part in schema.get("anyOf", [schema]))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _problem() -> dict[str, Any]:
    return {"description": "An error.", "content": {MEDIA_TYPE: {"schema": _ref("Problem")}}}


def _get(summary: str, content: dict[str, Any], **responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "get": {"summary": summary, "responses": {"200": {"description": summary, "content": content}, **responses}}
    }


def _on_model(summary: str, status: str) -> dict[str, Any]:
    content = {"content": {"application/json": {"schema": _ref("ModelCard")}}} if status == "200" else {}
    return {"summary": summary, "responses": {status: {"description": summary, **content}, "default": _problem()}}


_GATEWAY = {
    "/v1/models/{name}/layers": {
        "get": {
            "operationId": "layers",
            "summary": "List the layers of a model.",
            "description": "Kernel, stride, padding, sizes, receptive field, parameters and multiply-adds of each.",
            "parameters": [
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "description": "The name of a model, or of a task for its built-in model.",
                    "schema": {"type": "string"},
                },
                {
                    "name": "size",
                    "in": "query",
                    "description": LayersOptions.model_fields["size"].description,
                    "schema": {"type": "string", "pattern": "^[0-9]+(x[0-9]+)?$"},
                },
                _TIMEOUT,
            ],
            "responses": {
                "200": {
                    "description": "The layers by stage, in the order in which they run.",
                    "content": {"application/json": {"schema": _ref("LayerTable")}},
                },
                "default": _problem(),
            },
        }
    },
    "/v1/limits": _get("Show every limit.", {"application/json": {"schema": _ref("Limits")}}),
    "/v1/models": _get("List all models.", {"application/json": {"schema": _ref("ModelCards")}}),
    "/v1/models/{name}": {
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
        "get": _on_model("Describe a model.", "200"),
        "put": _on_model("Load or reload a fine-tuned model from the models folder.", "200"),
        "delete": _on_model("Stop serving a fine-tuned model. Requests in flight are answered.", "204"),
    },
    "/healthz": _get("Check that the server runs.", _TEXT),
    "/readyz": _get(
        "Check that every task answers.",
        {"application/json": {"schema": _ref("Readiness")}},
        **{
            "503": {
                "description": "A task does not answer.",
                "content": {"application/json": {"schema": _ref("Readiness")}},
            }
        },
    ),
    "/metrics": _get("Return metrics for Prometheus.", _TEXT),
}

_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem}code,pre{font:14px/1.45 ui-monospace,monospace}
pre{padding:.8rem 1rem;border:1px solid #8884;border-radius:.5rem;overflow-x:auto}table{border-collapse:collapse}
td,th{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem 0;border-bottom:1px solid #8883}
.verb{font-weight:700;color:#0a7d5a}@media(prefers-color-scheme:dark){.verb{color:#4fd1a1}}
"""


def page(described: dict[str, Any], address: str) -> str:
    """Return the document as a web page; `address` is the server's URL as the reader sees it, for the curl commands."""
    blocks = [
        _block(path, verb, operation, address)
        for path, verbs in described["paths"].items()
        for verb, operation in verbs.items()
        if verb != "parameters"
    ]
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code><td>{error.status}<td>{escape(error.when)}'
        for code, error in CODES.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Foursight API</title><style>{_STYLE}</style><h1>Foursight</h1>"
        f"<p>{escape(described['info']['description'])} "
        f'Version {described["info"]["version"]}. Machine-readable: <a href="/openapi.json">/openapi.json</a>.'
        f"{''.join(blocks)}<h2>Errors</h2><p>Every error is <code>{MEDIA_TYPE}</code> (RFC 9457).<table>{rows}</table>"
    )


def _block(path: str, verb: str, operation: dict[str, Any], address: str) -> str:
    upload = {"post": " --data-binary @photo.jpg", "put": " -X PUT", "delete": " -X DELETE"}.get(verb, "")
    rows = "".join(
        f"<tr><td><code>{p['name']}</code><td><code>{escape(str(p['schema'].get('default', '')))}</code>"
        f"<td>{escape(p['description'])}"
        for p in operation.get("parameters", ())
    )
    table = f"<table><tr><th>parameter<th>default<th>{rows}</table>" if rows else ""
    return (
        f'<h2><span class="verb">{verb.upper()}</span> {path}</h2><p>{escape(operation["summary"])} '
        f"{escape(operation.get('description', ''))}<pre>curl{upload} {escape(address)}{path}</pre>{table}"
    )
