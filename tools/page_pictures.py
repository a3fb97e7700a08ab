"""Make the screenshots of the web page in docs/, from a running server.

python -m tools.page_pictures http://127.0.0.1:8000
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

DOCS = Path(__file__).parents[1] / "docs" / "images"


def main(address: str) -> None:
    """Write a PNG for each window size and colour scheme."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in ((1280, 900), (360, 780)):
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    device_scale_factor=1 if width > 1000 else 2,
                    is_mobile=width < 1000,
                )
                page.goto(address)
                expect(page.locator("#models > div").first).to_be_visible(timeout=60_000)
                page.get_by_role("button", name="A tennis player").click()
                expect(page.get_by_role("status")).to_contain_text("person", timeout=60_000)
                page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
                picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
                # A dithered palette takes a third of the bytes.
                colours = picture.quantize(160, Image.Quantize.FASTOCTREE)
                small = picture.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
                small.save(DOCS / f"page-{width}-{scheme}.png", optimize=True)
                page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
