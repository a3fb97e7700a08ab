"""Every example of the README, of the pages in docs/ and of the clients' docstrings, run against a real server.

Commands run as written, in the order of their page. Only those that match LEFT_OUT are skipped; a command that cannot
be run here and does not match fails the test. A command behind `$` must print what the page shows below it; a line ⋮
stands for any lines.
"""

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from foursight.clients.cli.app import main
from foursight.clients.sdk import async_client, client
from foursight.serving.errors import CODES
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.settings import Settings
from tests.photos import encoded, photo

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"
LEFT_OUT = (
    # These start the server, which already runs here.
    r"(\w+=\S+ )*(foursight serve|make run|docker compose)",
    # These install the package or run the tests.
    r"make|pip install",
    # These compute for a minute; tests/test_finetune_detector.py covers training and requests to the trained model.
    r"foursight finetune (kitchen|DATA)|curl .*model=kitchen",
    # The developers' measurements take minutes and need data sets that are not here.
    r"(\w+=\S+ )*(\.venv/bin/)?(python|locust) .*(loadtests/|-m (loadtests|research|tools)\.)",
)
# These words precede the name of a file that the command writes.
WRITES = re.compile(r"(?:--draw|--out|--sheet|-o|>) (\S+)")


@cache
def files() -> dict[str, bytes]:
    """Return the photos and data sets that the examples use, by their paths."""
    coffee, cat, people = (encoded(photo(name)) for name in ("coffee", "chelsea", "astronaut"))
    found = {"photo.jpg": coffee, "one.jpg": people, "two.png": cat, "people.png": people}
    found |= {"photos/cat.png": cat, "holiday/coffee.png": coffee, "holiday/cat.png": cat, "holiday/notes.txt": b"eggs"}
    sample = "serving/page/samples/tennis.jpg"
    found |= {sample: (ROOT / sample).read_bytes()}
    found |= {"flowers/espresso/one.jpg": coffee, "flowers/tiger cat/two.png": cat, "coco/images/1.png": people}
    for number in range(6):
        for name, colour in (("apple", (200, 20 + number, 20)), ("pear", (40, 180 + number, 20))):
            fruit = encoded(Image.new("RGB", (64, 64), colour))
            found |= {f"fruit/{name}/{number}.png": fruit, f"crops/{name}/{number}.png": fruit}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [60, 0, 320, 512], "area": 163840, "iscrowd": 0}
    outline = {"segmentation": [[60, 0, 380, 0, 380, 512, 60, 512]]}
    listing = {
        "images": [{"id": 1, "file_name": "1.png", "width": 512, "height": 512}],
        "annotations": [box | outline],
        "categories": [{"id": 1, "name": "person"}],
    }
    return found | {"coco/instances.json": json.dumps(listing).encode()}


@pytest.fixture
def here(server: str, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the photos in it; commands find the server by the environment."""
    for name, data in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOURSIGHT_URL", server)
    monkeypatch.setenv("FOURSIGHT_MODELS_DIR", str(models_dir))
    monkeypatch.setenv("FOURSIGHT_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    yield tmp_path
    # All tests share the server, so unload the models.
    for folder in models_dir.iterdir():
        if folder.is_dir():
            # 404: the model was never loaded.
            assert httpx.delete(f"{server}/v1/models/{folder.name}").status_code in {204, 404}
            shutil.rmtree(folder)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[tuple[str, str | None]]:
    """Return the page's command lines, each with the output that is shown below it, or None."""
    found: list[tuple[str, str | None]] = []
    for block in blocks(page, "console"):
        text = block.replace("\\\n", " ")
        if text.startswith("$ "):
            sessions = (part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:])
            found += [(line, shown) for line, _, shown in sessions]
        else:
            found += [(line, None) for line in text.splitlines() if line and not line.startswith("#")]
    return [(line, shown) for line, shown in found if not any(re.match(rf"(?:{one})\b", line) for one in LEFT_OUT)]


def name(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_the_python_of_a_page_runs_and_says_what_it_says(server: str, here: Path, page: Path) -> None:
    code = "\n".join(blocks(page, "python")).replace(ADDRESS, server)
    if ">>>" in code:
        _run_doctest(code, page.name, {})
    else:
        exec(compile(code, page.name, "exec"), {})


@pytest.mark.parametrize("module", [client, async_client])
def test_the_docstrings_examples_run(server: str, here: Path, module: object) -> None:
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={"url": server}):
        runner = doctest.DocTestRunner()
        assert runner.run(test).failed == 0


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_the_command_lines_of_a_page_run(
    server: str, here: Path, capsys: pytest.CaptureFixture[str], page: Path
) -> None:
    for line, shown in commands(page):
        status, out, err = _run(line.replace(ADDRESS, server), capsys)
        if shown is None:
            # notes.txt in the folder does not have an image's suffix, so every file is answered.
            assert status == 0, (line, err)
            assert '"error"' not in out
            assert '"status"' not in out
        else:
            pattern = ".*".join(map(re.escape, re.split(r"^⋮\n", shown, flags=re.MULTILINE)))
            assert re.fullmatch(pattern, out, re.DOTALL), (line, out)
        assert [path for path in WRITES.findall(line) if not Path(path).exists()] == []


def table(page: str, column: int) -> list[str]:
    """Return the code words in a column of the tables of a page."""
    rows = re.findall(r"^\| `.*\|$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return [row.split(" | ")[column].strip("|` ") for row in rows]


def test_the_page_of_settings_names_every_setting() -> None:
    assert table("reference/settings.md", 1) == [f"FOURSIGHT_{name.upper()}" for name in Settings.model_fields]
    assert table("reference/settings.md", 3) == [field.description for field in Settings.model_fields.values()]


def test_the_page_of_the_http_api_names_every_error_code() -> None:
    rows = list(zip(table("reference/http.md", 0), table("reference/http.md", 1), strict=True))
    assert rows[-len(CODES) :] == [(code, str(error.status)) for code, error in CODES.items()]


def test_the_page_on_metrics_names_every_metric() -> None:
    families = text_string_to_metric_families(WorkerMetrics("detect", "1").page())
    assert {name.removesuffix("_total") for name in table("guides/observe.md", 0) if name.startswith("foursight_")} == {
        family.name for family in families if not family.name.endswith("_created")
    }


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def _run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return a command's exit status, standard output and standard error; it runs in a shell only if it needs one."""
    words = shlex.split(line, comments=True)
    if words[0] == "foursight" and not {"<", ">", "|"} & set(words):
        capsys.readouterr()
        return main(words[1:]), *capsys.readouterr()
    assert words[0] in ("curl", "foursight"), f"{line}: neither run here nor named in LEFT_OUT"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _run_doctest(code: str, name: str, names: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(code, names, name, name, 0)
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert not report, "".join(report)
