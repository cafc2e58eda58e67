"""The store: memories, tables, globals and instances of a program, and its one thread.

A store is made of parts: `linking` answers imports, `references` translates references, `pausing`
takes requests of other threads, `invocation` runs. A store is used by one thread at a time; `pause`
can be called from any thread or signal handler, `wait` and `running` from any thread.

Source: WebAssembly specification, section 4.2 (Runtime Structure) and 4.5.4 (Instantiation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from wasmsr._ffi import ffi, lib
from wasmsr.errors import Frame, Trap, UnsupportedError, WasmsrError
from wasmsr.interp import tier
from wasmsr.interp.instruction_set.features import chosen
from wasmsr.interp.instruction_set.traps import MESSAGES
from wasmsr.interp.modules.module import Import, Module, core_error
from wasmsr.interp.outcomes import FrameView, Limits, Outcome
from wasmsr.interp.store.exceptions import ThrownException
from wasmsr.interp.store.externs import Function, HostFunction, function_type_at
from wasmsr.interp.store.frames import backtrace, view_frame
from wasmsr.interp.store.instance import Imports, Instance
from wasmsr.interp.store.invocation import Invoker
from wasmsr.interp.store.linking import Linker
from wasmsr.interp.store.pausing import PauseControl
from wasmsr.interp.store.references import ReferenceTable
from wasmsr.interp.types import FuncType, ValType
from wasmsr.interp.values import values_to_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from wasmsr.interp.gate import HostGate
    from wasmsr.interp.store.state import StoreState

_NONE = 2**32 - 1


class Store:
    """Memories, tables, globals and instances of a program, and one thread.

    The memory of a store is given back when nothing refers to it any more, or by `close`, also at
    the end of a `with` block.

    Args:
        limits: Sizes that must not be exceeded.
        deterministic: NaN results whose bits the specification leaves open become the positive
            canonical NaN, so that all machines compute the same bits.
        features: What of WebAssembly its modules may need, as for `Module`.

    Attributes:
        limits: Sizes that must not be exceeded.
        features: Names of the features in force; of a restored store, those of its snapshot.
        deterministic: Whether NaN results have one form.
        instances: Module instances, in the order of instantiation.
        wasi: The `Wasi` that serves the program, or None. The store does not use it; it is there
            for whoever takes a snapshot.
        bases: The `MemoryBases` of its memories, or None: like `wasi`, not used by the store.
        owners: Hosts besides `wasi` that keep state for the program, by name; each has `capture`,
            which returns what snapshots save.
        linker: The part that answers imports.
        references: The part that translates references.
        pauses: The part that takes requests to pause.
        invoker: The part that runs invocations.
        c: The core's store.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        deterministic: bool = False,
        features: str | Iterable[str] | None = None,
    ) -> None:
        limits = limits or Limits()
        error = ffi.new("wsr_error *")
        c_limits = {
            "memory_pages": limits.memory_pages,
            "table_elements": limits.table_elements,
            "stack_slots": limits.stack_slots,
            "stack_frames": limits.stack_frames,
            "deterministic": deterministic,
        }
        pointer = lib.wsr_store_new(ffi.new("wsr_limits *", c_limits), error)
        if pointer == ffi.NULL:
            raise core_error(error)
        if tier.chosen() != tier.DEFAULT:
            lib.wsr_store_use_native(pointer, tier.chosen() == "auto")
        self._begin(pointer, limits, chosen(features), deterministic)

    def _begin(
        self, pointer: Any, limits: Limits, features: frozenset[str], deterministic: bool
    ) -> None:
        """Make all parts of the store around the core's."""
        self.limits = limits
        self.features = features
        self.deterministic = deterministic
        self.instances: list[Instance] = []
        self.wasi: Any = None
        self.bases: Any = None
        self.owners: dict[str, Any] = {}
        self.linker = Linker(self)
        self.references = ReferenceTable(self)
        self.pauses = PauseControl(self)
        self.invoker = Invoker(self, self.linker, self.references, self.pauses)
        self._types: dict[int, FuncType] = {}
        self._views: dict[int, memoryview] = {}
        self.c: Any = ffi.gc(pointer, lib.wsr_store_free)
        self._compiling: Any = None
        if self.tier == "auto":
            from wasmsr.interp import compiling  # only here: it registers what forks and ends do

            self._compiling = compiling
        self._memory = ffi.new("wsr_memory_view *")

    @classmethod
    def from_state(cls, *, limits: Limits, deterministic: bool, features: Iterable[str]) -> Store:
        """Return an empty store for a saved state to be restored in.

        Args:
            limits: The saved limits.
            deterministic: Whether NaN results have one form.
            features: Names of the saved features. The store keeps names that this engine does not
                have: it compares what its modules need with them.
        """
        store = cls(limits=limits, deterministic=deterministic)
        store.features = frozenset(features)
        return store

    def copied(self, imports: Imports | None = None, *, memories: bool = True) -> Store:
        """Return a new store in the state of this one; it has no `wasi`.

        The copy shares what does not change: types, functions, tables of code, segments. Its
        memories have their sizes and are all zeros; `bases` gives them their bytes. Host objects
        are the same.

        Args:
            imports: The host functions of the copy, as for `instantiate`; one with an identity is
                found by it. None takes those of this store.
            memories: False makes a copy without address space for memories. It cannot run, and
                keeps a state for other copies.

        Raises:
            LinkError: A host function is missing, or has another type.
            WasmsrError: This store is running, or a host function called back.
        """
        self._check_at_rest()
        error = ffi.new("wsr_error *")
        pointer = lib.wsr_store_copy(self.c, memories, error)
        if pointer == ffi.NULL:
            raise core_error(error)
        made = Store.__new__(Store)
        made._begin(pointer, self.limits, self.features, self.deterministic)
        made._types = dict(self._types)
        try:
            made.linker.copy(self.linker, imports)
        except BaseException:
            made.close()
            raise
        made._take(self)
        return made

    def assign(self, source: Store, *, linked: bool = True) -> None:
        """Take over the state of another store in which the same program is.

        Memories keep the bytes that they have, up to their new sizes. `wasi` stays.

        Args:
            source: The other store.
            linked: Whether to take its host functions too: it was copied from this store, with
                all of them. Otherwise those of this store have the same addresses and types.

        Raises:
            MemoryError: The host has no room; the store is closed then.
            WasmsrError: One of the two is running, or a host function called back.
        """
        self._check_at_rest()
        source._check_at_rest()
        self.references.release()
        if not lib.wsr_store_assign(self.c, source.c):
            self.close()
            raise MemoryError("no memory left for the state of the store")
        self._views.clear()
        self._types = dict(source._types)
        if linked:
            self.linker.clear()
            self.linker.copy(source.linker, None)
        self._take(source)
        self.invoker.invocations += 1  # a host call that was begun is not the one that comes now

    def _check_at_rest(self) -> None:
        if self.running or self.nested:
            raise WasmsrError("the store is running", hint="pause it first")

    def _take(self, source: Store) -> None:
        """Take over what of a state is not in the core."""
        self.instances[:] = [Instance(self, i.index, i.module, i.name) for i in source.instances]
        self.references.let_go()
        self.references.set_externs(source.externs)
        self.invoker.take(source.invoker)

    @property
    def tier(self) -> str:
        """How this store runs code: one of `wasmsr.interp.tier.TIERS`."""
        return tier.TIERS[lib.wsr_store_is_native(self.c)]

    def close(self) -> None:
        """Give back its memory now, and close its `wasi`.

        Neither the store nor what was taken from it can be used any more. Views of its memories
        stay valid: they keep the memory.

        Raises:
            WasmsrError: The store is running.
        """
        if self.running:
            raise WasmsrError("the store is running", hint="pause it first")
        if self.wasi is not None:
            self.wasi.close()
        self.__dict__.pop("c", None)
        self.instances.clear()
        self.queue.clear()
        self.references.clear()
        self._views.clear()
        self.invoker.callers.clear()
        self.linker.clear()
        self.pauses.close()
        self.bases = None  # closes the files under its memories that nobody else has

    @property
    def closed(self) -> bool:
        """Whether the store is closed."""
        return "c" not in self.__dict__

    def __repr__(self) -> str:
        from wasmsr.interp import one_line  # only here: few ask

        return one_line.store(self)

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
            module: The module.
            imports: By module name and item name: externs of this store, host functions, or plain
                callables, which get a `Caller` if their first parameter is annotated with it.
            name: The instance's name in messages; default is the module's.
            start: False puts the start function into the queue instead of running it.

        Raises:
            LinkError: An import is missing or has another type.
            UnsupportedError: The module needs a feature that is off in this store.
            Trap: A segment does not fit, or the start function trapped; what was written remains.
        """
        for feature in sorted(module.lacking(self.features)):
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
            address = instance.address(lib.WSR_FUNCTION, module.start)
            if start:
                self.call(Function(self, address), ())
            else:
                self.queue.insert(0, (address, ()))
        return instance

    def resolve(self, module: Module, item: Import, imports: Imports) -> int:
        """Return the address of what is given for an import. Raises LinkError."""
        return self.linker.resolve(module, item, imports)

    def allocate(
        self, module: Module, addresses: Sequence[Sequence[int]], name: str | None
    ) -> Instance:
        """Allocate an instance. No segment is applied and nothing runs.

        Args:
            module: The module.
            addresses: Addresses of its imports: functions, tables, memories, globals, tags.
            name: The instance's name in messages; default is the module's.
        """
        arrays = [ffi.new("uint32_t[]", list(a) or [0]) for a in addresses]
        error = ffi.new("wsr_error *")
        index = lib.wsr_add_instance(self.c, module.c, *arrays, error)
        if index == _NONE:
            raise core_error(error)
        if self._compiling is not None:
            self._compiling.add(module)
        instance = Instance(self, index, module, name or module.name)
        self.instances.append(instance)
        return instance

    def add_host_function(
        self,
        function: HostFunction,
        module: str,
        name: str,
        importer: tuple[Module, Import] | None = None,
    ) -> int:
        """Return the address of a host function, which is added if it is new; see `Linker.add`."""
        return self.linker.add(function, module, name, importer)

    def wrap(self, type_: FuncType, call: Callable[..., Any], name: str) -> HostFunction:
        """Return a plain callable as a host function; see `Linker.wrap`."""
        return self.linker.wrap(type_, call, name)

    @property
    def hosts(self) -> dict[int, tuple[HostFunction, str, str]]:
        """Host functions by address, each with the names of the import that it answers."""
        return self.linker.hosts

    @property
    def gate(self) -> HostGate | None:
        """The gate that all host calls pass, or None. It can be set at any time."""
        return self.linker.gate

    @gate.setter
    def gate(self, gate: HostGate | None) -> None:
        self.linker.gate = gate

    def tell(self, kind: str, **detail: Any) -> None:
        """Tell the gate of an event, if there is a gate."""
        self.linker.tell(kind, **detail)

    def function(self, address: int) -> Function:
        """Return the function at an address."""
        return Function(self, address)

    def function_type(self, address: int) -> FuncType:
        """Return the type of the function at an address."""
        type_ = self._types.get(address)
        if type_ is None:
            type_ = self._types[address] = function_type_at(self, address)
        return type_

    def memory_view(self, address: int) -> memoryview:
        """Return the bytes of a memory, of its present size.

        After the memory has grown, the view is too short.
        """
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

    # ---- references ----

    @property
    def externs(self) -> list[Any]:
        """Host objects that externrefs name; the bits of a reference are the index plus one."""
        return self.references.externs

    def reference_bits(self, type_: ValType, value: Any) -> int:
        """Return the bits of a reference; see `ReferenceTable.bits`."""
        return self.references.bits(type_, value)

    def referenced(self, type_: ValType, bits: int) -> Any:
        """Return what a reference refers to; see `ReferenceTable.referenced`."""
        return self.references.referenced(type_, bits)

    def keep_exception(self, bits: int) -> None:
        """Keep an exception alive for a Python object."""
        self.references.release()
        lib.wsr_keep_exception(self.c, bits, 1)

    def release_exception(self, bits: int) -> None:
        """Note that the Python object of an exception is gone.

        The garbage collector can call this on any thread, while the core runs. The store tells the
        core later.
        """
        self.references.released.append(bits)

    def throw(self, tag: int, slots: Sequence[int]) -> NoReturn:
        """Throw an exception out of a host function.

        Args:
            tag: Address of its tag.
            slots: Slots of its fields.

        Raises:
            UncaughtException: Always; the program that called the host function can catch it.
            Trap: The exceptions that are alive leave no room for it.
        """
        self.references.release()
        trap = ffi.new("uint32_t *")
        reference = lib.wsr_new_exception(self.c, tag, list(slots) or [0], trap)
        if not reference:
            raise Trap(MESSAGES[trap[0]])
        raise ThrownException(self, reference).error()

    # ---- running ----

    @property
    def queue(self) -> list[tuple[int, tuple[int, ...]]]:
        """Invocations to make when the thread's frames have returned: (address, slots)."""
        return self.invoker.queue

    @property
    def executed(self) -> int | None:
        """Instructions executed in metered runs that have ended; None if there was none."""
        return self.invoker.executed

    @executed.setter
    def executed(self, count: int | None) -> None:
        self.invoker.executed = count

    @property
    def instructions(self) -> int | None:
        """Instructions executed so far in metered runs; None if there was none."""
        return self.invoker.instructions

    @property
    def invocations(self) -> int:
        """How many invocations have begun; the same when a host call is made again."""
        return self.invoker.invocations

    def enqueue(self, function: Function, *arguments: Any) -> None:
        """Add an invocation for `run` to make.

        Raises:
            TypeError, OverflowError: The arguments do not fit the function's type.
        """
        self.invoker.enqueue(function.address, self.invoker.slots(function, arguments))

    def enqueue_raw(self, address: int, bits: Sequence[int]) -> None:
        """Add an invocation by address and the bits of each argument."""
        params = self.function_type(address).params
        self.invoker.enqueue(address, tuple(values_to_slots(params, bits)))

    def push_call(self, function: Function, *arguments: Any) -> None:
        """Push a call above the frames of a paused program, which goes on with it.

        The next `run` makes the call. Its results are dropped, and then the interrupted frames go
        on as if there had been no call. Snapshots contain the call, before and in the middle of it.
        It can be pushed between any two instructions of the program, like a signal handler of C: it
        sees memory as the program has it there. It should not wait: a `poll_oneoff` that it
        interrupted begins its time again if the call polls too. A trap in it, or an exception that
        it does not catch, ends the program.

        Args:
            function: A function of a module.
            arguments: Its arguments.

        Raises:
            TypeError, OverflowError: The arguments do not fit the function's type.
            WasmsrError: No call is paused, the store is running, or the function is of the host.
            Trap: The stack has no room for it; nothing has changed.
        """
        self.invoker.push(function, arguments)

    def run(self, *, fuel: int | None = None) -> Outcome:
        """Run the thread, then the queue, to the end, a trap, an exit or a pause.

        Args:
            fuel: The largest number of instructions; after them the outcome is Paused("fuel").
                What a host function executes by calling back counts too, but the program pauses
                only after the host function has returned.

        Raises:
            HostError: A host function raised; the thread's frames are gone.
            Interrupted: `interrupt` was called; they are gone too.
            WasmsrError: The store is running already.
        """
        if self._compiling is not None:
            self._compiling.begin()
        return self.invoker.run(fuel)

    def call(self, function: Function, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Run a function to its end and return its results; see `Function.__call__`."""
        if self._compiling is not None:
            self._compiling.begin()
        return self.invoker.call(function, arguments)

    @property
    def nested(self) -> bool:
        """Whether a host function is being performed that called back into the store."""
        return self.invoker.nested

    # ---- pausing ----

    def pause(self) -> None:
        """Ask for a pause, from any thread or signal handler.

        `run` returns Paused("requested") at the next canonical point, within microseconds, or when
        the host function in hand has returned or given up. The request stays until then; if the
        store is not running, its next `run` returns so at once. `wait` waits for it.
        """
        self.pauses.pause()

    def interrupt(self) -> None:
        """Ask for an end of what runs, from any thread or signal handler.

        `run` raises Interrupted where it would pause, and also where it would not: in WebAssembly
        that a host function called back. The thread's frames and the queue are gone then; memories
        and the like remain as they are. For what can be paused, `pause` is better.
        """
        self.pauses.interrupt()

    @property
    def running(self) -> bool:
        """Whether some thread is in `run`, or in a call of a function."""
        return self.pauses.running

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no thread runs the store, on another thread than the one that runs it.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            False if a thread still runs the store after that time.
        """
        return self.pauses.wait(timeout)

    @property
    def wake_fd(self) -> int:
        """A descriptor that is readable while a pause is requested."""
        return self.pauses.wake_fd

    # ---- looking in ----

    def frames(self, *, dead_locals: bool = True) -> list[FrameView]:
        """Return the thread's frames, outermost first.

        Args:
            dead_locals: False returns locals that no execution can read any more as zero, as
                snapshots store them.
        """
        view = ffi.new("wsr_frame_view *")
        count = lib.wsr_frame_count(self.c)
        return [self.frame(i, dead_locals=dead_locals, view=view) for i in range(count)]

    def frame(self, number: int, *, dead_locals: bool = True, view: Any = None) -> FrameView:
        """Return one frame by number, 0 the outermost, -1 the innermost."""
        return view_frame(self, number, dead_locals=dead_locals, view=view)

    def backtrace(self) -> tuple[Frame, ...]:
        """Return the innermost frames of the thread for a message, innermost first."""
        return backtrace(self)

    @property
    def state(self) -> StoreState:
        """The part that gives the state as plain data, and takes a saved state."""
        from wasmsr.interp.store.state import StoreState  # only here: who saves asks

        return StoreState(self)

    def check(self) -> None:
        """Test every invariant of the store.

        Raises:
            AssertionError: It names the first invariant that is broken.
        """
        broken = lib.wsr_check(self.c)
        if broken != ffi.NULL:
            raise AssertionError(ffi.string(broken).decode())


__all__ = ["Store"]
