"""What is noted of an execution on disk: its request, and from where it can go on.

FOLDER/execution.json has the request. FOLDER/saved/point.json says which checkpoint counts, and how
long log and streams were then.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from wasmsr import small_files
from wasmsr.executor.output.frames import FRAMES_FILE, TAGS
from wasmsr.executor.output.rings import sync_path
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionRequest
from wasmsr.jobs.failures import JobError

LARGEST: Final = 16 << 20
"""Bytes of such a file that are read."""

KEEP: Final = 2
"""Checkpoints that stay."""


@dataclass(frozen=True)
class JobCheckpoint:
    """A checkpoint from which an execution can go on.

    Attributes:
        root: Its root digest, in hexadecimal digits.
        ends: Bytes of the log and of each stream when it was written.
        time: When, in seconds of the epoch.
        ran: Seconds that the program had run by then, of those that its time-out counts.
        left: Whether its executor was ended just then, so that nothing came after it. The
            execution then goes on from here whatever `on_loss` says: it was not lost.
        paused: Whether somebody had paused it.
    """

    root: str
    ends: Mapping[str, int]
    time: float
    ran: float = 0.0
    left: bool = False
    paused: bool = False

    @classmethod
    def of(
        cls, done: Mapping[str, Any], folder: ExecutionFolder, ran: float, *, left: bool = False,
        paused: bool = False,
    ) -> JobCheckpoint:  # fmt: skip
        """Return the point of a checkpoint that was just written; its log is on disk first.

        Raises OSError.
        """
        for name in (FRAMES_FILE, *TAGS):
            sync_path(folder.log / name, os.O_RDONLY)
        ends = dict(done["output"])
        point = cls(done["root"].hex(), ends, time.time(), ran, left, paused)
        point._write(folder)
        return point

    def _write(self, folder: ExecutionFolder) -> None:
        small_files.replace(_point_file(folder), json.dumps(asdict(self)).encode())

    def taken(self, folder: ExecutionFolder) -> JobCheckpoint:
        """Return the point as it is when the program runs on from it. Raises OSError."""
        if not self.left:
            return self
        point = replace(self, left=False)
        point._write(folder)
        return point

    @classmethod
    def read(cls, folder: ExecutionFolder) -> JobCheckpoint | None:
        """Return the point that counts, or None."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            data, _ = small_files.read(_point_file(folder), LARGEST)
            found = json.loads(data)
            ends = {name: int(found["ends"][name]) for name in (FRAMES_FILE, *TAGS)}
            return cls(
                bytes.fromhex(found["root"]).hex(),
                ends,
                float(found["time"]),
                max(0.0, float(found.get("ran", 0))),  # an older version noted none of these
                found.get("left") is True,
                found.get("paused") is True,
            )
        return None


def _point_file(folder: ExecutionFolder) -> Path:
    return folder.saved / "point.json"


def write_request(folder: ExecutionFolder, request: ExecutionRequest) -> None:
    """Note the request of an execution. Raises OSError."""
    path = folder.path / "execution.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(request.as_dict()), encoding="utf-8")
    part.replace(path)


def read_request(folder: ExecutionFolder) -> ExecutionRequest | None:
    """Return the request that was noted, or None.

    Raises:
        JobError: SpecError; what is there is no request.
    """
    try:
        data, _ = small_files.read(folder.path / "execution.json", LARGEST)
    except OSError:
        return None
    try:
        return ExecutionRequest.read(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise JobError("SpecError", f"the note of an execution is damaged: {error}") from None


def log_ends(folder: ExecutionFolder) -> dict[str, int]:
    """Return how long the log and the streams are now. Raises OSError."""
    return {name: (folder.log / name).stat().st_size for name in (FRAMES_FILE, *TAGS)}


__all__ = ["KEEP", "JobCheckpoint", "log_ends", "read_request", "write_request"]
