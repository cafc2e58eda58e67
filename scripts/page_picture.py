#!/usr/bin/env python3
"""Draw docs/node-page.png: the page of a node that has three programs and has moved one of them to
another node, in a real browser.

python -m scripts.page_picture

Needs chromium, chromium-driver and the Python package selenium.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.chromium import chromium

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "node-page.png"
OTHER = "127.0.0.1:17444"
"""Where the other node listens."""
SECONDS = 30.0
"""How long everything may take."""

COUNT = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $sleep (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1024)
  (data (i32.const 64) "segment a is ready\\0a")
  (func $segment
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $encode
    (drop (call $sleep (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 19))
    (i64.store (i32.const 152) (i64.const 200000000))
    (memory.fill (i32.const 65536) (i32.const 7) (i32.const 50331648))
    (loop $again
      (call $segment)
      (i32.store8 (i32.const 72) (i32.add (i32.load8_u (i32.const 72)) (i32.const 1)))
      (call $encode)
      (memory.fill (i32.const 65536) (i32.load8_u (i32.const 72)) (i32.const 8388608))
      (br $again))))"""
"""Prints a line five times a second, and writes 8 of its 48 MiB each time."""


def main() -> int:
    """Draw the picture, and return the exit code."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "encode.wat").write_text(COUNT, encoding="utf-8")
        environ = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
        words = [sys.executable, "-m", "wasmsr", "node", "--listen", "17443", "--http", "18080"]
        # Both have one user's state folder, and so his key.
        other = [*words[:4], "--listen", OTHER, "--state-dir", str(folder / "other")]
        with (
            subprocess.Popen([*words, "--json"], env=environ, stderr=subprocess.PIPE) as node,
            subprocess.Popen(other, env=environ, stderr=subprocess.DEVNULL) as second,
        ):
            try:
                _draw(_link(node), environ, folder)
            finally:
                node.terminate()
                second.terminate()
    print(f"wrote {PICTURE.name}")
    return 0


def _link(node: subprocess.Popen[bytes]) -> str:
    """Return the address of the page, with the token, from the node's log."""
    assert node.stderr
    for line in node.stderr:
        with suppress(ValueError):
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "page":
                return str(event["serves"])
    raise SystemExit("the node has ended")


def _draw(link: str, environ: dict[str, str], folder: Path) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "wasmsr", *words],
            env=environ,
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    program = run("submit", "encode.wat", "--name", "encode", "--every", "1")
    run("submit", "fib", "--name", "fib", "--invoke", "fib", "30")
    run("submit", "encode.wat", "--name", "preview")
    run("pause", "preview")
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        browser.set_window_size(1000, 1500)
        browser.get(link)
        wait = WebDriverWait(browser, SECONDS)
        choose = f'[data-program="{program}"]'
        wait.until(lambda _: browser.find_elements("css selector", choose))[0].click()
        wait.until(lambda _: "segment" in browser.find_element("id", "output").text)
        browser.find_element("id", "look").click()
        wait.until(lambda _: browser.find_elements("css selector", "#stack li"))
        browser.find_element("id", "to").send_keys(OTHER + "\n")
        wait.until(lambda _: "downtime" in browser.find_element("id", "move-state").text)
        wait.until(lambda _: "went to" in browser.find_element("id", "one-state").text)
        time.sleep(1.0)
        browser.execute_script("window.scrollTo(0, 0); document.activeElement.blur()")
        browser.save_screenshot(str(PICTURE))


if __name__ == "__main__":
    sys.exit(main())
