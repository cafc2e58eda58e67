"""Builds the programs of `tests/real` that are made from the distribution's source packages.

Beside `fetch`: what comes back is a path to a module. The work is done by `scripts/build-NAME`,
once; where it cannot be done (tools or sources are missing) `Unavailable` says why, and the test
skips.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

from tests.real.fetch import Unavailable

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 1500


def built(name: str, module: str) -> Path:
    """The module `.cache/NAME/MODULE`, made by `scripts/build-NAME` if it is not there.

    Raises:
        Unavailable: with the script's last words.
    """
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    # One build at a time: they share apt's folder, and two of the same would disturb each other.
    with open(cache / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [str(ROOT / "scripts" / f"build-{name}")],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unavailable(f"{name} cannot be built here: {said[-1]}")
    return cache / name / module
