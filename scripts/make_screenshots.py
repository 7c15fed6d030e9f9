"""Take the pictures of the studio in docs/images: the page in Chromium, with a video that toy really made.

    python scripts/make_screenshots.py

Starts `alchemint studio` on a free port with a folder of its own, makes two videos, and ends it again.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from alchemint.media import write_image

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "has_touch": True, "is_mobile": True}
PHONE_PARTS = ("body", "#stage", "#when")
PHONE_GAP = 36
SHOWN_SECOND = 2.0
MOST_BYTES = 300_000


@contextmanager
def studio(folder: Path) -> Iterator[str]:
    """Run the studio; give its address."""
    command = [sys.executable, "-u", "-m", "alchemint", "studio", "--port", "0", "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert address is not None, "the studio did not start"
            wait_for(address[0])
            yield address[0]
        finally:
            process.terminate()


def wait_for(address: str) -> None:
    """Wait until the studio answers."""
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api/v1/model").close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    raise TimeoutError(f"{address} does not answer")


def opened(browser: Any, address: str, scheme: str, options: dict[str, Any]) -> Any:
    """Return the page in a fresh profile, with its example open."""
    page = browser.new_context(color_scheme=scheme, **options).new_page()
    page.goto(address)
    page.wait_for_selector(".tl-bar")
    return page


def show_result(page: Any, number: int = 0) -> None:
    """Open a result of the history and hold it at one moment, its film drawn."""
    page.locator(".card .face").nth(number).click()
    page.wait_for_selector(".film canvas")
    page.wait_for_timeout(2500)
    page.click("button[aria-label=Pause]")
    page.fill("input[aria-label=Frame]", str(round(SHOWN_SECOND * 6)))
    page.wait_for_timeout(400)
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    page.mouse.move(2, 2)
    page.wait_for_timeout(200)


def shot_of(page: Any, *, whole: bool = False) -> Image.Image:
    """Return a picture of what is on the screen, or of the whole page."""
    page.wait_for_timeout(300)
    return Image.open(BytesIO(page.screenshot(full_page=whole))).convert("RGB")


def side_by_side(page: Any) -> Image.Image:
    """Return what a phone shows at each of PHONE_PARTS."""
    shots = []
    for part in PHONE_PARTS:
        page.evaluate("part => document.querySelector(part).scrollIntoView({behavior: 'instant'})", part)
        shots.append(shot_of(page))
    width, height = shots[0].size
    together = Image.new("RGB", (len(shots) * (width + PHONE_GAP) - PHONE_GAP, height), "#808080")
    for number, shot in enumerate(shots):
        together.paste(shot, (number * (width + PHONE_GAP), 0))
    return together


def write(shot: Image.Image, name: str, folder: Path) -> None:
    """Write a picture in few colours, so that it stays small."""
    path = folder / f"studio-{name}.png"
    write_image(path, shot.quantize(256, dither=Image.Dither.NONE))
    size = path.stat().st_size
    print(f"{path.name}: {shot.width} x {shot.height}, {size / 1000:.0f} kB")
    assert size < MOST_BYTES, f"{path.name} has {size} bytes, more than {MOST_BYTES}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder of the pictures")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, studio(Path(folder)) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = opened(browser, address, "light", DESKTOP)
        page.fill("#steps", str(arguments.steps))
        page.fill("#variations", "2")
        page.click("#generate")
        page.wait_for_selector(".preview:not([hidden])", timeout=120_000)
        page.wait_for_timeout(2000)
        page.evaluate("scrollTo(0, 0)")
        write(shot_of(page), "running", arguments.out)
        page.wait_for_selector(".card[data-state=done] >> nth=1", timeout=300_000)
        page.wait_for_timeout(8000)  # until it is known what is seen
        page.context.close()

        for scheme in ("light", "dark"):
            for device, options in (("desktop", DESKTOP), ("phone", PHONE)):
                page = opened(browser, address, scheme, options)
                page.wait_for_selector(".card")
                show_result(page, 1)
                shot = side_by_side(page) if device == "phone" else shot_of(page, whole=True)
                write(shot, f"{device}-{scheme}", arguments.out)
                page.context.close()

        page = opened(browser, address, "light", DESKTOP)
        page.wait_for_selector(".card")
        for number in range(2):
            page.locator(".compare input").nth(number).check()
        page.wait_for_selector(".lanes-of >> nth=1")
        page.wait_for_timeout(3000)
        page.click("button[aria-label=Pause]")
        page.fill("input[aria-label=Frame]", str(round(SHOWN_SECOND * 6)))
        page.locator("#stage").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('#stage').scrollIntoView(), scrollBy(0, -12)")
        page.wait_for_timeout(600)
        write(shot_of(page), "compare", arguments.out)
        browser.close()


if __name__ == "__main__":
    main()
