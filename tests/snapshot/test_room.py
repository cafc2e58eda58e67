"""What a snapshot asks for is held against the reader's own limits before it costs anything."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import wasmsr
from tests.snapshot import samples
from tests.snapshot.samples import Kind, changed, full, parts, seal, small, to_bytes
from wasmsr import FormatError, Limits, Module, SnapshotError, Store
from wasmsr.program.program import Program
from wasmsr.snapshot.encoding.container import BATCH, FIRST, HEADER, SECTION, Header
from wasmsr.snapshot.encoding.read_limits import FULL_MEMORIES, IGNORABLE_LIMIT
from wasmsr.snapshot.format import Decoder, decode
from wasmsr.snapshot.restore import restore
from wasmsr.snapshot.state import InstanceState, MemoryState, ModuleRef, TableState

TABLES = Module.from_text("(module (table 0 funcref) (table 0 externref) (table 0 funcref))")
NULLS = 1 << 28


def tables(*sizes: int) -> bytes:
    """A snapshot of a module with three tables of nulls, embedded."""
    store = Store()
    store.instantiate(TABLES)
    snapshot = wasmsr.Snapshot.of(store, embed=True).state
    snapshot.limits.table_elements = NULLS
    rows = [
        struct.pack("<QQQQQQ", 0, code, 0, 0, size, 0)
        for code, size in zip((0x70, 0x6F, 0x70), sizes, strict=True)
    ]
    return changed(snapshot, Kind.TABLES, struct.pack("<Q", 3) + b"".join(rows))


SANITIZED = os.environ.get("WASMSR_SANITIZED") == "1"
"""AddressSanitizer reserves terabytes of address space, so that cannot be limited."""

CLAIMS = {
    "a table of 2**28 nulls": tables(NULLS, 0, 0),
    "nulls in several tables": tables(9_000_000, 0, 9_000_000),
    "one table just above": tables(0, 10_000_001, 0),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_tables_of_nulls(name: str) -> None:
    with pytest.raises(FormatError, match="tables are larger than what may be read") as caught:
        decode(CLAIMS[name])
    assert caught.value.hint and "table_elements" in caught.value.hint


@pytest.mark.parametrize("name", CLAIMS)
def test_they_cost_the_command_nothing(name: str, tmp_path: Path) -> None:
    assert len(CLAIMS[name]) < 1200
    (tmp_path / "snapshot.bin").write_bytes(CLAIMS[name])
    limit = "" if SANITIZED else "ulimit -v 1500000; "
    command = limit + 'exec "$0" -m wasmsr run --from-snapshot snapshot.bin'
    line = ["sh", "-c", command, sys.executable]
    began = time.monotonic()
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 123 and "larger than what may be read" in done.stderr
    assert time.monotonic() - began < 10


def test_a_reader_with_larger_limits_takes_them(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(tables(0, 10_000_001, 0))
    limits = Limits(table_elements=10_000_001)
    snapshot = wasmsr.Snapshot.load(tmp_path / "s", limits=limits).state
    assert len(snapshot.tables[1].elements) == 8 * 10_000_001
    with pytest.raises(SnapshotError, match="268435456 table elements, and 10000000 is the most"):
        Program.resume(snapshot)


def test_stored_elements_are_paid_for_by_the_file() -> None:
    """Two tables that are full may have more together than one that is empty."""
    size = 6_000_000
    snapshot = small()
    snapshot.limits.table_elements = 10_000_000
    snapshot.tables = [TableState(0x6F, 0, None, b"\1" + bytes(7)) for _ in range(2)]
    snapshot.externs = [0]
    row = struct.pack("<QQQQQQ", 0, 0x6F, 0, 0, size, size)
    data = struct.pack("<Q", 2) + row * 2 + (b"\1" + bytes(7)) * size * 2
    found = decode(changed(snapshot, Kind.TABLES, data))
    assert [len(table.elements) // 8 for table in found.tables] == [size, size]


# Memories ----------------------------------------------------------------------------------------


def memories(count: int, pages: int) -> bytes:
    """Memories in which one page stands everywhere: a few bytes for gigabytes."""
    snapshot = small()
    snapshot.limits.memory_pages = 65536
    runs = []
    for number in range(count):
        # Runs of one page each would be joined by a writer; a page and the gap to the next are not.
        runs += [(number, page * 2, 1, 0) for page in range(pages * 8)]
    index = b"".join(struct.pack("<IIII", *run) for run in runs)
    sections = [
        *parts(to_bytes(snapshot)),
        ((Kind.MEMORIES), struct.pack("<QQQQ", 0, 0, 0, pages) * count),
        ((Kind.PAGE_INDEX), index),
        ((Kind.PAGE_DATA), b"x" * 4096),
    ]
    return seal(sections)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.usefixtures("version_1")
def test_repeated_pages_are_within_the_limit_of_each_memory() -> None:
    data = memories(1, 257)
    assert len(decode(data).memories[0].data) == 257 << 16
    before = peak()
    with pytest.raises(FormatError, match="memory 0 of 257 pages exceeds the limit of 256") as e:
        decode(data, limits=Limits(memory_pages=256))
    assert e.value.hint and "--max-memory" in e.value.hint
    assert peak() - before < 16 << 20


def test_many_memories_are_within_a_limit_of_all() -> None:
    many = 4096 // 16 * FULL_MEMORIES
    pages = struct.pack("<QQQQ", 0, 0, 0, 256)
    data = changed(small(), Kind.MEMORIES, pages * many)
    before = peak()
    with pytest.raises(FormatError, match="memories section asks for"):
        decode(data, limits=Limits(memory_pages=256))
    three = replace(small(), memories=[MemoryState(0, None, bytes(256 << 16))] * 3)
    decode(to_bytes(three), limits=Limits(memory_pages=256))
    assert peak() - before < 64 << 20


def test_the_limit_reaches_the_command(tmp_path: Path) -> None:
    (tmp_path / "m.wat").write_text('(module (memory 9) (func (export "_start") (loop br 0)))')
    command = [sys.executable, "-m", "wasmsr", "run"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [*command, *words]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert run("m.wat", "--snapshot-at", "5").returncode == 120
    resume = ("m.wat", "--from-snapshot", "snapshot.bin", "--fuel", "9")
    assert run(*resume).returncode == 121
    done = run(*resume, "--max-memory", "512K")
    assert done.returncode == 123
    assert "memory 0 of 9 pages exceeds the limit of 8" in done.stderr
    assert "--max-memory" in done.stderr
    assert run(*resume, "--max-memory", "576K").returncode == 121


# Sections ----------------------------------------------------------------------------------------


def test_sections_that_are_skipped_have_a_limit() -> None:
    sections = parts(to_bytes(small()))
    half = bytes(IGNORABLE_LIMIT // 2)
    decode(seal([*sections, (0x8001, half), (0x8002, half)]))
    with pytest.raises(FormatError, match="kind 0x8003 section is too large"):
        decode(seal([*sections, (0x8001, half), (0x8002, half), (0x8003, b"x")]))


def claiming(kind: int, plain: int) -> bytes:
    """A small snapshot, then the head of a section of that size, of which nothing follows."""
    data = to_bytes(small())
    head = Header.decode(data[: HEADER.size])
    before = [item for item in parts(data) if item[0] < kind]
    start = HEADER.size + sum(
        len(payload) + SECTION.size + BATCH.size * -(-len(payload) // 262144)
        for _, payload in before
    )
    new = head._replace(sections=len(before) + 1, plain=head.plain + plain).encode()
    size = min(plain, 262144)
    return new + data[HEADER.size : start] + FIRST.pack(kind, 0, 0, plain, 0, size, 0)


COMMON = (
    *(Kind.STORE, Kind.GLOBALS, Kind.TABLES, Kind.MEMORIES),
    *(Kind.TAGS, Kind.IDENTITIES, Kind.FILE_INDEX, 0x8001, 0xF000),
)
IN_1 = (Kind.THREAD, Kind.WASI, Kind.EXCEPTIONS)
IN_2 = (Kind.THREADS, Kind.HOST_STATE, Kind.HOST_OBJECTS, Kind.EXCEPTION_OBJECTS)
KINDS = [(1, kind) for kind in COMMON + IN_1] + [(2, kind) for kind in COMMON + IN_2]


@pytest.mark.parametrize(("version", "kind"), KINDS)
@pytest.mark.parametrize("plain", [1 << 61, 1 << 40, 800 << 20])
def test_no_section_is_as_large_as_it_likes(
    version: int, kind: int, plain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "written_version", version)
    decoder = Decoder()
    with pytest.raises(FormatError, match="section is too large"):
        decoder.feed(claiming(kind, plain))


@pytest.mark.parametrize(("version", "kind"), KINDS)
def test_a_large_section_is_still_read(
    version: int, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "written_version", version)
    Decoder().feed(claiming(kind, 1 << 20))


def test_a_page_index_has_no_more_runs_than_there_are_pages(both_versions: int) -> None:
    kind = Kind.PAGE_INDEX if both_versions == 1 else Kind.PAGE_RUNS
    data = changed(full(), kind, bytes(16) * (1 << 17))
    with pytest.raises(FormatError, match="more runs than the memories have pages"):
        decode(data)


def test_items_of_messages_are_counted(both_versions: int) -> None:
    """A small number is one byte there and eight here."""
    kind = Kind.WASI if both_versions == 1 else Kind.HOST_STATE
    many = b"\x81\xa1x\xdd" + ((1 << 24) + 1).to_bytes(4, "big") + bytes((1 << 24) + 1)
    with pytest.raises(FormatError, match=r"WASI|wasi|host state"):
        decode(changed(small(), kind, many))
    half = b"\xdd" + (1 << 23).to_bytes(4, "big") + bytes(1 << 23)
    with pytest.raises(FormatError, match="more than 16777216 items"):
        decode(changed(small(), kind, b"\x81\xa1x\x93" + half * 3))


def test_many_instances_of_a_large_module() -> None:
    """A hundred bytes each, which stand for a hundred thousand functions or segments each."""
    functions = Module.from_text("(module " + "(func)" * 100_000 + ")")
    store = Store()
    store.instantiate(functions)
    snapshot = wasmsr.Snapshot.of(store).state
    one = snapshot.instances[0]
    snapshot.instances = [
        InstanceState(0, number * one.defined, one.defined) for number in range(5000)
    ]
    began = time.monotonic()
    with pytest.raises(FormatError, match="functions, and 16777216 are the most"):
        restore(snapshot, modules=[functions])
    segments = Module.from_text("(module (memory 1) " + '(data "x")' * 100_000 + ")")
    snapshot = small()
    snapshot.modules = [ModuleRef(segments.digest, len(segments.binary))]
    snapshot.instances = [InstanceState(0, 0, 0, memories=[0]) for _ in range(5000)]
    snapshot.thread.frames, snapshot.host_functions, snapshot.globals = [], [], []
    snapshot.memories = full().memories[:1]
    with pytest.raises(SnapshotError, match="instances with more than 16777216 segments"):
        restore(snapshot, modules=[segments])
    assert time.monotonic() - began < 10


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    for data in (b"", to_bytes(small())):
        pipe = tmp_path / f"pipe{len(data)}"
        os.mkfifo(pipe)
        line = [sys.executable, "-m", "wasmsr", "run", "--from-snapshot", str(pipe)]
        with (
            subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process,
            open(pipe, "wb", buffering=0) as file,
        ):
            with pytest.raises(BrokenPipeError):
                file.write(data)
                while True:
                    file.write(b"y" * 65536)
            assert process.stderr is not None
            assert process.wait(60) == 123 and "snapshot" in process.stderr.read()
