#!/usr/bin/env python3
"""Draw docs/notebook.png: a notebook in JupyterLab, whose kernel's process is killed while a cell
runs, in a real browser.

python -m scripts.notebook_picture JUPYTER-LAB

JUPYTER-LAB is the command of a JupyterLab, which may be in another environment. Needs also
chromium, chromium-driver and the Python packages selenium, nbformat and psutil.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chromium import chromium

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "notebook.png"
PORT = 18888
SECONDS = 60.0
"""How long each step may take."""

CELLS = (
    "import random\nrandom.seed(1)\nhits = 0",
    "%snapshot begun",
    "for round in range(1, 9):\n"
    "    for _ in range(60_000):\n"
    "        hits += random.random() ** 2 + random.random() ** 2 < 1\n"
    "    print(round, 4 * hits / (round * 60_000))",
    "from fractions import Fraction\nFraction(hits, 480_000) * 4",
    "%rewind begun\nhits",
)


def until(what: Callable[[], Any]) -> Any:
    """Wait for something, and return it. Raises TimeoutError."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError("a step took too long")


def kill_worker(lab: int, state: Path) -> None:
    """Kill the process with the Python once it has kept a state in the middle of the long cell."""
    import psutil

    def in_the_middle() -> bool:
        records = list(state.glob("wasmsr/kernels/*/record.json"))
        read = [json.loads(one.read_text(encoding="utf-8")) for one in records]
        return any(one["now"] and one["shown"]["stdout"] > 40 for one in read)

    until(in_the_middle)
    for one in psutil.Process(lab).children(recursive=True):
        if "wasmsr.kernel.worker" in one.cmdline():
            one.kill()


def draw(address: str, lab: int, folder: Path) -> None:
    """Run the notebook in a browser, and write the picture."""
    from selenium.webdriver.common.by import By

    with chromium(folder / "profile") as browser:
        browser.set_window_size(1000, 1150)
        browser.get(address)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, ".jp-CodeCell"))
        until(lambda: list((folder / "state").glob("wasmsr/kernels/*/lock")))
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        kill_worker(lab, folder / "state")
        last = ".jp-OutputArea-executeResult"
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, last)) == 2)
        time.sleep(1)  # only a picture: what moves comes to rest
        browser.save_screenshot(str(PICTURE))


def main() -> int:
    """Draw the picture, and return the exit code."""
    import nbformat

    jupyter = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = {
            **os.environ,
            "HOME": name,
            "XDG_STATE_HOME": str(folder / "state"),
            "JUPYTER_PATH": str(folder / "share" / "jupyter"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        }
        words = ["kernel", "install", "--prefix", name, "--checkpoint-every", "1"]
        subprocess.run([sys.executable, "-m", "wasmsr", *words], env=environ, check=True)
        (folder / "notes").mkdir()
        book = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(one) for one in CELLS],
            metadata={"kernelspec": {"name": "wasmsr", "display_name": "Python (wasmsr)"}},
        )
        nbformat.write(book, folder / "notes" / "pi.ipynb")
        options = ["--no-browser", "--allow-root", f"--port={PORT}", "--port-retries=0"]
        options += ["--LabApp.expose_app_in_browser=True"]
        options += ["--IdentityProvider.token=picture", f"--ServerApp.root_dir={folder / 'notes'}"]
        with open(folder / "log", "wb") as log:
            lab = subprocess.Popen([jupyter, *options], env=environ, stdout=log, stderr=log)
        try:
            until(lambda: b"is running at" in (folder / "log").read_bytes())
            draw(f"http://127.0.0.1:{PORT}/doc/tree/pi.ipynb?token=picture", lab.pid, folder)
        finally:
            lab.terminate()
            try:
                lab.wait(10)
            except subprocess.TimeoutExpired:  # it waits for its kernel
                lab.kill()
                lab.wait()
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
