"""Runs a module in a process of its own with little memory: it reads states of strangers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from wasmsr.node.failures import NodeError

MEMORY = 6 << 30
"""Bytes of memory that such a process may have (RLIMIT_DATA)."""

SECONDS = 120.0
"""How long it may take."""

_LIMITED = """
import resource, runpy, sys
most = resource.getrlimit(resource.RLIMIT_DATA)[1]
wanted = int(sys.argv.pop(1))
module = sys.argv.pop(1)
wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_limited(
    module: str, words: Sequence[str], what: str, place: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a module as `python -m` does, and return what it has said.

    Args:
        module: Its name.
        words: Its arguments.
        what: What it makes, for errors.
        place: Its folder.

    Raises:
        NodeError: It takes too long.
        OSError: It cannot be started.
    """
    command = [sys.executable, "-c", _LIMITED, str(MEMORY), module, *words]
    mine = {name: value for name, value in os.environ.items() if name[:7] != "WASMSR_"}
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=mine,
            cwd=place,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise NodeError(f"{what} was not made within {SECONDS:.0f} s") from None


__all__ = ["MEMORY", "SECONDS", "run_limited"]
