"""The snapshot as a value: the specification's configuration (store and thread) as plain data.

`capture` makes this value of a store, `restore` makes a store of it, `format` is its bytes. Nothing
here mentions the engine: a position is a byte offset in a module's binary, a reference is an
index, a number is its bits. Value types have the binary format's codes
(`wasmsr.interp.types.ValType`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wasmsr.wasi.state.contents import Contents

PAGE = 65536
"""Bytes in a WebAssembly page (specification, section 2.3.10)."""


class _OneLine:
    """A base class with a `repr` in one line, whatever the fields hold."""

    __slots__ = ()

    def __repr__(self) -> str:
        from wasmsr.snapshot.inspect.one_line import shown  # only here: few ask

        return shown(self)


@dataclass(slots=True, repr=False)
class ModuleRef(_OneLine):
    """A module by its content.

    Attributes:
        digest: SHA-256 of the binary, 32 bytes.
        size: Bytes of the binary.
        name: Its name, or None.
        binary: The binary itself if it is embedded, or None.
    """

    digest: bytes
    size: int
    name: str | None = None
    binary: bytes | None = None


@dataclass(slots=True)
class HostFunctionState:
    """A function instance that the host provides.

    Attributes:
        address: Its address in the store.
        module: Name of the module of the import that it answers.
        name: Name of the item.
        params: A type code for each parameter.
        results: A type code for each result.
        identity: A chosen string that identifies it; None if the names of the import do.
    """

    address: int
    module: str
    name: str
    params: bytes
    results: bytes
    identity: str | None = None


@dataclass(slots=True, repr=False)
class InstanceState(_OneLine):
    """A module instance, and the store addresses in its index spaces.

    Attributes:
        module: Index into the state's modules.
        function_base: Address of the first function that the module defines.
        defined: How many functions it defines; their addresses follow one another.
        functions: Addresses of the imported functions.
        tables: Addresses of all tables, imports first.
        memories: Addresses of all memories, imports first.
        globals: Addresses of all globals, imports first.
        dropped_elements: Indices of the dropped element segments, ascending.
        dropped_data: Indices of the dropped data segments, ascending.
        name: The name under which later modules can import from it, or None.
        tags: Addresses of all tags, imports first.
    """

    module: int
    function_base: int
    defined: int
    functions: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    memories: list[int] = field(default_factory=list)
    globals: list[int] = field(default_factory=list)
    dropped_elements: list[int] = field(default_factory=list)
    dropped_data: list[int] = field(default_factory=list)
    name: str | None = None
    tags: list[int] = field(default_factory=list)


@dataclass(slots=True, repr=False)
class ExceptionState(_OneLine):
    """An exception that something refers to.

    Attributes:
        tag: Address of its tag.
        fields: The bits of its fields. A reference to another exception is that one's number plus
            1, and that number is lower than its own.
    """

    tag: int
    fields: list[int]


@dataclass(slots=True, repr=False)
class TableState(_OneLine):
    """A table instance.

    Attributes:
        type: Type code of the elements.
        minimum: Declared minimum, in elements.
        maximum: Declared maximum, or None.
        elements: A little-endian 64-bit reference for each element: 0 is null, a funcref is a
            function address plus 1, an externref an index into `externs` plus 1.
        address64: Whether indices are i64; otherwise they are i32.
    """

    type: int
    minimum: int
    maximum: int | None
    elements: bytes | bytearray | memoryview
    address64: bool = False


@dataclass(slots=True, repr=False)
class MemoryState(_OneLine):
    """A memory instance.

    Attributes:
        minimum: Declared minimum, in Wasm pages.
        maximum: Declared maximum, or None.
        data: Its bytes, whole Wasm pages.
        address64: Whether addresses are i64; otherwise they are i32.
    """

    minimum: int
    maximum: int | None
    data: bytes | bytearray | memoryview
    address64: bool = False


@dataclass(slots=True)
class GlobalState:
    """A global instance.

    Attributes:
        type: Type code of the value.
        mutable: Whether code can change it.
        value: Bits of the value; references as in tables, a v128 as a number of 128 bits.
    """

    type: int
    mutable: bool
    value: int


@dataclass(slots=True, repr=False)
class FrameState(_OneLine):
    """An activation of a function.

    While a frame waits for a call, neither the call's arguments nor its results are among its
    operands.

    Attributes:
        instance: Index of the instance.
        function: Index of the function in the instance.
        offset: Byte offset in the module's binary of the next instruction; in a frame that waits,
            of the byte after the call.
        locals: How many of the values are locals.
        types: A type code for each local, then for each operand, bottom first.
        values: Bits of each of them; a v128 has 128. Dead locals are zero.
    """

    instance: int
    function: int
    offset: int
    locals: int
    types: bytes
    values: list[int]


@dataclass(slots=True, repr=False)
class ThreadState(_OneLine):
    """The frames, and the invocations that follow.

    Attributes:
        frames: Frames, outermost first.
        queue: Function address, and slots of the arguments; a v128 has two slots.
        pushed: The number of the outermost frame of each call that was pushed above paused frames,
            ascending.
    """

    frames: list[FrameState] = field(default_factory=list)
    queue: list[tuple[int, list[int]]] = field(default_factory=list)
    pushed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class SavedLimits:
    """Limits of the program.

    Attributes:
        memory_pages: Wasm pages of each memory.
        table_elements: Elements of each table.
        stack_slots: Slots of the value stack.
        stack_frames: Frames.
        fuel: Instructions that remain, or None for no limit.
        deterministic: Whether NaN results have one form.
        features: Names of the features in force, ascending.
    """

    memory_pages: int
    table_elements: int
    stack_slots: int
    stack_frames: int
    fuel: int | None = None
    deterministic: bool = False
    features: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Lineage:
    """Where a snapshot comes from.

    Attributes:
        id: Its own id, 16 random bytes.
        parent: Id of the snapshot from which the program was restored, or None.
        created: Nanoseconds since 1970-01-01 UTC.
        host: Name of the host that took it.
        engine: Name and version of the engine.
    """

    id: bytes
    parent: bytes | None
    created: int
    host: str
    engine: str


@dataclass(slots=True, repr=False)
class SnapshotState(_OneLine):
    """A paused program as plain data.

    Attributes:
        modules: The modules of the instances.
        host_functions: Functions of the host, ascending by address.
        instances: Module instances, in the order of instantiation.
        tables: Tables, by address.
        memories: Memories, by address.
        globals: Globals, by address.
        thread: Frames and queue.
        limits: Limits in force.
        lineage: Where the snapshot comes from.
        externs: Host objects that externrefs name.
        wasi: What `wasmsr.wasi` captured, or None.
        executed: Instructions executed, if a run was metered.
        tags: Field types of each tag, by address.
        exceptions: Exceptions that something refers to.
        files: Content of carried files, or None.
        extra: Values of sections that have no field here, by the section's name.
    """

    modules: list[ModuleRef]
    host_functions: list[HostFunctionState]
    instances: list[InstanceState]
    tables: list[TableState]
    memories: list[MemoryState]
    globals: list[GlobalState]
    thread: ThreadState
    limits: SavedLimits
    lineage: Lineage
    externs: list[Any] = field(default_factory=list)
    wasi: dict[str, Any] | None = None
    executed: int | None = None
    tags: list[bytes] = field(default_factory=list)
    exceptions: list[ExceptionState] = field(default_factory=list)
    files: Contents | None = None
    extra: dict[str, Any] = field(default_factory=dict)
