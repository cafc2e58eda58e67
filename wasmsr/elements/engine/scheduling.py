"""Runs a graph on this machine: what starts when, what happens to what ends, and the result."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from wasmsr.elements.engine.run_folder import RunFolder
from wasmsr.elements.engine.served_memories import ServedMemories
from wasmsr.elements.failures import ElementError, ElementFailed, GraphError
from wasmsr.elements.folder.checks import faults_of
from wasmsr.elements.folder.element import Element
from wasmsr.errors import listed, printable, reason

PACKET = 1 << 16
START_SECONDS = 60.0
"""How long the forker may take to start on a busy machine."""


class RunStopped(Exception):
    """Somebody asked for the end of the run; what has ended is kept."""


@dataclass(eq=False)
class _Unit:
    """Copies that start together, end together and start again together: a gang, or one copy.

    Attributes:
        copies: Elements with the indexes of their copies.
        running: Numbers of the copies that run.
        ended: Copies that have ended well, with their results. They count when all have.
        failed: Whether a copy has failed: the others are killed, and all start again.
        shares: Whether another unit has used a memory of this one at the same time.
    """

    copies: list[tuple[Element, int]]
    running: set[int] = field(default_factory=set)
    ended: list[tuple[_Running, str]] = field(default_factory=list)
    failed: bool = False
    shares: bool = False


@dataclass
class _Running:
    """A copy that runs."""

    element: Element
    index: int
    attempt: int
    unit: _Unit


@dataclass
class _Step:
    """An element of the run.

    Attributes:
        left: Indexes of the copies that have not ended well.
        failed: How often a copy has failed, by its index.
        begun: How often a copy has begun, by its index.
    """

    element: Element
    left: set[int]
    failed: dict[int, int] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)


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
        note: Callable[[str, str, int], None] | None = None,
    ) -> None:
        """Prepare a run; `go` runs it.

        Args:
            run: Its folder, which this process has taken.
            cpus: CPUs that copies may use together; None is those of this machine.
            note: Called with ("start", "end", "retry", "fail" or "stop", element, index).

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
        self._steps = {one.name: _Step(one, set(range(one.copies))) for one in self._graph.computes}
        self.states = {one.name: "waits" for one in self._graph}
        self._running: dict[int, _Running] = {}
        self._images: dict[str, int] = {}
        self._queue: deque[list[tuple[Element, int]]] = deque()
        self._waiting: dict[str, Element] = {}
        self._numbers = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._stopping = False
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
        forker, self._sock = self._start_forker()
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
        except BaseException:
            self._end_running()
            raise
        finally:
            self._sock.close()
            forker.wait()
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

    def _start_forker(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, "-m", "wasmsr.elements.engine.forker"]
            forker = subprocess.Popen(
                [*words, str(self._run.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        ours.settimeout(START_SECONDS)
        try:
            said = ours.recv(PACKET)
        except OSError:
            said = b""
        if not said:
            ours.close()
            forker.kill()
            forker.wait()
            raise ElementError("the process that forks elements did not start",
                               hint="the machine may have no memory or no time for it")  # fmt: skip
        ours.setblocking(False)
        return forker, ours

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
            self._queue.popleft()
            for memory in memories.values():
                self._memories.start(memory)
                self.states[memory.name] = "runs"
            self._free_bytes -= more
            unit = _Unit(together)
            for other in {id(one.unit): one.unit for one in self._running.values()}.values():
                if self._memories_used(other) & self._memories_used(unit):
                    other.shares = unit.shares = True
            for element, index in together:
                self._start(element, index, unit)

    def _memories_used(self, unit: _Unit) -> set[str]:
        """Return the names of the memories that a unit can write to."""
        return {
            memory.name for element, _ in unit.copies for memory in self._memories_of[element.name]
        }

    def _start(self, element: Element, index: int, unit: _Unit) -> None:
        step = self._steps[element.name]
        attempt = step.begun[index] = step.begun.get(index, 0) + 1
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
            "epoch": self._memories.epoch,
            "memories": memories,
            "parents": self._parents[element.name],
        }
        packet = json.dumps(asked).encode()
        if len(packet) > PACKET:
            raise ElementError(f"{printable(element.name)} has too many memories and parents")
        self._run.result(element.name, index).unlink(missing_ok=True)
        self._sock.setblocking(True)
        self._sock.send(packet)
        self._sock.setblocking(False)
        self._running[self._numbers] = _Running(element, index, attempt, unit)
        unit.running.add(self._numbers)
        self._free_cpus -= element.limits.cpu
        self._free_bytes -= element.limits.mem_bytes
        self.states[element.name] = "runs"
        self._note("start", element.name, index)

    # ---- what ends -------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait until copies have ended, and do what follows."""
        ready, _, _ = select.select([self._sock.fileno(), self._wake_read], [], [])
        if self._stopping:
            raise RunStopped
        if self._sock.fileno() not in ready:
            return
        good: list[tuple[_Running, str]] = []
        bad: list[tuple[_Running, str]] = []
        over: list[_Unit] = []
        for number, code, why in list(self._told()):
            copy = self._running.pop(number)
            unit = copy.unit
            unit.running.discard(number)
            self._free_cpus += copy.element.limits.cpu
            self._free_bytes += copy.element.limits.mem_bytes
            try:
                if code or why:
                    raise ElementError(why or _ending(code))
                text = self._run.read_result(copy.element.name, copy.index)
                unit.ended.append((copy, text))
            except ElementError as error:
                if not unit.failed:  # or it was killed with the others
                    unit.failed = True
                    bad.append((copy, error.message))
            if unit.running:
                continue
            if unit.failed:
                over.append(unit)
            else:
                good += unit.ended
        self._start_what_fits()  # what is ready runs while the disk is waited for
        self._keep(good)
        for copy, why in bad:
            self._failed(copy, why)
        for unit in over:
            self._again(unit)
        self._make_ready()

    def _told(self) -> Iterable[tuple[int, int, str]]:
        while True:
            try:
                packet = self._sock.recv(PACKET)
            except BlockingIOError:
                return
            if not packet:
                raise ElementError("the process that forks elements has ended")
            said = json.loads(packet)
            yield said["id"], said["code"], said["why"]

    def _keep(self, good: list[tuple[_Running, str]]) -> None:
        """Write results to the disk, and with them the memories that they speak of.

        The images count from the line of the journal on that has the results: with a crash before
        it the copies run again with the memories as they were, and after it they do not.
        """
        if not good:
            return
        for copy, _ in good:
            self._steps[copy.element.name].left.discard(copy.index)
        used = {memory.name for copy, _ in good for memory in self._memories_of[copy.element.name]}
        still = {name for name in used if any(self._steps[user].left for user in self._users[name])}
        images = self._memories.prepare(still)
        ended = [
            {"element": copy.element.name, "index": copy.index, "attempt": copy.attempt,
             "result": json.loads(text)}
            for copy, text in good
        ]  # fmt: skip
        self._run.note([{"ended": ended, "images": images} if images else {"ended": ended}])
        self._memories.publish(still)
        for copy, _ in good:
            self._note("end", copy.element.name, copy.index)
        for element in {copy.element.name: copy.element for copy, _ in good}.values():
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

    def _failed(self, copy: _Running, why: str) -> None:
        """Count a failure, and end what runs together with the copy.

        Raises:
            ElementFailed: The copy has no try left.
        """
        step = self._steps[copy.element.name]
        failed = step.failed[copy.index] = step.failed.get(copy.index, 0) + 1
        if failed > copy.element.retries:
            self.states[copy.element.name] = "failed"
            self._note("fail", copy.element.name, copy.index)
            lines = self._run.last_lines(copy.element.name, copy.index)
            raise ElementFailed(copy.element.name, copy.index, why, lines)
        self._note("retry", copy.element.name, copy.index)
        for number in copy.unit.running:
            self._kill(number)

    def _again(self, unit: _Unit) -> None:
        """Start all copies of a unit again, with its memories as they were when it started.

        The memories are served anew, so that nothing arrives late from a copy that was ended. What
        was saved of them is from before the unit: results of a unit are kept when all of it has
        ended. Where another unit has used a memory meanwhile, its writes stay, and so do those of
        the copies that failed.
        """
        if not unit.shares:
            for name in sorted(self._memories_used(unit)):
                self._memories.end(name)
                self._memories.start(self._graph.elements[name])
        self._queue.appendleft(unit.copies)

    def _kill(self, number: int) -> None:
        """Have the forker end a copy."""
        self._sock.setblocking(True)
        try:
            self._sock.send(json.dumps({"kill": number}).encode())
        finally:
            self._sock.setblocking(False)

    def _end_running(self) -> None:
        """Kill what runs; it starts again with `resume`."""
        for number, copy in self._running.items():
            try:
                self._kill(number)
            except OSError:
                break
            self._note("stop", copy.element.name, copy.index)
            self.states[copy.element.name] = "stopped"
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
