"""Draws docs/report.png: the report of a clip in which the open head acts, as a browser shows it.

python tools/draw_report.py [--data ../shared/data] [--out docs/report.png]

Needs the extra ``test`` and Chromium. The head wears the astronaut's texture (scikit-image, public domain).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import skimage.data
from playwright.sync_api import sync_playwright

import recon3d
from recon3d.evaluation.performance import film, perform
from recon3d.evaluation.synthetic import read_live_link
from recon3d.export.texture import bake_texture
from recon3d.head import load_head
from recon3d.media.image import Photo
from recon3d.media.video import VideoWriter

#: Rows of the recording that are acted (60 a second; every second one is filmed), and the moment shown, s.
_ROWS = slice(200, 800, 2)
_MOMENT = 6.0
_FPS = 30.0


def film_clip(data: Path, target: Path) -> None:
    """Film the head acting the recording."""
    head = load_head()
    photo = Photo(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    skin = bake_texture(recon3d.reconstruct(photo)[0], head, photo, size=1024)
    acted = perform(head, read_live_link(data / "livelink" / "rom_3.csv")[_ROWS], _FPS, 3)
    with VideoWriter(target, (480, 480), _FPS, crf=16) as video:
        for k, pixels in enumerate(film(head, acted, skin, 3)):
            video.write(pixels, k / _FPS)


def photograph(page_file: Path, target: Path) -> None:
    """Open the report, go to the moment, and take a picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 860}, bypass_csp=True)
        page.goto(page_file.as_uri())
        page.wait_for_function("document.querySelector('video').readyState >= 2")
        page.evaluate(f"document.querySelector('video').currentTime = {_MOMENT}")
        page.wait_for_timeout(1500)
        page.screenshot(path=str(target))
        browser.close()


def main() -> None:
    """Film, reconstruct, photograph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=root / "docs" / "report.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = folder / "take.mp4"
        film_clip(options.data, clip)
        command = [sys.executable, "-m", "recon3d", "video", str(clip), "--out", str(folder), "-q"]
        subprocess.run(command, check=True)
        photograph(folder / "take" / "report.html", options.out)


if __name__ == "__main__":
    main()
