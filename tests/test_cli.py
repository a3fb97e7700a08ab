"""The command line against a real server: its output, its files and its exit status."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from foursight import __version__
from foursight.clients.cli.app import main
from foursight.models import TASKS
from tests.conftest import free_port
from tests.photos import encoded, photo
from tests.scripted import Asked, Reply, Scripted

COMMANDS = ("classify", "localize", "detect", "segment", "analyze", "models")
OTHERS = ("serve", "benchmark", "evaluate", "describe", "explain", "finetune")


@pytest.fixture
def here(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos in it; commands find the server by the environment."""
    (tmp_path / "holiday" / "beach").mkdir(parents=True)
    (tmp_path / "photo.jpg").write_bytes(encoded(photo("astronaut"), "JPEG", quality=95))
    (tmp_path / "holiday" / "b.PNG").write_bytes(encoded(photo("chelsea")))
    (tmp_path / "holiday" / "beach" / "a.png").write_bytes(encoded(photo("coffee")))
    (tmp_path / "holiday" / "notes.txt").write_text("not a photo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOURSIGHT_URL", server)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit status, standard output and standard error."""
    status = main(words)
    out, err = capsys.readouterr()
    return status, out, err


def process(*words: str, **settings: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "foursight", *words], **settings)


def ask(server: str, task: str, path: Path, **parameters: object) -> Any:
    return httpx.post(f"{server}/v1/{task}", content=path.read_bytes(), params=parameters, timeout=60).json()


@pytest.mark.parametrize("task", TASKS)
def test_without_a_terminal_each_photo_is_a_line_of_what_the_server_says(
    server: str, here: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    # One at a time, because a score may differ in its last digit if images are computed together.
    status, out, err = run(capsys, task, "photo.jpg", "holiday", "--concurrency", "1")
    assert (status, err) == (0, "holiday: skipped 1 file without an image's suffix (.txt)\n")
    names = ["photo.jpg", "holiday/b.PNG", "holiday/beach/a.png"]
    assert [json.loads(line) for line in out.splitlines()] == [
        {"file": name} | ask(server, task, here / name) for name in names
    ]


def test_an_array_has_failures_in_their_place_and_the_status_tells(
    server: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(
        capsys,
        "classify",
        "missing.jpg",
        "holiday/notes.txt",
        "photo.jpg",
        "--json",
        "--top-k",
        "2",
        "--concurrency",
        "2",
    )
    missing, text, good = json.loads(out)
    assert status == 1
    assert missing["file"] == "missing.jpg"
    assert "missing.jpg" in missing["error"]["detail"]
    assert (text["error"]["code"], text["error"]["status"]) == ("not_an_image", 415)
    assert text["error"]["request_id"]
    assert good == {"file": "photo.jpg"} | ask(server, "classify", here / "photo.jpg", top_k=2)


def test_options_reach_the_server(here: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"score_threshold": 0.2, "max_detections": 2, "classes": "person,dog", "mask_format": "polygon"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    _, out, _ = run(capsys, "segment", "photo.jpg", *words)
    assert json.loads(out) == {"file": "photo.jpg"} | ask(server, "segment", here / "photo.jpg", **options)
    _, out, _ = run(capsys, "detect", "photo.jpg", "--max-side", "256")
    assert json.loads(out)["image"] == {"width": 512, "height": 512}


def test_standard_input_is_a_photo(here: Path) -> None:
    with (here / "photo.jpg").open("rb") as photo_file:
        command = process("classify", "-", "--draw", "drawn.png", stdin=photo_file, stdout=subprocess.PIPE)
        out, _ = command.communicate(timeout=60)
    assert command.returncode == 0
    assert json.loads(out)["file"] == "-"
    assert Image.open("drawn.png").size == (512, 512)


def test_pictures_are_drawn_as_by_the_server_into_a_file_or_into_a_folder_like_the_first(
    server: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "detect", "photo.jpg", "--draw", "drawn.png")[0] == 0
    data = (here / "photo.jpg").read_bytes()
    theirs = httpx.post(f"{server}/v1/detect", content=data, headers={"Accept": "image/png"}, timeout=60).content
    assert np.array_equal(np.asarray(Image.open("drawn.png")), np.asarray(Image.open(io.BytesIO(theirs))))

    assert run(capsys, "localize", "holiday", "photo.jpg", "photo.jpg", "--draw", "drawn")[0] == 0
    drawn = sorted(str(path.relative_to("drawn")) for path in Path("drawn").rglob("*.jpg"))
    assert drawn == ["b.jpg", "beach/a.jpg", "photo-2.jpg", "photo.jpg"]
    assert Image.open("drawn/beach/a.jpg").size == photo("coffee").size


def test_where_no_server_is_one_line_says_how_to_start_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        words = () if command == "models" else ("photo.jpg",)
        status, out, err = run(capsys, command, *words, "--url", f"http://127.0.0.1:{free_port()}")
        assert (status, out) == (3, "")
        assert len(err.splitlines()) == 1
        assert "foursight serve" in err
    with Scripted(lambda _: Reply(b"<html>It works!")) as other:
        status, _, err = run(capsys, "classify", "photo.jpg", "--url", other.url)
    assert (status, len(err.splitlines())) == (3, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["detect"], "No images given"),
        (["detect", "empty"], "No images in empty"),
        (["detect", "photo.jpg", "--url", "localhost:8000"], "http://"),
        (["detect", "photo.jpg", "--top-k", "3"], "--top-k"),
        (["detect", "photo.jpg", "--score-threshold", "high"], "--score-threshold"),
        (["detect", "photo.jpg", "--score-threshold", "7"], "'--score-threshold': must be a number from 0.05 to 1"),
        (["detect", "photo.jpg", "--conf", "0.5"], "Did you mean --score-threshold?"),
        (["analyze", "photo.jpg", "--topk", "5"], "Did you mean --top-k?"),
        (["detct", "photo.jpg"], "Did you mean detect?"),
        (["detect", "photo.jpg", "--classes", "persn"], "Closest: person. `foursight models --json` lists all 80"),
        (["detect", "photo.jpg", "--classes", "persn", "--local"], "Closest: person. `foursight models --json` lists"),
        (["detect", "photo.jpg", "--model", "nothing"], "no model 'nothing'"),
        (["detect", "photo.jpg", "--model", "nothing", "--local"], "no model 'nothing'"),
        (["detect", "photo.jpg", "--model", "./nothing"], "a path needs --local"),
        (["detect", "photo.jpg", "--concurrency", "0"], "must be an integer, 1 or more"),
        (["detect", "photo.jpg", "--classes", "unicorn"], "unicorn"),
        (["detect", "photo.jpg", "--classes", "unicorn", "--local"], "unicorn"),
        (["analyze", "photo.jpg", "--tasks", "describe", "--local"], "describe"),
        (["analyze", "photo.jpg", "--tasks", "localize", "--mask-format", "none", "--local"], "--mask-format"),
        (["detect", "photo.jpg", "holiday/beach", "--draw", "one.png"], "one.png"),
        (["detect", "--watch", "missing"], "missing"),
        (["detect", "--watch", "holiday", "--json"], "--json"),
        (["segment", "photo.jpg", "--mask-format", "svg"], "svg"),
        (["describe", "photo.jpg"], "describe"),
    ],
)
def test_wrong_usage_is_named_and_ends_with_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (here / "empty").mkdir()
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert err.startswith("foursight")


def test_on_a_terminal_people_get_a_table(server: str, here: Path) -> None:
    screen, err = _on_terminal("stdout", "detect", "photo.jpg", "holiday/notes.txt")
    best = ask(server, "detect", here / "photo.jpg")["predictions"][0]
    assert "photo.jpg  512 x 512" in screen
    row = next(line for line in screen.splitlines() if line.split()[:1] == ["person"])
    assert row.split() == ["person", f"{100 * best['score']:.1f}", "%", *(f"{side:.0f}" for side in best["box"])]
    assert "{" not in screen
    assert "holiday/notes.txt" in err
    assert "classify" in _on_terminal("stdout", "models")[0]


def test_for_many_photos_there_is_a_progress_bar_where_standard_error_is_a_terminal(here: Path) -> None:
    screen, out = _on_terminal("stderr", "classify", "holiday", "photo.jpg")
    assert "3/3" in screen
    assert len(out.splitlines()) == 3


def _on_terminal(which: str, *words: str) -> tuple[str, str]:
    """Run a command with a terminal as its `which`; return that output, without colours, and the other stream's."""
    master, slave = pty.openpty()
    other = "stderr" if which == "stdout" else "stdout"
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    with process(*words, env=environment, **{which: slave, other: subprocess.PIPE}) as command:
        os.close(slave)
        screen = bytearray()
        reader = threading.Thread(target=_read_all, args=(master, screen))
        reader.start()
        rest = (command.stdout or command.stderr).read().decode()
        reader.join()
    os.close(master)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.decode()), rest


def _read_all(descriptor: int, into: bytearray) -> None:
    try:
        while data := os.read(descriptor, 65536):
            into += data
    except OSError:
        # This is how Linux signals that the other side of a terminal is closed.
        return


def test_a_watched_folders_new_photos_are_answered_once_when_they_are_complete(here: Path) -> None:
    data = encoded(photo("coffee"), "JPEG")
    folder = here / "holiday"
    # The drawings go into the watched folder, and must not be answered in turn.
    words = ("classify", "--top-k", "1", "--watch", "holiday", "--draw", "holiday/drawn")
    with process(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert b"Watching holiday" in command.stderr.readline()
        with (folder / "slow.jpg").open("wb") as slow:
            slow.write(data[: len(data) // 2])
            slow.flush()
            time.sleep(0.1)
            slow.write(data[len(data) // 2 :])
        first = json.loads(command.stdout.readline())
        (folder / "broken.jpg").write_bytes(b"no picture")
        second = json.loads(command.stdout.readline())
        (folder / "slow.jpg").write_bytes(encoded(photo("chelsea")))
        third = json.loads(command.stdout.readline())
        command.send_signal(signal.SIGINT)
        rest, _ = command.communicate(timeout=60)
    assert (first["file"], first["predictions"][0]["label"]) == ("holiday/slow.jpg", "espresso")
    assert (second["file"], second["error"]["code"]) == ("holiday/broken.jpg", "not_an_image")
    assert (third["file"], third["predictions"][0]["label"]) == ("holiday/slow.jpg", "tiger cat")
    assert rest == b""
    assert command.returncode == 1
    assert Image.open(folder / "drawn" / "slow.jpg").size == photo("coffee").size


@pytest.mark.parametrize("task", TASKS)
def test_local_answers_are_those_of_a_server(
    server: str, here: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    status, out, _ = run(capsys, task, "photo.jpg", "holiday/notes.txt", "--local", "--url", nowhere)
    good, bad = (json.loads(line) for line in out.splitlines())
    expected = {"file": "photo.jpg"} | ask(server, task, here / "photo.jpg")
    assert status == 1
    assert good["model"] == expected["model"]
    assert len(good["predictions"]) == len(expected["predictions"])
    for one, other in zip(good["predictions"], expected["predictions"], strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=0.002)
        assert one.get("box", ()) == pytest.approx(other.get("box", ()), abs=0.5)
        assert ("mask" in one) == ("mask" in other)
    assert bad["error"]["code"] == "not_an_image"


def test_a_local_analysis_has_the_tasks_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(
        capsys, "analyze", "photo.jpg", "--tasks", "classify,detect", "--top-k", "3", "--local", "--draw", "x.png"
    )
    analysis = json.loads(out)
    assert status == 0
    assert list(analysis["tasks"]) == ["classify", "detect"]
    assert len(analysis["tasks"]["classify"]["predictions"]) == 3
    assert Image.open("x.png").size == (512, 512)


def test_an_analysis_is_that_of_the_server_and_is_drawn(
    server: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"tasks": "classify,detect", "then": "classify", "top_k": 2, "max_detections": 1}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    status, out, _ = run(capsys, "analyze", "photo.jpg", "holiday/notes.txt", *words, "--draw", "drawn", "--json")
    good, bad = json.loads(out)
    answer = ask(server, "analyze", here / "photo.jpg", **options)
    assert (status, bad["error"]["code"]) == (1, "not_an_image")
    assert good == {"file": "photo.jpg"} | answer
    assert good["tasks"]["detect"]["predictions"][0]["classification"]
    assert Image.open("drawn/photo.jpg").size == (512, 512)


def test_an_analysis_on_a_terminal_is_a_table_for_each_task(server: str, here: Path) -> None:
    screen, _ = _on_terminal("stdout", "analyze", "photo.jpg", "--tasks", "classify,segment", "--then", "classify")
    assert [line.split("  ")[0] for line in screen.splitlines() if "512 x 512" in line] == [
        "photo.jpg, classify",
        "photo.jpg, segment",
    ]
    found = ask(server, "analyze", here / "photo.jpg", tasks="segment", then="classify")["tasks"]["segment"]
    rows = [line for line in screen.splitlines() if line.split()[:1] == ["person"]]
    for row, person in zip(rows, found["predictions"], strict=True):
        assert person["classification"][0]["label"] in row


def test_an_analysis_asks_for_tasks_and_then_and_one_failed_task_is_a_failure(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"model": "stub", "image": {"width": 512, "height": 512}, "predictions": []}
    error = {"type": "/", "title": "T", "status": 503, "code": "unavailable", "detail": "Not there.", "hint": "Wait."}
    analysis = {"image": answer["image"], "tasks": {"detect": answer, "segment": {"error": error}}}

    def script(asked: Asked) -> Reply:
        return Reply(json.dumps(analysis if asked.path == "/v1/analyze" else {"models": []}).encode())

    with Scripted(script) as stub:
        words = ("--tasks", "detect,segment", "--then", "classify", "--url", stub.url, "--api-key", "secret")
        status, out, _ = run(capsys, "analyze", "photo.jpg", *words)
    assert (status, json.loads(out)) == (1, {"file": "photo.jpg"} | analysis)
    assert stub.asked[-1].query == {"tasks": "detect,segment", "then": "classify"}
    assert stub.asked[-1].headers["Authorization"] == "Bearer secret"


def test_the_models_are_those_of_the_server(server: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "models")
    assert (status, json.loads(out)) == (0, httpx.get(f"{server}/v1/models").json()["models"])


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Return the help of each command at 80 columns, with the program's own as "", and the modules imported."""
    # Only the help of serve needs the server's settings.
    code = (
        "import sys; from foursight.clients.cli.app import main; main(['--help']); print('\f'); "
        "pages = [(main([command, '-h']), print('\f')) for command in sys.argv[1:] if command != 'serve']; "
        "print(*sys.modules); print('\f'); main(['serve', '--help']); print('\f'); print(*sys.modules)"
    )
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    commands = [command for command in COMMANDS + OTHERS if command != "serve"]
    process = subprocess.run(
        [sys.executable, "-c", code, *commands], env=environment, capture_output=True, text=True, check=True
    )
    names = ["", *commands, "imported", "serve", "imported by serve"]
    return dict(zip(names, process.stdout.split("\f\n"), strict=True))


def test_help_fits_a_screen_has_an_example_and_imports_nothing_heavy(helps: dict[str, str]) -> None:
    for command in COMMANDS + OTHERS:
        page = helps[command]
        # A server has more options than fit on a small screen.
        assert len(page.splitlines()) <= (70 if command == "serve" else 46)
        assert max(map(len, page.splitlines())) <= 80
        assert f"Example: foursight {command} " in page
        assert "-h, --help" in page
        assert not re.search(r"<\w+|INTEGER|FLOAT|TEXT|\bint\b", page)
        assert re.search(rf"^  {command} +\w", helps[""], re.MULTILINE)
    assert {"httpx", "numpy", "PIL", "torch", "ray", "pydantic_settings"}.isdisjoint(helps["imported"].split())
    assert {"httpx", "torch", "ray"}.isdisjoint(helps["imported by serve"].split())


def test_the_examples_of_the_help_run(here: Path, helps: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS[: COMMANDS.index("models")]:
        example = re.search(r"Example: foursight (.+)", helps[command])[1]
        status, out, _ = run(capsys, *example.split(">")[0].split())
        assert status == 0, example
        assert "predictions" in out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("foursight cl", "classify"),
        ("foursight detect --max-d", "--max-detections"),
        ("foursight segment --mask-format po", "polygon"),
        ("foursight serve --max-u", "--max-upload-bytes"),
    ],
)
def test_a_shell_completes_commands_and_options(typed: str, offered: str) -> None:
    words = {"_FOURSIGHT_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    command = Path(sys.executable).with_name("foursight")
    done = subprocess.run([command], env=os.environ | words, capture_output=True, text=True, check=True)
    assert f"plain,{offered}" in done.stdout.split()


def test_completion_is_installed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for shell, file in (("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", ".config/fish/completions/foursight.fish")):
        monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
        for _ in range(2):
            assert run(capsys, "--install-completion")[0] == 0
        (line,) = (tmp_path / file).read_text().splitlines()
        assert f"_FOURSIGHT_COMPLETE={shell}_source" in line
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert run(capsys, "--install-completion")[0] == 2


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"foursight {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["serve"], "'.[server]'"),
        (["serve", "--help"], "'.[server]'"),
        (["detect", "photo.jpg", "--local"], "'.[server]'"),
        (["finetune", "fruit", "--name", "fruit"], "'.[server,train]'"),
    ],
)
def test_without_the_servers_packages_one_line_says_what_to_install(
    tmp_path: Path, words: list[str], needed: str
) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('pydantic_settings', 'torch', 'ray', 'contourpy'))); "
        "from foursight.clients.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"foursight {words[0]}: ")
    assert line.endswith(f"From Foursight's source folder, run: pip install {needed}")


def test_local_answers_need_no_web_framework(here: Path) -> None:
    code = (
        "import sys; from foursight.clients.cli.app import main; "
        "status = main(['classify', 'photo.jpg', '--local']); print(*sys.modules); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"starlette", "fastapi", "ray"}.isdisjoint(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
@pytest.mark.parametrize("form", ["--jsonl", "--json"])
def test_a_file_name_that_is_not_text_is_escaped(server: str, tmp_path: Path, locale: str, form: str) -> None:
    name = os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80.png")
    for file in ("a.png", name):
        (tmp_path / file).write_bytes(encoded(photo("coffee").resize((60, 40))))
    environment = os.environ | {
        "LC_ALL": locale,
        "FOURSIGHT_URL": server,
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    command = [sys.executable, "-m", "foursight", "classify", "--top-k", "1", form, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    text = done.stdout.decode()
    answers = json.loads(text) if form == "--json" else [json.loads(line) for line in text.splitlines()]
    assert [os.fsencode(answer["file"]) for answer in answers] == [
        os.fsencode(tmp_path / file) for file in ("a.png", name)
    ]
    assert all(answer["predictions"] for answer in answers)


def test_a_folder_is_searched_for_what_can_be_read_and_the_rest_is_counted(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = encoded(photo("coffee").resize((60, 40)), "JPEG")
    for name in ("a.jfif", "b.JPE", "c.mpo", "sub/d.jpg", "e.heic", "f.txt", "g", ".hidden.jpg", ".thumbs/h.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg)
    monkeypatch.setenv("FOURSIGHT_URL", server)
    assert main(["classify", "--top-k", "1", str(tmp_path)]) == 0
    out, errors = capsys.readouterr()
    assert [Path(json.loads(line)["file"]).name for line in out.splitlines()] == ["a.jfif", "b.JPE", "c.mpo", "d.jpg"]
    assert errors == f"{tmp_path}: skipped 3 files without an image's suffix (.heic, .txt, no suffix)\n"
