"""Buffers over remote memory, arrays of numpy in it, and tables of Arrow."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.mem.served import served
from wasmsr.mem.buffered import BufferedMemory
from wasmsr.mem.durl import Durl
from wasmsr.mem.failures import RemoteMemoryError, TransportError
from wasmsr.mem.transports import MemoryTransport, local, transport_of

numpy = pytest.importorskip("numpy", reason="needs numpy")

from wasmsr.mem.array import RemoteArray, merge  # noqa: E402


class Counted(MemoryTransport):
    """A memory that counts what is read and written."""

    def __init__(self, size: int) -> None:
        super().__init__("counted")
        self.inner = local(size)
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []

    def read_into(self, addr: int, buffer: memoryview) -> None:
        self.reads.append((addr, len(buffer)))
        self.inner.read_into(addr, buffer)

    def write_from(self, addr: int, buffer: memoryview) -> None:
        self.writes.append((addr, len(buffer)))
        self.inner.write_from(addr, buffer)

    def size(self) -> int:
        return self.inner.size()

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("page", [256, 4096])
@pytest.mark.parametrize("held", [1, 3, 40])
@pytest.mark.parametrize("size", [65_536, 50_001])
def test_a_buffer_is_the_memory(page: int, held: int, size: int) -> None:
    """Random reads and writes, beside a plain array of bytes."""
    random_ = random.Random(page * held + size)
    memory = Counted(size)
    buffer = BufferedMemory(memory, page=page, buffer=held * page)
    model = bytearray(size)
    for _ in range(1500):
        addr = random_.randrange(size)
        count = min(size - addr, random_.choice((0, 1, 7, 300, random_.randrange(9000))))
        if random_.random() < 0.5:
            data = random_.randbytes(count)
            buffer.write(addr, memoryview(data))
            model[addr : addr + count] = data
        else:
            got = bytearray(count)
            buffer.read(addr, memoryview(got))
            assert got == model[addr : addr + count]
        assert len(buffer._pages) <= held
    buffer.flush()
    whole = bytearray(size)
    memory.read_into(0, memoryview(whole))
    assert whole == model


def test_only_what_was_changed_is_written_and_the_oldest_page_leaves() -> None:
    memory = Counted(1 << 16)
    buffer = BufferedMemory(memory, page=256, buffer=1024)
    got = bytearray(1)
    for page in (0, 1, 2, 3, 0, 4):
        buffer.read(page * 256, memoryview(got))
    assert memory.writes == [] and len(memory.reads) == 5
    buffer.read(0, memoryview(got))
    assert len(memory.reads) == 5  # page 0 was used after 1, which left
    buffer.read(256, memoryview(got))
    assert len(memory.reads) == 6
    buffer.write(7, memoryview(b"x"))
    buffer.flush()
    buffer.flush()
    assert memory.writes == [(7, 1)]
    for at in (100, 101, 102, 50, 90, 103, 98):
        buffer.write(at, memoryview(b"xy"))
    buffer.flush()
    assert memory.writes[1:] == [(50, 2), (90, 2), (98, 7)]
    memory.writes.clear()
    for at in range(0, 100, 2):
        buffer.write(at, memoryview(b"z"))
    buffer.flush()
    assert memory.writes == [(at, 1) for at in range(0, 100, 2)]


def test_buffers_that_write_beside_each_other_in_one_page() -> None:
    """Copies of a step write parts of one array: neither writes what the other has changed."""
    memory = local(4096)
    with BufferedMemory(memory, page=4096) as first, BufferedMemory(memory, page=4096) as second:
        for at in range(0, 4096, 8):  # both hold the page as it was, and write every other byte
            first.write(at, memoryview(b"1111"))
            second.write(at + 4, memoryview(b"2222"))
    got = bytearray(4096)
    memory.read_into(0, memoryview(got))
    assert got == b"11112222" * 512


def test_two_buffers_see_each_other_after_flush_and_forget() -> None:
    memory = local(1 << 16)
    with BufferedMemory(memory) as first:
        second = BufferedMemory(memory)
        got = bytearray(3)
        second.read(0, memoryview(got))
        first.write(0, memoryview(b"new"))
        second.read(0, memoryview(got))
        assert got == bytes(3)
    second.forget()
    second.read(0, memoryview(got))
    assert got == b"new"


@pytest.mark.parametrize("size", [5000, 4096, 256])
def test_a_buffer_ends_where_its_memory_ends(size: int) -> None:
    memory = BufferedMemory(local(size), page=256, buffer=1024)
    end = bytearray(8)
    memory.write(size - 8, memoryview(b"the  end"))
    for addr in (size - 8, size - 4, size - 8, size - 1, size, 1 << 70, -1, -8):
        if addr == size - 8:
            memory.read(addr, memoryview(end))
            assert end == b"the  end"
            continue
        for call in (memory.read, memory.write):
            with pytest.raises(RemoteMemoryError, match="out of bounds") as error:
                call(addr, memoryview(bytearray(b"overlong")))
            assert error.value.status == 1
        with pytest.raises(RemoteMemoryError, match="out of bounds"):
            memory.read(addr, memoryview(bytearray(2000)))
    memory.flush()
    got = bytearray(8)
    memory.transport.read_into(size - 8, memoryview(got))
    assert got == b"the  end"


def test_a_page_that_cannot_be_read_is_not_held() -> None:
    buffer = BufferedMemory(local(1000), page=256, buffer=1024)
    with pytest.raises(RemoteMemoryError):
        buffer.read(2000, memoryview(bytearray(1)))
    got = bytearray(232)
    buffer.read(768, memoryview(got))
    assert got == bytes(232)
    buffer.read(2000, memoryview(b""))  # nothing is nowhere out of bounds


@pytest.mark.parametrize("page", [0, 128, 300, 131_072])
def test_wrong_pages(page: int) -> None:
    with pytest.raises(TransportError):
        BufferedMemory(local(1000), page=page, buffer=1 << 20)
    with pytest.raises(TransportError):
        BufferedMemory(local(1000), page=4096, buffer=4095)


@pytest.fixture(params=["local", "tcp"])
def memory(request: pytest.FixtureRequest) -> Iterator[MemoryTransport]:
    if request.param == "local":
        yield local(1 << 20)
    else:
        with served(1 << 20) as found:
            transport = transport_of(Durl("m", "tcp", {"url": found.url}))
            yield transport
            transport.close()


@pytest.mark.parametrize("dtype", ["f8", "i4", "u1", "?", "c16", "S7", "U3", "M8[s]", ">i2"])
def test_an_array_goes_and_comes_back(memory: MemoryTransport, dtype: str) -> None:
    array = (numpy.arange(600).reshape(100, 6) % 97).astype(dtype)
    remote = RemoteArray.create(memory, array, addr=64, buffer=8192)
    again = RemoteArray.open(memory, json.loads(json.dumps(remote.metadata())), buffer=4096)
    assert again.dtype == array.dtype and again.shape == (100, 6)
    assert (again.materialize() == array).all()
    assert (again[7] == array[7]).all() and (again[-1] == array[-1]).all()
    assert (again[10:20] == array[10:20]).all() and again[30:10].shape == (0, 6)
    assert sum(len(piece) for piece in again.pieces(33)) == 100


def test_fields_and_scalars(memory: MemoryTransport) -> None:
    array = numpy.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")])
    remote = RemoteArray.create(memory, array)
    again = RemoteArray.open(memory, json.loads(json.dumps(remote.metadata())))
    assert (again.materialize() == array).all() and again[1]["b"] == 4.5
    empty = RemoteArray.create(memory, numpy.zeros((0, 3)), addr=remote.end)
    assert empty.materialize().shape == (0, 3) and len(list(empty)) == 0
    one = RemoteArray.create(memory, numpy.float64(7), addr=remote.end)
    assert one.materialize() == 7
    with pytest.raises(TypeError):
        len(one)


def test_assignments_and_slices_share_the_array(memory: MemoryTransport) -> None:
    array = numpy.arange(1000.0)
    remote = RemoteArray.create(memory, array)
    remote[5] = -1
    remote[10:20] = numpy.arange(10)
    remote[990:] = 4
    part = remote.slice(4, 12)
    part[0] = 77
    array[5], array[10:20], array[990:], array[4] = -1, numpy.arange(10), 4, 77
    assert (remote.materialize() == array).all()
    assert (RemoteArray.open(memory, part.metadata()).materialize() == array[4:12]).all()
    for key in (1000, -1001):
        with pytest.raises(IndexError):
            remote[key]
    with pytest.raises(TransportError):
        remote[0:10:2]
    with pytest.raises(ValueError, match="broadcast"):
        remote[0:10] = numpy.arange(3)


def test_merge(memory: MemoryTransport) -> None:
    parts, addr = [], 0
    for at in range(3):
        parts.append(RemoteArray.create(memory, numpy.arange(at * 10, at * 10 + 10), addr=addr))
        addr = parts[-1].end
    into = RemoteArray.create(memory, numpy.zeros(30, "i8"), addr=addr)
    assert (merge(parts, into).materialize() == numpy.arange(30)).all()
    with pytest.raises(TransportError, match="20 rows"):
        merge(parts[:2], into)
    with pytest.raises(TransportError, match="one type"):
        merge([RemoteArray.create(memory, numpy.zeros(30))], into)


def test_arrays_that_cannot_be(memory: MemoryTransport) -> None:
    with pytest.raises(TransportError, match="cannot be in remote memory"):
        RemoteArray.create(memory, numpy.array([object()]))
    with pytest.raises(TransportError, match="is not in a memory"):
        RemoteArray.create(memory, numpy.zeros(1 << 20))
    good = RemoteArray.create(memory, numpy.zeros(4)).metadata()
    wrong: list[Any] = [
        {}, None, {**good, "addr": -1}, {**good, "shape": [-1]}, {**good, "shape": [1 << 60]},
        {**good, "dtype": "O"}, {**good, "dtype": "no"}, {**good, "dtype": 7},
        {**good, "shape": [1] * 40}, {**good, "shape": "x"}, {**good, "addr": 1 << 20},
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(TransportError):
            RemoteArray.open(memory, one)


# ---- tables --------------------------------------------------------------------------------------


def test_tables(memory: MemoryTransport) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from wasmsr.mem import frame

    days = pyarrow.table({"day": list(range(50)), "name": [f"day {at}" for at in range(50)]})
    sales = pyarrow.table(
        {"day": [at * 7 % 60 for at in range(1000)], "price": [at / 4 for at in range(1000)],
         "who": ["ann", "bob", None, "eve"] * 250}
    )  # fmt: skip
    first = frame.write_table(memory, days)
    second = frame.write_table(memory, sales, first.end)
    assert second.addr % frame.ALIGNED == 0
    again = frame.open_table(memory, json.loads(json.dumps(second.metadata())))
    assert again.read().equals(sales) and frame.read_table(memory, first.metadata()).equals(days)
    joined = frame.join(again, first, "day")
    order = [("day", "ascending"), ("price", "ascending")]
    assert joined.sort_by(order).equals(sales.join(days, "day", join_type="inner").sort_by(order))
    assert frame.join(again, first, "day", "left outer").num_rows == 1000
    for key in ("day", "who"):
        parts = frame.partition(sales, key, 4)
        assert sum(part.num_rows for part in parts) == 1000
        seen = [set(part.column(key).to_pylist()) - {None} for part in parts]
        assert sum(map(len, seen)) == len(set().union(*seen))
        merged = frame.merge_tables(parts).sort_by([("price", "ascending")])
        assert merged.equals(sales.sort_by([("price", "ascending")]))
    # Parts of two tables fit together: joined one by one they are the join.
    pairs = zip(frame.partition(sales, "day", 3), frame.partition(days, "day", 3), strict=True)
    by_parts = frame.merge_tables([a.join(b, "day", join_type="inner") for a, b in pairs])
    assert by_parts.sort_by(order).equals(joined.sort_by(order))


def test_tables_that_are_none(memory: MemoryTransport) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from wasmsr.mem import frame

    table = pyarrow.table({"text": ["one", "two", "three"] * 50, "number": list(range(150))})
    good = frame.write_table(memory, table)
    for wrong in ({}, {**good.metadata(), "size": -1}, {**good.metadata(), "addr": 1 << 20}, None):
        with pytest.raises(TransportError):
            frame.open_table(memory, wrong)  # type: ignore[arg-type]
    with pytest.raises(TransportError):
        frame.read_table(memory, {**good.metadata(), "rows": 7})
    whole = bytearray(good.size)
    memory.read_into(0, memoryview(whole))
    random_ = random.Random(1)
    for _ in range(200):  # damaged bytes are another table or an error, and end no process
        damaged = bytearray(whole)
        damaged[random_.randrange(len(damaged))] ^= 1 << random_.randrange(8)
        memory.write_from(0, memoryview(damaged))
        try:
            good.read()
        except TransportError:
            continue
    with pytest.raises(TransportError):
        frame.merge_tables([table, pyarrow.table({"other": [1]})])
    with pytest.raises(TransportError):
        frame.partition(table, "text", 0)
