"""Does the work of `lent_states` in a process of its own, with little memory.

What a program holds can make its states large, and what a browser sends is not trusted.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from struct import Struct
from typing import Any

from wasmsr.errors import FormatError
from wasmsr.node.failures import NodeError
from wasmsr.node.limited_process import MEMORY, run_limited

PARTS = ("about.json", "head.gz", "pages.gz")
"""Files that a browser gets: what is known of the program, its plain state without pages, and its
pages. The last two are in the form of gzip (RFC 1952)."""

HEAD = Struct("<QII")
"""What a state that comes home begins with: the monotonic clock in ns, and how many bytes of
standard output and error follow. After them comes the plain state, in the form of gzip."""

MOST_OUTPUT = 8 << 20
"""Bytes of each stream that come with a state at most."""

LATEST = 1 << 62
"""No clock goes beyond this, in ns (`wasi.clocks.LAST_INSTANT`)."""


def head_of(data: bytes) -> tuple[int, int, int]:
    """Return monotonic clock and sizes of the outputs of a state that comes home.

    Args:
        data: Its first bytes.

    Raises:
        FormatError: They are none.
    """
    if len(data) < HEAD.size:
        raise FormatError("the state of the program is cut off")
    monotonic, output, errors = HEAD.unpack_from(data)
    if max(output, errors) > MOST_OUTPUT:
        raise FormatError(f"the state of the program comes with more than {MOST_OUTPUT} bytes")
    if monotonic > LATEST:
        raise FormatError("the state of the program has a time that no clock shows")
    return monotonic, output, errors


AT_ONCE = 2
"""Processes at once: many programs come home together when a network breaks."""

_places = threading.Semaphore(AT_ONCE)


def apart(verb: str, *paths: Path) -> None:
    """Do the work of `write_parts` ("parts") or `write_home` ("home") in a process of its own.

    Raises:
        NodeError: It cannot be done; the message says why.
        OSError: A file cannot be read or written. The state may be sound.
    """
    words = [verb, *map(os.fspath, paths)]
    with _places:
        done = run_limited("wasmsr.node.visits.lent_states", words, "the state")
    if done.returncode == 0:
        return
    try:
        said: Mapping[str, Any] = json.loads(done.stderr[-4000:])
        error: Exception = NodeError(str(said["message"])[:500], hint=said.get("hint") or None)
        if "errno" in said:
            error = OSError(int(said["errno"]), str(said["message"])[:500])
    except (ValueError, KeyError, TypeError):
        error = NodeError(
            "the process that makes the state ended without a word",
            hint=f"it may have {MEMORY >> 20} MiB of memory",
        )
    raise error


__all__ = ["HEAD", "MOST_OUTPUT", "PARTS", "apart", "head_of"]
