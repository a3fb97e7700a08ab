"""Locust runs against the real server, and against servers with wrong answers."""

import json
import re
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

from PIL import Image

from tests.photos import encoded, photo
from tests.scripted import Reply, Scripted

LOCUSTFILE = Path(__file__).parent.parent / "loadtests" / "locustfile.py"
USERS = ("Classifier", "Localizer", "Detector", "Segmenter")


def command(host: str, *options: str) -> list[str]:
    """The command that runs four users; requests in flight at the end are finished."""
    users = ["-u", "4", "-r", "4", "--stop-timeout", "60"]
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", host, *users, *options]


def locust(host: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it for two seconds."""
    return subprocess.run(command(host, "-t", "2s", *options), capture_output=True, text=True, check=False)


def counts(report: Path) -> dict[str, tuple[int, int]]:
    """The number of requests and failures of each path, from a JSON report."""
    entries = json.loads(report.read_text())
    return {entry["name"]: (entry["num_requests"], entry["num_failures"]) for entry in entries}


def test_a_run_against_the_server_has_requests_and_no_failure(server: str, tmp_path: Path) -> None:
    run = locust(server, "--json-file", str(tmp_path / "report"))
    assert run.returncode == 0, run.stderr
    found = counts(tmp_path / "report.json")
    assert sum(requests for requests, _ in found.values()) > 0
    assert sum(failures for _, failures in found.values()) == 0


def test_every_task_answers_the_images_of_a_folder(server: str, tmp_path: Path) -> None:
    sideways = photo("coffee")
    exif = sideways.getexif()
    exif[0x0112] = 6
    (tmp_path / "sideways.jpg").write_bytes(encoded(sideways, "JPEG", exif=exif))
    # One user of each class, whatever its weight.
    one_each = [json.dumps({"user_class_name": name, "fixed_count": 1}) for name in USERS]
    report = str(tmp_path / "report")
    run = locust(server, "--photos", str(tmp_path), "--json-file", report, "--config-users", *one_each)
    assert run.returncode == 0, run.stderr
    found = counts(tmp_path / "report.json")
    assert set(found) == {"/v1/classify", "/v1/localize", "/v1/detect", "/v1/segment"}
    assert all(requests > 0 and failures == 0 for requests, failures in found.values())


def test_arrivals_come_at_their_rate_and_are_in_the_report(server: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "chelsea.png").write_bytes(encoded(photo("chelsea")))
    shape = LOCUSTFILE.parent / "shapes" / "arrivals.py"
    run_arrivals = [sys.executable, "-m", "locust", "-f", f"{LOCUSTFILE},{shape}", "--headless", "--host", server]
    options = ["--arrivals", "2", "--arrivals-seconds", "4.5", "--photos", str(tmp_path / "photos")]
    history = ["--csv", str(tmp_path / "run"), "--csv-full-history", "--json-file", str(tmp_path / "report")]
    run = subprocess.run(
        [*run_arrivals, *options, *history, "Application", "--stop-timeout", "60"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = counts(tmp_path / "report.json")
    # Two users start per second, and each sends one request in ten seconds; a late end may start a few more.
    assert sum(failures for _, failures in found.values()) == 0
    assert 1 <= sum(requests for requests, _ in found.values()) <= 20
    picture = tmp_path / "report.png"
    script = LOCUSTFILE.parent / "report.py"
    told = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run"), "--out", str(picture)], capture_output=True, check=True
    )
    assert {step["users"] for step in json.loads(told.stdout)["steps"]} <= set(range(21))
    with Image.open(picture) as image:
        assert len(image.getcolors(1 << 24) or ()) > 3


NO_BOX = (
    b'{"model": "stub", "image": {"width": 451, "height": 300},'
    b' "predictions": [{"label": "cat", "class_id": 1, "score": 0.9}]}'
)
# Wrong answers to an image of 451 x 300, and what the error report says about each.
WRONG = {
    "status 503": Reply(NO_BOX, 503),
    "no answer": Reply(b"<html>"),
    "predictions": Reply(b'{"model": "stub", "image": {"width": 451, "height": 300}}'),
    "a photo of (451, 300) was answered as width=451 height=301": Reply(
        b'{"model": "stub", "image": {"width": 451, "height": 301}, "predictions": []}'
    ),
    "a prediction has no box": Reply(NO_BOX),
}


def test_each_wrong_answer_is_a_failure_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "chelsea.png").write_bytes(encoded(photo("chelsea")))
    turns = cycle(WRONG.values())
    with Scripted(lambda _: next(turns)) as server:
        words = command(server.url, "--photos", str(tmp_path), "Detector")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            # Each of the four users has one request in flight, so each wrong answer has arrived once.
            while len(server.asked) < len(WRONG) + 4 and run.poll() is None:
                time.sleep(0.05)
            run.terminate()
            output, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    errors = output.partition("Error report")[2]
    assert [said for said in WRONG if said not in errors] == []
    # The last line of totals: all requests failed.
    requests, failures = re.findall(r"Aggregated +(\d+) +(\d+)\(", output)[-1]
    assert int(requests) == int(failures) >= len(WRONG)


def test_load_on_another_machine_is_refused_in_one_line() -> None:
    run = locust("http://foursight.invalid:8000")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("locustfile: no load for http://foursight.invalid:8000")


def test_a_folder_without_images_is_refused_in_one_line(tmp_path: Path) -> None:
    run = locust("http://127.0.0.1:9", "--photos", str(tmp_path))
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"locustfile: {tmp_path} has no photo")
