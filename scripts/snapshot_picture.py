#!/usr/bin/env python3
"""Draw docs/page.png: the page of a saved program after steps to and fro, in a real browser.

python -m scripts.snapshot_picture

Needs chromium, chromium-driver and the Python package selenium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chromium import chromium
from tests.debug.browser import Opened

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "page.png"
SAVED_AT = 3_000_000


def main() -> int:
    """Draw the picture; returns the exit code."""
    with tempfile.TemporaryDirectory() as name, chromium(Path(name) / "profile") as browser:
        folder = Path(name)
        words = ["transcoding", f"--snapshot-at={SAVED_AT}", "--snapshot-file=film.bin"]
        command = [sys.executable, "-m", "wasmsr"]
        subprocess.run([*command, "-q", "run", *words], cwd=folder, check=False)
        subprocess.run(
            [*command, "-q", "inspect", "--html", "film.bin", "-o", "page.html"],
            cwd=folder,
            check=True,
        )
        browser.set_window_size(1400, 1240)
        opened = Opened(browser)
        opened.open(folder / "page.html")
        stack = opened.script(
            "return Number(wasmsr.machine.globals()[0]?.value ?? 0n)"  # the stack pointer in C
        )
        opened.fill("address", hex(stack))
        browser.find_element("css selector", "#look [type=submit]").click()
        opened.press(*"ssnsbs")
        opened.until(lambda: opened.text("map-said"))
        opened.script("scrollTo(0, 0)")
        browser.save_screenshot(str(PICTURE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
