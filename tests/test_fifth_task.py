"""A fifth task in a copy of the package is one module and one line, and all clients offer it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from PIL import Image
from playwright.sync_api import expect

from foursight import Client
from foursight.drawing import palette
from tests.browsers import chromium
from tests.conftest import Running, free_port

ROOT = Path(__file__).parents[1]
ROOMS = ("clients", "drawing", "models", "schema", "serving", "src")
LINE = (
    '        TaskSpec("colours", "Name the main colours.", "objects", f"{_MODELS}.colours", '
    'f"{_MODELS}.colours:ColoursOptions"),\n'
)
RED, BLUE = (220, 30, 30), (30, 60, 220)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one more module, and one more line in schema/tasks.py."""
    copy = tmp_path_factory.mktemp("package")
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "data" / "colours.py", copy / "models" / "tasks")
    table = copy / "schema" / "tasks.py"
    lines = table.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if "  TaskSpec(" in line)
    table.write_text("".join([*lines[: last + 1], LINE, *lines[last + 1 :]]))
    return copy


@pytest.fixture(scope="module")
def environment(package: Path) -> dict[str, str]:
    """The environment variables that make Python import the copy."""
    return {"PYTHONPATH": str(package / "src")}


@pytest.fixture(scope="module")
def extended(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server of the copy, with the new task beside a built-in one."""
    log = tmp_path_factory.mktemp("server") / "log"
    with Running(free_port(), log, "--tasks", "classify,colours", **environment) as running:
        yield running.url


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 x 480 pixels: three quarters red, and blue on the right."""
    pixels = np.full((480, 640, 3), RED, dtype=np.uint8)
    pixels[:, 480:] = BLUE
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def test_http_answers_draws_and_analyzes_with_it(extended: str, picture: Path) -> None:
    with httpx.Client(base_url=extended, timeout=60) as client:
        answer = client.post("/v1/colours", content=picture.read_bytes()).raise_for_status().json()
        assert answer["model"] == "palette"
        assert [(one["label"], one["score"], one["box"]) for one in answer["predictions"]] == [
            ("red", 0.75, [0, 0, 480, 480]),
            ("blue", 0.25, [480, 0, 640, 480]),
        ]
        one = client.post("/v1/colours?count=1", content=picture.read_bytes()).json()
        assert one["predictions"] == answer["predictions"][:1]
        refused = client.post("/v1/colours?count=9", content=picture.read_bytes())
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_parameter")
        drawn = client.post("/v1/colours", content=picture.read_bytes(), headers={"Accept": "image/png"})
        assert Image.open(BytesIO(drawn.content)).size == (640, 480)
        analysis = client.post("/v1/analyze?count=1", content=picture.read_bytes()).json()
        assert list(analysis["tasks"]) == ["classify", "colours"]
        assert analysis["tasks"]["colours"] == one


def test_the_openapi_document_describes_it(extended: str) -> None:
    document = httpx.get(f"{extended}/openapi.json").json()
    validate(document)
    operation = document["paths"]["/v1/colours"]["post"]
    assert operation["summary"] == "Name the main colours."
    count, timeout = operation["parameters"]
    assert timeout["in"] == "header"
    assert count["name"] == "count"
    assert count["description"] == "Number of colours, the most frequent first: 1 to 6."
    Draft202012Validator.check_schema(count["schema"])
    assert count["schema"] == {"type": "integer", "minimum": 1, "maximum": 6, "default": 3}


def test_the_command_line_has_it(extended: str, environment: dict[str, str], picture: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | environment | {"PATH": path, "FOURSIGHT_URL": extended}

    def shell(line: str) -> str:
        run = subprocess.run(
            ["sh", "-c", line],
            check=False,
            cwd=picture.parent,
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    (found,) = json.loads(shell("foursight colours photo.png --count 1 --json"))
    assert [one["label"] for one in found["predictions"]] == ["red"]
    assert "colours" in shell("foursight --help")
    assert "--count" in shell("foursight colours --help")


def test_the_sdk_runs_it(extended: str, picture: Path) -> None:
    with Client(extended) as client:
        result = client.run("colours", picture, count=2)
        assert [one.label for one in result.predictions] == ["red", "blue"]
        assert result.draw().size == (640, 480)
        shrunk = client.run("colours", picture, max_side=64)
        assert shrunk.predictions[0].box == pytest.approx(result.predictions[0].box, abs=10)
        assert [one.predictions for one in client.run_many("colours", [picture] * 3, count=2)] == [
            result.predictions
        ] * 3
        assert [card.name for card in client.models() if card.task == "colours"] == ["palette"]


def test_the_page_offers_and_draws_it(extended: str, picture: Path) -> None:
    with chromium() as browser:
        page = browser.new_page(base_url=extended)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/")
        box = page.get_by_role("checkbox", name="Colours")
        expect(box).to_have_accessible_description("Name the main colours")
        box.check()
        page.get_by_role("checkbox", name="Classify").uncheck()
        page.set_input_files("#file", picture)
        expect(page.get_by_role("status")).to_have_text(re.compile("^1 . red$"))
        expect(page.get_by_role("img", name=re.compile("1 . red marked"))).to_be_visible()
        page.get_by_role("slider", name="Score").fill("20")
        expect(page.locator("#rows .row")).to_have_text([re.compile("red.*75 %"), re.compile("blue.*25 %")])
        with page.expect_download() as download:
            page.get_by_role("button", name="Save PNG").click()
        drawn = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
        # The lower edge of the box around the blue pixels, in the colour of its class.
        edge = drawn[-4:, 560]
        assert abs(edge - palette.colour(4)).max(axis=1).min() <= 2
        page.get_by_role("tab", name="Python").click()
        expect(page.locator("#code-text")).to_contain_text('client.run("colours", "photo.png")')
        page.get_by_role("tab", name="curl").click()
        expect(page.locator("#code-text")).to_contain_text(f"{extended}/v1/colours")
        assert complaints == []
