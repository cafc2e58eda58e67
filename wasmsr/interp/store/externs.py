"""What instances export and import: functions, tables, memories, globals, host functions.

An extern is a handle: a store and an address in it. It holds no state of its own. So it stays right
while the program runs, and names the same thing for as long as its store lives.
"""

from __future__ import annotations

import select
from collections.abc import Callable

from wasmsr._ffi import ffi, lib
from wasmsr.errors import HostError, LinkError
from wasmsr.interp.modules.module import address_type, core_error, function_type
from wasmsr.interp.store.host_calls import slot_caller
from wasmsr.interp.types import (
    Bounds,
    FuncType,
    GlobalType,
    MemoryType,
    TableType,
    TagType,
    ValType,
)
from wasmsr.interp.values import from_slot, slot_count, slots_to_values, to_slot, values_to_slots
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from wasmsr.interp.gate import Writes
    from wasmsr.interp.store.interface import StoreInterface


class Retry(BaseException):
    """Raised by a host function that gave up for a pause before it had any effect.

    The program stays at the call with its operands. The call is made again when the program
    continues, here or wherever a snapshot of it is restored.
    """


class HostFunction:
    """A function that the host provides.

    Args:
        type: Its type.
        call: Called as `call(caller, *arguments)`. It returns None, one value, or a tuple, as the
            results of the type say.
        raw: Arguments and results are the values' bits (unsigned), which is faster.
        identity: A string by which snapshots know it, unique in a store. None: the names of its
            import identify it. A store in which different functions answer one import can only be
            restored if these have identities.
        writes: Tells which memory a call can write (`gate.Writes`); None if that is not declared.
        memory: Address of the memory that the calls use (`Caller.memory`), in the store that links
            the function. None: the memory of the calling instance.
        realloc: Address of the function that allocates in that memory (`Caller.realloc`), or None.

    Attributes:
        perform: Calls it with a caller and the slots of the arguments. The results take their
            place.
    """

    def __init__(
        self,
        type: FuncType,
        call: Callable[..., Any],
        *,
        raw: bool = False,
        identity: str | None = None,
        writes: Writes | None = None,
        memory: int | None = None,
        realloc: int | None = None,
    ) -> None:
        self.type = type
        self.call = call
        self.raw = raw
        self.identity = identity
        self.writes = writes
        self.memory = memory
        self.realloc = realloc
        self.perform = slot_caller(type, call, raw=raw)

    @property
    def argument_slots(self) -> int:
        """Slots of the arguments."""
        return slot_count(self.type.params)

    @property
    def result_slots(self) -> int:
        """Slots of the results."""
        return slot_count(self.type.results)

    def __repr__(self) -> str:
        from wasmsr.interp import one_line  # only here: few ask

        return one_line.host_function(self)

    @classmethod
    def of(cls, type: FuncType, call: Callable[..., Any], name: str) -> HostFunction:
        """Return a host function that calls a plain callable.

        The callable gets the arguments. If its first parameter is annotated as a `Caller`, it gets
        the caller before them.

        Raises:
            LinkError: It does not take as many arguments as the type has; `name` says which.
        """
        import inspect  # only here: it is large, and WASI does not need it

        try:
            signature = inspect.signature(call)
        except (TypeError, ValueError):  # some builtins do not tell
            return cls(type, _without_caller(call))
        first = next(iter(signature.parameters.values()), None)
        annotation = None if first is None else first.annotation
        wants = annotation is Caller or (
            isinstance(annotation, str) and annotation.rpartition(".")[2].strip("\"'") == "Caller"
        )
        try:
            signature.bind(*range(wants + len(type.params)))
        except TypeError:
            raise LinkError(
                f"{name} is of type {type}, and the Python function given for it takes {signature}"
            ) from None
        return cls(type, call if wants else _without_caller(call))


def _without_caller(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `call` without the caller."""

    def called(_: Caller, *values: Any) -> Any:
        return call(*values)

    called.__qualname__ = getattr(call, "__qualname__", type(call).__name__)
    return called


@record(frozen=True)
class Caller:
    """What a host function may know of its call. It is the first argument of each host function.

    Attributes:
        store: The store in which the program runs.
        instance: Index of the calling instance, or None if the host called.
        bound_memory: Address of the memory that the host function is bound to, or None.
        bound_realloc: Address of the function that allocates in it, or None.
    """

    store: StoreInterface
    instance: int | None
    bound_memory: int | None = None
    bound_realloc: int | None = None

    def __repr__(self) -> str:
        bound = (self.bound_memory, self.bound_realloc)
        more = "" if bound == (None, None) else ", bound_memory={}, bound_realloc={}".format(*bound)
        return f"Caller(store={self.store!r}, instance={self.instance}{more})"

    @property
    def memory(self) -> memoryview:
        """The bytes of the call's memory, writable; valid during this call.

        That is the memory that the host function is bound to. Of a function that is bound to none,
        it is the memory that the calling instance exports as `memory`, or its memory 0 if it
        exports none.

        Raises:
            HostError: The caller has no memory, or the store has none at the bound address.
        """
        if self.bound_memory is not None:
            self._check(self.bound_memory, "memories", "memory")
            return self.store.memory_view(self.bound_memory)
        if self.instance is not None:
            instance = self.store.instances[self.instance]
            if instance.memory_address is not None:
                return self.store.memory_view(instance.memory_address)
        raise HostError("the calling instance has no memory")

    @property
    def realloc(self) -> Function | None:
        """The function that allocates in the call's memory, or None if none is bound.

        Raises:
            HostError: The store has no function at the bound address.
        """
        if self.bound_realloc is None:
            return None
        self._check(self.bound_realloc, "functions", "function")
        return Function(self.store, self.bound_realloc)

    def _check(self, address: int, kind: str, noun: str) -> None:
        counts = ffi.new("wsr_store_counts *")
        lib.wsr_store_count(self.store.c, counts)
        if not 0 <= address < getattr(counts, kind):
            raise HostError(
                f"a host function is bound to {noun} {address}, and the store has "
                f"{getattr(counts, kind)} {kind}",
                hint="bind it to an address that the store has when the call is made",
            )

    @property
    def pause_requested(self) -> bool:
        """Whether somebody asks for a pause: a call that must wait raises `Retry` then."""
        return bool(lib.wsr_pause_requested(self.store.c))

    @property
    def wake_fd(self) -> int:
        """A descriptor that is readable as soon as a pause is requested: for poll and select."""
        return self.store.wake_fd

    def wait(self, fd: int, events: int = select.POLLIN, timeout: float | None = None) -> bool:
        """Wait for a descriptor.

        Args:
            fd: The descriptor.
            events: What to wait for, as for `select.poll`.
            timeout: Seconds; None waits for ever.

        Returns:
            False if the time has passed.

        Raises:
            Retry: A pause was requested first. Let it through: the call is made again later.
        """
        poll = select.poll()
        poll.register(fd, events)
        poll.register(self.wake_fd, select.POLLIN)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        if any(found == fd for found, _ in ready):
            return True
        if ready:
            raise Retry
        return False


class Callers(dict["int | None", Caller]):
    """A `Caller` for each instance of a store, made when it is first asked for.

    Args:
        store: The store.
        bound: Addresses of the memory and the realloc function that the callers have, or None.
    """

    def __init__(
        self, store: StoreInterface, bound: tuple[int | None, int | None] = (None, None)
    ) -> None:
        self.store = store
        self.bound = bound

    def __missing__(self, instance: int | None) -> Caller:
        made = self[instance] = Caller(self.store, instance, *self.bound)
        return made


class Handle:
    """A place in a store, by address."""

    def __init__(self, store: StoreInterface, address: int) -> None:
        self.store = store
        self.address = address

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Handle)
            and type(other) is type(self)
            and other.store is self.store
            and other.address == self.address
        )

    def __hash__(self) -> int:
        return hash((id(self.store), type(self), self.address))

    def __repr__(self) -> str:
        from wasmsr.interp import one_line  # only here: few ask

        return one_line.handle(self)


class Function(Handle):
    """A function in a store; call it with Python values."""

    @property
    def type(self) -> FuncType:
        """Its type."""
        return self.store.function_type(self.address)

    def __call__(self, *arguments: Any) -> Any:
        """Run it to its end.

        Returns:
            None, one value, or a tuple, as its type says.

        Raises:
            TypeError, OverflowError: The arguments do not fit the type.
            Trap: The program trapped.
            Exit: The program ended itself.
            Interrupted: The program was paused; `store.run()` goes on with it.
            HostError: A host function raised.
        """
        results = self.store.call(self, arguments)
        return results[0] if len(results) == 1 else results or None


class Memory(Handle):
    """A linear memory in a store."""

    @classmethod
    def new(cls, store: StoreInterface, type_: MemoryType) -> Memory:
        """Allocate one, for modules to import."""
        error = ffi.new("wsr_error *")
        minimum = type_.bounds.minimum
        address = lib.wsr_add_memory(store.c, c_bounds(type_), minimum, error)
        return cls(store, _allocated(address, error))

    @property
    def type(self) -> MemoryType:
        """Its type, with the current size as minimum."""
        view = self._view()
        maximum = view.bounds.maximum if view.bounds.has_maximum else None
        return MemoryType(Bounds(self.pages, maximum), address_type(view.bounds))

    def _view(self) -> Any:
        view = ffi.new("wsr_memory_view *")
        lib.wsr_memory(self.store.c, self.address, view)
        return view

    @property
    def data(self) -> memoryview:
        """The bytes of the memory, writable; the running program changes them too.

        A view keeps its length: ask again after the memory has grown.
        """
        return self.store.memory_view(self.address)

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of `size` bytes. Raises IndexError if not all are in the memory."""
        return bytes(self.data[self._range(offset, size)])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes. Raises IndexError, and writes nothing, if they do not fit the memory."""
        given = memoryview(data).cast("B")
        self.data[self._range(offset, len(given))] = given
        self.store.tell("edit", memory=self.address, offset=offset, data=bytes(given))

    def _range(self, offset: int, size: int) -> slice:
        have = len(self.data)
        if offset < 0 or size < 0 or offset + size > have:
            raise IndexError(f"{size} bytes at {offset} are not within the memory of {have} bytes")
        return slice(offset, offset + size)

    @property
    def pages(self) -> int:
        """Its size in pages of 64 KiB."""
        return int(self._view().size) // 65536

    def grow(self, pages: int) -> int:
        """Grow it, and return the old size in pages, or -1 if the limits do not allow it."""
        if not 0 <= pages < 1 << 64:
            return -1
        old = lib.wsr_grow_memory(self.store.c, self.address, pages)
        failed = old == 2**64 - 1
        self.store.tell("growth failed" if failed else "grow", memory=self.address, units=pages)
        return -1 if failed else int(old)


class Table(Handle):
    """A table in a store: a sequence of references."""

    @classmethod
    def new(cls, store: StoreInterface, type_: TableType) -> Table:
        """Allocate one of null references, for modules to import."""
        error = ffi.new("wsr_error *")
        if not type_.element.nullable:
            raise TypeError(f"a table of {type_.element} cannot be made of null references")
        address = lib.wsr_add_table(store.c, c_bounds(type_), type_.bounds.minimum, error)
        return cls(store, _allocated(address, error))

    def _view(self) -> Any:
        view = ffi.new("wsr_table_view *")
        lib.wsr_table(self.store.c, self.address, view)
        return view

    @property
    def type(self) -> TableType:
        """Its type, with the current size as minimum."""
        view = self._view()
        maximum = view.bounds.maximum if view.bounds.has_maximum else None
        bounds = Bounds(view.size, maximum)
        return TableType(ValType(view.bounds.type), bounds, address_type(view.bounds))

    def __len__(self) -> int:
        return int(self._view().size)

    def __getitem__(self, index: int) -> Any:
        view = self._view()
        if not 0 <= index < view.size:
            raise IndexError(f"the table has no element {index}")
        return from_slot(self.store, ValType(view.bounds.type), view.elements[index])

    def __setitem__(self, index: int, value: Any) -> None:
        view = self._view()
        if not 0 <= index < view.size:
            raise IndexError(f"the table has no element {index}")
        bits = to_slot(self.store, ValType(view.bounds.type), value)
        view.elements[index] = bits
        self.store.tell("edit", table=self.address, index=index, bits=bits)

    def grow(self, count: int, value: Any = None) -> int:
        """Grow it, and return the old size in elements, or -1 if the limits do not allow it."""
        if not 0 <= count < 1 << 64:
            return -1
        bits = to_slot(self.store, self.type.element, value)
        old = lib.wsr_grow_table(self.store.c, self.address, count, bits)
        failed = old == 2**64 - 1
        kind = "growth failed" if failed else "grow"
        self.store.tell(kind, table=self.address, units=count, bits=bits)
        return -1 if failed else int(old)


class Global(Handle):
    """A global in a store."""

    @classmethod
    def new(cls, store: StoreInterface, type_: GlobalType, value: Any) -> Global:
        """Allocate one, for modules to import."""
        return cls.from_bits(store, type_, to_slot(store, type_.value, value))

    @classmethod
    def from_bits(cls, store: StoreInterface, type_: GlobalType, bits: int) -> Global:
        """Allocate one from the bits of its value."""
        error = ffi.new("wsr_error *")
        slots = values_to_slots((type_.value,), (bits,))
        address = lib.wsr_add_global(store.c, type_.value, type_.mutable, slots, error)
        return cls(store, _allocated(address, error))

    def _read(self) -> tuple[GlobalType, int]:
        type_, value = ffi.new("wsr_global_type *"), ffi.new("uint64_t[2]")
        lib.wsr_global(self.store.c, self.address, type_, value)
        kind = ValType(type_.type)
        return GlobalType(kind, bool(type_.mutability)), slots_to_values((kind,), value)[0]

    @property
    def type(self) -> GlobalType:
        """Its type."""
        return self._read()[0]

    @property
    def bits(self) -> int:
        """The bits of its value."""
        return self._read()[1]

    @property
    def value(self) -> Any:
        """Its value; assigning to an immutable global is a TypeError."""
        type_, bits = self._read()
        return from_slot(self.store, type_.value, bits)

    @value.setter
    def value(self, value: Any) -> None:
        type_, _ = self._read()
        if not type_.mutable:
            raise TypeError("the global is immutable")
        self.write(to_slot(self.store, type_.value, value))

    def write(self, bits: int) -> None:
        """Set its bits, which must fit its type, even if it is immutable."""
        slots = values_to_slots((self.type.value,), (bits,))
        lib.wsr_set_global(self.store.c, self.address, slots)
        self.store.tell("edit", **{"global": self.address, "bits": bits})


class Tag(Handle):
    """A tag in a store: it names a kind of exception, and has the types of its fields."""

    @classmethod
    def new(cls, store: StoreInterface, type_: TagType) -> Tag:
        """Allocate one, for modules to import."""
        error = ffi.new("wsr_error *")
        params = list(type_.params)
        return cls(store, _allocated(lib.wsr_add_tag(store.c, params, len(params), error), error))

    @property
    def type(self) -> TagType:
        """Its type."""
        view = ffi.new("wsr_function_type *")
        lib.wsr_tag_type(self.store.c, self.address, view)
        return TagType(function_type(view).params)

    def throw(self, *fields: Any) -> NoReturn:
        """Throw an exception out of a host function; the calling program can catch it.

        Raises:
            UncaughtException: Always. Python code that catches it keeps it from the program.
            Trap: The exceptions that are alive leave no room for it.
            TypeError, OverflowError: The fields do not fit the type.
        """
        params = self.type.params
        if len(params) != len(fields):
            raise TypeError(f"the tag takes {len(params)} fields, not {len(fields)}")
        bits = [to_slot(self.store, t, f) for t, f in zip(params, fields, strict=True)]
        self.store.throw(self.address, values_to_slots(params, bits))


Extern = Function | Memory | Table | Global | Tag


def c_bounds(type_: MemoryType | TableType) -> Any:
    """Return the core's struct for bounds, address type and, of a table, element type."""
    bounds = type_.bounds
    return ffi.new(
        "wsr_bounds *",
        {
            "minimum": bounds.minimum,
            "maximum": bounds.maximum or 0,
            "has_maximum": bounds.maximum is not None,
            "type": int(type_.element) if isinstance(type_, TableType) else 0,
            "address64": type_.address is ValType.I64,
        },
    )


def _allocated(address: int, error: Any) -> int:
    if address == 2**32 - 1:
        raise core_error(error)
    return address


def function_type_at(store: StoreInterface, address: int) -> FuncType:
    """Return the type of the function at an address."""
    view = ffi.new("wsr_function_view *")
    lib.wsr_function(store.c, address, view)
    return function_type(view.type)


__all__ = [
    "Caller",
    "Callers",
    "Extern",
    "Function",
    "Global",
    "HostFunction",
    "Memory",
    "Retry",
    "Table",
    "Tag",
    "c_bounds",
    "function_type_at",
]
