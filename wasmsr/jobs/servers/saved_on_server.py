"""The file of a saved execution of a server: its outputs are not in the snapshot, but beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from wasmsr.executor.output.frames import FRAMES_FILE
from wasmsr.jobs.execution.archive import write_archive
from wasmsr.jobs.execution.requests import ExecutionFolder
from wasmsr.jobs.publishers.trees import pack
from wasmsr.wasi.filesystem import archives


def begin_file(folder: ExecutionFolder) -> Path:
    """Return where the snapshot is in which an execution goes on, until a server has it."""
    return folder.saved / "begin.snapshot"


def save_execution(
    id: str, folder: ExecutionFolder, path: Path, fetch: Callable[[IO[bytes]], object]
) -> None:
    """Write the file of a saved execution, whose program is paused.

    Args:
        id: The execution.
        folder: Its folder.
        path: The file, which is replaced.
        fetch: Writes the program's snapshot to a file; then the log is complete.

    Raises:
        WasmsrError: It cannot be saved.
        OSError: The file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=path.parent) as place:
        outputs = Path(place) / "outputs"
        with tempfile.TemporaryFile(dir=place) as program:
            fetch(program)
            pack(folder.results, outputs, archives.ENTRIES)  # more cannot be unpacked

            def save(descriptor: int) -> int:
                program.seek(0)
                with open(descriptor, "wb", closefd=False) as file:
                    shutil.copyfileobj(program, file, 1 << 20)
                return program.tell()

            log = folder.log / FRAMES_FILE
            write_archive(path, id, log, os.path.getsize(log), save, outputs)


__all__ = ["begin_file", "save_execution"]
