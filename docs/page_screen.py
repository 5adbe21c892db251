"""Pictures of the first screen of a page of report.py, light and dark, for the README.

python docs/page_screen.py report.html docs/page     writes docs/page-light.png and -dark.png; needs Debian's chromium
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, SCALE = 1180, 1.5  # a README is some 900 pixels wide; sharp on dense screens too


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    page_file, prefix, chromium = Path(sys.argv[1]), sys.argv[2], shutil.which("chromium")
    if chromium is None or not page_file.is_file():
        reason = (
            "no chromium here: install it" if chromium is None else f"{page_file} is not there: run report.py"
        )
        print(f"page_screen.py: {reason}", file=sys.stderr)
        return 2
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": 900},
                device_scale_factor=SCALE,
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.goto(page_file.resolve().as_uri())
            page.locator("body.ready").wait_for()
            for place in range(page.locator("#shares .chart").count()):
                page.locator("#shares .chart").nth(place).locator("svg").wait_for()
            box = page.locator("#shares").bounding_box()
            assert box is not None
            height = box["y"] + box["height"] + 12
            page.screenshot(
                path=f"{prefix}-{scheme}.png", clip={"x": 0, "y": 0, "width": WIDTH, "height": height}
            )
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
