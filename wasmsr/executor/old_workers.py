"""Worker processes that outlive their supervisor: their folder, their locks, their new one.

    FOLDER/WORKER.lock     held by the worker while it lives; has its process id
    FOLDER/WORKER.socket   where it waits for a new supervisor
    FOLDER/PROGRAM.program held by the worker that has the program
    FOLDER/worker.errors   what the last worker says of its own failure

A new supervisor adopts or kills every old worker before it restores anything. The locks end with
the process that holds them, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wasmsr.executor.port import ExecutorError

KILL_SECONDS = 10.0
"""How long a killed worker may take to be gone."""


class HeldLock:
    """A lock on a file, which this process holds until `close` or its end."""

    def __init__(self, path: Path, what: str) -> None:
        """Take the lock.

        Args:
            path: The file; it is made if it is missing, and is never removed while it is held.
            what: What the lock is of, for the error.

        Raises:
            ExecutorError: Another process holds it, or the file cannot be opened.
        """
        while True:
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise ExecutorError(f"{path} cannot be opened: {error.strerror}") from error
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _number(self._file)
                os.close(self._file)
                raise ExecutorError(
                    f"{what} is held by process {holder or 'unknown'}",
                    hint="adopt or kill the old worker first",
                ) from error
            if _is_at(self._file, path):
                break
            os.close(self._file)  # `living` has removed it between the two calls
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give the lock up."""
        os.close(self._file)


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _number(file: int) -> int:
    """Return the process id in a lock file, or 0."""
    text = os.pread(file, 32, 0).strip()
    return int(text) if text.isdigit() and len(text) < 10 else 0


def new_name() -> str:
    """Return a name for a worker."""
    return secrets.token_hex(8)


@contextmanager
def _address(folder: Path, name: str) -> Iterator[str]:
    """Give the address of a worker's socket. It has 107 bytes at most, and a path can be longer.

    Linux has a short name for every open folder.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{opened}"
        yield f"{short if os.path.isdir(short) else folder}/{name}.socket"
    finally:
        os.close(opened)


def listen(folder: Path, name: str) -> socket.socket:
    """Return a socket in the folder on which a new supervisor can call. Raises OSError."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(folder, name) as address:
            server.bind(address)
            os.chmod(address, 0o600)
        server.listen(1)
    except BaseException:
        server.close()
        raise
    return server


def living(folder: Path) -> list[tuple[str, int]]:
    """Return name and process id of every worker of the folder that lives."""
    found = []
    for path in sorted(folder.glob("*.lock")):
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            found.append((path.stem, _number(file)))
        else:
            for left in (path, path.with_suffix(".socket")):
                left.unlink(missing_ok=True)
        finally:
            os.close(file)
    return found


def call(folder: Path, name: str, seconds: float) -> socket.socket | None:
    """Return a connection to a worker, or None if it does not wait for a supervisor."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.settimeout(seconds)
    try:
        with _address(folder, name) as address:
            end.connect(address)
    except OSError:
        end.close()
        return None
    return end


def kill(folder: Path, name: str, process: int) -> None:
    """Kill a worker, and return when it is gone.

    Raises:
        ExecutorError: It is still there, for example because it hangs in the system.
    """
    path = folder / f"{name}.lock"
    end = time.monotonic() + KILL_SECONDS
    while any(found == name for found, _ in living(folder)):
        if process:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > end or not process:
            raise ExecutorError(
                f"the old worker {process or path} does not end",
                hint="its programs must not be restored while it lives",
            )
        time.sleep(0.01)
