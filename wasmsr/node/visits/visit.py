"""A program of a node in a browser: its lease, the states that the browser sends, the way home.

A state counts when its file has its name. The output that came with it is in the program's rings
before, so a state that did not come to count only leaves output that is cut off again.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from wasmsr import realtime
from wasmsr.errors import FormatError, WasmsrError
from wasmsr.executor.output.rings import RingLog, cut_ring, ring_bounds
from wasmsr.migrate.journal.durable import private, sync_folder
from wasmsr.node.failures import NodeError, WrongState
from wasmsr.node.supervision.node_folder import VISIT_PARTS, ProgramFolder
from wasmsr.node.supervision.program_record import STREAMS
from wasmsr.node.visits.apart import HEAD, PARTS, apart, head_of

LEASE = 10.0
"""Seconds for which a browser may run the program after it has asked."""
MARGIN = 1.0
"""Seconds that the node waits beyond the lease."""
FETCHING = 60.0
"""Seconds that a browser has to fetch the program, before it runs it."""
MOST_STATE = 1 << 30
"""Bytes of a state that a browser sends, compressed, at most."""
KEPT = 2
"""States that stay: if the last one is damaged, the program goes on from the one before."""
PIECE = 1 << 20

_STATE = re.compile(r"visit-(\d{9})-(\d{16})-(\d{16})\.state")


class LentProgram(Protocol):
    """What a visit needs of a program of a node."""

    folder: ProgramFolder

    def lend(self, seconds: float, leaves: Callable[[Path], None]) -> None:
        """Save the program, call `leaves` with the file, and end its worker."""

    def keep_lent(self, seconds: float) -> None:
        """Note durably that nobody runs it here for so long. Raises WrongState if it is gone."""

    def come_home(self, reason: str) -> None:
        """Go on here, from the last state that is sound, or do nothing if it was killed."""


class VisitEnded(NodeError):
    """The browser may not run the program any more."""


class BrowserVisit:
    """One visit of one program. Any thread may call its methods.

    Attributes:
        key: What the browser must show with each call.
        parts: The folder of the files of `apart.PARTS`.
        over: How it has ended, or "".
    """

    def __init__(self, program: LentProgram, note: Callable[[str], None], ring: int) -> None:
        """Lend a program: it has no worker here from now on.

        Args:
            program: The program.
            note: Gets a sentence about what went wrong while nobody waits for an answer.
            ring: Bytes of output that the node keeps of each stream.

        Raises:
            WasmsrError: It cannot be lent, and stays as it was.
            OSError: The disk has no room.
        """
        self._program, self._note, self._ring = program, note, ring
        self._folder = program.folder.path
        self.key = secrets.token_urlsafe(24)
        self.parts = self._folder / VISIT_PARTS
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._number = 0
        self._wanted = False
        self.over = ""
        program.lend(FETCHING + MARGIN, self._make_parts)
        self._ends = {one: ring_bounds(program.folder.output, one)[1] for one in STREAMS}
        self._until = _after(FETCHING)
        threading.Thread(target=self._watch, name="wasmsr-visit", daemon=True).start()

    def _make_parts(self, left: Path) -> None:
        self.parts.mkdir(mode=0o700)
        apart("parts", left, self.parts)

    # ---- what the browser asks -------------------------------------------------------------------

    def admits(self, key: str) -> bool:
        """Whether a key is this visit's."""
        return hmac.compare_digest(key.encode(), self.key.encode())

    def renew(self) -> dict[str, Any]:
        """Return for how many seconds the browser may run it, and whether it shall come home.

        Raises:
            VisitEnded: The visit is over.
        """
        with self._lock:
            self._check()
            try:
                self._program.keep_lent(LEASE + MARGIN)
            except WrongState as error:
                self._go_home(error.message)  # it was killed, and leaves nothing here
                raise VisitEnded(error.message) from None
            self._until = _after(LEASE)
            self._changed.notify_all()
            return {"lease": LEASE, "home": self._wanted, "number": self._number}

    def take(self, number: int, body: IO[bytes], size: int) -> dict[str, Any]:
        """Take a state, durably, with the output that the program has written since the last one.

        Args:
            number: 1 for the first one, and one more for each. A number that was taken is not
                taken again.
            body: Where its bytes come from, as `apart.HEAD` says.
            size: How many these are.

        Returns:
            The same as `renew`.

        Raises:
            VisitEnded: The visit is over.
            FormatError: The bytes are no such state.
            OSError: The disk has no room.
        """
        part = self._folder / f".visit-{secrets.token_hex(8)}.part"
        try:
            with self._lock:
                self._check()
            if size > MOST_STATE:
                raise FormatError(f"the state has more than {MOST_STATE >> 20} MiB")
            with open(part, "xb", opener=private) as file:
                left = size
                while left and (piece := body.read(min(PIECE, left))):
                    file.write(piece)
                    left -= len(piece)
                if left:
                    raise FormatError("the state of the program is cut off")
                file.flush()
                os.fsync(file.fileno())
            with self._lock:
                answer = self.renew()
                if number == self._number + 1:
                    self._count(number, part)
                elif number != self._number:
                    raise FormatError(f"state {number} comes after state {self._number}")
                return {**answer, "number": self._number}
        finally:
            part.unlink(missing_ok=True)

    def _count(self, number: int, part: Path) -> None:
        with part.open("rb") as file:
            _, *sizes = head_of(file.read(HEAD.size))
            if part.stat().st_size < HEAD.size + sum(sizes):
                raise FormatError("the state of the program is cut off")
            ends = {}
            for stream, size in zip(STREAMS, sizes, strict=True):
                ends[stream] = self._write(stream, file.read(size))
        name = f"visit-{number:09d}-{ends['stdout']:016d}-{ends['stderr']:016d}.state"
        part.replace(self._folder / name)
        sync_folder(self._folder)
        self._number, self._ends = number, ends
        for _, _, path in states(self._folder)[:-KEPT]:
            path.unlink(missing_ok=True)

    def _write(self, stream: str, data: bytes) -> int:
        """Append output to a ring, durably, and return its end."""
        folder = self._program.folder.output
        if ring_bounds(folder, stream)[1] != self._ends[stream]:
            cut_ring(folder, stream, self._ends[stream])  # of a state that did not count
        if not data:
            return self._ends[stream]
        ring = RingLog(folder, stream, self._ring)
        try:
            ring.write(memoryview(data))
            ring.sync()
            return ring.drained()
        finally:
            ring.close()

    def _check(self) -> None:
        if self.over:
            raise VisitEnded(f"the program is not lent any more: {self.over}")
        if realtime.boot() >= self._until:
            raise VisitEnded("the lease of the browser has ended: the program goes on at home")

    # ---- the way home ----------------------------------------------------------------------------

    def ask_home(self) -> None:
        """Have the browser send the program home; it hears of that when it asks next."""
        with self._lock:
            self._wanted = True

    def end(self, reason: str) -> None:
        """Hear that the browser runs the program no more; it goes on here.

        Raises:
            VisitEnded: The visit is over.
        """
        with self._lock:
            self._check()
            self._go_home(reason)

    def _watch(self) -> None:
        """Bring the program home when the lease has ended."""
        with self._lock:
            while not self.over:
                left = (self._until - realtime.boot()) / 1e9 + MARGIN
                if left <= 0:
                    self._go_home("the browser was gone")
                    return
                self._changed.wait(left)

    def _go_home(self, reason: str) -> None:
        self._finish(reason)
        try:
            self._program.come_home(reason)
        except (WasmsrError, OSError) as error:
            self._note(f"the program did not come home from a browser: {error}")

    def _finish(self, reason: str) -> None:
        self.over = reason
        self._changed.notify_all()
        shutil.rmtree(self.parts, ignore_errors=True)


def _after(seconds: float) -> int:
    return realtime.boot() + round(seconds * 1e9)


def states(folder: Path) -> list[tuple[int, tuple[int, int], Path]]:
    """Return number, ends of both outputs and path of the states that browsers sent, in order."""
    found = []
    for path in folder.iterdir():
        match = _STATE.fullmatch(path.name)
        if match is not None:
            found.append((int(match[1]), (int(match[2]), int(match[3])), path))
    return sorted(found)


def settle(folder: ProgramFolder, note: Callable[[str], None]) -> None:
    """Park the last sound state of a program whose visit has ended, so that it goes on from there.

    Args:
        folder: The folder of the program; no browser may run it any more.
        note: Gets a sentence for each state that is passed over.

    Raises:
        NodeError: The state in which it left is gone.
        OSError: A file cannot be written.
    """
    parked = folder.parked()
    if parked is None:
        raise NodeError("the state in which the program left is gone")
    life, _, _, left = parked
    target = folder.path / ".visit-home.part"
    for number, (output, errors), path in reversed(states(folder.path)):
        target.unlink(missing_ok=True)
        try:
            apart("home", left, path, target)
        except WasmsrError as error:
            note(f"state {number} of a browser is passed over: {error.message}")
            continue
        left = folder.park(target, life, output, errors)
        break
    folder.remove_parked(but=left)


__all__ = ["LEASE", "PARTS", "BrowserVisit", "LentProgram", "VisitEnded", "settle", "states"]
