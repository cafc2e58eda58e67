"""The folder of the jobs of one user, and the one process that runs them.

    FOLDER/jobs.db          the list
    FOLDER/service.lock     locked by the process that runs the jobs, as long as it lives
    FOLDER/service.wake     a named pipe: who changes the list writes a byte
    FOLDER/service.log      what that process says
    FOLDER/executions/      a folder for each execution
    FOLDER/results/         what the publisher `local` publishes

The lock ends with the process, however that ends. So a command can tell whether jobs are run, and
starts a process if none runs them.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wasmsr.jobs.failures import JobError

START_SECONDS = 20.0
"""Longest time until a new process runs the jobs."""

LOOK_SECONDS = 0.2
"""How long a process that is to run the jobs tries to get the lock."""

LOG_LIMIT = 1 << 20
"""Bytes of `service.log` above which a new process begins it again."""


class JobHome:
    """The folder; `path` is made if it is missing."""

    def __init__(self, path: Path) -> None:
        """Make the folder. Raises JobError."""
        self.path = Path(os.path.abspath(path))
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise JobError(
                "FilesystemError",
                f"the folder {self.path} of jobs cannot be made: {error.strerror}",
                hint="--state-dir FOLDER names another one",
            ) from error

    @property
    def list_file(self) -> Path:
        """The list of jobs."""
        return self.path / "jobs.db"

    @property
    def results(self) -> Path:
        """The folder of the publisher `local`."""
        return self.path / "results"

    @property
    def log_file(self) -> Path:
        """What the process that runs the jobs says."""
        return self.path / "service.log"

    def execution(self, execution: str, epoch: int, shared: str = "") -> Path:
        """Return the folder of an execution. Each epoch has its own.

        Args:
            execution: Its id.
            epoch: Its epoch.
            shared: The folder of all servers that may run it; "" for that of the jobs.
        """
        return Path(shared or self.path) / "executions" / f"{execution}-e{epoch}"

    def inputs(self, execution: str, epoch: int, shared: str = "") -> Path:
        """Return the folder of its inputs; see `execution`."""
        return self.execution(execution, epoch, shared).with_suffix(".inputs")

    # The lock

    def lock(self) -> int | None:
        """Return a descriptor that has the lock, or None if another process keeps it.

        A command that looks has the lock for a moment, so one refusal says nothing.
        """
        end = time.monotonic() + LOOK_SECONDS
        while (found := self._locked(fcntl.LOCK_EX)) is None and time.monotonic() < end:
            time.sleep(LOOK_SECONDS / 20)
        return found

    def _locked(self, kind: int) -> int | None:
        found = os.open(self.path / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(found, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(found)
            return None
        return found

    def is_served(self) -> bool:
        """Return whether a process runs the jobs. Any number of commands can look at a time."""
        found = self._locked(fcntl.LOCK_SH)
        if found is None:
            return True
        os.close(found)
        return False

    # The pipe

    def wake_pipe(self) -> int:
        """Return a descriptor from which the process that runs the jobs reads. Raises OSError."""
        path = self.path / "service.wake"
        with suppress(FileNotFoundError):
            if not stat.S_ISFIFO(path.lstat().st_mode):
                path.unlink()
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # For writing too: without a writer it would be at its end all the time.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def wake(self) -> None:
        """Tell the process that runs the jobs that the list has changed."""
        with suppress(OSError):
            pipe = os.open(self.path / "service.wake", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(pipe, b".")
            finally:
                os.close(pipe)

    # The process

    def serve(self) -> None:
        """Wake the process that runs the jobs, or start one and wait until it has the lock.

        Raises:
            JobError: It does not start.
        """
        if not self.is_served():
            self._spawn()
        self.wake()

    def _spawn(self) -> None:
        words = [sys.executable, "-m", "wasmsr", "job", "service", "--state-dir", str(self.path)]
        began = self._log_size()
        ready, theirs = os.pipe()
        try:
            with open(self.log_file, "ab") as log:
                child = subprocess.Popen(
                    [*words, "--ready", str(theirs)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs,),
                    start_new_session=True, cwd="/",
                )  # fmt: skip
        except OSError as error:
            os.close(ready)
            raise JobError(
                "FilesystemError", f"the process that runs jobs does not start: {error.strerror}"
            ) from error
        finally:
            os.close(theirs)
        try:
            if _readable(ready, START_SECONDS) and os.read(ready, 1) == b"+":
                child.returncode = 0  # it is not ours to wait for
                return
        finally:
            os.close(ready)
        if self.is_served():  # another command was faster
            return
        raise JobError(
            "FilesystemError",
            f"the process that runs jobs does not start: {self._last_words(began)}",
            hint=f"{self.log_file} has all that it said",
            retryable=True,
        )

    def _log_size(self) -> int:
        with suppress(OSError):
            size = self.log_file.stat().st_size
            if size <= LOG_LIMIT:
                return size
            self.log_file.unlink()
        return 0

    def _last_words(self, began: int) -> str:
        with suppress(OSError), open(self.log_file, "rb") as file:
            file.seek(began)
            lines = file.read(LOG_LIMIT).decode("utf-8", "replace").strip().splitlines()
            if lines:
                return lines[-1][:500]
        return "it says nothing"


def _readable(descriptor: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        found: Sequence[int] = select.select([descriptor], [], [], left)[0]
        if found:
            return True
    return False


__all__ = ["JobHome"]
