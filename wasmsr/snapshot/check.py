"""What holds of every snapshot, whatever its modules contain.

`check` is called on both sides of the bytes: a reader must not hand out what no machine can be in,
and a writer must not write what no reader takes. What needs a module's code (positions, the types
of locals, operands, globals and tables) is checked when the snapshot is restored.
"""

from __future__ import annotations

from itertools import pairwise
from struct import unpack

from wasmsr.errors import DigestError, FormatError
from wasmsr.snapshot.shape import check_shape
from wasmsr.snapshot.state import (
    PAGE,
    FrameState,
    InstanceState,
    MemoryState,
    ModuleRef,
    Snapshot,
    TableState,
)

I32, I64, F32, F64, V128 = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B
FUNCREF, EXTERNREF, EXNREF = 0x70, 0x6F, 0x69
VALUE_TYPES = bytes((I32, I64, F32, F64, V128, FUNCREF, EXTERNREF, EXNREF))
"""All value types of format version 1, by their codes in the binary format (section 5.3)."""
REFERENCES = bytes((FUNCREF, EXTERNREF, EXNREF))
MAX_PAGES = 65536
"""Pages of 64 KiB in a memory with 32-bit addresses."""
MAX_PAGES64 = 1 << 48
"""Likewise with 64-bit addresses, as bounds may declare; no more than `MAX_SIZE64` are there."""
MAX_SIZE64 = 1 << 28

MAX_FUNCTIONS = 1 << 24
"""Functions of a store, and segments: a few bytes say that a module has thousands of instances."""

MEMORY64 = "memory64"

_U32 = 1 << 32
_U64 = 1 << 64
_BOUNDS = {I32: _U32, I64: _U64, F32: _U32, F64: _U64, V128: 1 << 128}
_NAMES = {FUNCREF: "funcref", EXTERNREF: "externref", EXNREF: "exnref"}
_CHUNK = 65536


def fail(message: str) -> FormatError:
    """The error for a snapshot that says `message`."""
    return FormatError(f"the snapshot is not valid: {message}")


def check(snapshot: Snapshot) -> None:
    """Check everything about a snapshot that can be checked without its modules' code. It may have
    come from bytes, or have been built in Python of anything at all.

    Raises:
        FormatError: with one sentence that names what cannot be.
        DigestError: an embedded module is not the one that its digest names.
    """
    check_shape(snapshot)
    limits = snapshot.limits
    counts = (
        limits.memory_pages,
        limits.table_elements,
        limits.stack_slots,
        limits.stack_frames,
        limits.fuel or 0,
        snapshot.executed or 0,
        snapshot.lineage.created,
    )
    if min(counts) < 0 or max(counts) >= _U64:
        raise fail("a limit, the instruction count or the time of creation is out of range")
    if any(a >= b for a, b in pairwise(limits.features)):
        raise fail("the features are not in ascending order")
    lineage = snapshot.lineage
    if len(lineage.id) != 16 or (lineage.parent is not None and len(lineage.parent) != 16):
        raise fail("an id in the lineage has not 16 bytes")
    for number, module in enumerate(snapshot.modules):
        _check_module(number, module)
    functions = _count_functions(snapshot)
    for number, instance in enumerate(snapshot.instances):
        _check_instance(number, instance, snapshot, functions)
    references = {
        FUNCREF: functions,
        EXTERNREF: len(snapshot.externs),
        EXNREF: len(snapshot.exceptions),
    }
    for number, table in enumerate(snapshot.tables):
        _check_address("table", number, table, limits.features)
        _check_table(number, table, references, limits.table_elements)
    for number, memory in enumerate(snapshot.memories):
        _check_address("memory", number, memory, limits.features)
        _check_memory(number, memory, limits.memory_pages)
    bounds = _BOUNDS | {code: count + 1 for code, count in references.items()}
    for number, cell in enumerate(snapshot.globals):
        if cell.type not in bounds:
            raise fail(f"global {number} has the unknown type {cell.type:#x}")
        if not 0 <= cell.value < bounds[cell.type]:
            raise fail(f"the value of global {number} does not fit its type")
    _check_exceptions(snapshot, bounds)
    for number, frame in enumerate(snapshot.thread.frames):
        _check_frame(number, frame, snapshot, bounds)
    for address, slots in snapshot.thread.queue:
        if not 0 <= address < functions:
            raise fail(f"an invocation names function address {address} of {functions}")
        if slots and (min(slots) < 0 or max(slots) >= _U64):
            raise fail(f"an argument of an invocation of function address {address} is no slot")


def _check_module(number: int, module: ModuleRef) -> None:
    if len(module.digest) != 32:
        raise fail(f"the digest of module {number} has not 32 bytes")
    if not 0 <= module.size < _U32:
        raise fail(f"the size of module {number} is {module.size}")
    if module.binary is not None:
        from hashlib import sha256

        if len(module.binary) != module.size:
            raise fail(f"the embedded module {number} has not the size stated")
        if sha256(module.binary).digest() != module.digest:
            raise DigestError(f"the embedded module {number} is not the one its digest names")


def _count_functions(snapshot: Snapshot) -> int:
    """The number of function instances. Their addresses are dense: a store gives them out in order
    and takes none back."""
    hosts = snapshot.host_functions
    blocks = [(function.address, 1) for function in hosts]
    if any(first >= second for first, second in pairwise(blocks)):
        raise fail("the host functions are not in ascending order")
    blocks += [(i.function_base, i.defined) for i in snapshot.instances if i.defined]
    blocks.sort()
    total = 0
    for address, count in blocks:
        if address != total or count < 0:
            raise fail(f"the function addresses overlap or have a gap at {min(address, total)}")
        total += count
    if total > MAX_FUNCTIONS:
        raise fail(f"it has {total} functions, and {MAX_FUNCTIONS} are the most")
    identities = [f.identity for f in hosts if f.identity is not None]
    if len({*identities}) != len(identities) or "" in identities:
        raise fail("two host functions have one identity, or one has an empty one")
    types = [function.params + function.results for function in hosts]
    if b"".join(types).translate(None, VALUE_TYPES):
        for function, codes in zip(hosts, types, strict=True):
            if codes.translate(None, VALUE_TYPES):
                address = function.address
                raise fail(f"the type of host function {address} has an unknown value type")
    return total


def _check_instance(
    number: int, instance: InstanceState, snapshot: Snapshot, functions: int
) -> None:
    if not 0 <= instance.module < len(snapshot.modules):
        raise fail(f"instance {number} names module {instance.module} of {len(snapshot.modules)}")
    if not 0 <= instance.function_base <= functions or not 0 <= instance.defined <= functions:
        raise fail(f"the functions of instance {number} are not those of the store")
    for what, addresses, count in (
        ("function", instance.functions, functions),
        ("table", instance.tables, len(snapshot.tables)),
        ("memory", instance.memories, len(snapshot.memories)),
        ("global", instance.globals, len(snapshot.globals)),
        ("tag", instance.tags, len(snapshot.tags)),
    ):
        if addresses and (min(addresses) < 0 or max(addresses) >= count):
            raise fail(f"instance {number} names a {what} address that is not one of {count}")
    for segments in (instance.dropped_elements, instance.dropped_data):
        if segments and (
            segments[0] < 0 or segments[-1] >= _U32 or any(a >= b for a, b in pairwise(segments))
        ):
            raise fail(f"the dropped segments of instance {number} are not in ascending order")


def _check_address(
    what: str, number: int, state: TableState | MemoryState, features: list[str]
) -> None:
    if state.address64 and MEMORY64 not in features:
        raise fail(f"{what} {number} has 64-bit addresses and the feature {MEMORY64} was off")


def _check_exceptions(snapshot: Snapshot, bounds: dict[int, int]) -> None:
    for number, codes in enumerate(snapshot.tags):
        if codes.translate(None, VALUE_TYPES):
            raise fail(f"tag {number} has an unknown value type")
    for number, exception in enumerate(snapshot.exceptions):
        if not 0 <= exception.tag < len(snapshot.tags):
            raise fail(f"exception {number} has tag {exception.tag} of {len(snapshot.tags)}")
        codes = snapshot.tags[exception.tag]
        if len(codes) != len(exception.fields):
            raise fail(f"exception {number} has another number of fields than its tag")
        for code, value in zip(codes, exception.fields, strict=True):
            most = number + 1 if code == EXNREF else bounds[code]  # a reference to an earlier one
            if not 0 <= value < most:
                raise fail(f"a field of exception {number} does not fit its type")


def _check_table(number: int, table: TableState, references: dict[int, int], limit: int) -> None:
    if table.type not in references:
        raise fail(f"table {number} has the unknown type {table.type:#x}")
    if len(table.elements) % 8:
        raise fail(f"table {number} ends in the middle of an element")
    size = len(table.elements) // 8
    most = _U64 - 1 if table.address64 else _U32 - 1
    _check_bounds("table", number, size, table.minimum, table.maximum, most, limit)
    if max_slot(table.elements) > references[table.type]:
        raise fail(f"an element of table {number} is no {_NAMES[table.type]} of this store")


def max_slot(data: bytes | bytearray | memoryview) -> int:
    """The largest of the little-endian 64-bit numbers in `data`; 0 if there are none."""
    view = memoryview(data)
    largest = 0
    for start in range(0, len(view), _CHUNK):
        part = view[start : start + _CHUNK]
        largest = max(largest, *unpack(f"<{len(part) // 8}Q", part), 0)
    return largest


def _check_memory(number: int, memory: MemoryState, limit: int) -> None:
    if len(memory.data) % PAGE:
        raise fail(f"memory {number} is not made of whole pages")
    size = len(memory.data) // PAGE
    most = MAX_PAGES64 if memory.address64 else MAX_PAGES
    _check_bounds("memory", number, size, memory.minimum, memory.maximum, most, limit)


def _check_bounds(
    what: str, number: int, size: int, minimum: int, maximum: int | None, most: int, limit: int
) -> None:
    top = most if maximum is None else maximum
    if not 0 <= minimum <= top <= most:
        raise fail(f"the bounds of {what} {number} are {minimum} and {maximum}")
    if not minimum <= size <= top:
        raise fail(f"the size of {what} {number}, {size}, is outside its bounds")
    if size > limit:
        raise fail(f"the size of {what} {number}, {size}, is above the limit of {limit}")


def _check_frame(
    number: int, frame: FrameState, snapshot: Snapshot, bounds: dict[int, int]
) -> None:
    if not 0 <= frame.instance < len(snapshot.instances):
        raise fail(f"frame {number} names instance {frame.instance}")
    instance = snapshot.instances[frame.instance]
    imported = len(instance.functions)
    if not imported <= frame.function < imported + instance.defined:
        raise fail(f"frame {number} names function {frame.function}, which has no code")
    if not 0 <= frame.offset < snapshot.modules[instance.module].size:
        raise fail(f"the position of frame {number} is outside its module")
    types, values = frame.types, frame.values
    if len(types) != len(values):
        raise fail(f"frame {number} has {len(types)} types for {len(values)} values")
    if not 0 <= frame.locals <= len(types):
        raise fail(f"frame {number} has {frame.locals} locals among {len(types)} values")
    if types.translate(None, VALUE_TYPES):
        raise fail(f"frame {number} has an unknown value type")
    # Most values are small numbers; only where one is not are they looked at one by one.
    if values and (
        min(values) < 0 or max(values) >= _U32 or types.translate(None, REFERENCES) != types
    ):
        for code, value in zip(types, values, strict=True):
            if not 0 <= value < bounds[code]:
                raise fail(f"a value of frame {number} does not fit its type")
