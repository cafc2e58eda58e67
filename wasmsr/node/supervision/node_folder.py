"""The folder of a node: its lock, its id, modules by digest, and a folder for each program.

FOLDER/node.lock             held by the supervisor
FOLDER/modules/DIGEST.wasm   modules
FOLDER/snapshots/DIGEST.snapshot    states in which programs begin
FOLDER/journal/              who owns programs that moved, and states that came (`migrate/journal`)
FOLDER/carried/ID/           carried trees of a program; they stay when it has ended here
FOLDER/programs/ID/          a program; one that came in a later epoch is in ID.EPOCH, and one
                             that was taken over then is in ID.EPOCH-taken
FOLDER/programs/ID/record    what the node notes of a program (`program_record.py`)
FOLDER/programs/ID/worker/   the worker's locks, its socket, and what it left (`old_workers.py`)
FOLDER/programs/ID/output/   the last bytes of its output (`rings.py`)
FOLDER/programs/ID/saved/    its checkpoints
FOLDER/programs/ID/parked-LIFE-STDOUT-STDERR.snapshot    a state that a worker left
FOLDER/programs/ID/visit-*   what a browser gets of a program, and sends (`node/visits`)
FOLDER/programs/ID/tmp/      what vanishes with the worker
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from wasmsr.executor.old_workers import HeldLock
from wasmsr.executor.port import ExecutorError
from wasmsr.migrate.journal.durable import private, sync_folder
from wasmsr.node.failures import NodeError, SubmissionRefused
from wasmsr.node.workers.warm_parents import WorkerPlace
from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.supervision.node_state import NodeState
from wasmsr.wasi.filesystem import tree_walk

MODULE_BYTES = 256 << 20
"""Bytes of a module that are taken at most."""

SNAPSHOT_BYTES = 4 << 30
"""The same of a snapshot."""

FOLDERS = ("modules", "snapshots", "programs", "carried")

VISIT_PARTS = "visit-parts"
"""The folder of what a browser gets of a program."""

_PARKED = re.compile(r"parked-(\d{6})-(\d{16})-(\d{16})\.snapshot")


class ProgramFolder:
    """The folder of one program."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.program = path.name.partition(".")[0]
        self.carried = path.parent.parent / "carried"
        self.record = path / "record"
        self.workers = path / "worker"
        self.output = path / "output"
        self.saved = path / "saved"
        self.temporary = path / "tmp"

    @property
    def place(self) -> WorkerPlace:
        """Where a worker has its files."""
        return WorkerPlace(self.workers, self.output, self.temporary, self.carried)

    @property
    def own_carried(self) -> Path:
        """Where the program's carried trees are."""
        return self.carried / self.program

    def parked(self) -> tuple[int, int, int, Path] | None:
        """Return life, offsets of output and path of the last state that a worker left, or None."""
        found = []
        for path in self.path.iterdir():
            match = _PARKED.fullmatch(path.name)
            if match is not None:
                found.append((int(match[1]), int(match[2]), int(match[3]), path))
        return max(found, default=None)

    def park(self, left: Path, life: int, output: int, errors: int) -> Path:
        """Take the state that a worker left, durably. Raises OSError."""
        path = self.path / f"parked-{life:06d}-{output:016d}-{errors:016d}.snapshot"
        left.replace(path)
        sync_folder(self.path)
        return path

    def remove_parked(self, but: Path | None = None) -> None:
        """Remove states that are of no use any more.

        Args:
            but: One that stays.
        """
        for path in self.path.glob("parked-*"):
            if path != but:
                path.unlink(missing_ok=True)

    def remove_visit(self) -> None:
        """Remove what browsers got and sent, and what was not finished of it."""
        shutil.rmtree(self.path / VISIT_PARTS, ignore_errors=True)
        for pattern in ("visit-*.state", ".visit-*.part", ".lent-*.part"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def remove_saved(self) -> None:
        """Remove everything from which the program could be resumed, but its carried files."""
        self.remove_parked()
        self.remove_visit()
        for path in (self.saved, self.temporary, self.workers):
            shutil.rmtree(path, ignore_errors=True)

    def remove_carried(self) -> None:
        """Remove the carried files of a program that is not here any more."""
        tree_walk.remove(self.own_carried)

    def remove_worker(self) -> None:
        """Remove what a worker has left, and nothing from which the program could be resumed."""
        for path in (self.temporary, self.workers):
            shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


class NodeFolder:
    """The folder of a node, which this process holds.

    Attributes:
        node: The node's id.
    """

    def __init__(self, folder: Path, node: bytes = b"") -> None:
        """Open the folder, which is made.

        Args:
            folder: The folder.
            node: The id that the node has by its certificate; b"" if it has none.

        Raises:
            NodeError: Another process holds it, it cannot be used, or it is of another node.
        """
        try:
            for path in (folder, *(folder / name for name in FOLDERS)):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)  # it has a socket on which this user's orders come
            self._lock = HeldLock(folder / "node.lock", f"the node of {folder}")
        except ExecutorError as error:
            raise NodeError(
                error.message, hint="end that node, or name another --state-dir FOLDER"
            ) from error
        except OSError as error:
            raise NodeError(
                f"{folder} cannot be used by a node: {error.strerror}",
                hint="name a folder that you can write: --state-dir FOLDER",
            ) from error
        self.path = folder
        try:
            self.node = NodeState(folder, node).node
        except OwnershipError as error:
            self._lock.close()
            raise NodeError(error.message, hint=error.hint) from error

    def close(self) -> None:
        """Give the folder up."""
        self._lock.close()

    def programs(self) -> list[ProgramFolder]:
        """Return the folders of all programs."""
        return [ProgramFolder(path) for path in sorted((self.path / "programs").iterdir())]

    def program(self, program: str, epoch: int = 1, *, taken: bool = False) -> ProgramFolder:
        """Return the folder of a program, which is made.

        Args:
            program: Its id.
            epoch: The epoch in which it came; 1 for a program that begins here.
            taken: Whether this node took it over from a lost one.
        """
        name = program if epoch == 1 else f"{program}.{epoch}" + ("-taken" if taken else "")
        path = self.path / "programs" / name
        path.mkdir(exist_ok=True, mode=0o700)
        return ProgramFolder(path)

    @property
    def journal(self) -> Path:
        """The folder of the journal."""
        return self.path / "journal"

    @property
    def carried(self) -> Path:
        """The folder of carried trees."""
        return self.path / "carried"

    def module(self, digest: str) -> Path:
        """Return the file of a module, which may not be there."""
        return self.path / "modules" / f"{digest}.wasm"

    def take_module(self, pieces: Iterable[bytes], most: int = MODULE_BYTES) -> str:
        """Keep a module, and return its digest in hexadecimal digits.

        Args:
            pieces: Its bytes.
            most: Bytes that are taken at most.

        Raises:
            SubmissionRefused: It is larger.
            OSError: It cannot be written.
        """
        return self._take("module", self.module, pieces, most)

    def snapshot(self, digest: str) -> Path:
        """Return the file of a snapshot in which programs begin; it may not be there."""
        return self.path / "snapshots" / f"{digest}.snapshot"

    def take_snapshot(self, pieces: Iterable[bytes], most: int = SNAPSHOT_BYTES) -> str:
        """Keep a snapshot, as `take_module` keeps a module."""
        return self._take("snapshot", self.snapshot, pieces, most)

    def trim_snapshots(self, kept: set[str], most: int) -> None:
        """Remove the oldest snapshots besides these, until there are so many of them at most."""
        found: list[tuple[float, Path]] = []
        for path in (self.path / "snapshots").glob("*.snapshot"):
            with suppress(FileNotFoundError):
                if path.stem not in kept:
                    found.append((path.stat().st_mtime, path))
        for _, path in sorted(found)[: max(0, len(found) - most)]:
            path.unlink(missing_ok=True)

    def _take(
        self, what: str, place: Callable[[str], Path], pieces: Iterable[bytes], most: int
    ) -> str:
        digest, size = hashlib.sha256(), 0
        part = place(f".{secrets.token_hex(8)}").with_suffix(".part")
        try:
            with open(part, "wb", opener=private) as file:
                for piece in pieces:
                    size += len(piece)
                    if size > most:
                        raise SubmissionRefused(f"the {what} has more than {most} bytes")
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            part.replace(place(digest.hexdigest()))
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest()

    def remove_modules(self, kept: set[str]) -> None:
        """Remove modules and snapshots that no program has, and what interrupted uploads left."""
        for name in ("modules", "snapshots"):
            for path in (self.path / name).iterdir():
                if path.stem not in kept:
                    with suppress(FileNotFoundError):
                        path.unlink()
