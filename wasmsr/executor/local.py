"""An executor whose programs run on threads of this process."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.errors import EXIT_FUEL, EXIT_HOST, EXIT_TRAP, WasmsrError
from wasmsr.executor.deadlines import Deadlines
from wasmsr.executor.forking import forked_program
from wasmsr.executor.guards import LeaseGate
from wasmsr.executor.old_workers import HeldLock
from wasmsr.executor.output.frames import FRAMES_FILE, FrameFile, FrameLog
from wasmsr.executor.output.logs import HeldLog, LogBuffer, ProgramLog
from wasmsr.executor.output.rings import RingLog
from wasmsr.executor.port import (
    FRAMES,
    HELD,
    ID_BYTES,
    LARGEST_READ,
    RING,
    ExecutorError,
    ProgramStatus,
)
from wasmsr.executor.saving import ProgramSaver, read_checkpoint
from wasmsr.interp.literals import format_literal
from wasmsr.interp.modules.ahead import called
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Exited, Trapped
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import FuncType
from wasmsr.library import open_program
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState
from wasmsr.record import replaced
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.runspec.stop_conditions import StopConditions
from wasmsr.runspec.watch import check_ranges, memory_count
from wasmsr.snapshot.format import Decoder, encode
from wasmsr.snapshot.moments.forks import call_hooks, hooks_of
from wasmsr.snapshot.preload import preload
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.channels.grant import ChannelGrant
    from wasmsr.snapshot.moments.moment import Moment

PIECE = 1 << 20
"""Bytes that are read or written at a time."""

PAUSE_SECONDS = 10.0
"""How long a program may take to pause for a checkpoint."""

MARKS = 16
"""States that `mark` keeps of a program; one more drops the oldest."""


class HeldProgram:
    """One program of an executor.

    Attributes:
        program: The program.
        logs: Kept output, by the name of the stream.
        lock: Held by a call that starts, stops or looks into the program.
        marks: Kept states, each with the instructions executed before it, by number.
        file: The lock that keeps other processes from having the program, or None.
        run: The description by which it was started or restored.
        leased: Whether it has a deadline.
        pauses: How often a caller paused it; `turn` is held to change or compare it.
        saver: What writes its checkpoints, or None; `saving` is held to use it.
    """

    def __init__(self, program: Program, logs: Mapping[str, ProgramLog]) -> None:
        self.program = program
        self.logs = logs
        self.lock = threading.RLock()
        self.run = RunSpec()
        self.leased = False
        self.turn = threading.Lock()
        self.pauses = 0
        self.saving = threading.Lock()
        self.saver: ProgramSaver | None = None
        self.marks: dict[int, tuple[SnapshotState, int]] = {}
        self.next_mark = 1
        self.file: HeldLock | None = None


class LocalExecutor:
    """An executor (`port.Executor`) in this process: a registry of programs by id."""

    def __init__(
        self,
        *,
        locks: Path | None = None,
        overdue: Callable[[bytes], None] = lambda program: None,
        module: Module | None = None,
        rings: tuple[Path, int] | None = None,
        moment: Moment | None = None,
    ) -> None:
        """Make an empty registry.

        Args:
            locks: A folder with a lock for each program, which this process holds; see
                `old_workers.py`.
            overdue: Is called for a program that has not paused at the end of its lease.
            module: The module of all programs, in place of those that descriptions name.
            rings: The folder for output that is kept in files, and bytes that each stream has.
            moment: The state of `module` in which programs that are started begin.
        """
        preload()  # no program here waits for imports when it is saved
        self._locks = locks
        self._module, self._rings, self._moment = module, rings, moment
        self.deadlines = Deadlines(self._pause_within, overdue)
        self._lock = threading.Lock()
        self._held: dict[bytes, HeldProgram] = {}

    # -- the registry ------------------------------------------------------------------------------

    def enroll(
        self, program: Program, id: bytes = b"", logs: Mapping[str, ProgramLog] | None = None
    ) -> bytes:
        """Take a program that was made in this process into the registry and return its id.

        Raises:
            ExecutorError: The id is taken.
        """
        id = id or secrets.token_bytes(ID_BYTES)
        if len(id) != ID_BYTES:
            raise ExecutorError(f"an id has {ID_BYTES} bytes, not {len(id)}")
        held = HeldProgram(program, logs or {})
        with self._lock:
            if id in self._held:
                raise ExecutorError(f"there is a program {id.hex()[:8]} already")
            if self._locks is not None:
                path = self._locks / f"{id.hex()}.program"
                held.file = HeldLock(path, f"program {id.hex()[:8]}")
            self._held[id] = held
        return id

    def remove(self, program: bytes) -> None:
        """Take a program out of the registry, whatever it does; nothing else happens to it."""
        with self._lock:
            held = self._held.pop(program, None)
        self.deadlines.set(program, None, None)
        if held is None:
            return
        with held.saving:
            if held.saver is not None:
                held.saver.close()
                held.saver = None
        for log in held.logs.values():
            log.close()
        if held.file is not None:
            held.file.close()

    def programs(self) -> list[bytes]:
        """Return the ids of all programs."""
        with self._lock:
            return list(self._held)

    def _of(self, program: bytes) -> HeldProgram:
        with self._lock:
            held = self._held.get(program)
        if held is None:
            raise ExecutorError(f"there is no program {program.hex()[:8]}")
        return held

    def _stopped(self, program: bytes) -> HeldProgram:
        """Return a program that does not run."""
        held = self._of(program)
        if not held.program.is_stopped:
            raise ExecutorError(f"program {program.hex()[:8]} runs", hint="pause it first")
        return held

    # -- life --------------------------------------------------------------------------------------

    def start(
        self,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
        paused: bool = False,
    ) -> bytes:
        """Start a program; see `port.Executor.start`."""
        id = self._open(RunSpec.read(spec), program, streams)
        if not paused:
            self.resume(id)
        return id

    def adopt(
        self,
        snapshot: int,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
        fork: int = 0,
    ) -> bytes:
        """Take over a program from a snapshot; see `port.Executor.adopt`."""
        run = RunSpec.read(spec)
        decoder = Decoder(limits=run.machine_limits, trust=run.read_trust)
        while piece := os.read(snapshot, PIECE):
            decoder.feed(piece)
        id = self._open(run, program, streams, decoder.finish())
        if fork:
            store = self._of(id).program.store
            call_hooks(store, hooks_of(store), fork, os.urandom(16))
        return id

    def restore(
        self,
        folder: str,
        root: bytes,
        spec: Mapping[str, Any],
        *,
        program: bytes = b"",
        streams: Sequence[int] = (),
    ) -> bytes:
        """Take over a program from a checkpoint; see `port.Executor.restore`."""
        run = RunSpec.read(spec)
        return self._open(run, program, streams, read_checkpoint(folder, root, run))

    def _open(
        self,
        run: RunSpec,
        program: bytes,
        streams: Sequence[int],
        snapshot: SnapshotState | None = None,
    ) -> bytes:
        owned: list[int] = []
        logs: dict[str, ProgramLog] = {}
        given: list[Any] = [None, None, None]
        for at, descriptor in enumerate(streams[:3]):
            if descriptor >= 0:
                owned.append(os.dup(descriptor))
                given[at] = owned[-1]
        for at, name in ((1, "stdout"), (2, "stderr")):
            if given[at] is not None:
                continue
            if at < len(streams) and streams[at] == HELD:
                pipe = HeldLog()
                owned.append(pipe.end)
                given[at], logs[name] = pipe.end, pipe
            elif at < len(streams) and streams[at] == RING:
                given[at] = logs[name] = self._ring(name)
            elif at < len(streams) and streams[at] == FRAMES:
                given[at] = logs[name] = self._frames(name, logs)
            else:
                given[at] = logs[name] = LogBuffer()
        made: Program | None = None
        try:
            grants = self._grants(run, program, given)
            if len(streams) > 3 and streams[3] >= 0:
                grants = replaced(grants, channels=_channels(os.dup(streams[3])))
            if self._moment is not None and snapshot is None:
                assert self._module is not None
                made = forked_program(self._moment, self._module, run, grants, program)
            else:
                made = open_program(run, module=self._module, grants=grants, snapshot=snapshot)
            id = self.enroll(made, program, logs)
        except BaseException:
            if made is not None:
                made.close()
            for log in logs.values():
                log.close()
            for descriptor in owned:
                os.close(descriptor)
            raise
        made.owned += owned
        self._note_run(self._of(id), run)
        return id

    def _note_run(self, held: HeldProgram, run: RunSpec) -> None:
        """Note by what description a program runs, and where results of an export go."""
        held.run = run
        log = held.logs.get("stdout")
        if isinstance(log, RingLog):
            held.program.on_result = partial(_print_results, log)

    def _grants(self, run: RunSpec, program: bytes, streams: Sequence[Any]) -> HostGrants:
        """Return what this host gives to a program."""
        return HostGrants.of(run, stdin=streams[0], stdout=streams[1], stderr=streams[2])

    def _ring(self, stream: str) -> RingLog:
        if self._rings is None:
            raise ExecutorError("this executor has no folder for output")
        return RingLog(self._rings[0], stream, self._rings[1])

    def _frames(self, stream: str, logs: dict[str, ProgramLog]) -> FrameLog:
        """Return an output that goes to the log of frames, which is among `logs` from now on."""
        if self._rings is None:
            raise ExecutorError("this executor has no folder for output")
        folder, most = self._rings
        frames = logs.get(FRAMES_FILE)
        if frames is None:
            frames = logs[FRAMES_FILE] = FrameFile(folder)
        assert isinstance(frames, FrameFile)
        return FrameLog(folder, stream, frames, most)

    def wait(self, program: bytes, timeout: float | None = None) -> ProgramStatus:
        """Return what the program does; see `port.Executor.wait`."""
        return status_of(self._of(program).program, timeout)

    def pause(self, program: bytes, timeout: float | None = None) -> bool:
        """Pause the program; see `port.Executor.pause`."""
        return _pause(self._of(program), timeout)

    def _pause_within(self, program: bytes, seconds: float) -> bool:
        with self._lock:
            held = self._held.get(program)
        return held is None or _pause(held, seconds)

    def lease(self, program: bytes, pause_at: int | None, end_at: int | None) -> None:
        """Give the program a deadline; see `port.Executor.lease`."""
        held = self._of(program)
        for time in (pause_at, end_at):
            if time is not None and (type(time) is not int or not 0 <= time < 1 << 63):
                raise ExecutorError(f"not a time of a deadline: {time!r}")
        self.deadlines.set(program, pause_at, end_at)
        leased = None not in (pause_at, end_at)
        if leased != held.leased:
            held.leased = leased
            self._guard(program, held)

    def _guard(self, program: bytes, held: HeldProgram) -> None:
        """Let the host calls of a leased program pass a gate, and those of another one none."""
        may = self.deadlines.may
        held.program.store.gate = LeaseGate(lambda: may(program)) if held.leased else None

    def resume(self, program: bytes) -> None:
        """Let the program run on."""
        held = self._stopped(program)
        with held.lock:
            self._stopped(program)
            self.deadlines.check(program)
            if held.program.state in (ProgramState.ENDED, ProgramState.FAILED):
                raise ExecutorError(f"program {program.hex()[:8]} has ended")
            if held.program.state is ProgramState.STOP:
                held.program.passed_stop()
            held.program.start()
            self.deadlines.started(program)

    def cancel(self, program: bytes, timeout: float | None = None) -> bool:
        """End the program; see `port.Executor.cancel`."""
        held = self._of(program)
        if not held.program.pause(timeout):
            return False
        with held.lock:
            self.remove(program)
            held.program.close()
            held.program.store.close()
        return True

    # -- looking in --------------------------------------------------------------------------------

    def snapshot(self, program: bytes, file: int) -> int:
        """Write the snapshot of a program; see `port.Executor.snapshot`."""
        held, size = self._stopped(program), 0
        with held.lock:
            for piece in encode(held.program.snapshot(embed=True)):
                view = memoryview(piece)
                while view:
                    view = view[os.write(file, view) :]
                size += len(piece)
        return size

    def checkpoint(self, program: bytes, folder: str, keep: int = 3) -> dict[str, Any]:
        """Write a checkpoint of the program; see `port.Executor.checkpoint`."""
        held = self._of(program)
        with held.saving:
            with held.lock:
                saver, output = self._copied(held, folder, keep)
            done = saver.wait()
        return {"root": done.root, "number": done.number, "size": done.size, "output": output}

    def _copied(
        self, held: HeldProgram, folder: str, keep: int
    ) -> tuple[ProgramSaver, dict[str, int]]:
        """Copy what a checkpoint needs; the program is paused meanwhile, and then goes on."""
        name = f"program {self._name(held)}"
        with held.turn:
            pauses, runs = held.pauses, not held.program.is_stopped
        if not held.program.pause(PAUSE_SECONDS):
            raise ExecutorError(f"{name} did not pause within {PAUSE_SECONDS} s")
        try:
            if held.program.state not in (ProgramState.PAUSED, ProgramState.STOP):
                raise ExecutorError(f"{name} has ended")
            if held.saver is not None and held.saver.path != folder:
                held.saver.close()
                held.saver = None
            if held.saver is None:
                held.saver = ProgramSaver(held.program, held.run, folder, keep)
            output = {stream: log.drained() for stream, log in held.logs.items()}
            held.saver.take()
            return held.saver, output
        finally:
            with held.turn:
                if runs and held.pauses == pauses and held.program.state is ProgramState.PAUSED:
                    held.program.start()

    def _name(self, held: HeldProgram) -> str:
        with self._lock:
            return next((id.hex()[:8] for id, one in self._held.items() if one is held), "")

    def logs(self, program: bytes, stream: str, offset: int = 0) -> tuple[int, bytes]:
        """Return output of the program; see `port.Executor.logs`."""
        held = self._of(program)
        if stream not in held.logs:
            raise ExecutorError(f"no {stream} of program {program.hex()[:8]} is kept here")
        return held.logs[stream].read(max(0, offset))

    def stats(self, program: bytes) -> dict[str, Any]:
        """Return figures of the program; see `port.Executor.stats`."""
        held = self._of(program).program
        memory = None
        if held.is_stopped:
            store = held.store
            memory = sum(len(store.memory_view(a)) for a in range(memory_count(store)))
        return {
            "executed": held.executed,
            "memory": memory,
            "module": held.module.digest.hex(),
            "seconds": {name: sum(spans) for name, spans in held.timings.spans.items()},
        }

    def called(self, program: bytes) -> list[list[int]]:
        """Return the functions that were called; see `port.Executor.called`."""
        return called(self._of(program).program.module)

    # -- debugging ---------------------------------------------------------------------------------

    def run_to(self, program: bytes, conditions: Mapping[str, Any]) -> None:
        """Let the program run to a condition; see `port.Executor.run_to`."""
        held = self._stopped(program)
        with held.lock:
            stops = _conditions(held.program.stop_conditions, conditions)
            _check(held.program.store, stops.memory)
            if held.program.state is ProgramState.STOP:
                held.program.passed_stop()
            held.program.stop_conditions = stops
            self.resume(program)

    def step(self, program: bytes, count: int = 1) -> ProgramStatus:
        """Execute instructions one at a time; see `port.Executor.step`."""
        held = self._stopped(program)
        with held.lock:
            done = held.program.executed or 0
            self.run_to(program, {"stop": done + count})
            return self.wait(program)

    def frames(self, program: bytes) -> list[dict[str, Any]]:
        """Return the frames, innermost first; see `port.Executor.frames`."""
        held = self._stopped(program)
        with held.lock:
            instances = held.program.store.instances
            return [
                {
                    "name": instances[frame.instance].module.function_name(frame.index),
                    "function": frame.function,
                    "instance": frame.instance,
                    "index": frame.index,
                    "offset": frame.offset,
                    "types": frame.types,
                    "locals": list(frame.locals),
                    "operands": list(frame.operands),
                }
                for frame in reversed(held.program.store.frames())
            ]

    def read_memory(self, program: bytes, memory: int, address: int, size: int) -> bytes:
        """Return bytes of a memory; see `port.Executor.read_memory`."""
        if not 0 <= size <= LARGEST_READ:
            raise ExecutorError(f"{size} bytes at once; {LARGEST_READ} are the most")
        held = self._stopped(program)
        with held.lock:
            store = held.program.store
            _check(store, [(memory, address, size)])
            return bytes(store.memory_view(memory)[address : address + size])

    def mark(self, program: bytes) -> int:
        """Keep the state of the program; see `port.Executor.mark`."""
        from wasmsr.snapshot.format import decode

        held = self._stopped(program)
        with held.lock:
            # Through bytes: a snapshot shares its memories with the program, which continues.
            state = decode(b"".join(encode(held.program.snapshot())))
            number = held.next_mark
            held.next_mark += 1
            held.marks[number] = state, held.program.executed or 0
            while len(held.marks) > MARKS:
                del held.marks[next(iter(held.marks))]
            return number

    def rewind(self, program: bytes, mark: int) -> None:
        """Put the program back into a kept state; see `port.Executor.rewind`."""
        held = self._stopped(program)
        with held.lock:
            if mark not in held.marks:
                raise ExecutorError(f"program {program.hex()[:8]} has no mark {mark}")
            held.program.rewind(*held.marks[mark])
            if held.leased:
                self._guard(program, held)


def _channels(descriptor: int) -> ChannelGrant:
    """Return what the host at the other end of a socket gives. Raises HostError."""
    from wasmsr.channels.conduit import Conduit

    conduit = Conduit(descriptor)
    try:
        return conduit.grant()
    except BaseException:
        conduit.shut()
        raise


def _pause(held: HeldProgram, seconds: float | None) -> bool:
    """Pause a program for a caller; a checkpoint under way does not let it run on then."""
    with held.turn:
        held.pauses += 1
    return held.program.pause(seconds)


def _print_results(log: RingLog, kind: FuncType, values: Sequence[int]) -> None:
    """Append the results of an export to the output, a line each, as `wasmsr run` prints them."""
    pairs = zip(kind.results, values, strict=True)
    lines = "".join(f"{format_literal(type_, bits)}\n" for type_, bits in pairs)
    with suppress(OSError):  # the disk is full: the program has come to its end all the same
        log.write(memoryview(lines.encode()))


def _check(store: Store, ranges: Iterable[tuple[int, int, int]]) -> None:
    """Check ranges of memories.

    Raises:
        ExecutorError: One is not in the store.
    """
    try:
        check_ranges(store, ranges)
    except ValueError as error:
        raise ExecutorError(str(error)) from None


def _conditions(present: StopConditions, given: Mapping[str, Any]) -> StopConditions:
    """Return conditions from plain data; the fuel and the hops of the run stay.

    Raises:
        ExecutorError: A condition is unknown or of another form.
    """

    def number(value: Any) -> int:
        if type(value) is not int or value < 0:
            raise ExecutorError(f"not a condition: {value!r} is no count or address")
        return value

    def tuples(values: Any, width: int) -> tuple[Any, ...]:
        found = tuple(tuple(map(number, one)) for one in values)
        if any(len(one) != width for one in found):
            raise ExecutorError(f"not a condition: {width} numbers are expected")
        return found

    changes: dict[str, Any] = {"stop": None, "breakpoints": (), "memory": (), "call": None}
    unknown = given.keys() - changes.keys()
    if unknown:
        raise ExecutorError(f"there is no condition {', '.join(sorted(unknown))}")
    try:
        for name in ("stop", "call"):
            if given.get(name) is not None:
                changes[name] = number(given[name])
        changes["breakpoints"] = tuples(given.get("breakpoints", ()), 2)
        changes["memory"] = tuples(given.get("memory", ()), 3)
    except TypeError:
        raise ExecutorError("not a condition: lists of numbers are expected") from None
    return replaced(present, **changes)


def status_of(program: Program, timeout: float | None) -> ProgramStatus:
    """Return what a program does as soon as it does not run, or after `timeout` seconds."""
    try:
        outcome = program.wait(timeout)
    except (WasmsrError, OSError, MemoryError) as error:
        code = error.exit_code if isinstance(error, WasmsrError) else EXIT_HOST
        return ProgramStatus("failed", "failed", code, str(error))
    state = program.state
    if state is ProgramState.IDLE:
        return ProgramStatus(state.value, "finished")
    if state is ProgramState.FUEL:
        return ProgramStatus(state.value, "fuel", EXIT_FUEL, "out of fuel")
    if state is not ProgramState.ENDED:
        return ProgramStatus(state.value)
    if isinstance(outcome, Trapped):
        lines = [f"trap: {outcome.trap.code}"]
        lines += [f"at {frame}" for frame in outcome.trap.backtrace[:8]]
        trap = outcome.trap.code
        return ProgramStatus(state.value, "trapped", EXIT_TRAP, "; ".join(lines), trap=trap)
    assert isinstance(outcome, Exited)
    # A process gives its parent 8 bits.
    return ProgramStatus(state.value, "exited", outcome.code & 0xFF, exit=outcome.code)
