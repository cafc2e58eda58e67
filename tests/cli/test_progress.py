"""Long work on a terminal: a line that comes after a while and goes, with the cursor put back."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE, environment

HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"

WORK = """
import time
from wasmsr.cli.words import progress
from wasmsr.cli.running import terminal
progress.DELAY = {delay}
with progress.shown("doing it") as advance:
    for done in range(10):
        time.sleep(0.05)
        advance(done << 20, 10 << 20)
    {end}
"""


def said(folder: Path, code: str, *, on_terminal: bool) -> bytes:
    """What a Python program says on standard error, which is a terminal or a pipe."""
    command = [sys.executable, "-c", code]
    variables = environment({"TERM": "xterm", "COLUMNS": "100"})
    if not on_terminal:
        outcome = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, timeout=PATIENCE, check=False
        )
        return outcome.stderr
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    found = b""
    try:
        while piece := os.read(master, 4096):
            found += piece
    except OSError:  # the other side is closed
        pass
    process.wait(PATIENCE)
    os.close(master)
    return found


@pytest.mark.parametrize("end", ["pass", "terminal.end_now(3)", "raise SystemExit"])
def test_line_comes_and_goes(tmp_path: Path, end: str) -> None:
    found = said(tmp_path, WORK.format(delay=0.1, end=end), on_terminal=True)
    assert b"doing it" in found
    assert found.rfind(HIDDEN) < found.rfind(SHOWN)
    assert b"Traceback" not in found


def test_short_work_shows_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, WORK.format(delay=60, end="pass"), on_terminal=True) == b""


def test_nothing_in_a_pipe(tmp_path: Path) -> None:
    assert said(tmp_path, WORK.format(delay=0, end="pass"), on_terminal=False) == b""
