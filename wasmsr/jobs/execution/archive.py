"""The file of a saved execution: a tar with what it is, its log, and its program.

    execution.json      which execution it was, and how long its log is
    frames              the log
    program.snapshot    the program, with its outputs

A snapshot grants nothing: inputs and limits come from the request of whoever restores it.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from wasmsr import small_files
from wasmsr.errors import SnapshotError, printable
from wasmsr.executor.output.frames import FRAMES_FILE, HEAD, FrameFile, FrameLog, read_head
from wasmsr.executor.output.rings import sync_path
from wasmsr.jobs.execution.requests import OutputLimits
from wasmsr.wasi.filesystem import archives

ABOUT, PROGRAM = "execution.json", "program.snapshot"

LARGEST_ABOUT: Final = 1 << 16
"""Bytes of the part that says what the execution was."""

_STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True)
class SavedExecution:
    """What a file of a saved execution says.

    Attributes:
        execution_id: The execution that was saved.
        log: Bytes of its log.
    """

    execution_id: str
    log: int


def write_archive(
    path: Path,
    execution_id: str,
    log: Path,
    size: int,
    save: Callable[[int], int],
) -> None:
    """Write a file of a saved execution, whole or not at all.

    Args:
        path: The file.
        execution_id: The execution.
        log: Its log.
        size: Bytes of the log that count.
        save: Writes the program's snapshot to a descriptor, and returns its size in bytes.

    Raises:
        OSError: The file cannot be written.
    """
    about = json.dumps({"execution_id": execution_id, "log": size}).encode()
    part = path.with_name(f".{path.name[: small_files.LONGEST]}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb", buffering=0) as file:
            _member(file, ABOUT, len(about))
            file.write(about)
            _pad(file, len(about))
            _member(file, FRAMES_FILE, size)
            with open(log, "rb") as source:
                _copy(source, file, size)
            _pad(file, size)
            at = file.tell()
            file.seek(at + tarfile.BLOCKSIZE)
            written = save(file.fileno())
            end = file.tell()
            if end != at + tarfile.BLOCKSIZE + written:
                file.seek(0, os.SEEK_END)
            _pad(file, written)
            file.write(bytes(2 * tarfile.BLOCKSIZE))
            file.seek(at)
            _member(file, PROGRAM, written)
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _member(file: IO[bytes], name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    file.write(info.tobuf(tarfile.GNU_FORMAT))


def _pad(file: IO[bytes], size: int) -> None:
    file.write(bytes(-size % tarfile.BLOCKSIZE))


def _copy(source: IO[bytes], file: IO[bytes], size: int) -> None:
    left = size
    while left:
        piece = source.read(min(left, 1 << 20))
        if not piece:
            raise OSError("it has become shorter while it was saved")
        file.write(piece)
        left -= len(piece)


class ExecutionArchive:
    """An open file of a saved execution; it is hostile input."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            SnapshotError: It is no such file, or is damaged.
        """
        self._path = path
        self._file: IO[bytes] = self._opened()
        try:
            size = os.fstat(self._file.fileno()).st_size
            self._tar = archives.bounded_tar(self._file, size + tarfile.RECORDSIZE)
            self._parts = self._found(size)
            self.about = self._read_about()
        except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as error:
            self._file.close()
            raise self._wrong(str(error)) from error
        except BaseException:
            self._file.close()
            raise

    def _opened(self) -> IO[bytes]:
        try:
            return open(self._path, "rb")
        except OSError as error:
            raise SnapshotError(f"{printable(self._path)}: {error.strerror}") from error

    def __enter__(self) -> ExecutionArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _wrong(self, why: str) -> SnapshotError:
        return SnapshotError(
            f"{printable(self._path)} is no file of a saved execution: {printable(why)}",
            hint="`Executor.snapshot` writes such a file",
        )

    def _found(self, size: int) -> dict[str, tarfile.TarInfo]:
        found: dict[str, tarfile.TarInfo] = {}
        for name in (ABOUT, FRAMES_FILE, PROGRAM):
            info = self._tar.next()
            if info is None or info.name != name or not info.isreg() or info.issparse():
                raise ValueError(f"it has no {name} in its place")
            if info.size < 0 or info.offset_data + info.size > size:
                raise ValueError(f"{name} is cut off")
            found[name] = info
        if (more := self._tar.next()) is not None:
            raise ValueError(f"it has {printable(more.name, 80)}, of which nothing is known here")
        return found

    def _read_about(self) -> SavedExecution:
        info = self._parts[ABOUT]
        if info.size > LARGEST_ABOUT:
            raise ValueError(f"{ABOUT} is too large")
        self._file.seek(info.offset_data)
        data: Any = json.loads(self._file.read(info.size))
        if not isinstance(data, dict) or not isinstance(data.get("execution_id"), str):
            raise ValueError(f"{ABOUT} does not say which execution it is")
        if data.get("log") != self._parts[FRAMES_FILE].size:
            raise ValueError("the log has another length than it should")
        return SavedExecution(data["execution_id"], data["log"])

    def put_log(self, folder: Path, limits: OutputLimits) -> None:
        """Make the log of an execution that goes on from here, frame by frame, durably.

        Notes of the execution say how long the log is, so it is on the disk before they are.

        Raises:
            SnapshotError: It is damaged.
            OSError: It cannot be written.
        """
        info = self._parts[FRAMES_FILE]
        self._file.seek(info.offset_data)
        left = info.size
        frames = FrameFile(folder)
        most = {"stdout": limits.stdout_file, "stderr": limits.stderr_file}
        logs = {tag: FrameLog(folder, name, frames, most[name]) for tag, name in _STREAMS.items()}
        try:
            while left:
                head = self._file.read(HEAD) if left >= HEAD else b""
                if len(head) < HEAD:
                    raise self._wrong("a frame of the log is cut off")
                tag, length = read_head(head)
                if length > left - HEAD:
                    raise self._wrong("a frame of the log is longer than the log")
                data = self._file.read(length)
                logs[tag].write(memoryview(data))
                left -= HEAD + length
        except ValueError as error:
            raise self._wrong(str(error)) from None
        finally:
            for one in logs.values():
                one.close()
            frames.close()
        for name in (FRAMES_FILE, *_STREAMS.values()):
            sync_path(folder / name, os.O_RDONLY)
        sync_path(folder, os.O_RDONLY | os.O_DIRECTORY)

    def put_program(self, place: Path) -> None:
        """Write the program's snapshot to a new file. Raises OSError."""
        self._put(PROGRAM, place)

    def _put(self, name: str, place: Path) -> None:
        info = self._parts[name]
        self._file.seek(info.offset_data)
        with open(place, "xb") as copy:
            shutil.copyfileobj(_Part(self._file, info.size), copy, 1 << 20)

    def program(self, folder: Path) -> int:
        """Return a descriptor of a file with the program's snapshot alone.

        Args:
            folder: Where the file is made; it has no name there afterwards.

        Raises:
            OSError: It cannot be written.
        """
        info = self._parts[PROGRAM]
        self._file.seek(info.offset_data)
        place = folder / PROGRAM
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        place.unlink()
        try:
            with open(descriptor, "wb", closefd=False) as copy:
                shutil.copyfileobj(_Part(self._file, info.size), copy, 1 << 20)
            os.lseek(descriptor, 0, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


class _Part(io.RawIOBase):
    """So many bytes of a file from where it is."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(piece)
        return piece


__all__ = ["ExecutionArchive", "SavedExecution", "write_archive"]
