"""The file of a state that this end writes at once, such as that of a program it handed over."""

from __future__ import annotations

import os
from pathlib import Path

from wasmsr.errors import FormatError
from wasmsr.migrate.journal.durable import cannot, private, sync_folder
from wasmsr.migrate.ports import Buffer
from wasmsr.migrate.protocol import JournalError, Move
from wasmsr.snapshot.encoding.container import FLAG_HANDED, HEADER, Header


def state_name(move: Move, role: str) -> str:
    """Return the name of the file of a moving state."""
    return f"{move.program.hex()}-{move.epoch}.{role}"


class StateFile:
    """A snapshot that is being written. `commit` makes the whole file appear.

    Another end may own the program in it. So its header is marked as handed from the first write
    on, and only the journal or `--adopt` allows the program to run.

    Attributes:
        name: Its name in the journal's folder.
        size: Bytes of the snapshot that were written so far.
    """

    def __init__(self, folder: Path, move: Move, role: str) -> None:
        self.folder = folder
        self.name = state_name(move, role)
        self.size = 0
        self._head = b""
        self._part = folder / f"{self.name}.{move.attempt.hex()[:8]}.part"
        try:
            self._file = open(self._part, "wb", buffering=0, opener=private)  # noqa: SIM115
        except OSError as error:
            raise cannot("be written", self._part, error) from error

    def write(self, piece: Buffer) -> None:
        """Append a piece.

        Raises:
            JournalError: The disk fails, for example because it is full.
            SnapshotError: The bytes do not begin as a snapshot does.
        """
        view = memoryview(piece)
        self.size += len(view)
        if len(self._head) < HEADER.size:
            lacking = HEADER.size - len(self._head)
            self._head += view[:lacking]
            view = view[lacking:]
            if len(self._head) == HEADER.size:
                header = Header.decode(self._head)
                self._write(header._replace(flags=header.flags | FLAG_HANDED).encode())
        self._write(view)

    def _write(self, data: Buffer) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise cannot("be written", self._part, error) from error

    def commit(self) -> Path:
        """Make the file durable under its name. Raises JournalError or FormatError."""
        path = self.folder / self.name
        if len(self._head) < HEADER.size:
            raise FormatError("the snapshot is cut off in its header")
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, path)
            sync_folder(self.folder)
        except OSError as error:
            raise cannot("be written", path, error) from error
        except ValueError as error:
            raise JournalError(f"{path} was given up before it was complete") from error
        return path

    def discard(self) -> None:
        """Remove the incomplete file; after `commit` this does nothing."""
        self._file.close()
        self._part.unlink(missing_ok=True)


__all__ = ["StateFile", "state_name"]
