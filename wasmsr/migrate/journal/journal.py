"""The journal: what this end has decided and promised, on disk before any other end hears of it.

Each end has a folder, which it locks. The folder has one record for each program. Each change is a
line at the end of the record's file, which is synced; a long file is replaced as a whole. `get`
returns what is on disk, so an answer to a peer is never ahead of the disk. The folder also has the
states that the records name: snapshots that are marked as handed, so that nobody runs them by
accident.

    lock  node  PROGRAM.json  PROGRAM-EPOCH.handed  PROGRAM-EPOCH.received
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from wasmsr import realtime
from wasmsr.migrate.journal.durable import cannot, replace_file, sync_folder
from wasmsr.migrate.journal.image_file import ImageFile, is_complete
from wasmsr.migrate.journal.record_file import LONG, append, cut, last_of, line_of
from wasmsr.migrate.journal.state_file import StateFile, state_name
from wasmsr.migrate.protocol import ID_BYTES, PIECE, Ending, JournalError, Move, OwnershipState

VERSION = 2
_OLD = 1
"""The version of records that are one JSON object: read, and replaced at the next change."""
RECEIVED = "received"
"""The role of a state that came here."""


@dataclass(frozen=True)
class Incoming:
    """A state that is here, verified and tried, and whose source has not decided.

    Attributes:
        epoch: The epoch of the move that brought it.
        attempt: The attempt of that move.
        source: The source's address.
        file: Name of the state file in the journal's folder.
        modules: Digests of the program's modules.
        shown: Node id of the end that shows the program's output, or b"".
        fed: Node id of the end that has the program's input, or b"".
        parked: Whether the state is on disk only, so that other programs may come.
        node: The source's node id, or b"" in a record of an earlier version.
        lease: Milliseconds of the program's lease; 0 for none.
    """

    epoch: int
    attempt: bytes
    source: str
    file: str
    modules: tuple[bytes, ...]
    shown: bytes = b""
    fed: bytes = b""
    parked: bool = False
    node: bytes = b""
    lease: int = 0

    def move(self, program: bytes) -> Move:
        """Return the move by which the program comes."""
        return Move(program, self.epoch, self.attempt)


@dataclass(frozen=True)
class Record:
    """What this end has decided about one program.

    Attributes:
        program: The program's id.
        standing: UNKNOWN (only `incoming` is known), OWNED, OFFERED, HANDED, ENDED or LOST.
        epoch: The epoch in which this end owns the program; if HANDED, in which the peer owns it.
        attempt: The attempt that is offered or decided; if OWNED, the last one that was given up,
            or b"".
        peer: Address of the peer to which the program goes, or from which it came.
        file: State file that was offered or handed, or "".
        received: State file from which the program was started here, or "".
        confirmed: If HANDED, whether the peer has said that it owns the program.
        ending: If ENDED, how the program ended.
        incoming: A state that is READY, or None.
        node: Node id of the end to which the program was offered or handed last, or b"".
        origin: Node id of the end from which it came, or b"".
        source: Address of that end, or "" in a record of an earlier version.
        lease: Milliseconds of its lease, for which a register decides; 0 for none.
        journal: If OFFERED or HANDED, the id of the journal of an end that is READY in memory only;
            else b"".
        updated: Seconds since the Unix epoch.
    """

    program: bytes
    standing: OwnershipState = OwnershipState.UNKNOWN
    epoch: int = 0
    attempt: bytes = b""
    peer: str = ""
    file: str = ""
    received: str = ""
    confirmed: bool = False
    ending: Ending | None = None
    incoming: Incoming | None = None
    node: bytes = b""
    origin: bytes = b""
    source: str = ""
    lease: int = 0
    journal: bytes = b""
    updated: float = field(default=0.0, compare=False)

    @property
    def ends(self) -> frozenset[bytes]:
        """Node ids of the ends that have to do with the program, as far as the record knows."""
        waiting = b"" if self.incoming is None else self.incoming.node
        return frozenset((self.node, self.origin, waiting)) - {b""}

    @property
    def toward_origin(self) -> Record:
        """The record with the end from which the program came as its peer.

        A try at a third end, which did not work, has put that end in the place.
        """
        if not self.source:
            return self
        return replace(self, peer=self.source, node=self.origin)


class _RecordLock:
    """The lock of one record; a weak reference can name it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class Journal:
    """The records of one end. Any thread may call it.

    A change of several steps holds `locked(program)`. Records of different programs are written at
    the same time.
    """

    def __init__(self, folder: Path, node: bytes = b"") -> None:
        """Open `folder`, and make it if it is missing.

        Args:
            folder: The folder.
            node: The node id of this end; b"" for one that the first journal there has made.

        Raises:
            JournalError: Another process uses the folder, or it cannot be read or written.
        """
        self.folder = folder
        self._guard = threading.Lock()
        """For the dictionaries; nobody waits for a disk while holding it."""
        self._locks: WeakValueDictionary[bytes, _RecordLock] = WeakValueDictionary()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise cannot("be opened", folder, error) from error
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._held)
            raise JournalError(
                f"the state directory {folder} is in use by another process",
                hint="give each end its own --state-dir",
            ) from error
        try:
            for part in folder.glob("*.part"):
                part.unlink()
            self.node = node or self._node()
            self.id = self._id()
            self._records: dict[bytes, Record] = {}
            self._sizes: dict[str, int] = {}
            for path in sorted(folder.glob("*.json")):
                self._load(path)
            self._tidy()
        except OSError as error:
            self.close()
            raise cannot("be read", folder, error) from error
        except JournalError:
            self.close()
            raise

    def close(self) -> None:
        """Unlock the folder."""
        os.close(self._held)

    def _node(self) -> bytes:
        path = self.folder / "node"
        if not path.exists():
            replace_file(path, secrets.token_bytes(ID_BYTES).hex().encode())
        try:
            node = bytes.fromhex(path.read_text("ascii"))
        except ValueError:
            node = b""
        if len(node) != ID_BYTES:
            raise JournalError(f"{path} is damaged", hint="it has the node id of this end")
        return node

    def take_name(self, node: bytes) -> None:
        """Make the node of a certificate the node id of this end.

        Args:
            node: The node id.

        Raises:
            JournalError: The journal has records of another node, or cannot be written.
        """
        if node == self.node:
            return
        if self._records:
            raise JournalError(
                f"{self.folder} has programs of the node {self.node.hex()}, and the certificate "
                f"names {node.hex()}",
                hint="give each end its own --state-dir",
            )
        try:
            replace_file(self.folder / "node", node.hex().encode())
        except OSError as error:
            raise cannot("be written", self.folder / "node", error) from error
        self.node = node
        self.id = self._id()

    def _id(self) -> bytes:
        """Return what names this journal: it has all records that an end with this id has written.

        A copy of the folder, such as a backup that was put back, has another id. It is b"" if the
        node id is not kept here.
        """
        path = self.folder / "node"
        if not path.exists():
            return b""
        there = path.stat()
        place = f"{there.st_ino} {there.st_mtime_ns}".encode()
        return hashlib.sha256(self.node + place).digest()[:ID_BYTES]

    def renew(self) -> None:
        """Give the journal another id, because records are removed that may still count.

        Raises:
            JournalError: The folder cannot be written.
        """
        path = self.folder / "node"
        if not path.exists():
            return
        try:
            replace_file(path, self.node.hex().encode())
        except OSError as error:
            raise cannot("be written", path, error) from error
        self.id = self._id()

    def _load(self, path: Path) -> None:
        record, size = _read(path)
        self._records[record.program] = record
        if size:
            self._sizes[path.name] = size

    def _tidy(self) -> None:
        """Remove images that were not complete when the end that wrote them was killed."""
        named = self._named()
        for path in self.folder.glob(f"*.{RECEIVED}"):
            if path.name not in named and path.is_file() and not is_complete(path):
                path.unlink()

    def _named(self) -> set[str]:
        """Return the names of the states that records name."""
        named = set()
        for record in self.records():
            named |= {record.file, record.received}
            named |= {record.incoming.file} if record.incoming else set()
        return named

    def get(self, program: bytes) -> Record | None:
        """Return the record of `program` as it is on disk, or None."""
        return self._records.get(program)

    def records(self) -> list[Record]:
        """Return all records."""
        with self._guard:
            return list(self._records.values())

    def locked(self, program: bytes) -> _RecordLock:
        """Return the lock of one program's record, which a thread can take several times."""
        with self._guard:
            lock = self._locks.get(program)
            if lock is None:
                lock = self._locks[program] = _RecordLock()
            return lock

    def put(self, record: Record) -> None:
        """Replace a program's record on disk; return when the new one is durable.

        It takes one sync, unless the record is the program's first or the file has become long.

        Raises:
            JournalError: The record cannot be written. `get` returns the old one, and the disk has
                the old one too, unless restoring it failed as well; then the error says so.
        """
        record = replace(record, updated=realtime.now() / 1e9)
        path = self.folder / f"{record.program.hex()}.json"
        with self.locked(record.program):
            before, size = self._records.get(record.program), self._sizes.get(path.name)
            line = line_of(_encode(record))
            try:
                self._replace(path, line)
            except OSError as error:
                more = ""
                try:
                    self._restore(path, before, size if _appends(size, line) else None)
                except OSError as again:
                    more = f"; nor can the record before be restored: {again.strerror or again}"
                raise cannot("be written", path, error, more) from error
            with self._guard:
                self._records[record.program] = record

    def _replace(self, path: Path, line: bytes) -> None:
        """Make a line the record of a program, on the disk when this returns. Raises OSError."""
        size = self._sizes.get(path.name)
        if size is not None and _appends(size, line):
            append(path, size, line)
            self._sizes[path.name] = size + len(line)
        else:
            self._sizes.pop(path.name, None)
            replace_file(path, line)
            self._sizes[path.name] = len(line)

    def _restore(self, path: Path, before: Record | None, size: int | None) -> None:
        """Take a line back that is in a file, in part or not at all.

        The file is then replaced at the next change: a disk that has failed may have lost what it
        said it had.

        Args:
            path: The file.
            before: The record before.
            size: Where the line was added; None if the whole file was to be replaced.

        Raises:
            OSError: The disk fails again.
        """
        self._sizes.pop(path.name, None)
        if size is not None and path.exists() and path.stat().st_size >= size:
            cut(path, size)
        elif before:
            replace_file(path, line_of(_encode(before)))
        else:
            path.unlink(missing_ok=True)

    def forget(self, program: bytes) -> None:
        """Remove the record of a program that has ended everywhere, and its states."""
        with self.locked(program):
            with self._guard:
                record = self._records.pop(program, None)
            if record is None:
                return
            self._sizes.pop(f"{program.hex()}.json", None)
            try:
                (self.folder / f"{program.hex()}.json").unlink(missing_ok=True)
                sync_folder(self.folder)
            except OSError as error:
                raise cannot("be written", self.folder, error) from error
            for file in self.folder.glob(f"{program.hex()}-*"):
                self.discard(file.name)

    def path(self, file: str) -> Path:
        """Return where the state file called `file` is."""
        return self.folder / file

    def read(self, file: str) -> Iterator[bytes]:
        """Return the bytes of the state file called `file`, in pieces. Raises JournalError."""
        try:
            with open(self.path(file), "rb", buffering=0) as state:
                while piece := state.read(PIECE):
                    yield piece
        except OSError as error:
            raise cannot("be read", self.path(file), error) from error

    def discard(self, file: str) -> None:
        """Remove a state file that no record names. A failure does no harm and is ignored."""
        if file:
            try:
                (self.folder / file).unlink()
            except OSError:
                return

    def state(self, move: Move, role: str) -> StateFile:
        """Return a new file for the state that `move` moves; `role` is "handed" or "received"."""
        return StateFile(self.folder, move, role)

    def image(self, move: Move) -> ImageFile:
        """Return a new file for the image of the state that `move` brings here.

        Raises:
            JournalError: It cannot be made, or a record names the state of an earlier attempt.
        """
        name = state_name(move, RECEIVED)
        with self.locked(move.program):
            if name in self._named():
                raise JournalError(
                    f"{self.folder / name} is the state of an earlier attempt, which is not decided"
                )
            return ImageFile(self.folder / name)


def _appends(size: int | None, line: bytes) -> bool:
    """Return whether a line is added to a file of this size; otherwise it replaces the file."""
    return size is not None and size + len(line) <= LONG


def _encode(record: Record) -> bytes:
    values: dict[str, Any] = {
        "version": VERSION,
        "program": record.program.hex(),
        "standing": record.standing.name,
        "epoch": record.epoch,
        "attempt": record.attempt.hex(),
        "peer": record.peer,
        "file": record.file,
        "received": record.received,
        "confirmed": record.confirmed,
        "node": record.node.hex(),
        "origin": record.origin.hex(),
        "source": record.source,
        "lease": record.lease,
        "journal": record.journal.hex(),
        "updated": record.updated,
    }
    if record.ending:
        values["ending"] = vars(record.ending)
    if record.incoming:
        values["incoming"] = {
            "epoch": record.incoming.epoch,
            "attempt": record.incoming.attempt.hex(),
            "source": record.incoming.source,
            "file": record.incoming.file,
            "modules": [digest.hex() for digest in record.incoming.modules],
            "shown": record.incoming.shown.hex(),
            "fed": record.incoming.fed.hex(),
            "parked": record.incoming.parked,
            "node": record.incoming.node.hex(),
            "lease": record.incoming.lease,
        }
    return json.dumps(values).encode()


def _read(path: Path) -> tuple[Record, int]:
    """Return the record in a file, and the length of the file if lines can be added to it, or 0.

    Raises:
        JournalError: The file is damaged, or of another version.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    try:
        values, end = (data, 0) if data.startswith(b"{") else last_of(data)
        record = _decode(path, json.loads(values), VERSION if end else _OLD)
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            f"{path} is damaged, so nobody can tell from it who owns the program",
            hint="ask the other end, then remove the file; write the file node beside it anew "
            "(cp node n && mv n node), because a record is missing then",
        ) from error
    return record, end if end == len(data) else 0


def _decode(path: Path, values: dict[str, Any], version: int) -> Record:
    if values["version"] != version:
        raise JournalError(
            f"{path} was written by another version of wasmsr",
            hint="settle it with that version, or give another --state-dir",
        )
    incoming = values.get("incoming")
    ending = values.get("ending")
    return Record(
        program=bytes.fromhex(values["program"]),
        standing=OwnershipState[values["standing"]],
        epoch=int(values["epoch"]),
        attempt=bytes.fromhex(values["attempt"]),
        peer=str(values["peer"]),
        file=_name(values["file"]),
        received=_name(values["received"]),
        confirmed=bool(values["confirmed"]),
        ending=Ending(**ending) if ending else None,
        incoming=Incoming(
            epoch=int(incoming["epoch"]),
            attempt=bytes.fromhex(incoming["attempt"]),
            source=str(incoming["source"]),
            file=_name(incoming["file"]),
            modules=tuple(map(bytes.fromhex, incoming["modules"])),
            shown=bytes.fromhex(incoming.get("shown", "")),
            fed=bytes.fromhex(incoming.get("fed", "")),
            parked=bool(incoming.get("parked", False)),
            node=bytes.fromhex(incoming.get("node", "")),
            lease=int(incoming.get("lease", 0)),
        )
        if incoming
        else None,
        node=bytes.fromhex(values.get("node", "")),
        origin=bytes.fromhex(values.get("origin", "")),
        source=str(values.get("source", "")),
        lease=int(values.get("lease", 0)),
        journal=bytes.fromhex(values.get("journal", "")),
        updated=float(values["updated"]),
    )


def _name(value: Any) -> str:
    name = str(value)
    if name != os.path.basename(name):
        raise ValueError(name)
    return name
