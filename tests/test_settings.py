"""The server's settings: clear messages for invalid values, and for environment variables that nothing reads."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from foursight.clients.cli.app import main
from foursight.serving.settings import RENAMED, Settings, valid_values


def message(**values: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        Settings(**values)
    (error,) = refused.value.errors()
    return str(error["msg"])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"port": 0}, "must be an integer from 1 to 65535, not 0"),
        ({"port": "http"}, "must be an integer from 1 to 65535, not 'http'"),
        ({"max_queue": 10_001}, "must be an integer from 1 to 10000, not 10001"),
        ({"answer_cache_mib": -1}, "must be an integer from 0 to 1048576, not -1"),
        ({"device": "gpu"}, "must be auto, cpu or cuda, not 'gpu'"),
        ({"profile": "huge"}, "must be tiny or standard, not 'huge'"),
        ({"tasks": "classify,describe"}, "unknown task 'describe'; valid tasks: classify, localize, detect, segment"),
        ({"tasks": ""}, "must not be empty; valid tasks: classify, localize, detect, segment"),
        ({"models": "a=x,b"}, "must be NAME=PATH, not 'b'"),
    ],
)
def test_an_invalid_value_is_refused_with_the_valid_ones(values: dict[str, Any], text: str) -> None:
    assert message(**values) == text


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_the_old_name_of_a_variable_is_refused_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    assert new.removeprefix("FOURSIGHT_").lower() in Settings.model_fields
    monkeypatch.setenv(old, "1")
    assert message() == f"the environment variable {old} is now {new}"


def test_an_unknown_variable_is_refused_with_the_closest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOURSIGHT_REPLICA", "2")
    assert message() == "unknown environment variable FOURSIGHT_REPLICA; did you mean FOURSIGHT_REPLICAS?"
    assert main(["serve"]) == 2
    assert "did you mean FOURSIGHT_REPLICAS?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "variable",
    [
        "FOURSIGHT_URL",
        "FOURSIGHT_API_KEY",
        # Kubernetes sets these in each container of a namespace that has a Service "foursight".
        "FOURSIGHT_SERVICE_HOST",
        "FOURSIGHT_SERVICE_PORT_HTTP",
        "FOURSIGHT_PORT_8000_TCP",
        "FOURSIGHT_PORT_8000_TCP_ADDR",
    ],
)
def test_variables_that_others_read_are_accepted(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "value")
    assert Settings().port == 8000


def test_each_description_names_the_valid_values() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        # The description has "1 to 64" for "an integer from 1 to 64", and may explain the values of a choice one by
        # one.
        for value in re.findall(r"\w+", (valid_values(field) or "").removeprefix("an integer from")):
            assert value == "or" or value in field.description, (name, value)


def test_units_are_in_the_names() -> None:
    assert {"max_upload_bytes", "max_image_pixels", "answer_cache_mib", "start_timeout_s"} <= set(Settings.model_fields)
