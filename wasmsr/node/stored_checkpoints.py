"""Copies of a node's checkpoints in a store that other hosts reach: a dead host's disk is no use.

The newest checkpoint of each program is in the store, under the name PROGRAM@LIFE.ROOT. A thread
copies it after it was written; the program runs on. When a program has ended, its copy is removed.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wasmsr.errors import WasmsrError
from wasmsr.ownership.owner_record import LastCheckpoint
from wasmsr.ownership.supervision.stored import PREFIX, put_checkpoint, stored_name
from wasmsr.snapshot.store.store import SnapshotStore
from wasmsr.snapshot.trust.policy import ReadTrust

if TYPE_CHECKING:
    from wasmsr.node.supervision.node_program import NodeProgram
    from wasmsr.node.supervision.noted_program import Note

AGAIN_SECONDS = 5.0
"""Seconds after which a copy that failed is tried again."""


class StoredCheckpoints:
    """Keeps the store up to date. It hears of checkpoints as events of the node.

    Args:
        address: The store: a folder, or `s3://BUCKET/PREFIX`.
        find: Returns a program by the digits in an event. Raises WasmsrError.
        note: Gets the events "stored" and "not-stored".
    """

    def __init__(self, address: str, find: Callable[[str], NodeProgram], note: Note) -> None:
        self.address = address if "://" in address else os.path.abspath(address)
        self._find, self._note = find, note
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, float] = OrderedDict()
        """Programs of which something is to be done, each with the time from which on."""
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._work, name="wasmsr-store", daemon=True)
        self._thread.start()

    def hear(self, event: str, **values: Any) -> None:
        """Hear an event of the node. Nothing is waited for."""
        ends = event == "program" and values.get("standing") in ("ended", "killed")
        if event == "checkpoint" or ends:
            self._put(str(values["program"]), 0.0)

    def _put(self, program: str, seconds: float) -> None:
        with self._changed:
            self._waiting[program] = time.monotonic() + seconds
            self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Copy what is left, for at most so many seconds; return whether that was all."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._busy, seconds)
            done = not self._waiting and not self._busy
            self._closed = True
            self._changed.notify_all()
        return done

    # ---- the thread ------------------------------------------------------------------------------

    def _next(self) -> str | None:
        """Return the next program; None at the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while not self._closed:
                now = time.monotonic()
                due = [one for one, since in self._waiting.items() if since <= now]
                if due:
                    del self._waiting[due[0]]
                    self._busy = True
                    return due[0]
                first = min(self._waiting.values(), default=now + 60.0)
                self._changed.wait(first - now)
        return None

    def _work(self) -> None:
        while (digits := self._next()) is not None:
            began = time.monotonic()
            try:
                program = self._find(digits)
                size = self._copy(program)
            except (WasmsrError, OSError, ImportError) as error:
                self._note("not-stored", program=digits, error=str(error))
                self._put(digits, AGAIN_SECONDS)
                continue
            if size is not None:
                seconds = round(time.monotonic() - began, 6)
                self._note("stored", program=digits, bytes=size, seconds=seconds)

    def _copy(self, program: NodeProgram) -> int | None:
        """Copy the newest checkpoint, or remove that of a program that has ended.

        Returns:
            Bytes of the checkpoint; None if there was none to copy.
        """
        record = program.record
        if record.lease is not None:
            return None  # its lease puts it there
        saved = None if record.standing.is_final else record.saved
        name, size = "", None
        if saved is not None and saved.root:
            last = LastCheckpoint(
                root=bytes.fromhex(saved.root), store=f"{PREFIX}{self.address}", epoch=saved.life
            )
            name, size = stored_name(program.id, last), saved.size
            try:
                put_checkpoint(program.id, last, os.fspath(program.folder.saved), ReadTrust(()))
            except WasmsrError:
                now = program.record.saved
                if now is not None and now.root == saved.root:
                    raise
                return None  # a newer one is there by now, and has an event of its own
        elif not record.standing.is_final:
            return None
        store = SnapshotStore(self.address, create=True)
        for other in store.names():
            if other.startswith(f"{record.program}@") and other != name:
                store.remove(other)
        return size


__all__ = ["StoredCheckpoints"]
