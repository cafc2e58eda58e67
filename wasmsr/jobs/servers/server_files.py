"""Files between an execution's folder and its node: its saved state, and its outputs at the end.

The program has its outputs where its node keeps them: so they are in its checkpoints, go with it to
other nodes, and are those of the node that has it last. Nothing that an earlier owner still writes
is in the results.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Final

from wasmsr.errors import WasiConfigError, printable
from wasmsr.executor.output.frames import FRAMES_FILE
from wasmsr.executor.output.rings import sync_path
from wasmsr.jobs.execution.archive import write_archive
from wasmsr.jobs.execution.requests import ExecutionFolder
from wasmsr.jobs.failures import JobError
from wasmsr.wasi.filesystem import archives, tree_walk

OUTPUT_BYTES: Final = 10 << 30
"""Bytes of the outputs of an execution whose request has no limit of the disk."""

OUTPUT_FILES: Final = 1 << 20
"""Files, folders and links of one output at most."""


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
    with tempfile.TemporaryFile(dir=path.parent) as program:
        fetch(program)

        def save(descriptor: int) -> int:
            program.seek(0)
            with open(descriptor, "wb", closefd=False) as file:
                shutil.copyfileobj(program, file, 1 << 20)
            return program.tell()

        log = folder.log / FRAMES_FILE
        write_archive(path, id, log, os.path.getsize(log), save)


def fetch_outputs(
    folder: ExecutionFolder,
    outputs: Iterable[tuple[str, str]],
    limit: int,
    fetch: Callable[[str, IO[bytes]], object],
) -> None:
    """Put the outputs of an execution that has come to its end into its results, durably.

    Each is unpacked elsewhere, and takes its place when all are there. So a second call, after one
    that was interrupted, does the same again.

    Args:
        folder: The execution's folder.
        outputs: The name of each output, and the path at which the program had it.
        limit: Bytes that they may have together.
        fetch: Writes the files of such a path to a file, as a tar archive.

    Raises:
        JobError: FilesystemError; they are damaged or hostile, or more than they may be.
        WasmsrError: They do not come.
        OSError: They cannot be written.
    """
    folder.results.mkdir(parents=True, exist_ok=True)
    for left in folder.path.glob(".outputs-*"):  # by a process that was killed
        tree_walk.remove(left)
    place = folder.path / f".outputs-{secrets.token_hex(8)}"
    place.mkdir(mode=0o700)
    try:
        fresh: dict[str, Path] = {}
        for number, (name, path) in enumerate(outputs):
            fresh[name] = place / str(number)
            fresh[name].mkdir()
            with tempfile.NamedTemporaryFile(dir=place) as packed:
                taken: Any = _FileWithin(packed, name, limit)
                fetch(path, taken)
                packed.flush()
                limit -= _unpacked(name, Path(packed.name), fresh[name], limit)
        for name, made in fresh.items():
            _replace(folder.results / name, made, place)
        sync_path(folder.results, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        tree_walk.remove(place)


class _FileWithin:
    """A file that takes no more than the archive of an output may have.

    A program can make a file of any size that takes no room where it is, and a server can send
    without end.
    """

    def __init__(self, file: IO[bytes], name: str, limit: int) -> None:
        self._file, self._name, self._limit = file, name, limit
        self._left = limit + OUTPUT_FILES * archives.OVERHEAD

    def write(self, data: bytes) -> int:
        """Write the next bytes. Raises JobError or OSError."""
        self._left -= len(data)
        if self._left < 0:
            raise _not_taken(self._name, f"it holds more than {self._limit} bytes")
        return self._file.write(data)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._file.tell()

    def flush(self) -> None:
        """Write what is not written yet. Raises OSError."""
        self._file.flush()


def _not_taken(name: str, cause: str) -> JobError:
    return JobError(
        "FilesystemError",
        f"the output {printable(name)} cannot be taken from its server: {cause}",
        hint="Resources.Disk limits what outputs hold",
    )


def _unpacked(name: str, packed: Path, place: Path, limit: int) -> int:
    """Unpack an output, durably; return how many bytes it has. Raises JobError or OSError."""
    if not archives.is_tar(packed):
        raise _not_taken(name, "what it sends is no tar file")
    try:
        archives.measure(packed, limit, OUTPUT_FILES)
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            archives.unpack(packed, root, limit, OUTPUT_FILES)
            return tree_walk.sync(root)
        finally:
            os.close(root)
    except WasiConfigError as error:
        cause = error.message.replace(f"the archive {packed}", "it").replace(str(packed), "it")
        raise _not_taken(name, cause) from None


def _replace(target: Path, made: Path, aside: Path) -> None:
    """Put a folder in the place of another one, which is moved to a third one to be removed."""
    if os.path.lexists(target):
        os.rename(target, aside / f"old-{secrets.token_hex(8)}")
    os.rename(made, target)


__all__ = ["OUTPUT_BYTES", "begin_file", "fetch_outputs", "save_execution"]
