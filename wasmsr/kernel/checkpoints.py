"""The folder in which a kernel's states are, so that its notebook goes on after a kill.

`record.json` names the file of the last state and says what it is. Both are on the disk before
the client hears of the end of a cell. The state between two cells is kept until the next one, for
a cell that has to be undone.

A relay removes the folder when it ends. The folder of a relay that was killed stays, so that
another kernel can go on there: `about.json` says which notebook it was. Later kernels remove it
when it is old, or when there are too many.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.errors import WasmsrError
from wasmsr.kernel.wire import LONGEST, KernelError

RECORD = "record.json"
ABOUT = "about.json"
SESSION = "JPY_SESSION_NAME"
"""The variable by which Jupyter's servers name the notebook of a kernel."""
LONGEST_SESSION = 4096
"""Characters of such a name."""
RELAY, WORKER = "relay", "lock"
"""Files that the two processes of a kernel lock as long as they live."""
ASKS_SECONDS = 1.0
"""Whoever only asks whether a kernel lives holds a lock for less."""
ENDS_SECONDS = 10.0
"""A worker whose relay was killed ends sooner, unless something holds it."""
KEPT_SECONDS = 30 * 86400.0
"""Age after which the folder of a kernel that was killed is removed."""
KEPT = 20
"""How many folders there may be before those of killed kernels are removed."""
_FOLDER = re.compile(r"[0-9a-f]{32}")
_STATE = re.compile(r"state-[0-9]{1,18}\.bin")
_PART = re.compile(r"\.(state-|kept-|record\.json).*\.part")
"""What a worker leaves that is killed while it writes."""
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
                kinds = (dict, type(None)) if name in ("reply", "value") else (kind,)
                if type(value) not in kinds or (kind is int and value < 0):
                    raise TypeError(f"{name} is not right")
            if any(one and not _STATE.fullmatch(one) for one in (made.file, made.between)):
                raise ValueError("it names a file that is no state")
            for name, count in made.shown.items():
                if name not in ("stdout", "stderr", "objects") or type(count) is not int:
                    raise TypeError("shown is not right")
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
            self._lock = os.open(path / WORKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise KernelError(f"the kernel cannot keep states in {path}: {error}") from error
        self.record = CellRecord.read(path)
        self._tidy()
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
            with suppress(OSError):
                (self.path / old).unlink()

    def _tidy(self) -> None:
        """Remove what a worker that was killed has left."""
        with suppress(OSError):
            for one in self.path.iterdir():
                stale = _STATE.fullmatch(one.name) or _PART.fullmatch(one.name)
                if stale and one.name not in (self.record.file, self.record.between):
                    with suppress(OSError):
                        one.unlink()


class KernelFolder:
    """The folder of a kernel, which one relay has as long as it lives.

    Args:
        path: The folder, which is made if it is not there.

    Raises:
        KernelError: Another relay has it, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lock = _lock_soon(path)
        except BlockingIOError as error:
            raise KernelError(
                "a kernel with this connection file is running",
                hint="a client opens it by the name of this file: jupyter console --existing FILE",
            ) from error
        except OSError as error:
            raise KernelError(f"the kernel cannot keep states in {path}: {error}") from error

    def empty(self) -> None:
        """Remove what an earlier relay has left, when its worker has ended, too."""
        try:
            with open(self.path / WORKER, "ab") as worker:
                fcntl.flock(worker, fcntl.LOCK_EX)
                for one in self.path.iterdir():
                    if one.name in (RELAY, WORKER):
                        continue
                    if one.is_dir() and not one.is_symlink():
                        shutil.rmtree(one)
                    else:
                        one.unlink()
        except OSError as error:
            raise KernelError(f"the states in {self.path} cannot be removed: {error}") from error

    def describe(self) -> str:
        """Note which notebook the kernel is of; return its name, empty if nobody has said it."""
        session = os.environ.get(SESSION, "")[:LONGEST_SESSION]
        session = session.encode("utf-8", "replace").decode()
        with suppress(OSError):  # then nobody finds it again
            small_files.replace(self.path / ABOUT, json.dumps({"session": session}).encode())
        return session

    def remove(self) -> None:
        """Remove the folder, with all that was kept."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@dataclass(frozen=True)
class KeptSession:
    """What a kernel that was killed has left.

    Attributes:
        folder: Its folder.
        session: The name of its notebook; empty if nobody has said it.
        when: When its last state was written, seconds of realtime.
        record: What this state is.
    """

    folder: Path
    session: str
    when: float
    record: CellRecord

    @property
    def said(self) -> str:
        """What a person has to know of it."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.when))
        where = ", in the middle of a cell" if self.record.now else ""
        return f"{when}  {self.session or 'a notebook without a name'}{where}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from removing the folder, or from going on there.

        A worker that has not seen yet that its relay is gone is waited for.

        Raises:
            KernelError: Somebody does it already, or the folder is gone.
        """
        end = time.monotonic() + ENDS_SECONDS
        while (locks := self._locks()) is None:
            if time.monotonic() > end:
                raise KernelError(f"a process of the kernel in {self.folder} has not ended yet")
            time.sleep(0.02)
        try:
            yield
        finally:
            for one in locks:
                os.close(one)

    def _locks(self) -> tuple[int, int] | None:
        """Return what locks the folder; None if its worker lives. Raises KernelError: as `held`."""
        try:
            relay = _lock(self.folder / RELAY)
            try:
                return relay, _lock(self.folder / WORKER)
            except OSError as error:
                os.close(relay)  # a relay that starts just now does not wait for long
                if isinstance(error, BlockingIOError):
                    return None
                raise
        except OSError as error:  # BlockingIOError is one
            said = "another kernel goes on there, or the state was removed"
            raise KernelError(said) from error

    def give_over(self, folder: Path) -> None:
        """Move what was kept by name to another kernel's folder, and remove the rest.

        The caller has it `held`.
        """
        with suppress(OSError):
            for one in self.folder.glob("kept-*.bin"):
                if not (folder / one.name).exists():
                    one.replace(folder / one.name)
            shutil.rmtree(self.folder, ignore_errors=True)


def kept_sessions(own: Path) -> list[KeptSession]:
    """Return what killed kernels have left: those of the same notebook first, then the newest.

    Args:
        own: The folder of the kernel that asks, which is left out.
    """
    found = []
    with suppress(OSError):
        for one in own.parent.iterdir():
            if one == own or not _FOLDER.fullmatch(one.name) or one.is_symlink():
                continue
            with suppress(OSError, KernelError):
                record = CellRecord.read(one)
                if record.file:
                    when = (one / record.file).stat().st_mtime
                    session = KeptSession(one, _session_of(one), when, record)
                    with session.held():  # it fails for a kernel that lives
                        found.append(session)
    ours = _session_of(own)
    return sorted(found, key=lambda one: (not ours or one.session != ours, -one.when))


def _session_of(folder: Path) -> str:
    """Return the name of the notebook that a kernel was of; empty if nobody knows."""
    try:
        name = json.loads(small_files.read(folder / ABOUT, 8 * LONGEST_SESSION)[0])["session"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    return name if type(name) is str and name.isprintable() else ""


def remove_old(kernels: Path) -> None:
    """Remove folders of killed kernels: old ones, and those that `KEPT` newer ones follow.

    Args:
        kernels: The folder with the folders of all kernels of this user.
    """
    ages = []
    with suppress(OSError):
        for one in kernels.iterdir():
            if _FOLDER.fullmatch(one.name) and one.is_dir() and not one.is_symlink():
                with suppress(OSError):
                    last = max(entry.stat().st_mtime for entry in (one, *one.iterdir()))
                    ages.append((time.time() - last, one))
    for newer, (age, one) in enumerate(sorted(ages)):
        if newer >= KEPT or age > KEPT_SECONDS:
            with suppress(OSError):
                lock = _lock(one / RELAY)  # it fails for a kernel that lives
                shutil.rmtree(one, ignore_errors=True)
                os.close(lock)


def _lock_soon(folder: Path) -> int:
    """Make a folder, and return the lock of its relay; wait for who only asks if there is one.

    Raises:
        BlockingIOError: Another relay has the folder.
    """
    end = time.monotonic() + ASKS_SECONDS
    while True:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return _lock(folder / RELAY)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def _lock(path: Path) -> int:
    """Return a descriptor that locks a file. Raises BlockingIOError: Another process has it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    number = os.open(path, flags, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(number).st_ino != os.stat(path).st_ino:  # it was removed meanwhile
            raise BlockingIOError
    except BaseException:
        os.close(number)
        raise
    return number
