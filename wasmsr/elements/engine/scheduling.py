"""Runs a graph on this machine: what starts when, what happens to what ends, and the result."""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from graphlib import TopologicalSorter
from typing import Any

from wasmsr.elements.engine.cutting import GangCuts
from wasmsr.elements.engine.forker_link import ForkerLink
from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.engine.served_memories import ServedMemories
from wasmsr.elements.engine.units import (
    RunningCopy,
    StartUnit,
    StepState,
    connected,
    ended_entry,
)
from wasmsr.elements.failures import ElementError, ElementFailed, GraphError
from wasmsr.elements.folder.checks import faults_of
from wasmsr.elements.folder.element import Element
from wasmsr.errors import listed, reason

KEEP_SECONDS = 0.05
"""How long results for which nobody waits may wait for others, which the same sync keeps."""


class RunStopped(Exception):
    """Somebody asked for the end of the run; what has ended is kept."""


class ElementRun:
    """One run, in this process.

    Attributes:
        states: For each element "waits", "runs", "ended", "failed" or "stopped".
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        cpus: float | None = None,
        every: float | None = None,
        note: Callable[[str, str, int], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a run; `go` runs it.

        Args:
            run: Its folder, which this process has taken.
            cpus: CPUs that copies may use together; None is those of this machine.
            every: Seconds after which what runs is saved again; None saves only what has ended.
            note: Called with ("start", "end", "retry", "fail" or "stop", element, index).
            warn: Called with a sentence about what cannot be saved.

        Raises:
            ElementError: The graph has faults, or a gang of it does not fit on this machine.
        """
        self._run = run
        self._graph = run.graph()
        faults = faults_of(self._graph)
        if faults:
            raise GraphError(self._graph.name, faults)
        self._cpus = float(os.cpu_count() or 1) if cpus is None else cpus
        self._bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._free_cpus, self._free_bytes = self._cpus, self._bytes
        self._note = note or (lambda event, element, index: None)
        self._steps = {
            one.name: StepState(one, set(range(one.copies))) for one in self._graph.computes
        }
        self.states = {one.name: "waits" for one in self._graph}
        self._running: dict[int, RunningCopy] = {}
        self._unkept: list[StartUnit] = []
        self._keep_at = 0.0
        self._images: dict[str, int] = {}
        self._queue: deque[list[tuple[Element, int]]] = deque()
        self._waiting: dict[str, Element] = {}
        self._numbers = 0
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._stopping = False
        self._cuts = GangCuts(
            run, every=every, warn=warn or (lambda sentence: None), wake=self._wake
        )
        self._leaves = {one.name for one in self._graph.leaves}
        self._users = {
            one.name: {user.name for user in self._graph.users_of(one)}
            for one in self._graph.memories
        }
        self._memories_of = {one.name: self._graph.memories_of(one) for one in self._graph.computes}
        self._parents = {
            one.name: {
                name: self._graph.elements[name].copies for name in self._graph.parents_of(one)
            }
            for one in self._graph.computes
        }
        for one in self._graph.computes:
            self._check_fit(one)
        if not sys.platform.startswith("linux"):
            # Copies must end with the process that made them: prctl(2) sees to that.
            raise ElementError("graphs of elements run on Linux only")

    def stop(self) -> None:
        """End the run soon; may be called from a signal handler and from any thread."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        """Have the scheduler look at what has happened; may be called from any thread."""
        with suppress(OSError):
            os.write(self._wake_write, b"!")

    def go(self) -> Any:
        """Run until the end, and return the result.

        Returns:
            The result of the element that nobody waits for; a map by name where there are several.
            Copies make a list.

        Raises:
            ElementFailed: An element failed, and has no try left.
            RunStopped: `stop` was called.
        """
        begun = self._before()
        self._run.note([{"begun": begun}])
        self._memories = ServedMemories(self._run.path / "memory", begun)
        self._memories.settle(self._images)
        self._cuts.begin(self._memories)
        self._forker = ForkerLink(self._run)
        self._order = TopologicalSorter({name: set(of) for name, of in self._parents.items()})
        self._order.prepare()
        try:
            self._make_ready()
            while True:
                self._start_what_fits()
                if not self._running:
                    break
                self._wait()
            return self._result()
        except RunStopped:
            self._keep(self._unkept)
            self._cuts.last(self._running.values())
            raise
        finally:
            self._end_running()
            self._cuts.give_up()
            self._forker.close()
            self._memories.end_all()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._run.give_back()

    # ---- the beginning ---------------------------------------------------------------------------

    def _before(self) -> int:
        """Read what has ended before, and return the number of this beginning."""
        begun = 1
        try:
            for entry in self._run.entries():
                if "begun" in entry:
                    begun = int(entry["begun"]) + 1
                self._images.update(entry.get("images", {}))
            self._cuts.replay(self._run.entries())
            for entry in self._run.results():
                name, index = entry["element"], entry["index"]
                step = self._steps.get(name)
                if step is None or index not in range(step.element.copies):
                    raise ElementError(f"run {self._run.ident}: its journal is of another graph")
                step.left.discard(index)
                self._run.result(name, index).write_text(json.dumps(entry["result"]))
        except (LookupError, TypeError, ValueError) as error:
            raise ElementError(
                f"run {self._run.ident}: its journal is damaged: {reason(error)}"
            ) from error
        return begun

    def _check_fit(self, element: Element) -> None:
        """Check that what starts together fits on this machine at all."""
        gang = self._graph.gang_of(element)
        together = [(one, one.copies) for one in gang] if len(gang) > 1 else [(element, 1)]
        memories = {one.name: one for other in gang for one in self._memories_of[other.name]}
        cpus = sum(one.limits.cpu * copies for one, copies in together)
        size = sum(one.limits.mem_bytes * copies for one, copies in together)
        size += sum(one.limits.mem_bytes * one.copies for one in memories.values())
        if cpus > self._cpus or size > self._bytes:
            names = listed([*(one.name for one, _ in together), *memories])
            raise ElementError(
                f"{names} must be together and do not fit on this machine: they need "
                f"{cpus:g} CPUs and {size >> 20} MiB; it has {self._cpus:g} and "
                f"{self._bytes >> 20} MiB",
                hint="--cpus N lets more copies run at the same time than there are CPUs",
            )

    # ---- what starts -----------------------------------------------------------------------------

    def _make_ready(self) -> None:
        """Queue the copies of what can start now."""
        while True:
            ready = self._order.get_ready()
            if not ready:
                break
            for name in ready:
                step = self._steps[name]
                if step.left:
                    self._waiting[name] = step.element
                else:  # it had ended before the run was resumed
                    self._ended(step.element)
                    self._order.done(name)
        for name in list(self._waiting):
            element = self._waiting.get(name)
            if element is None:
                continue
            gang = [one for one in self._graph.gang_of(element) if self._steps[one.name].left]
            if all(one.name in self._waiting for one in gang):
                copies = [
                    (one, index) for one in gang for index in sorted(self._steps[one.name].left)
                ]
                for one in gang:
                    del self._waiting[one.name]
                # Copies of a gang start together; other copies start as there is room.
                self._queue.extend([copies] if len(gang) > 1 else [[copy] for copy in copies])

    def _start_what_fits(self) -> None:
        while self._queue:
            together = self._queue[0]
            memories = {
                memory.name: memory
                for element, _ in together
                for memory in self._memories_of[element.name]
                if memory.name not in self._memories
            }
            cpus = sum(element.limits.cpu for element, _ in together)
            size = sum(element.limits.mem_bytes for element, _ in together)
            more = sum(one.limits.mem_bytes * one.copies for one in memories.values())
            if self._running and (cpus > self._free_cpus + 1e-9 or size + more > self._free_bytes):
                return
            unit = StartUnit(together, self._memories_used(together))
            if any(one.memories & unit.memories for one in self._restarting()):
                return  # these memories are set back soon
            self._queue.popleft()
            self._cuts.started(unit)
            for memory in memories.values():
                self._memories.start(memory)
                self.states[memory.name] = "runs"
            self._free_bytes -= more
            for other in self._units():
                if other.memories & unit.memories:
                    other.shares = unit.shares = True
            for element, index in together:
                self._start(element, index, unit)

    def _units(self) -> list[StartUnit]:
        """Return the units of which a copy runs."""
        return list({id(one.unit): one.unit for one in self._running.values()}.values())

    def _restarting(self) -> list[StartUnit]:
        """Return the units that start again when all copies of their group have been ended."""
        return [other for one in self._units() if one.failed for other in one.group]

    def _memories_used(self, copies: Iterable[tuple[Element, int]]) -> frozenset[str]:
        """Return the names of the memories that copies can write to."""
        return frozenset(
            memory.name for element, _ in copies for memory in self._memories_of[element.name]
        )

    def _start(self, element: Element, index: int, unit: StartUnit) -> None:
        step = self._steps[element.name]
        attempt = step.begun[index] = step.begun.get(index, 0) + 1
        cut = self._cuts.cuts.get(unit.key)
        for one in () if cut is None else cut.ended:
            if (one["element"], one["index"]) == (element.name, index):
                copy = RunningCopy(element, index, attempt, unit)
                unit.ended.append((copy, json.dumps(one["result"])))
                return  # it had ended when the others were saved
        self._numbers += 1
        memories = [
            str(durl)
            for memory in self._memories_of[element.name]
            for durl in self._memories.durls(memory, element.transport_name(memory.name), index)
        ]
        asked = {
            "id": self._numbers,
            "element": element.name,
            "index": index,
            "attempt": attempt,
            "memories": memories,
            "parents": self._parents[element.name],
        }
        if cut is not None:
            root, written = cut.saved[element.name, index]
            asked |= {"cut": cut.name, "root": root, "written": written}
        self._run.result(element.name, index).unlink(missing_ok=True)
        control = self._forker.start(asked, steered=isinstance(element.code, bytes))
        self._running[self._numbers] = RunningCopy(element, index, attempt, unit, control)
        unit.running.add(self._numbers)
        self._free_cpus -= element.limits.cpu
        self._free_bytes -= element.limits.mem_bytes
        self.states[element.name] = "runs"
        self._note("start", element.name, index)

    # ---- what ends -------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait until copies have ended or a cut is due, and do what follows."""
        ends: list[Any] = [self._forker, self._wake_read]
        waits = [] if (cut := self._cuts.timeout()) is None else [cut]
        if self._unkept:
            waits.append(max(0.0, self._keep_at - time.monotonic()))
        ready, _, _ = select.select(ends, [], [], min(waits, default=None))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if self._stopping:
            raise RunStopped
        self._cuts.advance(self._running.values())
        ended = list(self._ended_now()) if self._forker in ready else []
        if not ended and (not self._unkept or time.monotonic() < self._keep_at):
            return
        bad: list[tuple[RunningCopy, str]] = []
        over: list[StartUnit] = []
        good, self._unkept = self._unkept, []
        if not good:
            self._keep_at = time.monotonic() + KEEP_SECONDS
        for copy, why in ended:
            if why and not copy.unit.failed:  # or it was killed with the others
                copy.unit.failed, copy.unit.group = True, [copy.unit]
                bad.append((copy, why))
        for unit in {id(copy.unit): copy.unit for copy, _ in ended}.values():
            if not unit.running:
                (over if unit.failed else good).append(unit)
        if bad:
            self._cuts.settle()  # it may be the first cut, which says who goes on together
        for copy, why in bad:
            if not self._has_try(copy):
                self._keep(good)  # the run ends here
                self._failed(copy, why)
            good = self._with_others(copy, good, over)
        if not over:  # or the memories of something new would be set back under it
            self._start_what_fits()  # what is ready runs while the disk is waited for
        if not bad and self._can_wait(good):
            self._unkept = good
        else:
            self._keep(good)
        for copy, why in bad:
            self._failed(copy, why)
        for unit in over:
            self._again(unit)
        self._make_ready()

    def _ended_now(self) -> Iterable[tuple[RunningCopy, str]]:
        """Yield the copies that have ended, and why they failed, "" for those that did not."""
        for number, code, why in list(self._forker.told()):
            copy = self._running.pop(number)
            unit = copy.unit
            unit.running.discard(number)
            self._cuts.ended(copy)
            self._free_cpus += copy.element.limits.cpu
            self._free_bytes += copy.element.limits.mem_bytes
            try:
                if code or why:
                    raise ElementError(why or _ending(code))
                text = self._run.read_result(copy.element.name, copy.index)
                unit.ended.append((copy, text))
            except ElementError as error:
                yield copy, error.message or "it failed"
            else:
                yield copy, ""

    def _can_wait(self, good: list[StartUnit]) -> bool:
        """Return whether the disk can be waited for later: something else has to start first.

        Results that let others start are kept at once, and so are those that speak of memories.
        """
        if not self._queue or not self._running or time.monotonic() >= self._keep_at:
            return False
        left: dict[str, int] = {}
        for unit in good:
            if unit.memories:
                return False
            for element, _ in unit.copies:
                left.setdefault(element.name, len(self._steps[element.name].left))
                left[element.name] -= 1
        return all(left[name] > 0 or name in self._leaves for name in left)

    def _keep(self, units: list[StartUnit]) -> None:
        """Write results of units to the disk, and with them the memories that they speak of.

        The images count from the line of the journal on that has the results: with a crash before
        it the copies run again with the memories as they were, and after it they do not.
        """
        if not units:
            return
        good = [copy for unit in units for copy, _ in unit.ended]
        for copy in good:
            self._steps[copy.element.name].left.discard(copy.index)
        still = frozenset(
            name
            for unit in units
            for name in unit.memories
            if any(self._steps[user].left for user in self._users[name])
        )
        ended = [ended_entry(copy, json.loads(text)) for unit in units for copy, text in unit.ended]
        if not self._cuts.keep(ended, still, self._running.values()):
            for copy in good:
                self._steps[copy.element.name].left.add(copy.index)
            self._unkept += units
            self._keep_at = time.monotonic() + KEEP_SECONDS
            return
        for copy in good:
            self._note("end", copy.element.name, copy.index)
            if isinstance(copy.element.code, bytes):
                self._run.output(copy.element.name, copy.index).unlink(missing_ok=True)
                shutil.rmtree(self._run.saved(copy.element.name, copy.index), ignore_errors=True)
        for element in {copy.element.name: copy.element for copy in good}.values():
            if not self._steps[element.name].left:
                self._ended(element)
                self._order.done(element.name)

    def _ended(self, element: Element) -> None:
        """All copies of an element have ended: its memories may end too."""
        self.states[element.name] = "ended"
        for memory in self._memories_of[element.name]:
            if not any(self._steps[user].left for user in self._users[memory.name]):
                if memory.name in self._memories:
                    self._memories.end(memory.name)
                    self._free_bytes += memory.limits.mem_bytes * memory.copies
                self.states[memory.name] = "ended"

    def _has_try(self, copy: RunningCopy) -> bool:
        failed = self._steps[copy.element.name].failed.get(copy.index, 0)
        return failed < copy.element.retries

    def _with_others(
        self, copy: RunningCopy, good: list[StartUnit], over: list[StartUnit]
    ) -> list[StartUnit]:
        """Find what goes on from its last cut together with the unit of a copy that failed.

        Units that share a memory with it have seen what it wrote after the cut.

        Args:
            copy: The copy.
            good: Units that have ended well just now, and are not kept yet.
            over: Gets those of them that start again.

        Returns:
            The rest of those that have ended well.
        """
        if copy.unit.key not in self._cuts.cuts:
            return good
        near = connected([*self._units(), *good, *over], copy.unit.memories)
        # Those of which a copy had failed before have found others already.
        group = list({id(other): other for one in near for other in (one, *one.group)}.values())
        for one in group:
            one.failed, one.group = True, group
        over += [one for one in good if one in group]
        return [one for one in good if one not in group]

    def _failed(self, copy: RunningCopy, why: str) -> None:
        """Count a failure, and end what starts again together with the copy.

        Raises:
            ElementFailed: The copy has no try left.
        """
        step = self._steps[copy.element.name]
        step.failed[copy.index] = step.failed.get(copy.index, 0) + 1
        if step.failed[copy.index] > copy.element.retries:
            self.states[copy.element.name] = "failed"
            self._note("fail", copy.element.name, copy.index)
            lines = self._run.last_lines(copy.element.name, copy.index)
            raise ElementFailed(copy.element.name, copy.index, why, lines)
        self._note("retry", copy.element.name, copy.index)
        for one in copy.unit.group:
            for number in one.running:
                self._forker.kill(number)

    def _again(self, unit: StartUnit) -> None:
        """Start all copies of a group again, when none of them runs any more.

        The memories are served anew, so that nothing arrives late from a copy that was ended, and
        are as the disk has them. That is how they were in the last cut of the group. A unit without
        a cut is alone; then it is how they were before the unit: results of a unit are kept when
        all of it has ended. Where another unit has used a memory of one without a cut meanwhile,
        its writes stay, and so do those of the copies that failed.
        """
        unit.over = True
        if not all(one.over for one in unit.group):
            return
        self._cuts.settle()
        if not unit.shares or unit.key in self._cuts.cuts:
            for name in sorted({name for one in unit.group for name in one.memories}):
                self._memories.end(name)
                self._memories.start(self._graph.elements[name])
            for one in unit.group:
                self._cuts.set_back(one)
        self._queue.extendleft(one.copies for one in reversed(unit.group))

    def _end_running(self) -> None:
        """Kill what runs; it starts again with `resume`."""
        for number, copy in self._running.items():
            try:
                self._forker.kill(number)
            except OSError:
                break
            self._note("stop", copy.element.name, copy.index)
            self.states[copy.element.name] = "stopped"
            self._cuts.ended(copy)
        self._running.clear()

    def _result(self) -> Any:
        found: dict[str, Any] = {}
        for one in self._graph.leaves:
            results = [
                json.loads(self._run.read_result(one.name, index)) for index in range(one.copies)
            ]
            found[one.name] = results[0] if one.copies == 1 else results
        return next(iter(found.values())) if len(found) == 1 else found


def _ending(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
