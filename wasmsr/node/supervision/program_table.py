"""The programs of a node by their ids, and whoever waits for a change of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from wasmsr.errors import printable
from wasmsr.node.failures import NoSuchProgram
from wasmsr.node.supervision.node_program import NodeProgram

FINISHED = 1000
"""Programs that have ended and are still known; the oldest are forgotten."""


class ProgramTable:
    """All programs of a node. Any thread may call its methods."""

    def __init__(
        self,
        arriving: Callable[[], Iterable[NodeProgram]],
        forgotten: Callable[[bytes], None],
    ) -> None:
        """Make an empty table.

        Args:
            arriving: Returns the programs that arrive: they are shown, and another node's still.
            forgotten: Gets the id of a program that the node does not show any more.
        """
        self._arriving, self._forgotten = arriving, forgotten
        self._lock = threading.Lock()
        self._programs: dict[str, NodeProgram] = {}
        self._stays: set[str] = set()
        self._changes = threading.Condition()

    def fill(self, programs: Mapping[str, NodeProgram], stays: Iterable[str]) -> None:
        """Take what the node has found when it started.

        Args:
            programs: The programs, by id.
            stays: The ids of those that are never forgotten.
        """
        with self._lock:
            self._programs.update(programs)
            self._stays.update(stays)

    # ---- changes ---------------------------------------------------------------------------------

    def note_change(self) -> None:
        """Wake whoever waits for a change."""
        with self._changes:
            self._changes.notify_all()

    def wait_for_change(self, seconds: float) -> None:
        """Return when a program has changed, or after so many seconds."""
        with self._changes:
            self._changes.wait(seconds)

    # ---- programs --------------------------------------------------------------------------------

    def put(self, program: NodeProgram) -> None:
        """Take a program that begins."""
        with self._lock:
            self._programs[program.record.program] = program

    def drop(self, program: NodeProgram) -> None:
        """Forget a program that did not begin."""
        with self._lock:
            self._programs.pop(program.record.program, None)

    def replace(self, program: NodeProgram) -> None:
        """Have a program in place of an older stay of it, whose folder is removed."""
        with self._lock:
            before = self._programs.get(program.record.program)
            self._programs[program.record.program] = program
        if before is not None and before.folder.path != program.folder.path:
            before.folder.remove()
        self.forget_old()
        self.note_change()

    def forget_old(self) -> None:
        """Forget those that ended longest ago, if there are many."""
        with self._lock:
            ended = [
                one for id, one in self._programs.items()
                if one.standing.is_final and id not in self._stays
            ]  # fmt: skip
            ended.sort(key=lambda one: one.record.changed)
            gone = ended[: max(0, len(ended) - FINISHED)]
            for one in gone:
                del self._programs[one.record.program]
        for one in gone:
            self._forgotten(one.id)
            one.folder.remove()
            one.folder.remove_carried()

    def named(self, program: bytes) -> NodeProgram | None:
        """Return the program with this id, or None."""
        with self._lock:
            return self._programs.get(program.hex())

    def all(self) -> list[NodeProgram]:
        """Return all programs, oldest first; of one that arrives again what arrives."""
        arriving = self._arriving()
        with self._lock:
            shown = {**self._programs, **{one.record.program: one for one in arriving}}
        return sorted(shown.values(), key=lambda one: one.record.submitted)

    def find(self, text: str) -> NodeProgram:
        """Return the program whose id begins with these digits, or that has this name.

        Raises:
            NoSuchProgram: There is none, or more than one.
        """
        digits = text.strip().lower()
        known = {one.record.program: one for one in self.all()}
        if digits in known:
            return known[digits]
        found = [one for id, one in known.items() if digits and id.startswith(digits)]
        found = found or [one for one in known.values() if one.record.name == text]
        if len(found) == 1:
            return found[0]
        many = "several programs have" if found else "there is no program with"
        raise NoSuchProgram(
            f"{many} the name or the first digits {printable(text, 40)!r} on this node",
            hint="`wasmsr ps` lists them",
        )


__all__ = ["ProgramTable"]
