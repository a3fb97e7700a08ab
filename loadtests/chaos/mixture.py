"""What the traffic asks: right images with several options, and wrong uploads whose error is known."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import httpx

from loadtests.chaos.answers import Expected
from loadtests.photos import jpeg, photo

# Nothing that the networks find in the photos has a score within .01 of the thresholds below.
PHOTOS = ("coffee", "chelsea", "astronaut")
OPTIONS = {
    "classify": ("", "top_k=1", "score_threshold=0.1&classes=espresso,tabby"),
    "localize": ("", "top_k=3"),
    "detect": ("score_threshold=0.3", "score_threshold=0.3&classes=cup,cat"),
    "segment": ("score_threshold=0.3", "score_threshold=0.3&mask_format=none"),
}
# The task of requests that the gateway answers.
GATEWAY = "gateway"


@dataclass(frozen=True)
class Ask:
    """A request. Without `expected`, the right answer is what the quiet server says."""

    name: str
    task: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    expected: Expected | None = None


def mixture(tasks: Sequence[str]) -> list[Ask]:
    """Return all requests; the first of each task is a photo with default options."""
    photos = {name: jpeg(photo(name), 90) for name in PHOTOS}
    return [*_of_tasks(tasks, photos), *_of_gateway(tasks, photos["coffee"])]


def _of_tasks(tasks: Sequence[str], photos: dict[str, bytes]) -> Iterable[Ask]:
    coffee = photos["coffee"]
    text = base64.b64encode(coffee).decode()
    several = httpx.Request("POST", "http://x", files=[("image", one) for one in photos.values()])
    form = {"Content-Type": several.headers["Content-Type"]}
    as_json = {"Content-Type": "application/json"}
    for task in tasks:
        path = f"/v1/{task}"
        for options in OPTIONS[task]:
            for name, content in photos.items():
                yield Ask(f"{task} {name} {options}".strip(), task, f"{path}?{options}", content)
        usual = f"{path}?{OPTIONS[task][0]}"
        yield Ask(f"{task} three photos in a form", task, usual, several.read(), form)
        yield Ask(f"{task} base64 in JSON", task, usual, json.dumps({"image": text}).encode(), as_json)
        for name, status, code, content, below in (
            ("no body", 400, "empty_body", b"", ""),
            ("text", 415, "not_an_image", b"This is no image.", ""),
            ("half a JPEG", 422, "truncated_image", coffee[: len(coffee) // 2], ""),
            ("an unknown option", 400, "unknown_parameter", coffee, "?colour=red"),
            (
                "a wrong value",
                400,
                "invalid_parameter",
                coffee,
                "?top_k=0" if "top_k" in OPTIONS[task][1] else "?max_detections=0",
            ),
        ):
            yield Ask(f"{task} {name}", task, path + below, content, expected=Expected(status, code))
        yield Ask(f"GET {task}", task, path, method="GET", expected=Expected(405, "method_not_allowed"))


def _of_gateway(tasks: Sequence[str], coffee: bytes) -> Iterable[Ask]:
    both = ",".join(tasks[:2])
    yield Ask("analyze", GATEWAY, f"/v1/analyze?tasks={both}", coffee)
    yield Ask("analyze text", GATEWAY, f"/v1/analyze?tasks={both}", b"text", expected=Expected(415, "not_an_image"))
    yield Ask("models", GATEWAY, "/v1/models", method="GET")
    yield Ask("limits", GATEWAY, "/v1/limits", method="GET")
    yield Ask("no such path", GATEWAY, "/v1/nothing", method="GET", expected=Expected(404, "not_found"))
    yield Ask("no such model", GATEWAY, "/v1/models/none", method="GET", expected=Expected(404, "unknown_model"))
