"""One command-line program: a module, its store and its WASI, on a worker thread.

`Program` is above the engine and the snapshot, and below the executor, migration and the command
line, which steer a program through it: start, pause, snapshot, start again. The thread that steers
never computes, so it sees signals and keys while the program runs.

One thread steers. `pause` may be called from another thread too. All other methods need a program
that does not run: before `start`, after a `pause` that returned True, or after its end.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum

from wasmsr import reserve
from wasmsr.errors import (
    EXIT_USAGE,
    FormatError,
    LinkError,
    ModuleMismatch,
    SnapshotError,
    WasmsrError,
    listed,
    printable,
    reason,
)
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Exited, Finished, Limits, Paused, Trapped
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import FuncType
from wasmsr.runspec.grants import HostGrants as HostGrants
from wasmsr.runspec.stop_conditions import StopConditions as StopConditions
from wasmsr.runspec.stop_conditions import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.tracer import Tracer
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.wasi.facade import Wasi

Outcome = Finished | Trapped | Paused | Exited

COMMAND, REACTOR = "_start", "_initialize"
"""Exports by which WASI programs begin: a command's is its whole run, a reactor's comes first."""

WASI_MODULES = ("wasi_snapshot_preview1", "wasi_unstable")


class ExportError(WasmsrError):
    """The module has no function export of that name."""

    exit_code = EXIT_USAGE


class Timings:
    """How long each step took, every time it was done: name to seconds, in order of first use."""

    def __init__(self) -> None:
        self.spans: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """Note one more span."""
        self.spans.setdefault(name, []).append(seconds)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Note how long the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)


class ProgramState(Enum):
    """Whether a program runs, and why not."""

    RUNNING = "running"
    PAUSED = "paused"
    """Not started yet, or stopped by `Program.pause`."""
    STOP = "stop"
    """It has reached `StopConditions.stop`."""
    HIT = "hit"
    """It has reached a breakpoint, changed a watched memory, or made a host call of a number."""
    FUEL = "fuel"
    """It has reached `StopConditions.fuel`."""
    IDLE = "idle"
    """All invocations have returned; `Program.call` makes another."""
    ENDED = "ended"
    """It trapped or exited; `Program.wait` says how."""
    FAILED = "failed"
    """The host failed; `Program.wait` raises the error."""


def exported_function(module: Module, name: str) -> FuncType:
    """Return the type of a function that the module exports.

    Raises:
        ExportError: there is none of that name; the hint names those that there are.
        LinkError: the module was never linked to a program.
    """
    for export in module.exports:
        if export.name == name and isinstance(export.type, FuncType):
            return export.type
    from wasmsr.interp.modules.foreign_files import unlinked

    what = unlinked(module)
    if what is not None:
        raise LinkError(f"this is {what}")
    functions = [e.name for e in module.exports if isinstance(e.type, FuncType)]
    hint = f"it exports {listed(functions)}; `wasmsr run --invoke NAME` calls one"
    raise ExportError(
        f"the module {printable(module.name or '', 100)} exports no function "
        f"'{printable(name, 100)}'".replace("  ", " "),
        hint=hint if functions else None,
    )


class Program:
    """See the module's docstring; made by `launch` and `resume`.

    Attributes:
        marks: where to stop; may be changed while the program stands.
        tracer: is shown each instruction before it is executed, or None.
        on_stopped: called by the worker thread when the program has come to stand, for any reason.
        on_result: called by the worker thread with type and results, as bits, of each invocation
            of an export that returned.
        timings: of "capture", "encode", "decode" and "restore".
        parent: id of the snapshot that it was restored from, or None.
        owned: descriptors that `close` closes besides those of WASI.
        stand: whether and why it stands.
    """

    def __init__(self, store: Store, module: Module, wasi: Wasi | None, grants: HostGrants):
        self.module = module
        self.wasi = wasi
        self.stop_conditions = StopConditions()
        self.tracer: Tracer | None = None
        self.on_stopped: Callable[[], None] = _nothing
        self.on_result: Callable[[FuncType, tuple[int, ...]], None] = _nothing
        self.timings = Timings()
        self.parent: bytes | None = None
        self.owned: list[int] = []
        self._grants = grants
        # Not the thread itself: where a signal handler interrupts `Thread.join` with an exception,
        # Python before 3.13 takes a running thread for one that has ended.
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._wanted = False
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._base = store.executed or 0
        self._next_hop = 0
        self._watch: Watch | None = None
        self._take(store)
        self.state = ProgramState.PAUSED if self.pending else ProgramState.IDLE

    def _take(self, store: Store) -> None:
        """Go on with `store`. Invocations are put into its queue one at a time, so that each
        gives its results; meanwhile they wait here."""
        self.store = store
        self._later = deque(store.queue)
        store.queue.clear()
        if self._watch is not None:
            self._watch.attach(store)
        if self.wasi is not None:
            _ = store.wake_fd  # now: a program may leave no descriptor for it
        frames = store.frames()
        self._entry = store.function_type(frames[0].function) if frames else None

    # -- making ------------------------------------------------------------------------------------

    @classmethod
    def launch(
        cls,
        module: Module,
        *,
        argv: Sequence[str | bytes] = (),
        env: Mapping[str, str] | Sequence[str] = (),
        grants: HostGrants | None = None,
        limits: Limits | None = None,
        deterministic: bool = False,
        invoke: str | None = COMMAND,
        args: Sequence[int] = (),
    ) -> Program:
        """Return a program before its first instruction.

        Args:
            argv: what WASI tells it of its arguments, its own name first.
            env: its environment.
            invoke: the export to be called; None calls nothing yet.
            args: the bits of each of its arguments.

        Raises:
            ExportError: there is no such export.
            LinkError: an import cannot be provided.
            Trap: an active segment does not fit.
            WasiConfigError: a mount cannot be used.
        """
        grants = grants or HostGrants()
        if any(item.module not in WASI_MODULES for item in module.imports):
            from wasmsr.interp.modules.foreign_files import refusal

            error = refusal(module)
            if error is not None:
                raise error
        if invoke is not None:
            exported_function(module, invoke)
        wasi = None
        if any(item.module in WASI_MODULES for item in module.imports):
            from wasmsr.wasi.facade import Wasi

            wasi = Wasi(
                args=argv,
                env=env,
                mounts=grants.mounts,
                stdin=grants.stdin,
                stdout=grants.stdout,
                stderr=grants.stderr,
                sockets=grants.sockets,
                deterministic=deterministic,
                carry_limit=grants.carry_limit,
            )
        store = Store(
            limits=limits or Limits(),
            deterministic=deterministic,
            features=module.allowed_features,
        )
        instance = store.instantiate(module, wasi.imports if wasi else {}, start=False)
        if invoke != COMMAND and _is_reactor(module):
            store.enqueue(instance.function(REACTOR))
        if invoke is not None:
            store.enqueue_raw(instance.function(invoke).address, args)
        return cls(store, module, wasi, grants)

    @classmethod
    def resume(
        cls,
        snapshot: SnapshotState,
        *,
        module: Module | None = None,
        grants: HostGrants | None = None,
        max_pages: int | None = None,
        features: str | None = None,
        live: bool = False,
        deferred: bool = False,
        timings: Timings | None = None,
    ) -> Program:
        """Return a program at the position where it was saved.

        Args:
            module: its module; None takes the one that the snapshot embeds.
            features: what that one may need, as for `Module`.
            max_pages: limit of each memory, in pages of 64 KiB, in place of the snapshot's.
            live: the time since the snapshot counts for the program's monotonic clock.
            deferred: carried files are put in their place when it starts, not before.

        Raises:
            SnapshotError: it cannot be restored; ModuleMismatch, of another module.
            WasiConfigError: a mount that it needs is not given, or cannot be used.
        """
        grants = grants or HostGrants()
        timings = timings or Timings()
        module = _module_of(snapshot, module, features)
        if max_pages is not None:
            from dataclasses import replace  # only here: it is slow to import

            limits = replace(snapshot.limits, memory_pages=max_pages)
            snapshot = replace(snapshot, limits=limits)
        if (sentence := excessive(snapshot.limits)) is not None:
            raise SnapshotError(
                f"the program was saved {sentence}",
                hint="the library restores it: Snapshot.restore(limits=...)",
            )
        try:
            with timings.measure("restore"):
                store, wasi = _restore(snapshot, module, grants, live=live, deferred=deferred)
        except BaseException:
            grants.close()
            raise
        program = cls(store, module, wasi, grants)
        program.parent = snapshot.lineage.id
        program.timings = timings
        program.stop_conditions.fuel = snapshot.limits.fuel
        return program

    # -- steering ----------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether there is something left to execute; while the program stands."""
        return bool(self._later or self._entry)

    @property
    def is_stopped(self) -> bool:
        """Whether no thread is executing it."""
        return self._idle.is_set()

    @property
    def listens(self) -> list[str]:
        """The addresses of the listening sockets that it was given."""
        if not self._grants.listen:
            return []
        from wasmsr.wasi.streams.listen_address import address_of

        return [address_of(listening) for listening in self._grants.sockets]

    @property
    def executed(self) -> int | None:
        """Instructions since this start or resume; None if they were not counted."""
        count = self.store.executed
        return None if count is None else count - self._base

    def call(self, name: str, *args: int) -> None:
        """Add an invocation of an export, after all those that are still to be made; `args` are
        the bits of its arguments."""
        exported_function(self.module, name)
        self.store.enqueue_raw(self.store.instances[0].function(name).address, args)
        self._later.append(self.store.queue.pop())
        if self.state is ProgramState.IDLE:
            self.state = ProgramState.PAUSED

    def start(self) -> None:
        """Let it run, for the first time or on, until a `ProgramState` is reached."""
        assert self.is_stopped, "the program runs already"
        if self.wasi is not None:
            self.wasi.place_files()
        self._wanted = False
        self._outcome = None
        self._watch = Watch(self.store, self.stop_conditions) if self._single else None
        self.state = ProgramState.RUNNING
        self._idle.clear()
        reserve.hold()
        try:
            threading.Thread(target=self._work, name="wasmsr-program", daemon=True).start()
        except BaseException:  # no thread can be had
            self.state = ProgramState.PAUSED
            reserve.let_go()
            self._idle.set()
            raise

    @property
    def _single(self) -> bool:
        return self.stop_conditions.single

    def pause(self, timeout: float | None = None) -> bool:
        """Pause the program.

        Returns:
            True when it stands (it may have ended meanwhile: see `stand`); False if that was not
            so within `timeout` seconds, then it runs on.
        """
        if self._idle.is_set():
            return True
        # In this order: the worker, which may just be changing its store for another one, looks
        # at `_wanted` after that.
        self._wanted = True
        with suppress(WasmsrError):  # the store that was changed is closed
            self.store.pause()
        if self._idle.wait(timeout):
            return True
        with self._lock:
            if self.state is ProgramState.RUNNING:
                self._wanted = False
                return False
        self._idle.wait()
        return True

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Return the outcome, or None if the program still runs after `timeout` seconds.

        Raises whatever failed in the host.
        """
        if not self._idle.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._outcome

    def passed_stop(self) -> None:
        """Let the program, which is at `StopConditions.stop`, run on from there."""
        self.stop_conditions.stop = None
        self.state = ProgramState.PAUSED if self.pending else ProgramState.IDLE

    def close(self) -> None:
        """Let go of its files; it cannot run any more."""
        if self.wasi is not None:
            self.wasi.close()
        self._grants.close()
        while self.owned:
            os.close(self.owned.pop())

    # -- saving ------------------------------------------------------------------------------------

    def snapshot(self, *, embed: bool = False) -> SnapshotState:
        """Return its state, which shares memory with the program: use it before the program goes
        on.

        Raises:
            UnportableState: it holds something that no snapshot can carry.
            SnapshotError: the host cannot read what it has open.
        """
        from wasmsr.snapshot.capture import capture
        from wasmsr.wasi.state.contents import Contents

        with self.timings.measure("capture"):
            marks, queue = self.stop_conditions, self.store.queue
            fuel = None if marks.fuel is None else max(0, marks.fuel - (self.executed or 0))
            kept = list(queue)
            queue.extend(self._later)
            try:
                files = Contents()
                return capture(
                    self.store,
                    wasi=None if self.wasi is None else self.wasi.capture(files),
                    files=files,
                    fuel=fuel,
                    embed=embed,
                    parent=self.parent,
                )
            except OSError as error:
                sentence = f"the program cannot be saved: {error.strerror or reason(error)}"
                raise SnapshotError(sentence) from error
            finally:
                queue[:] = kept

    def _hop(self) -> None:
        """Save and restore in place, through bytes: what goes on is what was decoded."""
        from wasmsr.snapshot.format import decode, encode

        snapshot = self.snapshot()
        with self.timings.measure("encode"):
            data = b"".join(encode(snapshot))
        with self.timings.measure("decode"):
            snapshot = decode(data)
        self._replace(snapshot, self.executed or 0)

    def rewind(self, snapshot: SnapshotState, executed: int = 0) -> None:
        """Put the program, which must not run, back into one of its own states.

        Files of the host and output that is written stay as they are.

        Args:
            snapshot: The state.
            executed: Instructions since the start at which the state was captured.

        Raises:
            ModuleMismatch: The state is of another module.
            SnapshotError: It cannot be restored; the program is as before.
        """
        _module_of(snapshot, self.module, None)
        self._replace(snapshot, executed)
        self._outcome = self._error = None
        self._next_hop = 0
        self.state = ProgramState.PAUSED if self.pending else ProgramState.IDLE

    def _replace(self, snapshot: SnapshotState, executed: int) -> None:
        """Go on with the store that a state gives, in place of the present one."""
        old_wasi = self.wasi
        if old_wasi is not None:
            old_wasi.close()
        with self.timings.measure("restore"):
            store, self.wasi = _restore(snapshot, self.module, self._grants, live=True)
        self._base = (store.executed or 0) - executed
        old = self.store
        self._take(store)
        old.wasi = None  # it is closed
        old.close()

    # -- the worker thread -------------------------------------------------------------------------

    def _work(self) -> None:
        """Run the program until it stops, and note why."""
        stand = ProgramState.FAILED
        try:
            stand, self._outcome = self._run()
        except BaseException as error:  # noqa: BLE001 (`wait` raises it where somebody steers)
            self._error = error
        finally:
            with self._lock:
                self.state = stand
            reserve.let_go()
            try:
                self.on_stopped()
            finally:
                self._idle.set()

    def _run(self) -> tuple[ProgramState, Outcome | None]:
        outcome: Outcome | None = None
        while True:
            if not self.pending:
                return ProgramState.IDLE, outcome
            with self._lock:
                if self._wanted:
                    self.state = ProgramState.PAUSED
                    return ProgramState.PAUSED, Paused("requested")
            steps = self._steps()
            if isinstance(steps, ProgramState):
                return steps, Paused("fuel")
            # Only now: a hop within `_steps` puts all invocations back into `_later`.
            if self._entry is None:
                invocation = self._later.popleft()
                self._entry = self.store.function_type(invocation[0])
                self.store.queue.append(invocation)
            if self.tracer is not None:
                outcome = self.tracer.step(self.store)
            else:
                outcome = self.store.run(fuel=steps)
            if isinstance(outcome, Finished):
                entry, self._entry = self._entry, None
                self.on_result(entry, outcome.raw)
            elif not isinstance(outcome, Paused):
                self._entry = None
                return ProgramState.ENDED, outcome
            if self._watch is not None and self._watch.hit():
                return ProgramState.HIT, Paused("requested")
            # A pause is looked at above: the request may be older than this start, or withdrawn.

    def _steps(self) -> int | ProgramState | None:
        """Return the instructions up to the next stop, None without one, or the state reached."""
        marks = self.stop_conditions
        uncounted = self.tracer is None and self._watch is None
        if uncounted and marks.fuel is marks.stop is marks.hop is None:
            return None
        if self.store.executed is None:
            self.store.executed = 0  # it is counted from here on
        done = self.executed or 0
        if marks.stop is not None and done >= marks.stop:
            return ProgramState.STOP
        if marks.fuel is not None and done >= marks.fuel:
            return ProgramState.FUEL
        if marks.hop is not None:
            if self._next_hop == 0:
                self._next_hop = done + marks.hop
            if done >= self._next_hop:
                reserve.let_go()
                self._hop()
                reserve.hold()
                self._next_hop = done + marks.hop
        ends = (marks.stop, marks.fuel, None if marks.hop is None else self._next_hop)
        left = min((end - done for end in ends if end is not None), default=None)
        if self._watch is not None:
            return 1
        return None if left is None else min(left, _AT_ONCE)


_AT_ONCE = 1 << 60
"""Instructions of one run; a mark may be farther away."""


def excessive(limits: Any) -> str | None:
    """Return what a program that comes with these limits (of a snapshot, or of an offer) might
    use beyond what programs have here; None if all is within that."""
    ours = Limits()
    for name in ("memory_pages", "table_elements", "stack_slots", "stack_frames"):
        most, wanted = getattr(ours, name), getattr(limits, name)
        if wanted > most:
            return f"with a limit of {wanted} {name.replace('_', ' ')}, and {most} is the most here"
    return None


def _nothing(*arguments: object) -> None:
    """Do nothing, where nobody listens."""


def _is_reactor(module: Module) -> bool:
    return any(export.name == REACTOR and export.type == FuncType() for export in module.exports)


def _module_of(snapshot: SnapshotState, module: Module | None, features: str | None) -> Module:
    """Return the module of the snapshot's first instance, which is the program: the one given,
    checked, or the one that it embeds."""
    if not snapshot.modules or not snapshot.instances:
        raise SnapshotError(
            "the snapshot holds no program: it is of a store without a module",
            hint="the library reads it: wasmsr.Snapshot.load(FILE).restore()",
        )
    index = snapshot.instances[0].module
    if not 0 <= index < len(snapshot.modules):
        raise FormatError(f"the snapshot is not valid: its first instance is of module {index}")
    reference = snapshot.modules[index]
    if module is not None:
        if module.digest != reference.digest:
            raise ModuleMismatch(
                f"the snapshot is of another module: it is of "
                f"{_named(reference.name, reference.digest)}, "
                f"and {_named(module.name, module.digest)} was given"
            )
        return module
    if reference.binary is None:
        raise ModuleMismatch(
            f"the snapshot does not embed its module, {_named(reference.name, reference.digest)}, "
            "and none was given",
            hint="name the module: wasmsr run PROGRAM --from-snapshot FILE",
        )
    return Module(reference.binary, name=reference.name, features=features)


def _named(name: str | None, digest: bytes) -> str:
    return f"{name or 'one'} (SHA-256 {digest.hex()[:16]}...)"


def _restore(
    snapshot: SnapshotState,
    module: Module,
    grants: HostGrants,
    *,
    live: bool,
    deferred: bool = False,
) -> tuple[Store, Wasi | None]:
    """Return a store and its WASI in the snapshot's state."""
    from wasmsr.snapshot.restore import restore

    def serve() -> Wasi:
        from wasmsr.wasi.facade import Wasi
        from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT
        from wasmsr.wasi.state.contents import Contents
        from wasmsr.wasi.state.origin import trusted_time
        from wasmsr.wasi.state.restore import CarriedFiles

        assert snapshot.wasi is not None
        return Wasi.restore(
            snapshot.wasi,
            mounts=grants.mounts,
            stdin=grants.stdin,
            stdout=grants.stdout,
            stderr=grants.stderr,
            sockets=grants.sockets,
            live=live,
            on_changed=grants.on_changed,
            carried=CarriedFiles(
                snapshot.files or Contents(),
                CARRY_LIMIT if grants.carry_limit is None else grants.carry_limit,
                since=None if deferred else trusted_time(snapshot.wasi, snapshot.lineage.created),
                folder=grants.folder,
                bases=grants.bases or {},
                deferred=deferred,
            ),
        )

    store = restore(snapshot, modules=[module], features=module.allowed_features, wasi=serve)
    return store, store.wasi
