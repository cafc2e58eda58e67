"""What can be said of a worker process: its memory, its program's frames, and how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wasmsr.errors import printable
from wasmsr.executor.process import ERRORS
from wasmsr.node.workers.warm_parents import reap


def shown_frame(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is shown of a frame."""
    name = printable(frame["name"], 200)
    return {"function": name, "index": frame["index"], "offset": frame["offset"]}


def own_bytes(process: int) -> int:
    """Return the memory of a process that is of no file and of no other process, about."""
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:
            _, resident, shared, *_ = map(int, file.read().split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def resident_bytes(process: int) -> int | None:
    """Return the memory that a process has now, or None."""
    try:
        with open(f"/proc/{process}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def how_it_ended(process: int, workers: Path) -> tuple[str, str]:
    """Return how a worker has ended: in a word, and as the rest of a sentence."""
    status = reap(process)
    if status is None:
        return "unknown", "has ended, and nobody saw how"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = f"signal {number}"
        with suppress(ValueError):
            name = signal.Signals(number).name
        return name, f"was ended by {name}"
    said = ""
    with suppress(OSError):
        text = (workers / ERRORS).read_bytes()[-2000:].decode("utf-8", "replace")
        said = text.strip().rpartition("\n")[2]
    code = os.WEXITSTATUS(status)
    return "exit", f"ended with exit code {code}" + (f": {said}" if said else "")


__all__ = ["how_it_ended", "own_bytes", "resident_bytes", "shown_frame"]
