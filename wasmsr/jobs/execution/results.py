"""The results of an execution: files, and the first bytes of its output."""

from __future__ import annotations

import os
from pathlib import Path

from wasmsr.executor.output.frames import FRAMES_FILE, HEAD, TAGS, read_head
from wasmsr.jobs.execution.compat import EXIT_DIGITS, Manner
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionResult, OutputLimits


def write_results(
    folder: ExecutionFolder, limits: OutputLimits, code: int, error: str, manner: Manner
) -> ExecutionResult:
    """Put stdout, stderr and exitCode into the results, and return the result.

    Args:
        folder: The execution's folder; its log is complete.
        limits: How much of the output is kept.
        code: The exit code.
        error: What went wrong, or "".
        manner: Ours, or the peer's.

    Raises:
        OSError: The files cannot be written.
    """
    folder.results.mkdir(parents=True, exist_ok=True)
    shown: list[tuple[str, bool]] = []
    for stream, most, returned in (
        ("stdout", limits.stdout_file, limits.stdout_returned),
        ("stderr", limits.stderr_file, limits.stderr_returned),
    ):
        begin = _first_write(folder.log, stream, returned + 1) if manner.peer else None
        place = folder.results / stream
        made = folder.log / stream
        if made.exists():
            os.replace(made, place)
            if place.stat().st_size > most:
                os.truncate(place, most)
        else:
            place.write_bytes(b"")
        place.chmod(0o644)
        if begin is None:
            with open(place, "rb") as file:
                begin = file.read(returned + 1)
        shown.append((begin[:returned].decode("utf-8", "replace"), len(begin) > returned))
    (folder.results / "exitCode").write_text(str(code)[:EXIT_DIGITS], encoding="ascii")
    (stdout, more), (stderr, more_errors) = shown
    return ExecutionResult(stdout, more, stderr, more_errors, code, error)


def _first_write(log: Path, stream: str, most: int) -> bytes:
    """Return the beginning of what the first write to a stream wrote.

    The peer's results have no more: it reads once, and gets one message of its log.
    """
    try:
        with open(log / FRAMES_FILE, "rb") as file:
            while len(head := file.read(HEAD)) == HEAD:
                tag, length = read_head(head)
                if tag == TAGS[stream]:
                    return file.read(min(length, most))
                file.seek(length, os.SEEK_CUR)
    except (OSError, ValueError):
        pass
    return b""


__all__ = ["write_results"]
