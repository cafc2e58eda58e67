"""CRIU beside our own checkpoints: it saves the same program as a process of the system.

What it needs: a `criu` on PATH, or named by the variable CRIU, for which `criu check` passes, and
root. Debian 12 has version 3.17, which fails on new kernels; 4.1.1 and 4.2 pass.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.snapshots.measures import MIB, Row


def refusal() -> str | None:
    """Return why there is no CRIU here, or None."""
    tool = _tool()
    if tool is None:
        return "there is no criu on PATH (or name one: CRIU=FILE)"
    done = subprocess.run([tool, "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"`criu check` fails: {(done.stderr or done.stdout).strip().splitlines()[-1]}"
    return None


def saved(words: Sequence[str], warm: float, folder: Path) -> list[Row]:
    """Let CRIU save a running `wasmsr run`, which goes on, and return how long it stood.

    Args:
        words: The arguments of `wasmsr run`.
        warm: Seconds before it is saved.
        folder: An empty folder for the images.
    """
    tool = _tool()
    assert tool is not None
    command = [sys.executable, "-m", "wasmsr", "run", *words]
    null = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=null, stdout=null, stderr=null, start_new_session=True
    ) as process:
        try:
            time.sleep(warm)
            dump = [tool, "dump", "-t", str(process.pid), "-D", str(folder), "--leave-running"]
            done = subprocess.run(
                [*dump, "--display-stats"], capture_output=True, text=True, check=False
            )
        finally:
            process.kill()
    found = re.search(r"Frozen time: (\d+) us", done.stdout)
    if done.returncode or found is None:
        print(f"CRIU cannot save it: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return []
    size = sum(file.stat().st_blocks * 512 for file in folder.iterdir()) / MIB
    return [
        Row("CRIU: frozen", "ms", [int(found[1]) / 1000], note="for comparison"),
        Row("CRIU: images", "MiB", [size], note="for comparison"),
    ]


def _tool() -> str | None:
    return os.environ.get("CRIU") or shutil.which("criu")
