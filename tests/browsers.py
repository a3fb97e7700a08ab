"""A real Chromium, without a window."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream"]
expect.set_options(timeout=60_000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium, with a camera that shows a test picture."""
    executable = shutil.which("chromium")
    assert executable, "These tests need a Chromium: apt-get install chromium"
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=executable, args=FLAGS) as browser:
        yield browser
