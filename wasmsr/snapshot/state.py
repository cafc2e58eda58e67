"""The snapshot as a value: the specification's configuration (store and thread) in plain data.

Between the machine (`capture` makes this value, `restore` makes a machine of it) and the bytes
(`format`). Nothing here mentions the engine: a position is a byte offset in a module's binary, a
reference is an index, a number is its bits. Value types are the binary format's codes
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
    """Shows itself in one line, whatever it holds: `shown` says how."""

    __slots__ = ()

    def __repr__(self) -> str:
        from wasmsr.snapshot.inspect.one_line import shown  # only here: few ask

        return shown(self)


@dataclass(slots=True, repr=False)
class ModuleRef(_OneLine):
    """A module by content: SHA-256 digest (32 bytes), size in bytes, name, and, where embedded,
    the binary itself."""

    digest: bytes
    size: int
    name: str | None = None
    binary: bytes | None = None


@dataclass(slots=True)
class HostFunctionState:
    """A function instance that the host provides: its store address, the import that it answers
    and its type (one code byte for each parameter and result). `identity` is what it is known by
    where that was chosen; None: it is known by the import's names."""

    address: int
    module: str
    name: str
    params: bytes
    results: bytes
    identity: str | None = None


@dataclass(slots=True, repr=False)
class InstanceState(_OneLine):
    """A module instance: which module, and the store addresses that its index spaces consist of.

    `functions` holds the addresses of the imported functions; the `defined` functions of the
    module itself stand at `function_base` and up. `tables`, `memories` and `globals` are whole
    index spaces, imports first. `dropped_elements` and `dropped_data` are ascending segment
    indices. `name` is the name under which later modules may import from it, or None.
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
    """An exception that something refers to: the address of its tag, and the bits of its fields; a
    reference to another exception is its number plus 1, and that number is lower than its own."""

    tag: int
    fields: list[int]


@dataclass(slots=True, repr=False)
class TableState(_OneLine):
    """A table instance; `elements` is one little-endian 64-bit reference each: 0 is null, for
    funcref otherwise a function address plus 1, for externref an index into `externs` plus 1.
    `address64`: indices into it are i64, else i32."""

    type: int
    minimum: int
    maximum: int | None
    elements: bytes | bytearray | memoryview
    address64: bool = False


@dataclass(slots=True, repr=False)
class MemoryState(_OneLine):
    """A memory instance: declared bounds in pages of 64 KiB and its bytes (whole pages).
    `address64`: addresses in it are i64, else i32."""

    minimum: int
    maximum: int | None
    data: bytes | bytearray | memoryview
    address64: bool = False


@dataclass(slots=True)
class GlobalState:
    """A global instance: type code, mutability, and the value's bits (references as in tables,
    v128 as a 128-bit number)."""

    type: int
    mutable: bool
    value: int


@dataclass(slots=True, repr=False)
class FrameState(_OneLine):
    """An activation of function index `function` of instance `instance`. `offset` names the next
    instruction (of a waiting frame: the one after its call) by its byte in the module's binary.
    `types` has one code for each local, then each operand, bottom first; `values` has the bits of
    each (128 of them for v128). The first `locals` of both are the locals. Dead locals are zero.
    While a frame waits, neither the call's arguments nor its results are among its operands."""

    instance: int
    function: int
    offset: int
    locals: int
    types: bytes
    values: list[int]


@dataclass(slots=True, repr=False)
class ThreadState(_OneLine):
    """Frames, outermost first, and the invocations that follow when they have returned:
    (function address, arguments as raw 64-bit slots, v128 two)."""

    frames: list[FrameState] = field(default_factory=list)
    queue: list[tuple[int, list[int]]] = field(default_factory=list)


@dataclass(slots=True)
class SavedLimits:
    """Limits in force: pages of 64 KiB (each memory), elements (each table), 64-bit slots, frames;
    remaining fuel in instructions or None for unlimited; names of the features in use."""

    memory_pages: int
    table_elements: int
    stack_slots: int
    stack_frames: int
    fuel: int | None = None
    deterministic: bool = False
    features: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Lineage:
    """Where this snapshot comes from: its own id, its parent's (16 bytes each), creation time in
    nanoseconds since the Unix epoch, the host that took it and the engine's version."""

    id: bytes
    parent: bytes | None
    created: int
    host: str
    engine: str


@dataclass(slots=True, repr=False)
class SnapshotState(_OneLine):
    """A paused machine as a value. `wasi` is what `wasmsr.wasi` captured, `executed` the count of
    instructions where the run was metered, `externs` the host objects behind externrefs, `files`
    what carried files consist of."""

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
