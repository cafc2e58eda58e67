"""The folder in which a kernel's states are, so that its notebook goes on after a kill.

`record.json` names the file of the last state and says what it is. Both are on the disk before
the client hears of the end of a cell. The state between two cells is kept until the next one, for
a cell that has to be undone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.errors import WasmsrError
from wasmsr.kernel.wire import LONGEST, KernelError

RECORD = "record.json"
Write = Callable[[str], int]


@dataclass(frozen=True)
class CellRecord:
    """What a state is.

    Attributes:
        number: Counts states.
        file: The file of the state.
        between: The file of the last state between two cells; empty if there is none.
        done: The number of the last request that has ended.
        reply, value: What came of it.
        now: The number of the request that the state is in the middle of; 0 is none.
        shown: What this request has shown so far: characters by stream, and objects.
        lines: Lines that it has read.
    """

    number: int = 0
    file: str = ""
    between: str = ""
    done: int = 0
    reply: dict[str, Any] | None = None
    value: dict[str, Any] | None = None
    now: int = 0
    shown: dict[str, int] = field(default_factory=dict)
    lines: int = 0

    @classmethod
    def read(cls, folder: Path) -> CellRecord:
        """Return the record of a folder; one of nothing if there is none. Raises KernelError."""
        try:
            given = json.loads(small_files.read(folder / RECORD, LONGEST)[0])
            made = cls(**given)
            for name, value in asdict(made).items():
                kind = type(getattr(cls(), name))
                if name not in ("reply", "value") and type(value) is not kind:
                    raise TypeError(f"{name} is not right")
            if any(os.sep in one for one in (made.file, made.between)):
                raise ValueError("it names a file elsewhere")
        except FileNotFoundError:
            return cls()
        except (OSError, TypeError, ValueError) as error:
            raise KernelError(f"the state of the kernel in {folder} is damaged: {error}") from error
        return made


class StateFolder:
    """The folder of one kernel.

    Args:
        path: The folder. One process uses it at a time; another one waits.

    Raises:
        KernelError: It cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise KernelError(f"the kernel cannot keep states in {path}: {error}") from error
        self.record = CellRecord.read(path)
        self._writing: threading.Thread | None = None
        self._failure: str | None = None

    @property
    def busy(self) -> bool:
        """Whether a state is being written."""
        return self._writing is not None and self._writing.is_alive()

    def write(self, save: Write, record: CellRecord) -> None:
        """Write a state, and then its record.

        Raises:
            KernelError, SnapshotError: It cannot be written.
        """
        self.wait()
        self._write(save, record)

    def write_later(self, save: Write, record: CellRecord) -> None:
        """As `write`, while the caller goes on. What fails is told by the next `failure`."""
        self.wait()

        def work() -> None:
            try:
                self._write(save, record)
            except WasmsrError as error:
                self._failure = str(error)

        self._writing = threading.Thread(target=work)
        self._writing.start()

    def failure(self) -> str | None:
        """Return why a state could not be written in the background, once."""
        found, self._failure = self._failure, None
        return found

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def _write(self, save: Write, record: CellRecord) -> None:
        before = self.record
        number = before.number + 1
        file = f"state-{number}.bin"
        between = before.between if record.now else file
        made = CellRecord(**{**asdict(record), "number": number, "file": file, "between": between})
        save(str(self.path / file))
        try:
            small_files.replace(self.path / RECORD, json.dumps(asdict(made)).encode())
        except OSError as error:
            raise KernelError(f"the state cannot be noted: {error.strerror}") from error
        self.record = made
        for old in {before.file, before.between} - {made.file, made.between, ""}:
            (self.path / old).unlink(missing_ok=True)


def forget_states(path: Path) -> None:
    """Remove the folder of a kernel that has ended, with all that was kept."""
    shutil.rmtree(path, ignore_errors=True)
