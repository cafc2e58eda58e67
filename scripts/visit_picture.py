"""Films a program that visits a tab of a browser: the picture that README.md shows.

python -m scripts.visit_picture

Needs chromium, chromium-driver, ffmpeg and the Python package selenium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.chromium import chromium
from tests.visits.tab import ServedNode, Tab, until
from wasmsr.interp.modules.module import assemble

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "visit.gif"
RATE = 4
"""Pictures a second."""


class Film:
    """Takes pictures of a page."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder, self.count = browser, folder, 0

    def take(self, seconds: float) -> None:
        """Film for so long."""
        for _ in range(round(seconds * RATE)):
            began = time.monotonic()
            self.browser.save_screenshot(str(self.folder / f"{self.count:04d}.png"))
            self.count += 1
            time.sleep(max(0.0, 1 / RATE - (time.monotonic() - began)))

    def write(self) -> None:
        """Write the film."""
        palette = "split[a][b];[a]palettegen=max_colors=32[p];[b][p]paletteuse=dither=none"
        words = ["ffmpeg", "-loglevel", "error", "-y", "-framerate", str(RATE)]
        words += ["-i", str(self.folder / "%04d.png"), "-vf", f"scale=800:-1,{palette}"]
        subprocess.run([*words, str(PICTURE)], check=True)


def main() -> int:
    """Film a visit."""
    text = (ROOT / "examples" / "browser" / "primes.wat").read_bytes()
    with (
        tempfile.TemporaryDirectory() as name,
        chromium(Path(name) / "profile") as browser,
    ):
        browser.set_window_size(900, 900)
        folder = Path(name)
        node = ServedNode(folder, assemble(text))
        try:
            tab = Tab(browser, node)
            browser.execute_script("document.getElementById('visit').scrollIntoView()")
            film = Film(browser, folder)
            film.take(1.5)
            tab.begin()
            film.take(6)
            tab.end()
            until(lambda: node.program.pid)
            film.take(3)
            film.write()
        finally:
            node.stop()
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
