"""The table of error codes: every code that is raised has a status, and an unknown one is an internal error."""

import ast
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from foursight.models import errors as model_errors
from foursight.models.errors import ModelError, OptionError
from foursight.schema.tasks import TASKS
from foursight.serving import openapi, responses
from foursight.serving.errors import CODES, ApiError, as_api_error

ROOT = Path(__file__).parent.parent
RAISED = {"ApiError", *(name for name, one in vars(model_errors).items() if isinstance(one, type))}


def raised_codes() -> Iterator[str]:
    """Yield the codes in models/ and serving/: arguments of an error class or of a function that makes one."""
    for file in (*(ROOT / "models").rglob("*.py"), *(ROOT / "serving").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        makers = {one.name for one in functions if getattr(one.returns, "id", "") in RAISED}
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name in RAISED or name == "problem":
                yield from strings(call.args[:1], r"[a-z][a-z0-9_]*")
            elif name in makers:
                yield from strings(call.args, r"[a-z]+(_[a-z]+)+")


def strings(nodes: list[ast.expr], pattern: str) -> Iterator[str]:
    for part in (part for node in nodes for part in ast.walk(node)):
        if isinstance(part, ast.Constant) and re.fullmatch(pattern, str(part.value)):
            yield part.value


def test_every_code_that_is_raised_has_a_status_and_a_description() -> None:
    codes = set(raised_codes())
    assert {"empty_body", "weights_unavailable", "precision_unavailable", "bad_data", "overloaded"} <= codes
    assert codes - CODES.keys() == set()
    assert all(400 <= error.status < 600 and error.when.endswith(".") for error in CODES.values())


def test_every_code_in_the_table_is_raised() -> None:
    assert CODES.keys() - set(raised_codes()) == set()


@pytest.mark.parametrize("error", [ModelError("no_such_code", "x", "y"), ApiError("no_such_code", "x", "y")])
def test_an_unknown_code_is_an_internal_error_that_is_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    response = responses.error_response(as_api_error(error))
    assert response.status_code == 500
    assert b"internal_error" in response.body
    assert b"no_such_code" not in response.body
    assert "unexpected error" in caplog.text


def test_an_error_of_the_models_gets_a_hint_that_only_http_has() -> None:
    error = as_api_error(OptionError("unknown_class", "No class 'x'.", "Did you mean 'y'?"))
    assert error.hint == "Did you mean 'y'? GET /v1/models lists all labels."


def test_the_api_page_lists_every_code_with_its_status() -> None:
    page = openapi.page(openapi.document(TASKS), "http://localhost:8000")
    for code, error in CODES.items():
        assert f'<tr id="{code}"><td><code>{code}</code><td>{error.status}<td>{escape(error.when)}' in page


def test_the_document_is_valid_openapi_and_derives_from_the_table_of_tasks() -> None:
    document = openapi.document(["detect", "classify"])
    validate(document)
    assert "/v1/segment" not in document["paths"]
    for name in ("detect", "classify"):
        operation = document["paths"][f"/v1/{name}"]["post"]
        assert operation["summary"] == TASKS[name].summary
        *options, timeout = operation["parameters"]
        assert [one["name"] for one in options] == list(TASKS[name].options.model_fields)
        assert (timeout["name"], timeout["in"]) == ("Request-Timeout", "header")
