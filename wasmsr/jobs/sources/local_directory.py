"""The source `localDirectory`: a file or folder of this machine, used where it is.

Nothing is copied. A path must be below one that the user allows, after all links in it have been
followed. A program cannot follow a link out of a folder: WASI refuses that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wasmsr.jobs.sources.order import AllowedPath, Fetched, Order


def fetch(params: Mapping[str, Any], order: Order) -> Fetched:
    """Return the path, after checks.

    Raises:
        JobError: The path is not allowed or not there, or is neither a file nor a folder.
    """
    asked = params["SourcePath"]
    writes = bool(params.get("ReadWrite", False))
    path = Path(os.path.realpath(order.base / asked))
    allowed = [one for one in order.allowed if path.is_relative_to(one.path)]
    if not allowed:
        elsewhere = "" if _plain(order.base / asked) == path else f", a link to {path},"
        raise order.wrong(
            f"the path {asked}{elsewhere} is not below an allowed one",
            f"--allow-path {path} allows it",
        )
    if writes and not any(one.writable for one in allowed):
        raise order.wrong(
            f"the job asks to write to {asked}, which may only be read",
            f"--allow-path {path}:rw allows it",
        )
    _create(params.get("CreateAs", "noCreate").lower(), path, allowed, writes, order)
    try:
        kind = os.stat(path).st_mode
    except OSError as error:
        raise order.wrong(
            f"there is no {path}: {error.strerror}", "CreateAs: dir, with ReadWrite, makes it"
        ) from None
    if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
        raise order.wrong(f"{path} is neither a file nor a folder")
    if not os.access(path, (os.R_OK | os.X_OK) if stat.S_ISDIR(kind) else os.R_OK):
        raise order.wrong(f"this user must not read {path}")
    return Fetched(path, not writes)


def _plain(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _create(how: str, path: Path, allowed: list[AllowedPath], writes: bool, order: Order) -> None:
    """Make what is missing, as newer versions of Bacalhau do."""
    if how == "nocreate" or path.exists():
        return
    if not writes:
        raise order.wrong(f"there is no {path}, and CreateAs needs ReadWrite")
    if any(path == one.path for one in allowed):
        raise order.wrong(f"there is no {path}, and only what is below an allowed path is created")
    with order.written():
        path.parent.mkdir(parents=True, exist_ok=True)
        if how == "dir":
            path.mkdir(exist_ok=True)
        else:
            path.touch()


__all__ = ["fetch"]
