"""One command-line program: a module, its store and its WASI, on a worker thread.

The executor, migration and the command line steer a program through `Program`: start, pause,
snapshot, start again. The thread that steers never computes, so it sees signals and keys while the
program runs.

One thread steers. Another thread may call `pause`. All other methods need a program that does not
run: before `start`, after a `pause` that returned True, or after its end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from wasmsr import reserve
from wasmsr.errors import SnapshotError, WasmsrError, reason
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Exited, Finished, Limits, Paused, Trapped
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import FuncType
from wasmsr.program.exports import (
    COMMAND,
    REACTOR,
    exported_function,
    hosts_of,
    is_reactor,
    own_imports,
)
from wasmsr.program.state import ProgramState
from wasmsr.program.timings import Timings
from wasmsr.program.visit import Visit
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.stop_conditions import StopConditions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.store.instance import Imports, Instance
    from wasmsr.interp.tracer import Tracer
    from wasmsr.program.restoring import PreparedStore
    from wasmsr.runspec.watch import Watch
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.wasi.facade import Wasi

Outcome = Finished | Trapped | Paused | Exited

THREAD_ROOM = 12 << 20
"""Bytes of address space for the stack of a thread, and for what Python allocates in it first."""

WASI_MODULES = ("wasi_snapshot_preview1", "wasi_unstable")


class Program:
    """A program that one thread steers; `launch` and `resume` make it.

    Attributes:
        module: The program's module: that of its last instance.
        store: Its store; a hop and `rewind` replace the store.
        wasi: Its WASI; None if it imports nothing of WASI.
        stop_conditions: Where the program stops. They may change while it is stopped.
        tracer: Gets each instruction before it is executed; None traces nothing.
        on_stopped: The worker thread calls it when the program has stopped, for any reason.
        on_result: The worker thread calls it for each invocation of an export that has returned,
            with the type and the bits of the results.
        timings: Durations of "capture", "encode", "decode" and "restore".
        parent: Id of the snapshot that the program was restored from, or None.
        owned: Descriptors that `close` closes besides those of WASI.
        state: Whether the program runs, and why not.
    """

    def __init__(
        self,
        store: Store,
        module: Module,
        wasi: Wasi | None,
        grants: HostGrants,
        *,
        waits: bool = True,
    ) -> None:
        self._waits = waits and wasi is not None
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
        # `Thread.join` does not serve: if a signal handler interrupts it with an exception, Python
        # before 3.13 takes a running thread for an ended one.
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._wanted = False
        self._visit: Visit | None = None
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._base = store.executed or 0
        self._next_hop = 0
        self._watch: Watch | None = None
        self._take(store)
        self.state = ProgramState.PAUSED if self.pending else ProgramState.IDLE

    def _take(self, store: Store) -> None:
        """Continue with `store`.

        The invocations wait in `_later`. They enter the store's queue one at a time, so that each
        gives its results.
        """
        self.store = store
        self._later = deque(store.queue)
        store.queue.clear()
        if self._watch is not None:
            self._watch.attach(store)
        if self._waits:
            # Opens the pipe now: later the program may have used up all descriptors. A fork among a
            # thousand opens it when it waits.
            _ = store.wake_fd
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
        preload: Mapping[str, Module] | None = None,
    ) -> Program:
        """Return a program before its first instruction.

        Args:
            module: The program's module.
            argv: The arguments that WASI gives to the program; the first is its own name.
            env: Its environment.
            grants: What this host gives to the program; None gives nothing.
            limits: Its limits; None takes the defaults.
            deterministic: Whether clocks and random numbers are the same in every run.
            invoke: The export to call; None calls nothing yet.
            args: The bits of each argument of that export.
            preload: Modules that are instantiated before it, in this order, by the names under
                which later ones import from them.

        Raises:
            ExportError: The module has no such export.
            LinkError: An import cannot be provided.
            Trap: An active segment does not fit.
            WasiConfigError: A mount cannot be used.
        """
        grants = grants or HostGrants()
        preload = preload or {}
        modules = [*preload.values(), module]
        hosts = hosts_of(modules, grants)
        if not hosts and not preload:
            _check_foreign(module)
        if invoke is not None:
            exported_function(module, invoke)
        wasi = None
        if any(item.module in WASI_MODULES for one in modules for item in one.imports):
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
        store: Store | None = None
        try:
            store = Store(
                limits=limits or Limits(),
                deterministic=deterministic,
                features=module.allowed_features,
            )
            imports = {**(wasi.imports if wasi else {}), **own_imports(*modules)}
            for host in hosts.values():
                imports["env"] = {**imports.get("env", {}), **host.imports(modules)}
            store.owners.update(hosts)
            instance = _instance(store, module, preload, imports)
            if invoke != COMMAND and is_reactor(module):
                store.enqueue(instance.function(REACTOR))
            if invoke is not None:
                store.enqueue_raw(instance.function(invoke).address, args)
            return cls(store, module, wasi, grants)
        except BaseException:
            if wasi is not None:
                wasi.close()
            if store is not None:
                store.close()
            raise

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
        adopted: bool = False,
        prepared: PreparedStore | None = None,
        others: Sequence[Module] = (),
        timings: Timings | None = None,
    ) -> Program:
        """Return a program at the position where it was saved.

        Args:
            snapshot: The program's state.
            module: Its module; None takes the one that the snapshot embeds.
            grants: What this host gives to the program; None gives nothing.
            max_pages: Limit of each memory in pages of 64 KiB; None takes the snapshot's.
            features: What an embedded module may need, as for `Module`.
            live: Whether the time since the snapshot counts for the program's monotonic clock.
            deferred: Whether carried files reach their folders when the program starts, not now.
            adopted: Whether the program takes over memories of the state that were read into files;
                the state is of no use afterwards.
            prepared: A store that was prepared for the program; None makes one.
            others: The other modules of a program of several.
            timings: Where the durations go; None makes a new object.

        Raises:
            ModuleMismatch: The snapshot is of another module.
            SnapshotError: The snapshot cannot be restored.
            WasiConfigError: A mount that the program needs is not given, or cannot be used.
        """
        from wasmsr.program.restoring import module_of, permitted, restore_store

        grants = grants or HostGrants()
        timings = timings or Timings()
        module = module_of(snapshot, module, features)
        snapshot = permitted(snapshot, max_pages)
        try:
            with timings.measure("restore"):
                if prepared is not None:
                    store, wasi = prepared.fill(snapshot, grants, live=live, deferred=deferred)
                else:
                    store, wasi = restore_store(
                        snapshot,
                        module,
                        grants,
                        live=live,
                        deferred=deferred,
                        adopted=adopted,
                        others=others,
                    )
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
    def modules(self) -> list[Module]:
        """The modules of its instances, each once, in the order of its snapshots."""
        return list({one.module.digest: one.module for one in self.store.instances}.values())

    @property
    def pending(self) -> bool:
        """Whether anything is left to execute. The program must not run."""
        return bool(self._later or self._entry)

    @property
    def is_stopped(self) -> bool:
        """Whether no thread executes the program."""
        return self._idle.is_set()

    @property
    def listens(self) -> list[str]:
        """The addresses of the listening sockets that the program was given."""
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
        """Add an invocation of an export after all others; `args` are the bits of its arguments.

        Raises:
            ExportError: The module has no such export.
        """
        exported_function(self.module, name)
        self.store.enqueue_raw(self.store.instances[-1].function(name).address, args)
        self._later.append(self.store.queue.pop())
        if self.state is ProgramState.IDLE:
            self.state = ProgramState.PAUSED

    def start(self) -> None:
        """Start the program, or continue it, until it reaches another `ProgramState`."""
        assert self.is_stopped, "the program runs already"
        if self.wasi is not None:
            self.wasi.place_files()
        self._wanted = False
        self._outcome = None
        self._watch = None
        if self._single:
            from wasmsr.runspec.watch import Watch

            self._watch = Watch(self.store, self.stop_conditions)
        self.state = ProgramState.RUNNING
        self._idle.clear()
        reserve.hold()
        try:
            # Without room, Python's `start` waits for ever for a thread that has ended at once.
            # `bytes` takes pages that it does not touch, and gives them back.
            bytes(THREAD_ROOM)
            threading.Thread(target=self._work, name="wasmsr-program", daemon=True).start()
        except BaseException:  # the host has no thread for it
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
            True when the program has stopped; `state` says whether it has ended meanwhile. False
            if it has not stopped within `timeout` seconds: it then runs on.
        """
        if self._idle.is_set():
            return True
        # The order matters: the worker may be replacing its store now, and reads `_wanted` after
        # that.
        self._wanted = True
        with suppress(WasmsrError):  # the store that was replaced is closed
            self.store.pause()
        if self._idle.wait(timeout):
            return True
        with self._lock:
            if self.state is ProgramState.RUNNING:
                self._wanted = False
                return False
        self._idle.wait()
        return True

    def visit(self, action: Callable[[], bool], timeout: float | None = None) -> bool:
        """Do something while the program stands between two instructions.

        A running program is not stopped and started for it: its own thread does it, and runs on at
        once unless `action` returns True. `pause` then has nothing left to do.

        Args:
            action: What to do. It may look at the store, and must not steer the program.
            timeout: Seconds that the program has to reach a point between two instructions.

        Returns:
            True if the action was performed; the program has then not run meanwhile, or has ended
            before. False after `timeout`: the action is not performed any more.

        Raises:
            BaseException: What the action raised; the program runs on.
        """
        visit = Visit(action)
        with self._lock:
            waits = self.state is ProgramState.RUNNING and not self._idle.is_set()
            if waits:
                self._visit = visit
        if waits:
            with suppress(WasmsrError):  # the store that was replaced is closed
                self.store.pause()
            if not visit.over.wait(timeout):
                with self._lock:
                    if self._visit is visit:
                        self._visit = None
                        return False
                visit.over.wait()
            if visit.stays:
                self._idle.wait()
        else:
            self._idle.wait()
            visit.perform()
        if visit.error is not None:
            raise visit.error
        return True

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Return the outcome, or None if the program still runs after `timeout` seconds.

        Raises:
            BaseException: The error with which the host failed, if it did.
        """
        if not self._idle.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._outcome

    def passed_stop(self) -> None:
        """Allow the program to continue after it has reached `StopConditions.stop`."""
        self.stop_conditions.stop = None
        self.state = ProgramState.PAUSED if self.pending else ProgramState.IDLE

    def close(self) -> None:
        """Close the program's files. It cannot run any more."""
        if self.wasi is not None:
            self.wasi.close()
        for owner in self.store.owners.values():
            owner.close()
        self._grants.close()
        while self.owned:
            os.close(self.owned.pop())

    # -- saving ------------------------------------------------------------------------------------

    def snapshot(self, *, embed: bool = False) -> SnapshotState:
        """Return the program's state.

        The state shares memory with the program: use it before the program continues.

        Args:
            embed: Whether the state contains the module.

        Raises:
            UnportableState: The program holds something that no snapshot can carry.
            SnapshotError: The host cannot read a file that the program has open.
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
        """Save and restore in place, through bytes: the program continues from decoded bytes."""
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
            SnapshotError: The state cannot be restored; the program is as before.
        """
        from wasmsr.program.restoring import module_of

        module_of(snapshot, self.module, None)
        self._replace(snapshot, executed)
        self._outcome = self._error = None
        self._next_hop = 0
        self.state = ProgramState.PAUSED if self.pending else ProgramState.IDLE

    def _replace(self, snapshot: SnapshotState, executed: int) -> None:
        """Restore a state and continue with its store instead of the present one."""
        from wasmsr.program.restoring import restore_store

        old_wasi = self.wasi
        if old_wasi is not None:
            old_wasi.close()
        with self.timings.measure("restore"):
            store, self.wasi = restore_store(
                snapshot, self.module, self._grants, live=True, others=self.modules
            )
        self._base = (store.executed or 0) - executed
        old = self.store
        self._take(store)
        old.wasi = None  # it is closed
        old.close()

    # -- the worker thread -------------------------------------------------------------------------

    def _work(self) -> None:
        """Run the program until it stops, and note why."""
        state = ProgramState.FAILED
        try:
            state, self._outcome = self._run()
        except BaseException as error:  # noqa: BLE001 (`wait` raises it in the thread that steers)
            self._error = error
        finally:
            with self._lock:
                self.state = state
                visit, self._visit = self._visit, None
            if visit is not None:  # the program has ended before
                visit.perform()
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
                visit, self._visit = self._visit, None
            stays = visit is not None and visit.perform()
            with self._lock:
                if self._wanted or stays:
                    self.state = ProgramState.PAUSED
                    return ProgramState.PAUSED, Paused("requested")
            steps = self._steps()
            if isinstance(steps, ProgramState):
                return steps, Paused("fuel")
            # After `_steps`, because a hop in it puts all invocations back into `_later`.
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
            # The top of the loop decides about a pause: the request may be older than this start,
            # or withdrawn.

    def _steps(self) -> int | ProgramState | None:
        """Return the instructions up to the next stop, None without one, or the state reached."""
        marks = self.stop_conditions
        uncounted = self.tracer is None and self._watch is None
        if uncounted and marks.fuel is marks.stop is marks.hop is None:
            return None
        if self.store.executed is None:
            self.store.executed = 0  # the store counts from here on
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
"""Most instructions of one run of the store; a stop may be farther away."""


def _instance(
    store: Store, module: Module, preload: Mapping[str, Module], imports: Imports
) -> Instance:
    """Return the instance of a program's module; see `linking.instantiate_all`."""
    if not preload:
        return store.instantiate(module, imports, start=False)
    from wasmsr.program.linking import instantiate_all

    return instantiate_all(store, module, preload, imports)


def _check_foreign(module: Module) -> None:
    """Refuse a module that another host must link. Raises LinkError."""
    if any(item.module not in WASI_MODULES for item in module.imports):
        from wasmsr.interp.modules.foreign_files import refusal

        error = refusal(module)
        if error is not None:
            raise error


def _nothing(*arguments: object) -> None:
    """Do nothing: the default of callbacks."""
