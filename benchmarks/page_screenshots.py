"""The screenshots of the page in docs/images. Needs a running server and Chromium:

paradraft serve --drafter demo:dflash-dpace --drafter demo:pard &
python benchmarks/page_screenshots.py --url http://127.0.0.1:8000 --out docs/images
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

SHOTS: dict[str, dict[str, Any]] = {
    "page-dark": {"color_scheme": "dark", "viewport": {"width": 1000, "height": 790}},
    "page-light": {"color_scheme": "light", "viewport": {"width": 1000, "height": 870}},
    "page-narrow": {"color_scheme": "light", "viewport": {"width": 375, "height": 812}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, settings in SHOTS.items():
            page = browser.new_page(**settings)
            page.goto(arguments.url)
            page.wait_for_selector("body[data-state=ready]")
            page.click("#run")
            page.wait_for_selector("body[data-state=done]", timeout=120_000)
            if name == "page-light":
                page.check("#rejected")
            page.locator("#drafted .round:has(del)").nth(2).hover()
            page.screenshot(path=arguments.out / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
