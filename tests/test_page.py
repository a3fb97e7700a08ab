"""The web page in a real Chromium, against the real server."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from pycocotools import mask as coco_mask

from foursight.drawing import palette
from foursight.models.networks import backbone
from foursight.schema import Answer, Prediction
from foursight.schema.tasks import TASKS
from foursight.serving import web
from tests.browsers import chromium
from tests.helpers import coco_rle
from tests.shapes import write_model

PHOTO = (web.FOLDER / "samples" / "tennis.jpg").read_bytes()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[Callable[..., Page]]:
    """Open the page in a context with the given options. Errors in scripts and violations of the CSP fail the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def opened(**options: Any) -> Page:
        context = browser.new_context(base_url=server, **options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto("/")
        # This is the script's last step.
        expect(page.locator("#models > div").first).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    # The tests provoke error responses and a server that does not respond.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page(viewport={"width": 1280, "height": 900})


def choose(page: Page, *tasks: str) -> None:
    for box in page.locator("#tasks input").all():
        box.set_checked(box.get_attribute("value") in tasks)


def drop(page: Page, content: bytes, name: str, kind: str) -> None:
    """Drag a file over the page and drop it."""
    transfer = page.evaluate_handle(
        """([content, name, type]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("#stage", event, {"dataTransfer": transfer})


@cache
def ask(server: str, task: str, **options: float) -> Answer:
    """Return the server's answer for PHOTO, without a browser."""
    response = httpx.post(f"{server}/v1/{task}", content=PHOTO, params=options, timeout=60)
    return Answer.model_validate_json(response.raise_for_status().content)


def pixels(page: Page) -> np.ndarray:
    """Return the pixels of the canvas, uint8 [H, W, 3]."""
    url = page.evaluate("document.querySelector('#canvas').toDataURL()")
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def row_texts(page: Page) -> list[str]:
    return [re.sub(r"\s+", " ", text).strip() for text in page.locator("#rows .row").all_inner_texts()]


def texts_of(predictions: list[Prediction]) -> list[str]:
    return [f"{one.label} {round(100 * one.score)} %" for one in predictions]


def smallest(predictions: list[Prediction]) -> Prediction:
    """Return the prediction that is drawn last, over all others."""
    return min(predictions, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))


def test_a_dropped_photo_is_listed_and_drawn(server: str, page: Page) -> None:
    choose(page, "detect")
    drop(page, PHOTO, "tennis.jpg", "image/jpeg")
    expect(page.locator("#rows .row").first).to_be_visible()
    found = ask(server, "detect").predictions
    assert row_texts(page) == texts_of(found)
    expect(page.get_by_role("status")).to_contain_text("person")
    expect(page.get_by_role("img", name=re.compile("2 . person, 1 . sports ball marked"))).to_be_visible()
    canvas = pixels(page)
    persons = [one for one in found if one.label == "person"]
    x1, _, x2, y2 = (side * canvas.shape[1] / 640 for side in smallest(persons).box or ())
    # Across the lower edge of the box, whose stroke is two pixels wide, at least one pixel has the pure colour.
    edge = canvas[round(y2) - 2 : round(y2) + 2, round((x1 + x2) / 2)].astype(int)
    # There are two persons: the second has another lightness.
    colour = palette.colour(smallest(persons).class_id, persons.index(smallest(persons)))
    assert abs(edge - colour).max(axis=1).min() <= 2
    for step in ("decode", "queue", "inference", "total", "round trip"):
        expect(page.locator("#timing dt", has_text=step)).to_be_visible()


def test_masks_are_filled_and_saved_with_the_photo(server: str, page: Page) -> None:
    choose(page, "segment")
    drop(page, PHOTO, "tennis.jpg", "image/jpeg")
    expect(page.locator("#rows .row").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.suggested_filename == "tennis-segment.png"
    drawn = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    photo = np.asarray(Image.open(BytesIO(PHOTO))).astype(int)
    changed = abs(drawn - photo).max(axis=2) > 12
    predictions = ask(server, "segment").predictions
    masks = np.zeros(photo.shape[:2], bool)
    outside = np.ones(photo.shape[:2], bool)
    for one in predictions:
        masks |= coco_mask.decode(dict(one.mask)).astype(bool)
        x1, y1, x2, y2 = one.box or (0, 0, 0, 0)
        outside[max(0, int(y1) - 24) : int(y2) + 24, max(0, int(x1) - 4) : int(x2) + 100] = False
    assert changed[masks].mean() > 0.8
    assert changed[outside].mean() < 0.01


def test_the_slider_filters_without_a_request(server: str, page: Page) -> None:
    choose(page, "detect")
    drop(page, PHOTO, "tennis.jpg", "image/jpeg")
    expect(page.locator("#rows .row").first).to_be_visible()
    everything = ask(server, "detect", score_threshold=0.1).predictions
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    slider = page.get_by_role("slider", name="Score")
    before = pixels(page)
    for percent in (10, 60, 97):
        slider.fill(str(percent))
        assert row_texts(page) == texts_of([one for one in everything if one.score >= percent / 100])
    assert (pixels(page) != before).any()
    expect(page.get_by_role("status")).to_have_text(re.compile("^1 . person$"))
    assert sent == []


def test_an_object_and_its_row_are_highlighted_together(server: str, page: Page) -> None:
    choose(page, "detect")
    drop(page, PHOTO, "tennis.jpg", "image/jpeg")
    rows = page.locator("#rows button")
    expect(rows.first).to_be_visible()
    plain = pixels(page)
    rows.first.hover()
    lit = pixels(page)
    # The rest of the photo is dimmed.
    assert lit[-20:, -20:].mean() < 0.6 * plain[-20:, -20:].mean()
    found = ask(server, "detect").predictions
    x1, y1, x2, y2 = smallest(found).box or (0, 0, 0, 0)
    scale = page.locator("#canvas").bounding_box()["width"] / 640
    page.locator("#canvas").hover(position={"x": (x1 + x2) / 2 * scale, "y": (y1 + y2) / 2 * scale})
    expect(page.locator("#rows .lit")).to_contain_text(smallest(found).label)
    page.locator("#canvas").click(position={"x": (x1 + x2) / 2 * scale, "y": (y1 + y2) / 2 * scale})
    expect(rows.nth(found.index(smallest(found)))).to_be_focused()


def test_the_copied_curl_line_answers_the_same(server: str, open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    choose(page, "segment")
    name = "my dog's $HOME photo.jpg"
    (tmp_path / name).write_bytes(PHOTO)
    page.set_input_files("#file", tmp_path / name)
    expect(page.locator("#rows .row").first).to_be_visible()
    answer = ask(server, "segment")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = run_shell(page.evaluate("navigator.clipboard.readText()"), tmp_path)
    assert Answer.model_validate_json(copied) == answer
    page.get_by_role("tab", name="JSON").click()
    assert Answer.model_validate_json(page.locator("#code-text").inner_text()) == answer
    page.get_by_role("tab", name="Python").click()
    expect(page.locator("#code-text")).to_contain_text(f'segment("{name}", score_threshold=0.5)')
    # Samples are on the server, so their command needs no file.
    page.get_by_role("tab", name="curl").click()
    page.get_by_role("button", name="A tennis player").click()
    expect(page.locator("#code-text")).to_contain_text("/page/samples/tennis.jpg")
    assert Answer.model_validate_json(run_shell(page.locator("#code-text").inner_text(), tmp_path)) == answer


def run_shell(line: str, folder: Path) -> bytes:
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("tasks", [("detect",), ("classify", "localize")])
def test_the_code_for_one_task_and_for_several_runs(
    page: Page,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tasks: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(PHOTO)
    choose(page, *tasks)
    page.set_input_files("#file", "photo.jpg")
    curl = page.locator("#code-text").inner_text()
    page.get_by_role("tab", name="Python").click()
    exec(page.locator("#code-text").inner_text(), {})
    found = json.loads(run_shell(curl, tmp_path))
    parts = [found] if len(tasks) == 1 else [found["tasks"][task] for task in tasks]
    told = capsys.readouterr().out
    for part in parts:
        assert f"label='{part['predictions'][0]['label']}'" in told


@pytest.mark.parametrize(
    ("tasks", "asked"),
    [
        (("detect", "segment"), ["/v1/analyze?tasks=detect,segment&score_threshold=0.7"]),
        # The slider is not for labels, so these need a request of their own.
        (("classify", "detect"), ["/v1/classify", "/v1/detect?score_threshold=0.7"]),
    ],
)
def test_the_code_for_several_tasks_has_the_sliders_threshold(
    server: str, page: Page, tasks: tuple[str, ...], asked: list[str]
) -> None:
    choose(page, *tasks)
    drop(page, PHOTO, "photo.jpg", "image/jpeg")
    page.get_by_role("slider", name="Score").fill("70")
    lines = page.locator("#code-text").inner_text().splitlines()
    assert [line.rpartition(" ")[2].strip("'").removeprefix(server) for line in lines] == asked


def test_errors_are_shown_in_words(server: str, page: Page) -> None:
    choose(page, "classify", "detect")
    drop(page, b"shopping: milk, bread", "notes.txt", "text/plain")
    problem = httpx.post(f"{server}/v1/detect", content=b"shopping: milk, bread", timeout=60).json()
    expect(page.get_by_role("alert")).to_contain_text(problem["detail"])
    expect(page.get_by_role("alert")).to_contain_text(problem["hint"])
    expect(page.get_by_text("Drop a photo here")).to_be_visible()

    page.route("**/v1/*", lambda route: route.abort("connectionrefused"))
    drop(page, PHOTO, "tennis.jpg", "image/jpeg")
    expect(page.get_by_role("alert")).to_contain_text("does not respond")
    page.unroute("**/v1/*")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_role("status")).to_contain_text("person")


def test_a_new_photo_aborts_the_requests_for_the_last_one(server: str, page: Page) -> None:
    asked: set[str] = set()

    def hold_the_first(route: Route) -> None:
        """Answer the requests for the second photo only."""
        if route.request.url in asked:
            route.continue_()
        asked.add(route.request.url)

    page.route("**/v1/*", hold_the_first)
    ended: list[tuple[str, str | None]] = []
    page.on("requestfailed", lambda request: ended.append((request.url.split("?")[0], request.failure)))
    choose(page, "classify", "detect")
    with page.expect_request("**/v1/detect*"):
        page.get_by_role("button", name="A tennis player").click()
    expect(page.get_by_role("status")).to_have_text("Looking …")
    page.get_by_role("button", name="A cat").click()
    expect(page.get_by_role("status")).to_contain_text("cat")
    assert sorted(ended) == [(f"{server}/v1/{task}", "net::ERR_ABORTED") for task in ("classify", "detect")]


def test_a_picture_is_pasted_from_the_clipboard(open_page: Callable[..., Page], server: str) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    choose(page, "detect")
    picture = BytesIO()
    # The clipboard stores images as PNG.
    Image.open(BytesIO(PHOTO)).save(picture, "PNG")
    page.evaluate(
        """async (content) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const picture = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
        }""",
        base64.b64encode(picture.getvalue()).decode(),
    )
    page.keyboard.press("Control+V")
    expect(page.locator("#rows .row").first).to_be_visible()
    response = httpx.post(f"{server}/v1/detect", content=picture.getvalue(), timeout=60)
    assert row_texts(page) == texts_of(Answer.model_validate_json(response.content).predictions)
    # Pasting text changes nothing.
    page.evaluate("navigator.clipboard.writeText('a photo')")
    page.keyboard.press("Control+V")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_role("img", name=re.compile("person, .* marked"))).to_be_visible()


def test_each_sample_takes_one_click_and_is_credited(page: Page, server: str) -> None:
    choose(page, "classify")
    samples = page.get_by_role("list", name="Or one of these").get_by_role("button").all()
    assert len(samples) == 4
    for button in samples:
        button.click()
        photo = httpx.get(f"{server}/page/samples/{button.get_attribute('data-sample')}").content
        best = httpx.post(f"{server}/v1/classify", content=photo, timeout=60).json()["predictions"][0]["label"]
        expect(page.get_by_role("status")).to_have_text(f"Most likely: {best}")
    expect(page.get_by_role("contentinfo")).to_contain_text("CC BY 2.0")


def test_a_task_chosen_later_is_requested_alone(page: Page) -> None:
    choose(page, "classify")
    page.get_by_role("button", name="A cat").click()
    expect(page.get_by_role("status")).to_contain_text("cat")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url.rsplit("/", 1)[1].split("?")[0]))
    page.get_by_role("checkbox", name="Localize").check()
    expect(page.get_by_role("status")).to_have_text(re.compile("^Main object: .*cat"))
    assert sent == ["localize"]
    page.get_by_role("checkbox", name="Localize").uncheck()
    expect(page.get_by_role("status")).to_contain_text("Most likely")
    page.get_by_role("checkbox", name="Classify").uncheck()
    expect(page.get_by_role("status")).to_have_text("Choose at least one task.")
    assert sent == ["localize"]


def test_the_tasks_and_their_descriptions_come_from_the_server(server: str, page: Page) -> None:
    paths = httpx.get(f"{server}/openapi.json").json()["paths"]
    for task in TASKS.values():
        box = page.locator(f"#tasks input[value={task.name}]")
        expect(box).to_have_accessible_description(paths[f"/v1/{task.name}"]["post"]["summary"].rstrip("."))
    assert page.locator("#tasks input").count() == len(TASKS)
    # At first, one task for labels and the most detailed one are chosen.
    assert [box.is_checked() for box in page.locator("#tasks input").all()] == [True, False, False, True]


def test_a_fine_tuned_model_can_be_chosen(
    server: str, models_dir: Path, open_page: Callable[..., Page], tmp_path: Path
) -> None:
    write_model(models_dir / "fruit", backbone.load("tiny"), seed=1, labels=("apple", "pear"))
    httpx.put(f"{server}/v1/models/fruit", timeout=60).raise_for_status()
    try:
        page = open_page()
        choose(page, "classify")
        choice = page.get_by_role("combobox", name="Classify with")
        expect(choice).to_have_value("")
        page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": PHOTO})
        expect(page.get_by_role("status")).to_have_text("Most likely: racket")
        choice.select_option("fruit")
        expect(page.get_by_role("status")).to_have_text(re.compile("^Most likely: (apple|pear)$"))
        assert Axe().run(page).violations_count == 0
        (tmp_path / "photo.jpg").write_bytes(PHOTO)
        answer = Answer.model_validate_json(run_shell(page.locator("#code-text").inner_text(), tmp_path))
        assert answer.model == "fruit"
        assert row_texts(page) == texts_of(answer.predictions)
        page.get_by_role("checkbox", name="Detect").check()
        expect(page.locator("#code-text")).to_contain_text("/v1/analyze?tasks=classify,detect&model=fruit")
        page.get_by_role("checkbox", name="Classify").uncheck()
        expect(choice).to_have_count(0)
    finally:
        httpx.delete(f"{server}/v1/models/fruit", timeout=60)
        shutil.rmtree(models_dir / "fruit")


def test_the_camera_is_denied_closed_and_used_with_the_keyboard(page: Page) -> None:
    choose(page, "classify")
    camera = page.get_by_role("button", name="Camera")
    dialog = page.get_by_role("dialog", name="Camera")
    camera.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The camera is not allowed.")
    page.context.grant_permissions(["camera"])
    camera.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(camera).to_be_focused()
    expect(page.get_by_text("Drop a photo here")).to_be_visible()
    camera.press("Enter")
    shoot = dialog.get_by_role("button", name="Take the photo")
    expect(shoot).to_be_enabled()
    page.keyboard.press("Shift+Tab")
    expect(shoot).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Most likely")
    expect(dialog).to_be_hidden()
    # Chromium's fake camera shows green, and does not stop by itself.
    red, green, blue = pixels(page).reshape(-1, 3).mean(axis=0)
    assert green > 1.5 * max(red, blue)
    assert page.evaluate("document.querySelector('#video').srcObject.active") is False


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    choose(page, "classify", "segment")
    page.evaluate("document.activeElement.blur()")

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            # The file input is invisible: the button beside it shows its focus.
            seen = page.locator("#file:focus + .button, .chip :focus + span").or_(focused).last
            assert seen.evaluate("(one) => getComputedStyle(one).outlineStyle") == "solid"
            if focused.evaluate("(one, selector) => one.matches(selector)", selector):
                return
        pytest.fail(f"Tab does not reach {selector}")

    tab_to("#file")
    tab_to("[data-sample='tennis.jpg']")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("person")
    tab_to("#tab-segment")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("status")).to_have_text("Most likely: racket")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-segment")).to_be_focused()
    tab_to("#threshold")
    page.keyboard.press("End")
    expect(page.locator("#rows li")).to_have_count(0)
    page.keyboard.press("Home")
    tab_to("#rows button")
    expect(page.locator("#rows button").first).to_have_class("row lit")
    tab_to("#copy")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(open_page: Callable[..., Page], scheme: str, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
    choose(page, "classify", "detect")

    def check() -> None:
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    drop(page, b"shopping: milk, bread", "notes.txt", "text/plain")
    expect(page.get_by_role("alert")).to_be_visible()
    check()
    page.get_by_role("button", name="A tennis player").click()
    expect(page.get_by_role("status")).to_contain_text("person")
    page.locator("#rows button").first.hover()
    check()
    page.get_by_role("tab", name="Classify").click()
    check()


def test_masks_are_decoded_as_pycocotools_encodes_them(page: Page) -> None:
    random = np.random.default_rng(7)
    masks = [random.random((height, width)) < share for height, width, share in RANDOM_MASKS]
    blob = np.zeros((300, 400), bool)
    blob[40:260, 30:333] = True
    masks += [blob, ~blob, np.zeros((3, 2), bool), np.ones((3, 2), bool)]
    found = page.evaluate(
        """async (rles) => {
            const { decode } = await import("/page/rle.js");
            return rles.map(decode).map((mask) => ({ ...mask, bits: Array.from(mask.bits).join("") }));
        }""",
        [coco_rle(mask) for mask in masks],
    )
    for mask, window in zip(masks, found, strict=True):
        whole = np.zeros(mask.shape, bool)
        bits = np.array(list(window["bits"]), int).astype(bool).reshape(window["height"], window["width"])
        whole[window["y"] : window["y"] + window["height"], window["x"] : window["x"] + window["width"]] = bits
        assert (whole == mask).all()
        # The window is no larger than the mask.
        assert not bits.size or (bits[0].any() and bits[-1].any() and bits[:, 0].any() and bits[:, -1].any())


RANDOM_MASKS = [(1, 1, 1.0), (7, 5, 0.5), (5, 7, 0.9), (60, 80, 0.02), (97, 61, 0.5), (1, 300, 0.3), (300, 1, 0.3)]


def test_colours_are_the_same_as_in_drawings_of_the_server(page: Page) -> None:
    ids = [*range(1, 91), 285, 999, 65_535]
    found = page.evaluate(
        """async (ids) => {
            const { colour, ink } = await import("/page/palette.js");
            const both = (rgb) => [rgb, ink(rgb)];
            return ids.map((id) => [0, 1, 2, 3, 4, 5].map((instance) => both(colour(id, instance))));
        }""",
        ids,
    )
    for class_id, colours in zip(ids, found, strict=True):
        for instance, (colour, ink) in enumerate(colours):
            expected = palette.colour(class_id, instance)
            assert tuple(colour) == expected
            assert tuple(ink) == palette.ink(expected)


def test_the_files_are_small_and_have_a_strict_security_policy(server: str) -> None:
    files = [file for file in web.FOLDER.rglob("*") if file.is_file() and file.parent.name != "samples"]
    assert sum(file.stat().st_size for file in files) < 100_000
    with httpx.Client(base_url=server) as client:
        for path in ("/", "/page/main.js", "/page/page.css", "/page/samples/cat.jpg"):
            answer = client.get(path)
            assert answer.status_code == 200
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            head = client.head(path)
            assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", answer.headers["ETag"])
            assert client.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
        assert client.get("/page/main.js").headers["Content-Encoding"] == "gzip"
        for path in ("/page/none.js", "/page/", "/page/../front.py", "/page/%2e%2e/front.py"):
            missing = client.get(path)
            assert missing.status_code == 404
            assert missing.headers["Content-Type"] == "application/problem+json"
        assert client.post("/").json()["code"] == "method_not_allowed"
