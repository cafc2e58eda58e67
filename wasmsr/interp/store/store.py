"""The machine: a store of instances and one thread, run to outcomes.

The C core runs until it finishes, traps, pauses or needs a host function; `Store.run` performs the
host functions in between. A store is used by one thread at a time; `pause` may be called from any
thread or signal handler, `wait` and `running` from any thread.

Source: WebAssembly specification, section 4.2 (Runtime Structure) and 4.5.4 (Instantiation).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress

from wasmsr._ffi import ffi, lib
from wasmsr.errors import (
    Exit,
    Frame,
    HostError,
    Interrupted,
    Trap,
    UncaughtException,
    UnsupportedError,
    WasmsrError,
)
from wasmsr.interp.instruction_set.features import chosen
from wasmsr.interp.instruction_set.traps import MESSAGES, NO_CODE
from wasmsr.interp.modules.module import Module, core_error
from wasmsr.interp.outcomes import (
    Exited,
    Finished,
    FrameView,
    Limits,
    Outcome,
    Paused,
    Trapped,
)
from wasmsr.interp.store.exceptions import ThrownException, is_exception
from wasmsr.interp.store.externs import (
    Caller,
    Callers,
    Extern,
    Function,
    Global,
    HostFunction,
    Memory,
    Retry,
    Table,
    view_function,
)
from wasmsr.interp.store.frames import backtrace, view_frame
from wasmsr.interp.store.instance import Imports, Instance
from wasmsr.interp.store.linking import Linking
from wasmsr.interp.store.references import References
from wasmsr.interp.types import FuncType, ValType
from wasmsr.interp.values import from_slot, gather, slot_count, spread, to_slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NONE = 2**32 - 1
_LOAN = 1 << 62
"""Fuel with which a call-back goes on that has used up all there was: it cannot pause."""
_HOST_CALL = lib.WSR_HOST_CALL
_entering = threading.Lock()


class Store(References, Linking):
    """The machine: memories, tables, globals, instances, and one thread.

    Args:
        limits: sizes that must not be exceeded.
        deterministic: NaN results whose bits the specification leaves open become the positive
            canonical NaN, so that all machines compute the same bits.
        features: what of WebAssembly its modules may need, as for `Module`.

    Attributes:
        features: names of the features in force; of a restored store, those of its snapshot.
        queue: invocations to make when the thread's frames have returned: (address, slots).
        executed: instructions executed in metered runs.
        wasi: the `Wasi` that serves the program, if any, for whoever takes a snapshot of it; the
            machine itself does not use it.

    The memory of a store is given back when nothing refers to it any more, or by `close`, also at
    the end of a `with` block.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        deterministic: bool = False,
        features: str | Iterable[str] | None = None,
    ) -> None:
        References.__init__(self)
        Linking.__init__(self)
        self.limits = limits or Limits()
        self.features = chosen(features)
        self.deterministic = deterministic
        self.instances: list[Instance] = []
        self.queue: list[tuple[int, tuple[int, ...]]] = []
        self.executed: int | None = None
        self.wasi: Any = None
        self._types: dict[int, FuncType] = {}
        self._views: dict[int, memoryview] = {}
        self._callers = Callers(self)
        self._wake: tuple[int, int] | None = None
        self.invocations = 0
        """How many have begun; the same when a host call is made again after a pause."""
        self._running = self._interrupted = False
        self._thread = 0
        self._stands = threading.Event()
        self._stands.set()
        self._budget: Any = None
        self._fuel = self._lent = self._overdraft = 0
        self._last: Finished = Finished()
        self._entry: FuncType | None = None
        error = ffi.new("wsr_error *")
        pointer = lib.wsr_store_new(
            ffi.new(
                "wsr_limits *",
                {
                    "memory_pages": self.limits.memory_pages,
                    "table_elements": self.limits.table_elements,
                    "stack_slots": self.limits.stack_slots,
                    "stack_frames": self.limits.stack_frames,
                    "deterministic": deterministic,
                },
            ),
            error,
        )
        if pointer == ffi.NULL:
            raise core_error(error)
        self.c: Any = ffi.gc(pointer, lib.wsr_store_free)
        self._exit = ffi.new("wsr_exit *")
        self._memory = ffi.new("wsr_memory_view *")
        self._outer: list[Any] = []

    def close(self) -> None:
        """Give back its memory now, and close its `wasi`; neither it nor what was taken from it can
        be used any more. Views of its memories stay valid: with them the memory is kept.

        Raises:
            WasmsrError: it is running.
        """
        if self._running:
            raise WasmsrError("the store is running", hint="pause it first")
        if self.wasi is not None:
            self.wasi.close()
        self.__dict__.pop("c", None)
        for held in (self.instances, self.queue, self.externs, self._extern_index):
            held.clear()
        for cleared in (self._views, self._callers):
            cleared.clear()
        self.forget_hosts()
        self.__del__()

    def __del__(self) -> None:
        wake, self._wake = self.__dict__.get("_wake"), None
        for fd in wake or ():
            os.close(fd)

    def __repr__(self) -> str:
        from wasmsr.interp import one_line as shown  # only here: few ask

        return shown.store(self)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name == "c":
            raise WasmsrError("the store is closed")
        raise AttributeError(f"a Store has no attribute {name!r}")

    # ---- building ----

    def instantiate(
        self,
        module: Module,
        imports: Imports | None = None,
        *,
        name: str | None = None,
        start: bool = True,
    ) -> Instance:
        """Instantiate a module: resolve its imports, allocate, apply segments, run its start.

        Args:
            imports: by module name and item name: externs of this store, host functions, or plain
                callables, which get a `Caller` if their first parameter is annotated with it.
            start: False puts the start function into the queue instead of running it.

        Raises:
            LinkError: an import is missing or has another type.
            UnsupportedError: the module needs a feature that is off in this store.
            Trap: a segment does not fit, or the start function trapped; what was written remains.
        """
        off = (
            ()
            if module.allowed_features <= self.features
            else module.needed_features - self.features
        )
        for feature in sorted(off):
            message = f'the module needs the feature "{feature}", which is switched off'
            raise UnsupportedError(message, feature=feature)
        addresses: tuple[list[int], ...] = ([], [], [], [], [])
        for item in module.imports:
            addresses[item.kind].append(self.resolve(module, item, imports or {}))
        instance = self.allocate(module, addresses, name)
        trap = lib.wsr_apply_segments(self.c, instance.index)
        if trap:
            raise Trap(MESSAGES[trap])
        if module.start is not None:
            function = Function(
                self,
                lib.wsr_instance_address(self.c, instance.index, lib.WSR_FUNCTION, module.start),
            )
            if start:
                self.call(function, ())
            else:
                self.queue.insert(0, (function.address, ()))
        return instance

    def allocate(
        self, module: Module, addresses: Sequence[Sequence[int]], name: str | None
    ) -> Instance:
        """Allocate an instance whose imports have these addresses (functions, tables, memories,
        globals, tags). No segment is applied and nothing runs: for `instantiate` and restoring."""
        arrays = [ffi.new("uint32_t[]", list(a) or [0]) for a in addresses]
        error = ffi.new("wsr_error *")
        index = lib.wsr_add_instance(self.c, module._c, *arrays, error)
        if index == _NONE:
            raise core_error(error)
        instance = Instance(self, index, module, name or module.name)
        self.instances.append(instance)
        return instance

    def function_type(self, address: int) -> FuncType:
        """Type of the function at that address."""
        type_ = self._types.get(address)
        if type_ is None:
            type_ = self._types[address] = view_function(self, address)[0]
        return type_

    def memory_view(self, address: int) -> memoryview:
        """The bytes of a memory, of its present size: after it has grown, a view is too short."""
        lib.wsr_memory(self.c, address, self._memory)
        view = self._views.get(address)
        if view is None or len(view) != self._memory.size:
            size = self._memory.size
            # The view keeps the core's store, so that it never shows memory that was given back.
            c = self.c
            data = ffi.gc(self._memory.data, lambda _: c)
            view = memoryview(ffi.buffer(data, size)).cast("B")
            self._views[address] = view
        return view

    # ---- running ----

    def enqueue(self, function: Function, *arguments: Any) -> None:
        """Add an invocation for `run` to make.

        Raises:
            TypeError, OverflowError: the arguments do not fit the function's type.
        """
        slots = self._slots(function, arguments)
        self.queue.append((function.address, slots))
        self.tell("enqueue", function=function.address, slots=slots)

    def enqueue_raw(self, address: int, bits: Sequence[int]) -> None:
        """Add an invocation by address and the bits of each argument."""
        params = self.function_type(address).params
        slots = tuple(spread(params, bits))
        self.queue.append((address, slots))
        self.tell("enqueue", function=address, slots=slots)

    def _slots(self, function: Function, arguments: Sequence[Any]) -> tuple[int, ...]:
        params = function.type.params
        if len(params) != len(arguments):
            raise TypeError(f"the function takes {len(params)} arguments, not {len(arguments)}")
        bits = [to_slot(self, t, a) for t, a in zip(params, arguments, strict=True)]
        if any(map(is_exception, params)):
            self._held.append(arguments)
        return tuple(spread(params, bits))

    def run(self, *, fuel: int | None = None) -> Outcome:
        """Run the thread, then the queue, to the end, a trap, an exit or a pause.

        Args:
            fuel: at most so many instructions; then the outcome is Paused("fuel"). What a host
                function executes by calling back counts too, but pauses only behind it.

        Raises:
            HostError: a host function raised; the thread's frames are gone.
            Interrupted: `interrupt` was called; they are gone too.
            WasmsrError: the store is running already.
        """
        if fuel is not None and not 0 <= fuel < _LOAN:
            raise ValueError("fuel must be a number of instructions, 0 or more")
        budget = None if fuel is None else ffi.new("uint64_t *", fuel)
        self._enter()
        self._budget, self._fuel, self._overdraft = budget, fuel or 0, 0
        try:
            if lib.wsr_pause_requested(self.c) and (lib.wsr_frame_count(self.c) or self.queue):
                self._end_if_interrupted()
                self._clear_pause()
                outcome: Outcome = Paused("requested")
            else:
                outcome = self._run(budget)
            if isinstance(outcome, Paused):
                self.tell("pause", reason=outcome.reason)
            return outcome
        except BaseException:
            if self._interrupted:
                self._interrupted = False
                self._clear_pause()
            self.queue.clear()
            self._held.clear()
            while lib.wsr_frame_count(self.c):
                lib.wsr_end(self.c, ffi.new("wsr_activation *"))
            raise
        finally:
            if budget is not None and fuel is not None:
                self._settle()
                self.executed = (self.executed or 0) + fuel - budget[0] + self._overdraft
            self._budget = None
            self._running = False
            self._stands.set()

    @property
    def instructions(self) -> int | None:
        """Instructions executed so far in metered runs; None if there was none."""
        if self._budget is None:
            return self.executed
        spent = self._fuel - self._budget[0] + self._lent + self._overdraft
        return (self.executed or 0) + int(spent)

    def _enter(self) -> None:
        """From here on the store is this thread's."""
        with _entering:
            if self._running:
                raise WasmsrError("the store is running; one thread at a time may use it")
            self._running = True
            self._thread = threading.get_ident()
            self._stands.clear()
        self.release()

    def _settle(self) -> None:
        """Take back what was lent to a call-back, and note what it has used."""
        if self._lent:
            self._overdraft += self._lent - self._budget[0]
            self._budget[0] = self._lent = 0

    def _run(self, budget: Any) -> Outcome:
        while True:
            if not lib.wsr_frame_count(self.c):
                if not self.queue:
                    self._held.clear()
                    return self._last
                address, slots = self.queue[0]
                if address in self.hosts:
                    if budget is not None and not budget[0]:
                        return Paused("fuel")
                    outcome = self._host_entry(address, slots)
                    if outcome is not None:
                        if not isinstance(outcome, Paused):
                            self._clear()
                        return outcome
                    self.queue.pop(0)
                    continue
                self.queue.pop(0)
                self.invocations += 1
                trap = lib.wsr_begin(
                    self.c, address, list(slots) or [0], ffi.new("wsr_activation *")
                )
                if trap:
                    self.queue.clear()
                    return Trapped(self._trap(trap, ()))
                self._entry = self.function_type(address)
            outcome = self._advance(budget)
            if outcome is not None:
                return outcome

    def _host_entry(self, address: int, slots: Sequence[int]) -> Outcome | None:
        """Invoke a host function that was enqueued itself."""
        self.invocations += 1
        function = self.hosts[address][0]
        type_ = function.type
        array = ffi.new("uint64_t[]", max(1, slot_count(type_.params), slot_count(type_.results)))
        array[0 : len(slots)] = list(slots)
        while True:
            try:
                self._perform_at[address](self._callers[None], array)
            except BaseException as error:  # noqa: BLE001 (what follows is decided there)
                outcome = self._not_performed(error)
                if outcome is not None:
                    return outcome
            else:
                self._last = self._finished(type_, array)
                return None

    def _finished(self, type_: FuncType, slots: Any) -> Finished:
        results = type_.results
        raw = tuple(gather(results, ffi.unpack(slots, slot_count(results)))) if results else ()
        values = tuple(from_slot(self, t, v) for t, v in zip(type_.results, raw, strict=True))
        return Finished(values, raw)

    def _advance(self, budget: Any) -> Outcome | None:
        """Run the frames that are there; None when they have returned."""
        c, exit_ = self.c, self._exit
        null = ffi.NULL if budget is None else budget
        functions, callers, outer = self._perform_at, self._callers, self._outer
        again = lib.wsr_host_return_run
        code = lib.wsr_run(c, null, exit_)
        while True:
            # The commonest first, and nothing in it that could be done once: a program may make
            # a million of these calls a second.
            while code == _HOST_CALL:
                try:
                    functions[exit_.host_function](callers[exit_.host_instance], exit_.slots)
                except BaseException as error:  # noqa: BLE001 (what follows is decided there)
                    outcome = self._not_performed(error)
                    if self._lent and not outer:
                        self._settle()
                    if outcome is None:
                        continue  # once more
                    if isinstance(outcome, Trapped) and self._caught(outcome.trap):
                        code = lib.wsr_run(c, null, exit_)
                        continue
                    if isinstance(outcome, Paused):
                        if budget is not None:
                            budget[0] += 1  # the call has not been executed
                    elif not outer:
                        self._clear()
                    return outcome
                if self._lent and not outer:
                    self._settle()
                code = again(c, null, exit_)
            if code == lib.WSR_FINISHED:
                assert self._entry is not None
                self._last = self._finished(self._entry, exit_.slots)
                return None
            if code == lib.WSR_PAUSED:
                if lib.wsr_pause_requested(c):
                    self._end_if_interrupted()
                    if self._outer:  # a host function waits for this call: pause behind it
                        self._clear_pause()
                        self._outer[-1][1] = True
                        code = lib.wsr_run(c, null, exit_)
                        continue
                    self._clear_pause()
                    return Paused("requested")
                if self._outer:
                    budget[0] = _LOAN
                    self._lent += _LOAN
                    code = lib.wsr_run(c, null, exit_)
                    continue
                return Paused("fuel")
            if code == lib.WSR_UNCAUGHT:
                trap: Trap = ThrownException(self, exit_.exception).error()
                trap.backtrace = self.backtrace()
            else:
                trap = self._trap(exit_.trap)
            if not self._outer:
                self._clear()
            return Trapped(trap)

    def _trap(self, code: int, backtrace: tuple[Frame, ...] | None = None) -> Trap:
        """The trap of that code; raises what is wrong with a function that has no code, if its
        body was not validated before and is invalid."""
        if MESSAGES[code] == NO_CODE:
            for instance in self.instances:
                error = instance.module.invalid()
                if error is not None:
                    raise error
        return Trap(MESSAGES[code], self.backtrace() if backtrace is None else backtrace)

    def _not_performed(self, error: BaseException) -> Outcome | None:
        """What follows when a host function raised; None: it is to be called once more. Raises what
        is the host's fault."""
        if isinstance(error, Retry):
            self._end_if_interrupted()
            if not self._outer:
                self._clear_pause()
                return Paused("requested")
            if not lib.wsr_pause_requested(self.c):
                raise HostError("a host call gave up though nobody asked for a pause") from None
            # The host function that called back must end first: put the pause off, wait again.
            self._clear_pause()
            self._outer[-1][1] = True
            return None
        if isinstance(error, Exit):
            return Exited(error.code)
        if isinstance(error, UncaughtException):
            error.backtrace = error.backtrace or self.backtrace()
            return Trapped(error)
        if isinstance(error, Trap):  # of a call-back, or of the host function's own making
            return Trapped(error if error.backtrace else Trap(error.code, self.backtrace()))
        if isinstance(error, WasmsrError) or not isinstance(error, Exception):
            raise error
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise HostError(f"a host function raised {said}") from error

    def _caught(self, trap: Trap) -> bool:
        """Whether the program catches what the host function has thrown: then it goes on."""
        return (
            isinstance(trap, UncaughtException)
            and trap.exception.store is self
            and bool(lib.wsr_host_throw(self.c, trap.exception.bits))
        )

    def _clear(self) -> None:
        """Drop the frames: the program has ended."""
        self.queue.clear()
        self._held.clear()
        lib.wsr_end(self.c, ffi.new("wsr_activation *"))

    def call(self, function: Function, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Run a function to its end and return its results; see `Function.__call__`."""
        slots = self._slots(function, arguments)
        if self._running and self._thread == threading.get_ident():
            return self._nested(function, slots)
        if not self._running:  # on another thread, that is; `run` says so
            if lib.wsr_frame_count(self.c) or self.queue:
                raise WasmsrError("the store's thread is paused", hint="run() it to its end first")
            self.queue.append((function.address, slots))
        outcome = self.run()
        if isinstance(outcome, Trapped):
            raise outcome.trap
        if isinstance(outcome, Exited):
            raise Exit(outcome.code)
        if isinstance(outcome, Paused):
            raise Interrupted("the call was paused", hint="store.run() goes on with it")
        return outcome.results

    def _nested(self, function: Function, slots: tuple[int, ...]) -> tuple[Any, ...]:
        """A host function calls back: run on top of the frames that wait for it."""
        if function.address in self.hosts:
            last = self._last
            outcome = self._host_entry(function.address, slots)
            results, self._last = self._last.results, last
            if isinstance(outcome, Trapped):
                raise outcome.trap
            if isinstance(outcome, Exited):
                raise Exit(outcome.code)
            return results
        activation = ffi.new("wsr_activation *")
        entry, last = self._entry, self._last
        outer_exit = (self._exit.host_function, self._exit.host_instance, self._exit.slots)
        self.invocations += 1
        trap = lib.wsr_begin(self.c, function.address, list(slots) or [0], activation)
        if trap:
            raise self._trap(trap, ())
        self._entry = self.function_type(function.address)
        level = [activation, False]
        self._outer.append(level)
        try:
            outcome = self._advance(self._budget)
            results = self._last.results
        finally:
            self._outer.pop()
            lib.wsr_end(self.c, activation)
            self._entry, self._last = entry, last
            self._exit.host_function, self._exit.host_instance, self._exit.slots = outer_exit
            if level[1]:
                self.pause()
        if isinstance(outcome, Trapped):
            raise outcome.trap
        if isinstance(outcome, Exited):
            raise Exit(outcome.code)
        return results

    @property
    def nested(self) -> bool:
        """Whether a host function is being performed that called back into the store."""
        return bool(self._outer)

    # ---- pausing ----

    def pause(self) -> None:
        """Ask the machine to pause: from any thread or signal handler.

        `run` returns Paused("requested") at the next canonical point, within microseconds, or when
        the host function in hand has returned or given up. The request stands until then; if the
        store is not running, its next `run` returns so at once. `wait` waits for it.
        """
        lib.wsr_pause(self.c)
        if self._wake is not None:
            with suppress(BlockingIOError):  # then enough bytes lie there to wake everybody
                os.write(self._wake[1], b"\0")

    def interrupt(self) -> None:
        """Ask for an end of what runs: from any thread or signal handler.

        `run` raises Interrupted where it would pause, and also where it would not: in WebAssembly
        that a host function called back. The thread's frames and the queue are gone then; memories
        and the like remain as they are. For what can be paused, `pause` is better.
        """
        self._interrupted = True
        self.pause()

    def _end_if_interrupted(self) -> None:
        if self._interrupted:
            raise Interrupted("the program was interrupted")

    @property
    def running(self) -> bool:
        """Whether some thread is in `run`, or in a call of a function."""
        return self._running

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no thread runs it any more; False if one still does after `timeout` seconds.

        To be called from another thread than the one that runs.
        """
        return self._stands.wait(timeout)

    @property
    def wake_fd(self) -> int:
        """Readable while a pause is requested: for host functions that wait."""
        if self._wake is None:
            read, write = os.pipe()
            os.set_blocking(read, False)
            os.set_blocking(write, False)
            self._wake = (read, write)
            if lib.wsr_pause_requested(self.c):
                self.pause()
        return self._wake[0]

    def _clear_pause(self) -> None:
        lib.wsr_clear_pause(self.c)
        if self._wake is not None:
            try:
                while len(os.read(self._wake[0], 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass
            if lib.wsr_pause_requested(self.c):  # a request came meanwhile: its byte may be gone
                self.pause()

    # ---- looking in ----

    def frames(self, *, dead_locals: bool = True) -> list[FrameView]:
        """The thread's frames, outermost first.

        Args:
            dead_locals: False shows locals that no execution can read any more as zero, as
                snapshots store them.
        """
        view = ffi.new("wsr_frame_view *")
        return [
            self.frame(i, dead_locals=dead_locals, view=view)
            for i in range(lib.wsr_frame_count(self.c))
        ]

    def frame(self, number: int, *, dead_locals: bool = True, view: Any = None) -> FrameView:
        """One frame by number, 0 the outermost, -1 the innermost."""
        return view_frame(self, number, dead_locals=dead_locals, view=view)

    def backtrace(self) -> tuple[Frame, ...]:
        """The innermost frames of the thread for a message, innermost first."""
        return backtrace(self)

    def check(self) -> None:
        """Test every invariant of the machine; AssertionError names the first that is broken."""
        broken = lib.wsr_check(self.c)
        if broken != ffi.NULL:
            raise AssertionError(ffi.string(broken).decode())


__all__ = [
    "Caller",
    "Exited",
    "Extern",
    "Finished",
    "FrameView",
    "Function",
    "Global",
    "HostFunction",
    "Imports",
    "Instance",
    "Limits",
    "Memory",
    "Outcome",
    "Paused",
    "Retry",
    "Store",
    "Table",
    "Trapped",
    "ValType",
]
