"""One OpenAPI 3.1 document for all tasks, and the page that shows it without a script or a foreign server."""

from html import escape
from importlib.metadata import version
from typing import Any

from foursight.schema import Analysis, Answer, Answers, LayerTable, ModelCards, Problem
from foursight.schema.analyze import AnalyzeOptions
from foursight.schema.layers import LayersOptions
from foursight.serving.errors import MEDIA_TYPE, STATUS
from foursight.serving.errors import __doc__ as errors_doc
from foursight.serving.upload import MAX_IMAGES

_REF = "#/components/schemas/{model}"
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_BYTES = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}


def document(options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The document for tasks whose options have the JSON schemas `options`, by task name."""
    schemas: dict[str, Any] = {}
    for model in (Analysis, Answer, Answers, LayerTable, ModelCards, Problem):
        schema = model.model_json_schema(ref_template=_REF)
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Foursight",
            "version": version("foursight-vision"),
            "description": "Vision inference: upload a photo, get what is in it.",
        },
        "paths": {f"/v1/{task}": {"post": _operation(task, schema)} for task, schema in options.items()}
        | {"/v1/analyze": {"post": _analysis(options)}}
        | _FRONT,
        "components": {"schemas": schemas},
    }


def _operation(task: str, options: dict[str, Any]) -> dict[str, Any]:
    photo = {"type": "array", "maxItems": MAX_IMAGES, "items": {"type": "string", "format": "binary"}}
    multipart = {"type": "object", "properties": {"image": photo}, "required": ["image"]}
    one_or_several = {"anyOf": [_ref("Answer"), _ref("Answers")]}
    return {
        "operationId": task,
        "summary": f"{task.capitalize()} a photo",
        "description": f"A photo as the body, or up to {MAX_IMAGES} as fields `image` of a multipart body.",
        "parameters": [_parameter(name, schema) for name, schema in options["properties"].items()],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": _BYTES,
                "application/octet-stream": _BYTES,
                "multipart/form-data": {"schema": multipart},
            },
        },
        "responses": {
            "200": {
                "description": "The answer; as a picture where Accept prefers one.",
                "content": {"application/json": {"schema": one_or_several}, "image/jpeg": _BYTES, "image/png": _BYTES},
            },
            "default": _problem(),
        },
    }


def _analysis(options: dict[str, dict[str, Any]]) -> dict[str, Any]:
    own = AnalyzeOptions.model_json_schema()["properties"]
    # Bounds and defaults are each task's own: here only that the parameter is passed on, and to whom.
    known: dict[str, list[str]] = {}
    for task, schema in options.items():
        for name in schema["properties"]:
            known.setdefault(name, []).append(task)
    photo = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}, "required": ["image"]}
    return {
        "operationId": "analyze",
        "summary": "Several tasks for one photo",
        "description": "Side by side, decoded once. A task that fails has its error in its part.",
        "parameters": [
            *(_parameter(name, schema) for name, schema in own.items()),
            *(
                _parameter(name, {"type": "string", "description": f"As for {', '.join(tasks)}."})
                for name, tasks in known.items()
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": _BYTES,
                "application/octet-stream": _BYTES,
                "multipart/form-data": {"schema": photo},
            },
        },
        "responses": {
            "200": {
                "description": "A part for each task.",
                "content": {"application/json": {"schema": _ref("Analysis")}},
            },
            "default": _problem(),
        },
    }


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": schema.get("description", ""),
        "schema": {key: value for key, value in schema.items() if key not in ("description", "title", "synonyms")},
        # Lists are comma-separated.
        **({"style": "form", "explode": False} if name in ("classes", "tasks") else {}),
    }


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


_FRONT = {
    "/v1/models/{name}/layers": {
        "get": {
            "operationId": "layers",
            "summary": "What a model's layers do",
            "description": "Kernel, stride, padding, sizes, receptive field, parameters and multiply-adds of each.",
            "parameters": [
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "description": "A task, as detect, or a model by its name, fine-tuned or not.",
                    "schema": {"type": "string"},
                },
                {
                    "name": "size",
                    "in": "query",
                    "description": LayersOptions.model_fields["size"].description,
                    "schema": {"type": "string", "pattern": "^[0-9]+(x[0-9]+)?$"},
                },
            ],
            "responses": {
                "200": {
                    "description": "The layers by stages, in the order in which they run.",
                    "content": {"application/json": {"schema": _ref("LayerTable")}},
                },
                "default": _problem(),
            },
        }
    },
    "/v1/models": _get("Each task's models", {"application/json": {"schema": _ref("ModelCards")}}),
    "/v1/models/{name}": {
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
        "get": _on_model("One model", "200"),
        "put": _on_model("Load a model of the models folder, or load it anew", "200"),
        "delete": _on_model("Drop a model; requests in flight are answered", "204"),
    },
    "/healthz": _get("The server runs", _TEXT),
    "/readyz": _get(
        "Every task answers",
        {"application/json": {"schema": {"type": "object"}}},
        **{"503": {"description": "Some task does not answer yet."}},
    ),
    "/metrics": _get("Metrics for Prometheus", _TEXT),
}

_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem}code,pre{font:14px/1.45 ui-monospace,monospace}
pre{padding:.8rem 1rem;border:1px solid #8884;border-radius:.5rem;overflow-x:auto}table{border-collapse:collapse}
td,th{text-align:left;vertical-align:top;padding:.3rem .9rem .3rem 0;border-bottom:1px solid #8883}
.verb{font-weight:700;color:#0a7d5a}@media(prefers-color-scheme:dark){.verb{color:#4fd1a1}}
"""


def page(described: dict[str, Any], address: str) -> str:
    """The document as a web page; `address` is where the reader reached the server, for the curl lines."""
    blocks = [
        _block(path, verb, operation, address)
        for path, verbs in described["paths"].items()
        for verb, operation in verbs.items()
        if verb != "parameters"
    ]
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code><td>{STATUS[code]}<td>{escape(when)}' for code, when in _error_table()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Foursight</title><style>{_STYLE}</style><h1>Foursight</h1>"
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
        f'<h2><span class="verb">{verb.upper()}</span> {path}</h2><p>{escape(operation["summary"])}. '
        f"{escape(operation.get('description', ''))}<pre>curl{upload} {escape(address)}{path}</pre>{table}"
    )


def _error_table() -> list[tuple[str, str]]:
    """(code, when) from the table in the docstring of serving/errors.py, its one home."""
    lines = [line.split(maxsplit=2) for line in (errors_doc or "").splitlines()]
    return [(line[0], line[2]) for line in lines if len(line) == 3 and line[0] in STATUS]
