"""The carried files of a program that leaves, as pieces that the destination has not got yet.

Pieces that go in the rounds are only candidates: the state that is captured at the end names what
counts. So a piece that changes while it is read is left for the next round.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from wasmsr.errors import SnapshotError, WasmsrError
from wasmsr.migrate.ports import FileBatch
from wasmsr.migrate.protocol import BATCH_BYTES
from wasmsr.wasi.process import Process
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.file_rounds import FileRounds


class OutgoingFiles:
    """Finds pieces, and notes which were sent.

    Args:
        process: The program's process.
        held: Digests of the pieces that the destination has.
        room: Most bytes of pieces that it takes.

    Attributes:
        sent: Digests of the pieces that the destination has, or was sent.
        size: Bytes of pieces that were not sent when the files were scanned last.
        scan_seconds: How long the last scan took.
    """

    def __init__(self, process: Process, held: Collection[bytes], room: int) -> None:
        self.sent = set(held)
        self.size = 0
        self.scan_seconds = 0.0
        self._room = room
        self._rounds = FileRounds(process)

    def watch(self) -> None:
        """Have every write noted from now on. The program must not run meanwhile."""
        self._rounds.watch()

    def scan(self) -> Contents | None:
        """Return the pieces of all files, as they are about now; None if they cannot be read now.

        What stays so is reported when the paused program is captured.
        """
        began = time.monotonic()
        try:
            contents = self._rounds.scan()
        except (WasmsrError, OSError):
            return None
        self.scan_seconds = time.monotonic() - began
        self.size = self._unsent(contents)
        return contents

    def _unsent(self, contents: Contents) -> int:
        found = sum(length for digest, length in contents if digest not in self.sent)
        return min(found, self._room)

    @property
    def left(self) -> int:
        """About how many bytes of pieces are to be sent now."""
        return min(self.size + self._rounds.pending, self._room)

    def batches(self, contents: Contents, *, exact: bool) -> Iterator[FileBatch]:
        """Yield what was not sent, as far as the destination takes it, and note that it was sent.

        Args:
            contents: All pieces.
            exact: Whether the program is paused, so that no file changes.

        Raises:
            SnapshotError: A file cannot be read, or was changed, though the program is paused.
        """
        digests: list[bytes] = []
        pieces: list[bytes] = []
        size = 0
        for digest, length in contents:
            if digest in self.sent:
                continue
            if length > self._room:
                break
            try:
                piece = contents.read(digest)
            except SnapshotError:
                if exact:
                    raise
                continue
            if size + length > BATCH_BYTES:
                yield _batch(digests, pieces)
                digests, pieces, size = [], [], 0
            self._room -= length
            self.sent.add(digest)
            digests.append(digest)
            pieces.append(piece)
            size += length
        if digests:
            yield _batch(digests, pieces)
        self.size = self._unsent(contents)

    def close(self) -> None:
        """Note writes no more. The program must not run meanwhile, or must have ended."""
        self._rounds.close()


def _batch(digests: list[bytes], pieces: list[bytes]) -> FileBatch:
    return FileBatch(tuple(digests), tuple(map(len, pieces)), b"".join(pieces))


__all__ = ["OutgoingFiles"]
