"""Every example of the pages below and of the clients' docstrings, run against a real server."""

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from foursight import async_client, client
from tests.photos import encoded, photo

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/sdk.md")
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The photos that the examples speak of."""
    coffee, cat, people = (encoded(photo(name)) for name in ("coffee", "chelsea", "astronaut"))
    files = {"photo.jpg": coffee, "one.jpg": people, "two.png": cat, "people.png": people}
    files |= {"photos/cat.png": cat, "holiday/coffee.png": coffee, "holiday/cat.png": cat, "holiday/notes.txt": b"eggs"}
    files |= {"flowers/espresso/one.jpg": coffee, "flowers/tiger cat/two.png": cat, "coco/images/1.png": people}
    for number in range(6):
        for name, colour in (("apple", (200, 20 + number, 20)), ("pear", (40, 180 + number, 20))):
            files[f"fruit/{name}/{number}.png"] = encoded(Image.new("RGB", (64, 64), colour))
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [60, 0, 320, 512], "area": 163840, "iscrowd": 0}
    outline = {"segmentation": [[60, 0, 380, 0, 380, 512, 60, 512]]}
    listing = {
        "images": [{"id": 1, "file_name": "1.png", "width": 512, "height": 512}],
        "annotations": [box | outline],
        "categories": [{"id": 1, "name": "person"}],
    }
    files["coco/instances.json"] = json.dumps(listing).encode()
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str, language: str) -> str:
    text = (ROOT / page).read_text()
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs_and_says_what_it_says(server: str, here: Path, page: str) -> None:
    code = blocks(page, "python").replace(ADDRESS, server)
    assert code
    if ">>>" in code:
        _run_doctest(code, page, {})
    else:
        exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("module", [client, async_client])
def test_the_docstrings_examples_run(server: str, here: Path, module: object) -> None:
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={"url": server}):
        runner = doctest.DocTestRunner()
        assert runner.run(test).failed == 0


@pytest.mark.parametrize("page", PAGES)
def test_the_command_lines_of_a_page_run(server: str, here: Path, models_dir: Path, page: str) -> None:
    lines = [line for line in blocks(page, "console").splitlines() if re.match(r"curl|foursight (?!serve)", line)]
    assert len(lines) > 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line.replace(ADDRESS, server)],
            env=os.environ | {"PATH": path, "FOURSIGHT_URL": server, "FOURSIGHT_MODELS_DIR": str(models_dir)},
            capture_output=True,
            text=True,
            check=False,
        )
        # notes.txt in the folder has no picture's suffix, so that all is answered.
        assert done.returncode == 0, (line, done.stderr)
        assert '"error"' not in done.stdout
        assert '"status"' not in done.stdout
    assert list(here.glob("drawn*"))
    # The server is every test's.
    for folder in models_dir.iterdir():
        if folder.is_dir():
            httpx.delete(f"{server}/v1/models/{folder.name}").raise_for_status()
            shutil.rmtree(folder)


def _run_doctest(code: str, name: str, names: dict[str, object]) -> None:
    test = doctest.DocTestParser().get_doctest(code, names, name, name, 0)
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert not report, "".join(report)
