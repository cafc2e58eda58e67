"""How quick the page of a snapshot is, in headless Chromium with CPython.

    python -m bench.page [--steps N] [--json FILE]

CPython is saved while it computes. Its page is opened three times. Printed are the sizes; the
milliseconds from the beginning of the navigation until the program can be stepped; medians and the
greatest of steps, with what they show; 10^8 instructions forwards; and, there, of steps backwards
and of a search back to the last change of bytes. Needs chromium, chromium-driver and selenium, and
CPython as the long tests fetch it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chromium import chromium
from tests.debug.browser import Opened
from tests.real.fetch import python

PROGRAM = """
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
text = [str(i) * 9 for i in range(20000)]
print(fib(32))
"""
SAVED_AT = 400_000_000
FORWARDS = 10**8


def make(folder: Path) -> dict[str, int]:
    """Save CPython and make its page; the sizes in bytes."""
    module, snapshot, page = python(), folder / "python.bin", folder / "page.html"
    options = [f"--snapshot-at={SAVED_AT}", f"--snapshot-file={snapshot}"]
    command = [sys.executable, "-m", "wasmsr"]
    done = subprocess.run([*command, "run", *options, str(module), "-c", PROGRAM])
    if done.returncode != 120:
        raise SystemExit("CPython was not saved")
    words = ["inspect", "--html", str(snapshot), "--program", str(module), "-o", str(page)]
    subprocess.run([*command, *words], check=True)
    packed = shutil.make_archive(str(folder / "module"), "gztar", module.parent, module.name)
    sizes = {"snapshot": snapshot, "module": module, "module, gzip": Path(packed), "page": page}
    return {name: path.stat().st_size for name, path in sizes.items()}


def _times(opened: Opened, key: str, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        opened.press(key)
        found.append(opened.took())
    return found


def measure(steps: int) -> dict[str, Any]:
    """Return all figures: bytes and milliseconds."""
    with tempfile.TemporaryDirectory() as name, chromium(Path(name) / "profile") as browser:
        folder = Path(name)
        found: dict[str, Any] = {"bytes": make(folder)}
        opened = Opened(browser)
        found["open"] = []
        for _ in range(3):
            opened.open(folder / "page.html")
            ready = opened.script("return Number(document.body.dataset.ready)")
            found["open"].append(ready)
        found["step"] = _times(opened, "s", steps)
        opened.script(
            "wasmsr.perform(wasmsr.to(wasmsr.machine.count + BigInt(arguments[0])))", FORWARDS
        )
        opened.until(
            lambda: opened.count() > FORWARDS and not opened.script("return wasmsr.running")
        )
        found["10^8 forwards"] = [opened.took()]
        found["step back"] = _times(opened, "b", steps // 5 + 1)
        opened.script("wasmsr.view.address = 0; wasmsr.view.memory = 0")
        opened.fill("size", "16")
        found["last change, all searched"] = _times(opened, "l", 1)
        found["said"] = opened.said()
        return found


def main() -> int:
    """Carry out the command; returns the exit code."""
    reading = argparse.ArgumentParser(description=__doc__)
    reading.add_argument("--steps", type=int, default=100)
    reading.add_argument("--json", metavar="FILE")
    given = reading.parse_args()
    found = measure(given.steps)
    for name, value in found["bytes"].items():
        print(f"{name:>28}  {value:12,} bytes")
    for name, value in found.items():
        if isinstance(value, list):
            print(
                f"{name:>28}  median {statistics.median(value):8.1f} ms, most {max(value):8.1f} ms"
            )
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
