"""Snapshots made to do harm, with every checksum right: refused, by name, at no great cost."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import zstandard

from tests.snapshot import samples
from tests.snapshot.samples import Kind, changed, full, parts, seal, small, thrown, to_bytes
from wasmsr.errors import DigestError, FormatError, SnapshotError, UnportableState, VersionError
from wasmsr.snapshot.check import check
from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FLAG_TRAILER,
    HEADER,
    SECTION,
    TRAILER,
    ZSTD,
    Header,
    Rows,
    section_bytes,
    tree_digest,
)
from wasmsr.snapshot.encoding.registry import section_name
from wasmsr.snapshot.format import Decoder, content_digest, decode, encode
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import FrameState, MemoryState, SnapshotState, TableState

in_both_versions = pytest.mark.usefixtures("both_versions")


def _refused(data: bytes, words: str, kind: type[SnapshotError] = FormatError) -> None:
    with pytest.raises(kind) as caught:
        decode(data)
    assert words in caught.value.message
    assert type(caught.value) is kind


def _payload(snapshot: SnapshotState, kind: int) -> bytes:
    return dict(parts(to_bytes(snapshot)))[kind]


# Values that no machine can be in: each defect is one that `check` must find on both sides. -------

DEFECTS: list[tuple[str, Callable[[SnapshotState], Any]]] = [
    ("module 2 of 2", lambda s: setattr(s.instances[0], "module", 2)),
    ("overlap or have a gap", lambda s: setattr(s.instances[1], "function_base", 5)),
    ("overlap or have a gap", lambda s: setattr(s.instances[1], "function_base", 7)),
    ("overlap or have a gap", lambda s: setattr(s.instances[0], "defined", 3)),
    ("ascending order", lambda s: s.host_functions.reverse()),
    ("ascending order", lambda s: s.host_functions.append(s.host_functions[1])),
    ("host function 1 has an unknown", lambda s: setattr(s.host_functions[1], "params", b"\x40")),
    ("function address", lambda s: s.instances[1].functions.append(9)),
    ("table address", lambda s: s.instances[1].tables.append(2)),
    ("memory address", lambda s: s.instances[1].memories.append(2)),
    ("global address", lambda s: s.instances[1].globals.append(6)),
    ("dropped segments", lambda s: setattr(s.instances[1], "dropped_data", [3, 2])),
    ("dropped segments", lambda s: setattr(s.instances[1], "dropped_data", [2, 2])),
    ("dropped segments", lambda s: setattr(s.instances[1], "dropped_elements", [2**32])),
    ("table 0 has the unknown type", lambda s: setattr(s.tables[0], "type", 0x7F)),
    ("bounds of table 1", lambda s: setattr(s.tables[1], "minimum", 21)),
    ("size of table 1", lambda s: setattr(s.tables[1], "minimum", 4)),
    ("size of table 1", lambda s: setattr(s.tables[1], "maximum", 2)),
    ("above the limit", lambda s: setattr(s.limits, "table_elements", 11)),
    ("no funcref", lambda s: setattr(s.tables[0], "elements", (10).to_bytes(8, "little") * 12)),
    ("no externref", lambda s: setattr(s.tables[1], "elements", (3).to_bytes(8, "little"))),
    ("bounds of memory 0", lambda s: setattr(s.memories[0], "maximum", 65537)),
    ("size of memory 0", lambda s: setattr(s.memories[0], "minimum", 4)),
    ("size of memory 0", lambda s: setattr(s.memories[0], "maximum", 2)),
    ("above the limit", lambda s: setattr(s.limits, "memory_pages", 2)),
    ("global 0 has the unknown type", lambda s: setattr(s.globals[0], "type", 0x6A)),
    ("value of global 0", lambda s: setattr(s.globals[0], "value", 1 << 32)),
    ("value of global 1", lambda s: setattr(s.globals[1], "value", 1 << 64)),
    ("value of global 2", lambda s: setattr(s.globals[2], "value", 1 << 32)),
    ("value of global 4", lambda s: setattr(s.globals[4], "value", 10)),
    ("frame 0 names instance 2", lambda s: setattr(s.thread.frames[0], "instance", 2)),
    ("frame 0 names function 1", lambda s: setattr(s.thread.frames[0], "function", 1)),
    ("frame 0 names function 5", lambda s: setattr(s.thread.frames[0], "function", 5)),
    ("position of frame 0", lambda s: setattr(s.thread.frames[0], "offset", 5000)),
    ("4 locals among 3", lambda s: setattr(s.thread.frames[0], "locals", 4)),
    ("unknown value type", lambda s: setattr(s.thread.frames[0], "types", b"\x7f\x7e\x40")),
    ("value of frame 0", lambda s: s.thread.frames[0].values.__setitem__(0, 1 << 32)),
    ("value of frame 1", lambda s: s.thread.frames[1].values.__setitem__(0, 10)),
    ("value of frame 2", lambda s: s.thread.frames[2].values.__setitem__(2, 3)),
    ("function address 9", lambda s: s.thread.queue.append((9, []))),
    ("features", lambda s: s.limits.features.reverse()),
    ("features", lambda s: s.limits.features.append("tail-calls")),
    ("16 bytes", lambda s: setattr(s.lineage, "id", b"short")),
    ("16 bytes", lambda s: setattr(s.lineage, "parent", b"")),
    ("32 bytes", lambda s: setattr(s.modules[1], "digest", b"short")),
    ("size of module 1", lambda s: setattr(s.modules[1], "size", 1 << 32)),
]


@pytest.mark.parametrize("number", range(len(DEFECTS)), ids=lambda n: f"{n}-{DEFECTS[n][0]}")
@in_both_versions
def test_what_no_machine_can_be_in(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words, spoil = DEFECTS[number]
    snapshot = full()
    spoil(snapshot)
    with pytest.raises(FormatError) as caught:
        check(snapshot)
    assert words in caught.value.message
    with pytest.raises(FormatError):
        encode(snapshot)
    monkeypatch.setattr("wasmsr.snapshot.encoding.writer.check", lambda _: None)
    try:
        data = to_bytes(snapshot)
    except FormatError as error:
        # A number that has no room in the format at all.
        assert "wrong type" in error.message
        return
    _refused(data, words)


THROWN_DEFECTS: list[tuple[str, Callable[[SnapshotState], Any]]] = [
    ("tag address", lambda s: s.instances[0].tags.append(2)),
    ("tag 1 has an unknown", lambda s: s.tags.__setitem__(1, b"\x7f\x69\x7b\x40")),
    ("field of exception 1", lambda s: s.exceptions[1].fields.__setitem__(1, 2)),  # itself
    ("field of exception 1", lambda s: s.exceptions[1].fields.__setitem__(1, 3)),  # a later one
    ("field of exception 2", lambda s: s.exceptions[2].fields.__setitem__(0, 1 << 32)),
    ("field of exception 2", lambda s: s.exceptions[2].fields.__setitem__(3, 3)),
    ("global 6 does not fit", lambda s: setattr(s.globals[6], "value", 4)),
    ("value of frame 2 does not fit", lambda s: s.exceptions.clear()),
    ("element of table 2 is no exnref", lambda s: setattr(s.tables[2], "elements", b"\x09" * 16)),
]


@pytest.mark.parametrize("number", range(len(THROWN_DEFECTS)))
@in_both_versions
def test_exceptions_that_no_machine_can_hold(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words, spoil = THROWN_DEFECTS[number]
    snapshot = thrown()
    check(snapshot)
    spoil(snapshot)
    with pytest.raises(FormatError, match=words):
        check(snapshot)
    monkeypatch.setattr("wasmsr.snapshot.encoding.writer.check", lambda _: None)
    _refused(to_bytes(snapshot), words)


def test_sections_of_exceptions_that_lie(both_versions: int) -> None:
    snapshot = thrown()
    kind = Kind.EXCEPTIONS if both_versions == 1 else Kind.EXCEPTION_OBJECTS
    tags, exceptions = _payload(snapshot, Kind.TAGS), _payload(snapshot, kind)
    assert decode(to_bytes(snapshot)).exceptions == snapshot.exceptions
    heads = 8 * both_versions  # bytes for each exception: its tag, and in version 2 its number
    for payload in (
        exceptions[:7],
        struct.pack("<Q", 1 << 60) + exceptions[8:],
        exceptions[:heads] + struct.pack("<Q", 2) + exceptions[heads + 8 :],
        exceptions + bytes(8),
        exceptions[:-8],
    ):
        _refused(changed(snapshot, kind, payload), f"{section_name(kind)} section")
    more = changed(snapshot, kind, struct.pack("<Q", 4) + exceptions[8:])
    if both_versions == 1:
        _refused(more, "exceptions section")
    else:  # slots are taken for heads, and so for numbers
        _refused(more, "leaves numbers out", VersionError)
        gap = exceptions[:8] + struct.pack("<Q", 1) + exceptions[16:]
        _refused(changed(snapshot, kind, gap), "do not ascend")
    values: tuple[list[object], ...] = (
        [],
        [[], []],
        [snapshot.tags, [[0, 1]]],
        [snapshot.tags, [[0], ["1"]]],
        [[1], []],
    )
    for value in values:
        payload = msgpack.packb(value, use_bin_type=True)
        _refused(changed(snapshot, Kind.TAGS, payload), "tags section")
    assert tags != exceptions


@in_both_versions
def test_types_and_values_must_be_as_many() -> None:
    snapshot = full()
    snapshot.thread.frames[0] = FrameState(1, 2, 4000, 0, b"\x7f", [])
    with pytest.raises(FormatError, match="1 types for 0 values"):
        encode(snapshot)
    snapshot = replace(small(), tables=[TableState(0x70, 0, None, bytes(7))])
    with pytest.raises(FormatError, match="middle of an element"):
        encode(snapshot)
    snapshot = replace(small(), memories=[MemoryState(0, None, bytes(4096))])
    with pytest.raises(FormatError, match="whole pages"):
        encode(snapshot)


@in_both_versions
def test_an_embedded_module_must_be_the_one_named() -> None:
    snapshot = full()
    binary = _payload(snapshot, Kind.BINARIES)
    data = changed(snapshot, Kind.BINARIES, binary[:-1] + b"x")
    _refused(data, "embedded module 0", DigestError)
    _refused(changed(snapshot, Kind.BINARIES, binary + b"x"), "101 bytes in place of 100")
    _refused(changed(snapshot, Kind.BINARIES, None), "not the size stated")
    _refused(changed(small(), Kind.BINARIES, b"x"), "1 bytes in place of 0")


# msgpack ------------------------------------------------------------------------------------------

IN_BOTH_VERSIONS: list[tuple[int, bytes, str]] = [
    (Kind.LINEAGE, b"\xc1", "cannot be unpacked"),
    (Kind.LINEAGE, b"\x80", "just the keys"),
    (Kind.LINEAGE, b"\xc0", "just the keys"),
    (Kind.LINEAGE, b"\x80\x80", "cannot be unpacked"),
    (Kind.LIMITS, msgpack.packb([]), "just the keys"),
    (Kind.STORE, b"\xdf\xff\xff\xff\xff", "cannot be unpacked"),
    (Kind.STORE, b"\xdd\xff\xff\xff\xff", "cannot be unpacked"),
    (Kind.STORE, b"\xc6\xff\xff\xff\xff", "cannot be unpacked"),
    (Kind.STORE, b"\x91" * 5000 + b"\xc0", "cannot be unpacked"),
    (Kind.STORE, msgpack.packb({"modules": [], "host_functions": []}), "just the keys"),
    (Kind.STORE, msgpack.packb({"modules": 1, "host_functions": [], "instances": []}), "type"),
    (Kind.STORE, msgpack.packb({"modules": [1], "host_functions": [], "instances": []}), "keys"),
    (Kind.SEGMENTS, msgpack.packb([[[], []]]), "one entry for each instance"),
    (Kind.SEGMENTS, msgpack.packb([[[], []], [[], []]]), "should be absent"),
    (Kind.SEGMENTS, msgpack.packb([[[], []], [[]]]), "not two lists"),
    (Kind.SEGMENTS, msgpack.packb([[[], []], [[], [True]]]), "not int"),
]

ONLY_IN_VERSION_1: list[tuple[int, bytes, str]] = [
    (Kind.EXTERNS, msgpack.packb([]), "one or more"),
    (Kind.EXTERNS, msgpack.packb({}), "one or more"),
    (Kind.EXTERNS, b"\x91\xd4\x05\x00", "cannot be unpacked"),
    (Kind.EXTERNS, b"\x91\xd6\xff\0\0\0\0", "cannot be unpacked"),
    (Kind.EXTERNS, b"\x91\xca\0\0\0\0", "canonical"),
    (Kind.EXTERNS, b"\x91\xa1\xff", "cannot be unpacked"),
    (Kind.EXTERNS, b"\x91\x82\xa1a\x01\xa1a\x02", "canonical"),
    (Kind.EXTERNS, b"\x91\x81\x90\x01", "cannot be unpacked"),
    (Kind.COUNTERS, b"\x81\xa8executed\xcd\x00\x01", "canonical"),
    (Kind.COUNTERS, msgpack.packb({"executed": None}), "wrong type"),
    (Kind.COUNTERS, msgpack.packb({"executed": True}), "wrong type"),
    (Kind.COUNTERS, msgpack.packb({"executed": -1}), "out of range"),
    (Kind.COUNTERS, msgpack.packb({"executed": 1, "more": 1}), "just the keys"),
    (Kind.WASI, msgpack.packb([]), "not a map"),
    (Kind.WASI, msgpack.packb({b"key": 1}), "not a map"),
]

_WASI = "wasi_snapshot_preview1"
ONLY_IN_VERSION_2: list[tuple[int, bytes, str]] = [
    (Kind.HOST_OBJECTS, msgpack.packb([]), "one or more"),
    (Kind.HOST_OBJECTS, msgpack.packb([1]), "not a number and an object"),
    (Kind.HOST_OBJECTS, msgpack.packb([["0", 1]]), "not a number and an object"),
    (Kind.HOST_OBJECTS, msgpack.packb([[True, 1]]), "not a number and an object"),
    (Kind.HOST_OBJECTS, msgpack.packb([[0, 1], [0, 2]]), "do not ascend"),
    (Kind.HOST_OBJECTS, msgpack.packb([[0, 1], [2, 2]]), "leaves numbers out"),
    (Kind.HOST_OBJECTS, b"\x91\x92\x00\xd4\x05\x00", "cannot be unpacked"),
    (Kind.HOST_OBJECTS, b"\x91\x92\x00\xca\0\0\0\0", "canonical"),
    (Kind.HOST_STATE, msgpack.packb([]), "not a map"),
    (Kind.HOST_STATE, msgpack.packb({b"key": 1}), "not a map"),
    (Kind.HOST_STATE, msgpack.packb({"other": {}}), "which is not known"),
    (Kind.HOST_STATE, msgpack.packb({_WASI: {}, "z": {}}), "which is not known"),
    (Kind.HOST_STATE, msgpack.packb({_WASI: {b"args": []}}), "not a map"),
    (Kind.HOST_STATE, msgpack.packb({_WASI: {"origin": {}}}), "another section"),
]

BAD_MESSAGES = [(version, *one) for version in (1, 2) for one in IN_BOTH_VERSIONS]
BAD_MESSAGES += [(1, *one) for one in ONLY_IN_VERSION_1]
BAD_MESSAGES += [(2, *one) for one in ONLY_IN_VERSION_2]


@pytest.mark.parametrize("number", range(len(BAD_MESSAGES)))
def test_malformed_messages(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    version, kind, payload, words = BAD_MESSAGES[number]
    monkeypatch.setattr(samples, "written_version", version)
    later = VersionError if words in ("leaves numbers out", "which is not known") else FormatError
    _refused(changed(full(), kind, payload), words, later)


def test_every_value_of_every_message_with_another_type(both_versions: int) -> None:
    """No type in any map or list may be exchanged for another without notice."""
    snapshot = full()
    tried = 0
    kinds = [Kind.LINEAGE, Kind.LIMITS, Kind.STORE, Kind.SEGMENTS]
    for kind in kinds + [Kind.COUNTERS] * (both_versions == 1):
        value = msgpack.unpackb(_payload(snapshot, kind))
        for put in _places(value):
            for other in (1.5, "text", b"bytes", [None], {"a": 1}, True, -1):
                old = put(other)
                if type(old) is not type(other) and not (old is None or _may_be_none(old)):
                    with pytest.raises(FormatError):
                        decode(changed(snapshot, kind, msgpack.packb(value)))
                    tried += 1
                put(old)
    assert tried > 300


def _may_be_none(old: object) -> bool:
    """Names and ids may be absent, so that text or bytes may stand where others do."""
    return isinstance(old, (str, bytes))


def _places(value: Any) -> list[Callable[[Any], Any]]:
    """Setters of all values inside a value; each returns what was there."""
    found: list[Callable[[Any], Any]] = []
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:

        def put(new: Any, key: Any = key) -> Any:
            old, value[key] = value[key], new
            return old

        found.append(put)
        if isinstance(value[key], (dict, list)):
            found += _places(value[key])
    return found


# Flat sections ------------------------------------------------------------------------------------


def _tables(*records: tuple[int, ...], elements: bytes = b"") -> bytes:
    return (
        struct.pack("<Q", len(records))
        + b"".join(struct.pack("<QQQQQQ", *record) for record in records)
        + elements
    )


_GLOBALS = struct.pack("<IIQQ", 0x7F, 0, 0, 0) * 5

THREADS_1: list[tuple[int, bytes, str]] = [
    (Kind.THREAD, b"short", "too short"),
    (Kind.THREAD, struct.pack("<QQ", 1 << 60, 0), "too short for"),
    (Kind.THREAD, struct.pack("<QQ", 0, 1 << 60), "too short for"),
    (Kind.THREAD, struct.pack("<QQ", 0, 0) + bytes(9), "its length"),
    (Kind.THREAD, struct.pack("<QQ", 0, 0) + bytes(8), "one value for each type"),
    (Kind.THREAD, struct.pack("<QQ6I", 1, 0, 0, 0, 0, 0, 1 << 31, 0), "its length"),
    (Kind.THREAD, struct.pack("<QQ6I", 1, 0, 0, 2, 9, 0, 0, 1), "reserved field"),
    (Kind.THREAD, struct.pack("<QQ2I", 0, 1, 0, 1 << 31), "one value for each type"),
]


def _threads(*head: int, count: int = 1, body: bytes = b"") -> bytes:
    return struct.pack("<QIIQQQQ", count, *head) + body


ONLY_IN_2: list[tuple[int, bytes, str]] = [
    (Kind.THREADS, b"short", "too short"),
    (Kind.THREADS, struct.pack("<Q", 1), "too short"),
    (Kind.THREADS, _threads(0, 0, 0, 0, 0, 0, count=2), "2 threads, and this wasmsr runs one"),
    (Kind.THREADS, _threads(0, 0, 0, 0, 0, 0, count=1 << 60), "threads, and this wasmsr runs"),
    (Kind.THREADS, _threads(0, 1, 0, 0, 0, 0), "status 1, which this wasmsr does not know"),
    (Kind.THREADS, _threads(1, 0, 0, 0, 0, 0), "is not zero"),
    (Kind.THREADS, _threads(0, 0, 0, 0, 0, 1, body=bytes(8)), "is not zero"),
    (Kind.THREADS, _threads(0, 0, 0, 1 << 60, 0, 0), "too short for"),
    (Kind.THREADS, _threads(0, 0, 0, 0, 1 << 60, 0), "too short for"),
    (Kind.THREADS, _threads(0, 0, 0, 0, 0, 0, body=bytes(9)), "its length"),
    (Kind.THREADS, _threads(0, 0, 0, 0, 0, 0, body=bytes(8)), "its length"),
    (Kind.SPACES, bytes(47), "47 bytes in place of 96"),
    (Kind.SPACES, struct.pack("<HHIQ32x", 1, 0, 0, 48) * 2, "another name or size"),
    (Kind.SPACES, struct.pack("<HHIQ32x", 0, 1, 0, 48) * 2, "unknown flags"),
    (Kind.SPACES, struct.pack("<HHIQ32x", 0, 0, 0, 1 << 60) * 2, "another name or size"),
    (Kind.SPACES, struct.pack("<HHIQ32x", 0, 0, 0, 48) * 2, "not what its digest names"),
]

ARRAYS_OF_BOTH: list[tuple[int, bytes, str]] = [
    (Kind.GLOBALS, bytes(23), "middle of a global"),
    (Kind.GLOBALS, struct.pack("<IIQQ", 0x7F, 2, 0, 0), "mutability"),
    (Kind.GLOBALS, _GLOBALS + struct.pack("<IIQQ", 0x7F, 0, 0, 1), "does not fit"),
    (Kind.GLOBALS, _GLOBALS + struct.pack("<IIQQ", 0x7E, 0, 0, 1), "does not fit"),
    (Kind.TABLES, b"x", "too short"),
    (Kind.TABLES, _tables(), "too short for 0"),
    (Kind.TABLES, struct.pack("<Q", 1 << 60), "too short for"),
    (Kind.TABLES, _tables((0, 0x70, 0, 0, 1, 1)), "more elements than it should"),
    (Kind.TABLES, _tables((0, 0x70, 0, 0, 1, 2), elements=bytes(16)), "more elements"),
    (Kind.TABLES, _tables((0, 0x70, 0, 0, 1, 1 << 61)), "more elements"),
    (Kind.TABLES, _tables((0, 0x70, 0, 0, 1, 1), elements=bytes(8)), "null elements"),
    (Kind.TABLES, _tables((0, 0x70, 0, 0, 1, 0), elements=bytes(8)), "follow the last element"),
    (Kind.TABLES, _tables((0, 0x70, 0, 5, 1, 0)), "flags"),
    (Kind.TABLES, _tables((2, 0x70, 0, 5, 1, 0)), "flags"),
    (Kind.TABLES, _tables((0, 0x70, 0, 0, 1 << 60, 0)), "larger than what may be read"),
    (Kind.TABLES, _tables((0, 0x70, 0, 0, 1 << 32, 0)), "larger than what may be read"),
    (Kind.MEMORIES, bytes(31), "middle of a memory"),
    (Kind.MEMORIES, struct.pack("<QQQQ", 0, 0, 0, 65537), "65537 pages"),
    (Kind.MEMORIES, struct.pack("<QQQQ", 4, 0, 0, 1), "flags"),
    (Kind.MEMORIES, struct.pack("<QQQQ", 0, 0, 0, 65536) * 3, "more than may be read"),
]


BAD_ARRAYS = [(version, *one) for version in (1, 2) for one in ARRAYS_OF_BOTH]
BAD_ARRAYS += [(1, *one) for one in THREADS_1] + [(2, *one) for one in ONLY_IN_2]


@pytest.mark.parametrize("number", range(len(BAD_ARRAYS)))
def test_malformed_arrays(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    version, kind, payload, words = BAD_ARRAYS[number]
    monkeypatch.setattr(samples, "written_version", version)
    kinds = {"this wasmsr runs": VersionError, "does not know": VersionError, "digest": DigestError}
    found = [error for part, error in kinds.items() if part in words]
    _refused(changed(full(), kind, payload), words, found[0] if found else FormatError)


# In place of that of `full`, which the test below these spells out.
BAD_INDEXES: list[tuple[list[tuple[int, ...]], str]] = [
    ([(2, 0, 1, 0)], "names memory 2 of 2"),
    ([(1, 0, 1, 0), (0, 1, 1, 1), (0, 3, 1, 2)], "out of order"),
    ([(0, 5, 1, 0), (0, 3, 2, 1)], "page 3 of memory 0 twice"),
    ([(0, 1, 2, 0), (0, 2, 1, 2)], "page 2 of memory 0 twice"),
    ([(0, 1, 0, 0)], "empty run"),
    ([(0, 47, 2, 0)], "beyond the end"),
    ([(0, 1, 2**32 - 1, 0)], "beyond the end"),
    ([(0, 1, 1, 1)], "skips stored page 0"),
    ([(0, 1, 2, 0), (0, 5, 1, 3)], "skips stored page 2"),
    ([(0, 1, 1, 0), (0, 2, 2, 1)], "should be one"),
    ([(0, 1, 2, 0)], "12288 bytes in place of 8192"),
    ([(0, 1, 4, 0)], "12288 bytes in place of 16384"),
]


@pytest.mark.parametrize("number", range(len(BAD_INDEXES)))
@pytest.mark.usefixtures("version_1")
def test_malformed_page_index(number: int) -> None:
    entries, words = BAD_INDEXES[number]
    payload = b"".join(struct.pack("<IIII", *entry) for entry in entries)
    _refused(changed(full(), Kind.PAGE_INDEX, payload), words)


@pytest.mark.usefixtures("version_1")
def test_the_page_index_of_the_sample_is_as_described() -> None:
    index = list(struct.iter_unpack("<IIII", _payload(full(), Kind.PAGE_INDEX)))
    assert index == [(0, 1, 2, 0), (0, 20, 1, 0), (0, 47, 1, 2), (1, 0, 1, 0)]


@pytest.mark.usefixtures("version_1")
def test_pages_without_index_and_index_without_pages() -> None:
    _refused(changed(full(), Kind.PAGE_INDEX, None), "12288 bytes in place of 0")
    _refused(changed(full(), Kind.PAGE_DATA, None), "no page data section")
    _refused(changed(full(), Kind.PAGE_INDEX, b"x"), "middle of an entry")
    _refused(changed(full(), Kind.MEMORIES, None), "names memory 0 of 0")


# Runs of pages in version 2: kind of the space, flags, its number, first page, pages. -------------

BAD_RUNS: list[tuple[list[tuple[int, ...]], str]] = [
    ([(0, 0, 2, 0, 1)], "which the snapshot does not have"),
    ([(1, 0, 0, 0, 1)], "which the snapshot does not have"),
    ([(0, 0, 1, 0, 1), (0, 0, 0, 1, 1)], "out of order"),
    ([(0, 0, 0, 1, 2), (0, 0, 0, 2, 1)], "page 2 of memory 0 twice"),
    ([(0, 0, 0, 1, 0)], "empty run"),
    ([(0, 0, 0, 47, 2)], "beyond the end"),
    ([(0, 0, 0, 1, 2**32 - 1)], "beyond the end"),
    ([(0, 0, 0, 1, 1), (0, 0, 0, 2, 2)], "should be one"),
    ([(0, 1, 0, 1, 1)], "unknown flags"),
    ([(0, 2, 0, 1, 1)], "unknown flags"),
    ([(0, 0, 0, 1, 2)], "20480 bytes in place of 8192"),
    ([(0, 0, 0, 1, 6)], "20480 bytes in place of 24576"),
]


@pytest.mark.parametrize("number", range(len(BAD_RUNS)))
@pytest.mark.usefixtures("version_2")
def test_malformed_page_runs(number: int) -> None:
    runs, words = BAD_RUNS[number]
    payload = b"".join(struct.pack("<HHIII", *run) for run in runs)
    _refused(changed(full(), Kind.PAGE_RUNS, payload), words)


@pytest.mark.usefixtures("version_2")
def test_the_page_runs_of_the_sample_are_as_described() -> None:
    runs = list(struct.iter_unpack("<HHIII", _payload(full(), Kind.PAGE_RUNS)))
    assert runs == [(0, 0, 0, 1, 2), (0, 0, 0, 20, 1), (0, 0, 0, 47, 1), (0, 0, 1, 0, 1)]


@pytest.mark.usefixtures("version_2")
def test_pages_without_runs_and_runs_without_pages() -> None:
    _refused(changed(full(), Kind.PAGE_RUNS, None), "20480 bytes in place of 0")
    _refused(changed(full(), Kind.PAGE_BYTES, None), "no page bytes section")
    _refused(changed(full(), Kind.PAGE_RUNS, b"x"), "middle of a run")
    _refused(changed(full(), Kind.MEMORIES, None), "which the snapshot does not have")
    _refused(changed(full(), Kind.SPACES, None), "no spaces section")


# The container ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lineage", "limits", "store", "thread"])
def test_sections_that_must_be_there(kind: str, both_versions: int) -> None:
    kind = "threads" if kind == "thread" and both_versions > 1 else kind
    _refused(changed(small(), getattr(Kind, kind.upper()), None), f"no {kind} section")


@in_both_versions
def test_order_of_sections() -> None:
    sections = parts(to_bytes(full()))
    for number in range(len(sections) - 1):
        swapped = list(sections)
        swapped[number : number + 2] = reversed(swapped[number : number + 2])
        with pytest.raises(FormatError):
            decode(seal(swapped))
    twice = [sections[0], *sections]
    _refused(seal(twice), "lineage section is out of order or there twice")


def test_unknown_sections(both_versions: int) -> None:
    sections = parts(to_bytes(full()))
    _refused(seal([*sections, (0x4000, b"new")]), "kind 0x4000", VersionError)
    for payload in (b"extra", bytes(BATCH_SIZE * 2 + 5)):
        data = seal([*sections, (0x8001, payload)])
        decoder = Decoder()
        decoder.feed(data)
        assert decoder.finish() == full()
        assert decoder.content == content_digest(full(), version=both_versions)
        broken = bytearray(data)
        broken[-1 - TRAILER.size * (both_versions - 1)] ^= 1
        with pytest.raises(DigestError, match="kind 0x8001"):
            decode(broken)


def _headed(**changes: int) -> bytes:
    data = to_bytes(small())
    old = Header.decode(data[: HEADER.size])
    new = Header(
        changes.get("flags", old.flags),
        changes.get("sections", old.sections),
        changes.get("plain", old.plain),
        old.root,
        old.version,
    )
    return new.encode() + data[HEADER.size :]


def test_header_fields(both_versions: int) -> None:
    plain = Header.decode(to_bytes(small())[: HEADER.size]).plain
    trailer = FLAG_TRAILER * (both_versions - 1)
    _refused(_headed(flags=0x100 + trailer), "unknown flags", VersionError)
    _refused(_headed(sections=5), "unknown flags" if trailer else "cut off")
    short = "no trailer" if trailer else "smaller than its header says"
    _refused(_headed(sections=3), short)
    _refused(_headed(sections=0), short)
    _refused(_headed(plain=plain + 1), "smaller than its header says")
    _refused(_headed(plain=plain - 1), "larger than its header says")
    assert decode(_headed(flags=1 + trailer)) == small()


@pytest.mark.parametrize(
    ("offset", "value", "kind", "words"),
    [
        (8, 3, VersionError, "format version 3"),
        (10, 4, VersionError, "form 4"),
        (56, 1, FormatError, "reserved"),
    ],
)
def test_header_fields_of_later_versions(
    offset: int, value: int, kind: type[SnapshotError], words: str
) -> None:
    data = bytearray(to_bytes(small()))
    data[offset] = value
    data[60:64] = zlib.crc32(data[:60]).to_bytes(4, "little")
    _refused(bytes(data), words, kind)


def _one_section(kind: int, plain: int, batch: bytes) -> bytes:
    """The lineage of `small`, then a section with this first batch, whatever it says."""
    sections = parts(to_bytes(small()))[:3]
    version = samples.written_version
    head = Header(FLAG_TRAILER * (version - 1), 4, 1 << 60, bytes(32), version).encode()
    before = b"".join(b"".join(section_bytes(k, p)) for k, p in sections if k < kind)
    return head + before + SECTION.pack(kind, 0, 0, plain) + batch


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (BATCH.pack(0, 9, 0), "9 bytes in place of 10"),
        (BATCH.pack(0, 2**32 - 1, 0), "in place of 10"),
        (BATCH.pack(4, 10, 0), "unknown codec"),
        (BATCH.pack(ZSTD, 10, 0), "may not be compressed"),
    ],
)
@in_both_versions
def test_batch_heads(batch: bytes, words: str) -> None:
    _refused(_one_section(Kind.LINEAGE, 10, batch), words)


@in_both_versions
def test_compressed_batches_are_bounded_before_they_are_read() -> None:
    snapshot = full()
    for stored in (0, 100, 101, 1 << 31):
        data = _with_binaries(snapshot, BATCH.pack(ZSTD, stored, 0))
        _refused(data, f"has {stored} bytes for 100")


def _with_binaries(snapshot: SnapshotState, tail: bytes) -> bytes:
    """A snapshot that goes on with `tail` after the head of its section of modules."""
    data = to_bytes(snapshot, compress=False)
    head = SECTION.pack(Kind.BINARIES, 0, 0, 100)
    return data[: data.index(head) + len(head)] + tail


_PAGES = 40
_OF_PAGES = "a compressed batch of the page "


def _with_pages(frame: bytes) -> bytes:
    """A snapshot of forty pages whose only batch is stored as this frame, with a right checksum."""
    memory = bytearray(65536 * 3)
    for page in range(_PAGES):
        memory[page * 4096] = page + 1
    data = to_bytes(replace(small(), memories=[MemoryState(0, None, memory)]), compress=False)
    kind = Kind.PAGE_DATA if samples.written_version == 1 else Kind.PAGE_BYTES
    head = SECTION.pack(kind, 0, 0, _PAGES * 4096)
    start = data.index(head) + len(head)
    rest = data[start + BATCH.size + _PAGES * 4096 :]
    return data[:start] + BATCH.pack(ZSTD, len(frame), zlib.crc32(frame)) + frame + rest


def _frame(length: int, *, sized: bool = True) -> bytes:
    """A zstd frame of so many zeros, made without ever holding them."""
    packer = zstandard.ZstdCompressor(level=3, write_content_size=sized).compressobj(
        size=length if sized else -1
    )
    piece = bytes(1 << 20)
    parts = [packer.compress(piece[: min(1 << 20, length - n)]) for n in range(0, length, 1 << 20)]
    return b"".join(parts) + packer.flush()


@pytest.mark.parametrize("length", [0, 1, 40 * 4096 - 1, 40 * 4096 + 1, 1 << 20, 1 << 30])
@pytest.mark.parametrize("sized", [True, False])
@in_both_versions
def test_compression_bombs(length: int, sized: bool) -> None:
    """Frames that hold other than they should, by what they say or by what they do."""
    frame = _frame(length, sized=sized)
    assert 0 < len(frame) < _PAGES * 4096
    tracemalloc.start()
    try:
        _refused(_with_pages(frame), _OF_PAGES)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@in_both_versions
def test_a_frame_that_lies_about_its_size() -> None:
    """It says what is expected and holds a mebibyte."""
    frame = bytearray(_frame(1 << 20))
    assert frame[4] >> 6 == 2, "the size stands in four bytes"
    at = frame.index((1 << 20).to_bytes(4, "little"))
    frame[at : at + 4] = (_PAGES * 4096).to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(frame)) == _PAGES * 4096
    _refused(_with_pages(bytes(frame)), _OF_PAGES)


@in_both_versions
def test_a_frame_with_more_behind_it() -> None:
    good = _frame(_PAGES * 4096)
    for tail in (b"x", good, b"\x50\x2a\x4d\x18\0\0\0\0"):
        _refused(_with_pages(good + tail), "cannot be decompressed")
    # The frame itself is well-formed; zeros are just not what the digest is of.
    _refused(_with_pages(good), "not what its digest names", DigestError)


def test_cost_of_what_is_only_claimed(both_versions: int) -> None:
    """Files of some hundred bytes that claim gigabytes cost next to nothing to refuse."""
    thread = Kind.THREAD if both_versions == 1 else Kind.THREADS
    claims = [
        _one_section(Kind.LINEAGE, 1 << 26, BATCH.pack(0, BATCH_SIZE, 0)),
        _one_section(Kind.STORE, 1 << 50, BATCH.pack(0, BATCH_SIZE, 0)),
        _one_section(thread, 1 << 50, BATCH.pack(0, BATCH_SIZE, 0)),
        changed(full(), Kind.TABLES, _tables((0, 0x70, 0, 0, 1 << 40, 0))),
        changed(full(), Kind.MEMORIES, struct.pack("<QQQQ", 0, 0, 0, 65536) * 100),
    ]
    if both_versions == 1:
        claims.append(changed(full(), Kind.PAGE_INDEX, struct.pack("<IIII", 0, 0, 48, 0)))
    else:
        claims.append(changed(full(), Kind.PAGE_RUNS, struct.pack("<HHIII", 0, 0, 0, 0, 48)))
        spaces = struct.pack("<HHIQ32x", 0, 0, 0, 1 << 40)
        claims.append(changed(full(), Kind.SPACES, spaces * 2))
    for data in claims:
        decode(to_bytes(full()))
        tracemalloc.start()
        try:
            with pytest.raises(FormatError):
                decode(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2 << 20


@in_both_versions
def test_large_untouched_memory_is_not_touched() -> None:
    """A memory of 1 GiB that is all zero is read in no time and takes no room."""
    import resource

    payload = struct.pack("<QQQQ", 0, 0, 0, 16384)
    sections = [*parts(to_bytes(small())), (Kind.MEMORIES, payload)]
    if samples.written_version > 1:
        digest = SpaceTree(16384 * 16).root()
        sections.append((Kind.SPACES, struct.pack("<HHIQ", 0, 0, 0, 16384 * 16) + digest))
        sections.sort()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = decode(seal(sections))
    assert len(found.memories[0].data) == 1 << 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@in_both_versions
def test_the_limit_can_be_given() -> None:
    data = to_bytes(full())
    need = 4 * 65536 + 15 * 8 + 100
    assert decode(data, limit=need) == full()
    with pytest.raises(FormatError):
        decode(data, limit=need - 1)
    with pytest.raises(FormatError, match="memories section asks for"):
        decode(data, limit=65536)


def test_too_many_maps_and_lists(both_versions: int) -> None:
    """An empty map is one byte there and sixty-four here."""
    many = b"\x81\xa1x\xdd" + (1 << 21).to_bytes(4, "big") + b"\x80" * (1 << 21)
    kind = Kind.WASI if both_versions == 1 else Kind.HOST_STATE
    _refused(changed(small(), kind, many), "more than 1048576 maps and lists")
    with pytest.raises(UnportableState, match="more than 1048576 maps and lists"):
        encode(replace(small(), wasi={"x": [{}] * (1 << 20)}))


@pytest.mark.usefixtures("version_1")
def test_root_is_over_heads_and_payloads() -> None:
    """Sections with right digests under a header of another snapshot."""
    one, other = to_bytes(small()), to_bytes(replace(small(), executed=5))
    rows = Rows()
    for kind, payload in parts(one):
        rows.add(kind, len(payload), tree_digest(payload))
    assert Header.decode(one[: HEADER.size]).root == rows.digests()[0]
    wrong = Header.decode(one[: HEADER.size])._replace(
        sections=5, plain=Header.decode(other[: HEADER.size]).plain
    )
    _refused(wrong.encode() + other[HEADER.size :], "not what its digest names", DigestError)
