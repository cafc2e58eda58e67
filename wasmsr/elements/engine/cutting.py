"""Cuts of units that run: all of them are paused, saved with their memories, and run on.

A cut is of all units that share memories with each other. Its states and images count from one
line of the journal on. A unit has a cut that counts as long as the images of its memories are those
of that line; whatever makes newer ones either has a newer cut of it, or it begins again.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from wasmsr.elements.engine.control import CopyControl, CopyEnded, CutFailed
from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.engine.served_memories import ServedMemories
from wasmsr.elements.engine.units import (
    CopyKey,
    RunningCopy,
    StartUnit,
    UnitCut,
    connected,
    ended_entry,
)
from wasmsr.errors import WasmsrError, listed, reason

PREPARE_SECONDS = 60.0
"""How long a copy may take until it can be saved; it runs meanwhile."""
PAUSE_SECONDS = 20.0
"""How long a copy may take to pause, and to copy what has changed."""
SAVE_SECONDS = 600.0
"""How long a copy may take to write its state, while it runs."""


class GangCut:
    """One cut, which is made on a thread or by its caller.

    Attributes:
        units: The units.
        names: The names of the memories that are saved.
        found: The cut of each unit, when `run` has ended well.
        images: The numbers of the images, by their names, then.
        why: Why there is no cut; "" if there is one.
        missed: Whether the reason is that a copy has ended.
        paused: Seconds for which the copies were paused.
    """

    def __init__(
        self,
        name: str,
        units: Sequence[StartUnit],
        copies: Iterable[RunningCopy],
        memories: ServedMemories,
        names: Iterable[str],
    ) -> None:
        self.name, self.units = name, units
        self.names = frozenset(names)
        self.copies = list(copies)
        self.found: list[UnitCut] = []
        self.images: dict[str, int] = {}
        self.why = "it is not made yet"
        self.missed = False
        self.paused = 0.0
        self._memories = memories
        # Now: a copy that ends later is among those that are saved, or there is no cut.
        self._ended = {
            id(unit): [ended_entry(copy, json.loads(text)) for copy, text in unit.ended]
            for unit in units
        }
        self._over = False
        self._thread: threading.Thread | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """Make it on a thread, which calls `wake` at its end."""

        def work() -> None:
            try:
                self.run()
            finally:
                self._over = True
                wake()

        self._thread = threading.Thread(target=work, name="cut", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the thread has done all that it does."""
        return self._over

    def join(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join()

    def run(self) -> None:
        """Make it; the copies run on in any case, and `why` says whether there is a cut."""
        try:
            saved = self._saved()
        except (CutFailed, WasmsrError, OSError, MemoryError) as error:
            self.why, self.missed = reason(error), isinstance(error, CopyEnded)
            return
        self.why = ""
        self.found = [
            UnitCut(
                self.name,
                {copy.key: saved[copy.key] for copy in self.copies if copy.unit is unit},
                self._ended[id(unit)],
                unit.memories,
            )
            for unit in self.units
        ]

    def _saved(self) -> dict[CopyKey, tuple[str, int]]:
        """Return the root digest and the output of each copy, with the images prepared."""
        for copy in self.copies:  # what takes long is done before anybody is paused
            self._ask(copy, "prepare", keep=2 + copy.unsure)
        self._answers(PREPARE_SECONDS)
        begun, began = None, time.monotonic()
        try:
            for copy in self.copies:
                self._ask(copy, "pause")
            self._answers(PAUSE_SECONDS)
            for copy in self.copies:
                self._ask(copy, "take", cut=self.name)
            # No copy runs, and what one has sent before is done once in any case: by its number.
            begun = self._memories.begin(self.names)
            self._answers(PAUSE_SECONDS)
        except BaseException:
            if begun is not None:
                begun.drop()
            raise
        finally:
            for copy in self.copies:
                with suppress(CutFailed):
                    self._ask(copy, "go")
            self.paused = time.monotonic() - began
        self.images = self._memories.finish(begun)
        try:
            for copy in self.copies:
                self._ask(copy, "saved")
            return {
                copy.key: (str(said["root"]), int(said["written"]))
                for copy, said in self._answers(SAVE_SECONDS)
            }
        except BaseException:
            self._memories.forget(self.names)
            raise

    @staticmethod
    def _ask(copy: RunningCopy, question: str, **values: Any) -> None:
        assert copy.control is not None
        copy.control.ask(question, **values)

    def _answers(self, seconds: float) -> list[tuple[RunningCopy, Mapping[str, Any]]]:
        """Return the answers of all copies, after all of them have come."""
        found = []
        for copy in self.copies:
            assert copy.control is not None
            found.append((copy, copy.control.answer(seconds)))
        return found


class GangCuts:
    """The cuts of a run that count, and what makes the next ones.

    All methods are called by the scheduler's thread.

    Attributes:
        cuts: The cut of each unit that has one.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        every: float | None,
        warn: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        """Make it, without any cut.

        Args:
            run: The folder of the run.
            every: Seconds between two cuts; None makes none.
            warn: Gets a sentence about each kind of failure, once.
            wake: Called on another thread when a cut is made; `advance` must follow.
        """
        self.cuts: dict[frozenset[CopyKey], UnitCut] = {}
        self._run, self._every, self._warn, self._wake = run, every, warn, wake
        self._memories: ServedMemories
        self._due = 0.0 if every is None else time.monotonic() + every
        self._next: deque[StartUnit] = deque()
        self._now: GangCut | None = None
        self._count = 0
        self._said: set[str] = set()
        self._touched: set[frozenset[CopyKey]] = set()
        self._gone: list[CopyControl] = []

    def replay(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Read the cuts that count from a journal.

        Raises:
            LookupError, TypeError, ValueError: An entry has another form.
        """
        for entry in entries:
            names = {name.rpartition("@")[0] for name in entry.get("images", ())}
            self._drop(names)
            for said in entry.get("cuts", ()):
                cut = UnitCut.read(said)
                self.cuts[cut.key] = cut
                number = cut.name.rpartition("/")[2]
                self._count = max(self._count, int(number))
            for one in entry.get("ended", ()):
                self._forget((one["element"], one["index"]))

    def begin(self, memories: ServedMemories) -> None:
        """Take the memories of the run, when they are there."""
        self._memories = memories

    def _drop(self, names: Iterable[str]) -> None:
        """Forget the cuts of units that use these memories: they have newer images now."""
        names = set(names)
        self.cuts = {key: cut for key, cut in self.cuts.items() if not cut.memories & names}

    def _forget(self, copy: CopyKey) -> None:
        self.cuts = {key: cut for key, cut in self.cuts.items() if copy not in key}

    # ---- what the scheduler says -----------------------------------------------------------------

    def started(self, unit: StartUnit) -> None:
        """Note that a unit starts; a cut under way ends first, or it could have its writes."""
        if self._now is not None and self._now.names & unit.memories:
            self.settle()
        self._touched.add(unit.key)

    def ended(self, copy: RunningCopy) -> None:
        """Note that a copy has ended; nobody asks it any more."""
        if copy.control is not None:
            self._gone.append(copy.control)
        self._close_gone()

    def _close_gone(self) -> None:
        """Close the ways to copies that have ended, if no thread uses them."""
        while self._gone and self._now is None:
            self._gone.pop().close()

    def give_up(self) -> None:
        """End the cut that is under way; it does not count. The copies have been ended."""
        if self._now is not None:
            self._now.join()
            self._now = None
        self._close_gone()

    def set_back(self, unit: StartUnit) -> None:
        """Note that a unit and its memories are again as in its cut, or as before it began."""
        self._touched.discard(unit.key)

    def timeout(self) -> float | None:
        """Return after how many seconds `advance` is due; None if only `wake` says it."""
        if self._every is None or self._now is not None:
            return None
        return max(0.0, self._due - time.monotonic())

    def advance(self, running: Iterable[RunningCopy]) -> None:
        """Publish the cut that is ready, and begin the next one if it is due."""
        if self._now is not None:
            if not self._now.is_over:
                return
            self.settle()
        if self._every is None:
            return
        copies = list(running)
        if not self._next and time.monotonic() >= self._due:
            self._next.extend(units[0] for units in components(copies))
            self._due = time.monotonic() + self._every
        while self._next and self._now is None:
            unit = self._next.popleft()
            # Looked up again: what has started since then may share a memory with it.
            units = next((found for found in components(copies) if unit in found), [])
            if units and self._can(units, copies):
                self._now = self._made(units, copies)
                self._now.start(self._wake)

    def settle(self) -> None:
        """Wait for the cut that is under way, and publish it if it can be."""
        cut = self._now
        if cut is None:
            return
        cut.join()
        self._now = None
        self._close_gone()
        if self._is_made(cut):
            self._write({}, cut.found, cut.images)

    def last(self, running: Iterable[RunningCopy]) -> None:
        """Cut all units that run, before they are ended."""
        self.settle()
        if self._every is None:
            return
        copies = list(running)
        for units in components(copies):
            if self._can(units, copies):
                cut = self._made(units, copies)
                cut.run()
                if self._is_made(cut):
                    self._write({}, cut.found, cut.images)

    def keep(
        self,
        ended: Sequence[Mapping[str, Any]],
        names: frozenset[str],
        running: Iterable[RunningCopy],
    ) -> bool:
        """Write results to the disk, and with them memories, and cuts of the units that use them.

        Args:
            ended: What the journal has of each copy that has ended.
            names: The names of the memories that others still use.
            running: The copies that run.

        Returns:
            False if one of these copies has ended meanwhile, and nothing is written: the scheduler
            hears of it soon, and must then call this again.

        Raises:
            ElementError: It cannot be written.
            MemoryImageError: The same, of a memory.
        """
        self.settle()
        copies = list(running)
        units = connected(_units(copies), names)
        if self._every is not None and units and self._can(units, copies):
            cut = self._made(units, copies, names)
            cut.run()
            if self._is_made(cut):
                self._write({"ended": list(ended)}, cut.found, cut.images)
                return True
            if cut.missed:
                return False
        # Those that run have no cut from here on: the images have what they have written since.
        self._write({"ended": list(ended)}, [], self._memories.prepare(names))
        return True

    # ---- one cut ---------------------------------------------------------------------------------

    def _can(self, units: Sequence[StartUnit], copies: Sequence[RunningCopy]) -> bool:
        """Return whether units can be saved while they run; say why they cannot."""
        if any(unit.failed for unit in units):
            return False
        native = [
            copy.element.name for copy in copies if copy.unit in units and copy.control is None
        ]
        names = sorted({copy.element.name for copy in copies if copy.unit in units})
        if native and len(names) > 1:  # one alone in Python is what a user expects
            self._say(
                f"{listed(names)} are not saved while they run, because "
                f"{listed(sorted(set(native)))} cannot be: it is in Python; they begin again if "
                "one fails"
            )
        return not native

    def _made(
        self,
        units: Sequence[StartUnit],
        copies: Iterable[RunningCopy],
        names: frozenset[str] = frozenset(),
    ) -> GangCut:
        self._count += 1
        names = names.union(*(unit.memories for unit in units))
        return GangCut(
            f"{self._run.ident}/{self._count}",
            units,
            [copy for copy in copies if copy.unit in units],
            self._memories,
            names,
        )

    def _is_made(self, cut: GangCut) -> bool:
        """Return whether there is a cut; say why there is none."""
        for copy in cut.copies:
            copy.unsure = copy.unsure + 1 if cut.why else 0
        if not cut.why:
            return True
        if not cut.missed:
            self._say(f"a cut was not made: {cut.why}")
        return False

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:  # one warning each: what fails may fail again and again
            self._said.add(sentence)
            self._warn(sentence)

    def _write(
        self, entry: dict[str, Any], found: Sequence[UnitCut], images: Mapping[str, int]
    ) -> None:
        """Write the line of the journal from which cuts and images count."""
        names = {name.rpartition("@")[0] for name in images}
        new = {cut.key: cut for cut in found}
        # A unit that has not run since its cut goes on from there also with the newer images.
        for key, cut in self.cuts.items():
            if cut.memories & names and key not in new and key not in self._touched:
                new[key] = cut
        entry |= {"images": dict(images)} if images else {}
        entry |= {"cuts": [cut.entry() for cut in new.values()]} if new else {}
        self._run.note([entry])
        self._memories.publish(images)
        self._drop(names)
        self.cuts |= new
        for one in entry.get("ended", ()):
            self._forget((one["element"], one["index"]))


def components(copies: Sequence[RunningCopy]) -> list[list[StartUnit]]:
    """Return the units that run, those that share memories together."""
    found = []
    left = _units(copies)
    while left:
        together = connected(left, left[0].memories) or [left[0]]
        found.append(together)
        left = [one for one in left if one not in together]
    return found


def _units(copies: Iterable[RunningCopy]) -> list[StartUnit]:
    return list({id(copy.unit): copy.unit for copy in copies}.values())
