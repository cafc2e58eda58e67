"""Section payloads: from parts of a `Snapshot` to bytes and back.

Above `container` (which frames and protects payloads) and below `format` (which knows their order).
What has names is msgpack in canonical form, what is long is flat arrays; both are specified in
docs/snapshot-format.md. Parsing checks form and exact types here; `check` does the ranges.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack

from wasmsr.errors import FormatError, UnportableState, reason
from wasmsr.snapshot.check import MAX_PAGES, MAX_SIZE64, V128
from wasmsr.snapshot.container import Buffer, Kind, section_title
from wasmsr.snapshot.state import (
    PAGE,
    ExceptionState,
    FrameState,
    GlobalState,
    HostFunction,
    InstanceState,
    Limits,
    Lineage,
    MemoryState,
    ModuleRef,
    Snapshot,
    TableState,
    ThreadState,
)

if TYPE_CHECKING:
    from wasmsr.snapshot.room import Room
    from wasmsr.wasi.state.contents import Contents

NONE = type(None)
Shapes: TypeAlias = frozenset[tuple[type, ...]]

# Keys of each msgpack map, in the order in which they stand, and the types that values may have.
_LINEAGE = ("id", "parent", "created", "host", "engine")
_LINEAGE_TYPES: Shapes = frozenset({(bytes, bytes, int, str, str), (bytes, NONE, int, str, str)})
_LIMITS = (
    "memory_pages",
    "table_elements",
    "stack_slots",
    "stack_frames",
    "fuel",
    "deterministic",
    "features",
)
_LIMITS_TYPES: Shapes = frozenset(
    {(int, int, int, int, int, bool, list), (int, int, int, int, NONE, bool, list)}
)
_STORE = ("modules", "host_functions", "instances")
_STORE_TYPES: Shapes = frozenset({(list, list, list)})
_MODULE = ("digest", "size", "name", "embedded")
_MODULE_TYPES: Shapes = frozenset({(bytes, int, str, bool), (bytes, int, NONE, bool)})
_HOST = ("address", "module", "name", "params", "results")
_HOST_TYPES: Shapes = frozenset({(int, str, str, bytes, bytes)})
_INSTANCE = (
    "module",
    "function_base",
    "defined",
    "functions",
    "tables",
    "memories",
    "globals",
    "name",
)
_INSTANCE_TYPES: Shapes = frozenset(
    {
        (int, int, int, list, list, list, list, str),
        (int, int, int, list, list, list, list, NONE),
    }
)
_COUNTERS = ("executed",)
_COUNTERS_TYPES: Shapes = frozenset({(int,)})

THREAD_HEAD = Struct("<QQ")
FRAME = Struct("<IIIIII")
INVOCATION = Struct("<II")
GLOBAL = Struct("<IIQQ")
EXCEPTION = Struct("<Q")
TABLE_HEAD = Struct("<Q")
TABLE = Struct("<QQQQQQ")
MEMORY = Struct("<QQQQ")
CHUNK = Struct("<32sI")
CHUNK_SIZE = 65536
HAS_MAXIMUM, ADDRESS_64 = 1, 2
MAX_CONTAINERS = 1 << 20
"""Maps and lists in one msgpack section."""
MAX_ITEMS = 1 << 24
"""Items of all of them together."""
_LOW = (1 << 64) - 1
_TOO_DEEP = (msgpack.exceptions.StackError, RecursionError)


# msgpack -----------------------------------------------------------------------------------------


class _Packer(threading.local):
    """A packer serves one thread; making a new one each time takes longer than packing."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(use_bin_type=True, strict_types=True, autoreset=True).pack


_packer = _Packer()


def _pack(value: Any, what: str) -> bytes:
    try:
        data = _packer.pack(value)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise UnportableState(f"{what} cannot be saved: {reason(error)}") from error
    assert isinstance(data, bytes)
    if len(data) > MAX_CONTAINERS:
        try:
            msgpack.unpackb(data, strict_map_key=False, **_counting_hooks())
        except ValueError as error:
            raise UnportableState(f"{what} cannot be saved: {reason(error)}") from error
    return data


def _unpack(kind: int, data: Buffer, keys: bool = True) -> Any:
    """The value of a msgpack section; `keys` asks for strings or bytes as keys of maps.

    The value is packed again and compared, which leaves one way to write each: no duplicate keys,
    no long forms of short numbers, no extension types.
    """
    hooks = {} if len(data) <= MAX_CONTAINERS else _counting_hooks()
    try:
        value = msgpack.unpackb(data, strict_map_key=keys, max_ext_len=0, **hooks)
        again = _packer.pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, _TOO_DEEP) else reason(error)
        raise _malformed(kind, f"it cannot be unpacked: {why}") from error
    if again != data:
        raise _malformed(kind, "it is not in canonical msgpack")
    return value


def _counting_hooks() -> dict[str, Any]:
    """An empty map is one byte in msgpack and sixty-four in memory, an item is one and eight: bound
    their numbers."""
    containers = items = 0

    def count(value: Any) -> Any:
        nonlocal containers, items
        containers += 1
        items += len(value)
        if containers > MAX_CONTAINERS:
            raise ValueError(f"it has more than {MAX_CONTAINERS} maps and lists")
        if items > MAX_ITEMS:
            raise ValueError(f"it has more than {MAX_ITEMS} items")
        return value

    return {
        "object_hook": count,
        "list_hook": count,
        "max_array_len": MAX_ITEMS,
        "max_map_len": MAX_CONTAINERS,
    }


def _malformed(kind: int, problem: str) -> FormatError:
    return FormatError(f"the {section_title(kind)} section of the snapshot is malformed: {problem}")


def _fields(kind: int, value: Any, keys: tuple[str, ...], types: Shapes) -> tuple[Any, ...]:
    if type(value) is not dict or tuple(value) != keys:
        raise _malformed(kind, f"a map does not have just the keys {', '.join(keys)}")
    fields = tuple(value.values())
    if tuple(map(type, fields)) not in types:
        wrong = ", ".join(f"{key} {type(item).__name__}" for key, item in value.items())
        raise _malformed(kind, f"a value has the wrong type ({wrong})")
    return fields


def _uniform(kind: int, items: list[Any], kept: type) -> list[Any]:
    if items and set(map(type, items)) != {kept}:
        raise _malformed(kind, f"a list has items that are not {kept.__name__}")
    return items


def pack_lineage(lineage: Lineage) -> bytes:
    values = (lineage.id, lineage.parent, lineage.created, lineage.host, lineage.engine)
    return _pack(dict(zip(_LINEAGE, values, strict=True)), "the lineage")


def parse_lineage(data: Buffer) -> Lineage:
    value = _unpack(Kind.LINEAGE, data)
    return Lineage(*_fields(Kind.LINEAGE, value, _LINEAGE, _LINEAGE_TYPES))


def pack_limits(limits: Limits) -> bytes:
    return _pack(
        {
            "memory_pages": limits.memory_pages,
            "table_elements": limits.table_elements,
            "stack_slots": limits.stack_slots,
            "stack_frames": limits.stack_frames,
            "fuel": limits.fuel,
            "deterministic": limits.deterministic,
            "features": limits.features,
        },
        "the limits",
    )


def parse_limits(data: Buffer) -> Limits:
    limits = Limits(*_fields(Kind.LIMITS, _unpack(Kind.LIMITS, data), _LIMITS, _LIMITS_TYPES))
    _uniform(Kind.LIMITS, limits.features, str)
    return limits


def pack_store(snapshot: Snapshot) -> bytes:
    return _pack(
        {
            "modules": [
                {
                    "digest": module.digest,
                    "size": module.size,
                    "name": module.name,
                    "embedded": module.binary is not None,
                }
                for module in snapshot.modules
            ],
            "host_functions": [
                {
                    "address": function.address,
                    "module": function.module,
                    "name": function.name,
                    "params": function.params,
                    "results": function.results,
                }
                for function in snapshot.host_functions
            ],
            "instances": [
                {
                    "module": instance.module,
                    "function_base": instance.function_base,
                    "defined": instance.defined,
                    "functions": instance.functions,
                    "tables": instance.tables,
                    "memories": instance.memories,
                    "globals": instance.globals,
                    "name": instance.name,
                }
                for instance in snapshot.instances
            ],
        },
        "the store",
    )


def parse_store(
    data: Buffer,
) -> tuple[list[ModuleRef], list[bool], list[HostFunction], list[InstanceState]]:
    """Modules, which of them are embedded, host functions, and instances without segments."""
    kind = Kind.STORE
    modules, hosts, instances = _fields(kind, _unpack(kind, data), _STORE, _STORE_TYPES)
    refs: list[ModuleRef] = []
    embedded: list[bool] = []
    for item in modules:
        digest, size, name, inside = _fields(kind, item, _MODULE, _MODULE_TYPES)
        refs.append(ModuleRef(digest, size, name))
        embedded.append(inside)
    functions = [HostFunction(*_fields(kind, item, _HOST, _HOST_TYPES)) for item in hosts]
    states: list[InstanceState] = []
    for item in instances:
        fields = _fields(kind, item, _INSTANCE, _INSTANCE_TYPES)
        module, base, defined, imported, tables, memories, global_list, name = fields
        for addresses in (imported, tables, memories, global_list):
            _uniform(kind, addresses, int)
        states.append(
            InstanceState(
                module, base, defined, imported, tables, memories, global_list, [], [], name
            )
        )
    return refs, embedded, functions, states


def pack_segments(instances: Sequence[InstanceState]) -> bytes:
    """Empty where no instance has dropped a segment."""
    dropped = [[i.dropped_elements, i.dropped_data] for i in instances]
    return _pack(dropped, "segments") if any(a or b for a, b in dropped) else b""


def parse_segments(data: Buffer, instances: Sequence[InstanceState]) -> None:
    kind = Kind.SEGMENTS
    value = _unpack(kind, data)
    if type(value) is not list or len(value) != len(instances):
        raise _malformed(kind, "it has not one entry for each instance")
    for instance, item in zip(instances, value, strict=True):
        if type(item) is not list or len(item) != 2 or {*map(type, item)} != {list}:
            raise _malformed(kind, "an entry is not two lists")
        instance.dropped_elements = _uniform(kind, item[0], int)
        instance.dropped_data = _uniform(kind, item[1], int)
    if not any(i.dropped_elements or i.dropped_data for i in instances):
        raise _malformed(kind, "it is empty and should be absent")


def pack_externs(externs: list[Any]) -> bytes:
    if not externs:
        return b""
    for number, value in enumerate(externs):
        _pack(value, f"the host object behind externref {number} ({type(value).__name__})")
    return _pack(externs, "the host objects behind externrefs")


def parse_externs(data: Buffer) -> list[Any]:
    value = _unpack(Kind.EXTERNS, data, keys=False)
    if type(value) is not list or not value:
        raise _malformed(Kind.EXTERNS, "it is not a list of one or more")
    return value


def pack_tags(snapshot: Snapshot) -> bytes:
    """Empty where the store has no tags."""
    if not snapshot.tags:
        return b""
    return _pack([snapshot.tags, [i.tags for i in snapshot.instances]], "the tags")


def parse_tags(data: Buffer, instances: Sequence[InstanceState]) -> list[bytes]:
    """The codes of each tag's fields, by address; the instances get their addresses."""
    kind = Kind.TAGS
    value = _unpack(kind, data)
    if type(value) is not list or len(value) != 2 or {*map(type, value)} != {list}:
        raise _malformed(kind, "it is not two lists")
    tags, spaces = value
    if not tags or len(spaces) != len(instances):
        raise _malformed(kind, "it has no tag, or not one entry for each instance")
    for instance, addresses in zip(instances, spaces, strict=True):
        if type(addresses) is not list:
            raise _malformed(kind, "an instance's tags are no list")
        instance.tags = _uniform(kind, addresses, int)
    return _uniform(kind, tags, bytes)


def pack_identities(functions: Sequence[HostFunction]) -> bytes:
    """Empty where all host functions are known by the names of their imports."""
    found = [[f.address, f.identity] for f in functions if f.identity is not None]
    return _pack(found, "the identities of host functions") if found else b""


def parse_identities(data: Buffer, functions: Sequence[HostFunction]) -> None:
    """Puts identities into the host functions that have one."""
    kind = Kind.IDENTITIES
    value = _unpack(kind, data)
    by_address = {function.address: function for function in functions}
    last = -1
    if type(value) is not list or not value:
        raise _malformed(kind, "it is not a list of one or more")
    for item in value:
        if type(item) is not list or [*map(type, item)] != [int, str]:
            raise _malformed(kind, "an entry is not an address and a string")
        address, identity = item
        if address <= last or address not in by_address:
            raise _malformed(kind, f"no host function is at {address}, or it is out of order")
        last = address
        by_address[address].identity = identity


def pack_counters(executed: int | None) -> bytes:
    return b"" if executed is None else _pack({"executed": executed}, "the counters")


def parse_counters(data: Buffer) -> int:
    kind = Kind.COUNTERS
    (executed,) = _fields(kind, _unpack(kind, data), _COUNTERS, _COUNTERS_TYPES)
    assert isinstance(executed, int)
    return executed


ORIGIN = "origin"
"""The key of WASI's state that is no part of the program's, and has a section of its own."""


def pack_wasi(wasi: dict[str, Any] | None) -> bytes:
    if wasi is None:
        return b""
    if ORIGIN in wasi:
        wasi = {key: value for key, value in wasi.items() if key != ORIGIN}
    return _pack(wasi, "the state of WASI")


def pack_origin(wasi: dict[str, Any] | None) -> bytes:
    found = (wasi or {}).get(ORIGIN)
    return _pack(found, "the origin of the files") if found else b""


def parse_wasi(data: Buffer, origin: Buffer | None) -> dict[str, Any]:
    value = _map(Kind.WASI, data)
    if ORIGIN in value:
        raise _malformed(Kind.WASI, "it has what belongs into another section")
    if origin is not None:
        value[ORIGIN] = _map(Kind.ORIGIN, origin)
    return value


def _map(kind: int, data: Buffer) -> dict[str, Any]:
    value = _unpack(kind, data)
    if type(value) is not dict or any(type(key) is not str for key in value):
        raise _malformed(kind, "it is not a map with strings as keys")
    return value


# Flat arrays -------------------------------------------------------------------------------------


def pack_thread(thread: ThreadState) -> bytes:
    pieces = [THREAD_HEAD.pack(len(thread.frames), len(thread.queue))]
    types: list[bytes] = []
    slots: list[int] = []
    for frame in thread.frames:
        pieces.append(
            FRAME.pack(
                frame.instance,
                frame.function,
                frame.offset,
                frame.locals,
                len(frame.types),
                0,
            )
        )
        types.append(frame.types)
        if V128 in frame.types:
            for code, value in zip(frame.types, frame.values, strict=True):
                slots += (value & _LOW, value >> 64) if code == V128 else (value,)
        else:
            slots += frame.values
    for address, arguments in thread.queue:
        pieces.append(INVOCATION.pack(address, len(arguments)))
        slots += arguments
    pieces += types
    pieces.append(Struct(f"<{len(slots)}Q").pack(*slots))
    return b"".join(pieces)


def parse_thread(data: Buffer) -> ThreadState:
    kind = Kind.THREAD
    if len(data) < THREAD_HEAD.size:
        raise _malformed(kind, "it is too short")
    frames, calls = THREAD_HEAD.unpack_from(data)
    calls_at = THREAD_HEAD.size + frames * FRAME.size
    types_at = calls_at + calls * INVOCATION.size
    if types_at > len(data):
        raise _malformed(kind, f"it is too short for {frames} frames and {calls} invocations")
    heads = list(FRAME.iter_unpack(data[THREAD_HEAD.size : calls_at]))
    queue = list(INVOCATION.iter_unpack(data[calls_at:types_at]))
    slots_at = types_at + sum([head[4] for head in heads])
    if slots_at > len(data) or (len(data) - slots_at) % 8:
        raise _malformed(kind, "its length is not that of its frames")
    types = bytes(data[types_at:slots_at])
    count = (len(data) - slots_at) // 8
    if count != len(types) + types.count(V128) + sum([call[1] for call in queue]):
        raise _malformed(kind, "it has not one value for each type")
    slots = Struct(f"<{count}Q").unpack(data[slots_at:])
    thread = ThreadState()
    start = position = 0
    for instance, function, offset, local_count, height, reserved in heads:
        if reserved:
            raise _malformed(kind, "a reserved field is not zero")
        codes = types[start : start + height]
        start += height
        wide = codes.count(V128)
        values = list(slots[position : position + height + wide])
        position += height + wide
        if wide:
            values = _join_wide(codes, values)
        thread.frames.append(FrameState(instance, function, offset, local_count, codes, values))
    for address, height in queue:
        thread.queue.append((address, list(slots[position : position + height])))
        position += height
    return thread


def _join_wide(types: bytes, slots: list[int]) -> list[int]:
    values: list[int] = []
    source = iter(slots)
    for code in types:
        low = next(source)
        values.append(low | next(source) << 64 if code == V128 else low)
    return values


def pack_exceptions(snapshot: Snapshot) -> bytes:
    """Empty where there are none."""
    if not snapshot.exceptions:
        return b""
    heads: list[bytes] = []
    slots: list[int] = []
    for exception in snapshot.exceptions:
        codes = snapshot.tags[exception.tag]
        heads.append(EXCEPTION.pack(exception.tag))
        for code, value in zip(codes, exception.fields, strict=True):
            slots += (value & _LOW, value >> 64) if code == V128 else (value,)
    count = TABLE_HEAD.pack(len(heads))
    return b"".join([count, *heads, Struct(f"<{len(slots)}Q").pack(*slots)])


def parse_exceptions(data: Buffer, tags: list[bytes]) -> list[ExceptionState]:
    kind = Kind.EXCEPTIONS
    if len(data) < TABLE_HEAD.size:
        raise _malformed(kind, "it is too short")
    (count,) = TABLE_HEAD.unpack_from(data)
    slots_at = TABLE_HEAD.size + count * EXCEPTION.size
    if not count or slots_at > len(data) or (len(data) - slots_at) % 8:
        raise _malformed(kind, f"its length is not that of {count} exceptions")
    slots = Struct(f"<{(len(data) - slots_at) // 8}Q").unpack(data[slots_at:])
    found: list[ExceptionState] = []
    at = 0
    for (tag,) in EXCEPTION.iter_unpack(data[TABLE_HEAD.size : slots_at]):
        if tag >= len(tags):
            raise _malformed(kind, f"an exception has tag {tag} of {len(tags)}")
        codes = tags[tag]
        wide = codes.count(V128)
        values = list(slots[at : at + len(codes) + wide])
        at += len(codes) + wide
        if len(values) < len(codes) + wide:
            break
        found.append(ExceptionState(tag, _join_wide(codes, values) if wide else values))
    if at != len(slots) or len(found) != count:
        raise _malformed(kind, "it has not one value for each field")
    return found


def pack_globals(cells: Sequence[GlobalState]) -> bytes:
    return b"".join([GLOBAL.pack(c.type, c.mutable, c.value & _LOW, c.value >> 64) for c in cells])


def parse_globals(data: Buffer) -> list[GlobalState]:
    if len(data) % GLOBAL.size:
        raise _malformed(Kind.GLOBALS, "it ends in the middle of a global")
    cells: list[GlobalState] = []
    for code, mutable, low, high in GLOBAL.iter_unpack(data):
        if mutable > 1:
            raise _malformed(Kind.GLOBALS, f"a mutability is {mutable}")
        cells.append(GlobalState(code, mutable == 1, low | high << 64 if high else low))
    return cells


def pack_tables(tables: Sequence[TableState]) -> bytes:
    """Elements are stored up to the last that is not null."""
    if not tables:
        return b""
    pieces = [TABLE_HEAD.pack(len(tables))]
    elements: list[bytes] = []
    for table in tables:
        used = bytes(table.elements).rstrip(b"\0")
        used += bytes(-len(used) % 8)
        elements.append(used)
        size = len(table.elements) // 8
        pieces.append(
            TABLE.pack(
                _flags(table),
                table.type,
                table.minimum,
                table.maximum or 0,
                size,
                len(used) // 8,
            )
        )
    return b"".join(pieces + elements)


def parse_tables(data: Buffer, room: Room) -> list[TableState]:
    """Tables, for which there is so much room."""
    kind = Kind.TABLES
    if len(data) < TABLE_HEAD.size:
        raise _malformed(kind, "it is too short")
    (count,) = TABLE_HEAD.unpack_from(data)
    position = TABLE_HEAD.size + count * TABLE.size
    if count == 0 or position > len(data):
        raise _malformed(kind, f"it is too short for {count} tables")
    tables: list[TableState] = []
    heads = list(TABLE.iter_unpack(data[TABLE_HEAD.size : position]))
    room.tables([(size, min(stored, size)) for _, _, _, _, size, stored in heads])
    for flags, code, minimum, maximum, size, stored in heads:
        bound, address64 = _bound(kind, flags, maximum)
        end = position + stored * 8
        if stored > size or end > len(data):
            raise _malformed(kind, "a table has more elements than it should")
        elements = bytearray(size * 8)
        elements[: stored * 8] = data[position:end]
        if stored and not any(elements[stored * 8 - 8 : stored * 8]):
            raise _malformed(kind, "null elements are stored at the end of a table")
        tables.append(TableState(code, minimum, bound, elements, address64))
        position = end
    if position != len(data):
        raise _malformed(kind, "bytes follow the last element")
    return tables


def pack_memories(snapshot: Snapshot) -> bytes:
    return b"".join(
        [
            MEMORY.pack(_flags(m), m.minimum, m.maximum or 0, len(m.data) // PAGE)
            for m in snapshot.memories
        ]
    )


def parse_memories(data: Buffer) -> list[tuple[int, int | None, int, bool]]:
    """Minimum, maximum and size of each memory, in pages of 64 KiB, and whether its addresses have
    64 bits."""
    kind = Kind.MEMORIES
    if len(data) % MEMORY.size:
        raise _malformed(kind, "it ends in the middle of a memory")
    memories: list[tuple[int, int | None, int, bool]] = []
    for flags, minimum, maximum, size in MEMORY.iter_unpack(data):
        bound, address64 = _bound(kind, flags, maximum)
        if size > (MAX_SIZE64 if address64 else MAX_PAGES):
            raise _malformed(kind, f"a memory has {size} pages")
        memories.append((minimum, bound, size, address64))
    return memories


def _flags(state: TableState | MemoryState) -> int:
    return HAS_MAXIMUM * (state.maximum is not None) | ADDRESS_64 * state.address64


def _bound(kind: int, flags: int, maximum: int) -> tuple[int | None, bool]:
    """The declared maximum, and whether addresses have 64 bits."""
    if flags & ~(HAS_MAXIMUM | ADDRESS_64) or (maximum and not flags & HAS_MAXIMUM):
        raise _malformed(kind, f"flags {flags:#x} with a maximum of {maximum}")
    return int(maximum) if flags & HAS_MAXIMUM else None, flags & ADDRESS_64 != 0


def pack_file_index(files: Contents | None) -> bytes:
    """Digest and length of each chunk."""
    return b"".join([CHUNK.pack(digest, length) for digest, length in files or ()])


def parse_file_index(data: Buffer) -> list[tuple[bytes, int]]:
    """Digest and length of each chunk."""
    kind = Kind.FILE_INDEX
    if len(data) % CHUNK.size:
        raise _malformed(kind, "it ends in the middle of a chunk")
    chunks = list(CHUNK.iter_unpack(data))
    if len({digest for digest, _ in chunks}) != len(chunks):
        raise _malformed(kind, "a chunk is there twice")
    if not all(0 < length <= CHUNK_SIZE for _, length in chunks):
        raise _malformed(kind, "a chunk is empty or too long")
    return chunks
