"""Makes the images of docs/studio.md: the page in headless Chromium, at three widths and in dark colors.

python docs/images/studio.py [--out docs/images] [--widths]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

from rdm_jax.studio.page.app import serve
from rdm_jax.studio.places import Places
from rdm_jax.studio.workshop import Workshop

PROMPTS = "a red boat\na blue cat"
WIDTHS = {"laptop": (1280, 800), "desk": (1920, 1080), "phone": (390, 844)}


def main() -> None:
    """Makes the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--widths", action="store_true", help="also at every width, and in dark colors")
    parser.add_argument("--database", default="stained-glass")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        blocks, address = serve(Workshop(Places(Path(folder)).create()), 0, block=False)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        views = {
            "generate": WIDTHS["laptop"],
            **({f"generate_{n}": size for n, size in WIDTHS.items()} if args.widths else {}),
        }
        for name, (width, height) in views.items():
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1)
            generate(page, address, args.database)
            page.screenshot(path=args.out / f"studio_{name}.png")
            if name == "generate":
                edit(page)
                page.screenshot(path=args.out / "studio_edit.png")
        if args.widths:
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark")
            generate(page, f"{address}?__theme=dark", args.database)
            page.screenshot(path=args.out / "studio_dark.png")
        browser.close()
        blocks.close()


def generate(page: Any, address: str, database: str) -> None:
    """Generates two prompts with a database."""
    page.set_default_timeout(300_000)
    page.goto(address)
    page.get_by_label("Prompts, one on each line").fill(PROMPTS)
    page.get_by_role("textbox", name="Databases").or_(page.get_by_label("Databases", exact=True)).first.click()
    page.keyboard.press("Backspace")
    page.keyboard.type(database)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.get_by_label("Images", exact=True).first.fill("2")
    page.get_by_role("button", name="Neighbors", exact=True).click()
    page.locator("#neighbors img").first.wait_for()
    page.get_by_role("button", name="Generate", exact=True).click()
    page.get_by_role("status").get_by_text("finished").first.wait_for()
    page.locator("#images img").first.wait_for()
    page.mouse.wheel(0, -5000)
    page.wait_for_timeout(1500)


def edit(page: Any) -> None:
    """Opens an image in the editor and paints on it."""
    page.locator("#images img").first.click()
    page.get_by_text("neighbors: ").first.wait_for()
    page.get_by_role("button", name="Edit", exact=True).locator("visible=true").first.click()
    canvas = page.locator("#mask canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)
    place = canvas.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x - 60, y - 20)
    page.mouse.down()
    page.mouse.move(x + 60, y + 20, steps=20)
    page.mouse.up()
    page.wait_for_timeout(1500)


if __name__ == "__main__":
    main()
