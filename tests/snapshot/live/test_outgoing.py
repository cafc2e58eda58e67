"""Rounds of a program that runs: what has arrived in the end is what the program's memory is."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from wasmsr import Module, Store
from wasmsr.interp.outcomes import Limits
from wasmsr.program.program import Program
from wasmsr.snapshot.live.incoming import IncomingState
from wasmsr.snapshot.live.outgoing import OutgoingPages
from wasmsr.snapshot.live.rest import encode_rest
from wasmsr.snapshot.memory.dirty_pages import METHODS, DirtyMethod

WRITER = Module.from_text("""(module (memory (export "memory") 64 200)
  (func (export "_start") (local $x i32)
    (local.set $x (i32.const 1))
    (loop $l
      (local.set $x (i32.xor (local.get $x) (i32.shl (local.get $x) (i32.const 13))))
      (local.set $x (i32.xor (local.get $x) (i32.shr_u (local.get $x) (i32.const 17))))
      (local.set $x (i32.xor (local.get $x) (i32.shl (local.get $x) (i32.const 5))))
      (i32.store (i32.and (local.get $x) (i32.const 0x3ffffc))
        (select (local.get $x) (i32.const 0) (i32.and (local.get $x) (i32.const 1))))
      (if (i32.eqz (i32.and (local.get $x) (i32.const 0xfffff)))
        (then (drop (memory.grow (i32.const 1)))))
      (br $l))))""")


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> type[DirtyMethod]:
    found: type[DirtyMethod] = request.param
    if (refusal := found.refusal()) is not None:
        pytest.skip(f"this host does not have the method: {refusal}")
    return found


def incoming() -> IncomingState:
    return IncomingState(limit=1 << 30, limits=Limits(), files=1 << 20, image=None)


def take(pages: OutgoingPages, there: IncomingState) -> int:
    """Gives a round to the other side; the bytes that went."""
    for number, size in enumerate(pages.sizes):
        there.resize(number, size)
    sent = 0
    for batch in pages.batches():
        if batch.runs:
            there.take(batch.memory, batch.runs, batch.data)
        if batch.zeros:
            there.zeros(batch.memory, batch.zeros)
        sent += len(batch.data)
    return sent


def test_rounds_of_a_program_that_runs(method: type[DirtyMethod]) -> None:
    program = Program.launch(WRITER)
    program.start()
    made: list[OutgoingPages] = []

    def begin() -> bool:
        made.append(OutgoingPages(program.store, method))
        return False

    assert program.visit(begin, 20)
    (pages,) = made
    there = incoming()
    for number in range(12):
        last = number == 11

        def scan(last: bool = last) -> bool:
            pages.scan()
            return last

        assert program.visit(scan, 20)
        assert program.is_stopped == last
        take(pages, there)
        time.sleep(0.01)
    encoded = encode_rest(program.snapshot(), pages.trees)
    rest, root = encoded.data, encoded.root
    there.feed(rest)
    state = there.finish()
    assert there.root == root
    assert bytes(state.memories[0].data) == bytes(program.store.memory_view(0))
    pages.close()
    program.close()


def test_only_what_changed_is_sent(method: type[DirtyMethod]) -> None:
    dice = random.Random(9)
    store = Store()
    store.instantiate(Module.from_text("(module (memory 40))"))
    view = store.memory_view(0)
    for page in range(100):
        view[page * 4096] = page + 1
    pages, there = OutgoingPages(store, method), incoming()
    pages.scan()
    assert take(pages, there) == 100 * 4096
    for _ in range(20):
        wanted = dice.sample(range(640), 7)
        for page in wanted:
            view[page * 4096 : page * 4096 + 8] = dice.randbytes(8)
        pages.scan()
        assert take(pages, there) == 7 * 4096
        pages.scan()
        assert take(pages, there) == 0
        # A page that has become zeros has no bytes; one that is as it was is not sent at all.
        page = wanted[0]
        kept = bytes(view[page * 4096 : page * 4096 + 4096])
        view[page * 4096 : page * 4096 + 4096] = bytes(4096)
        pages.scan()
        assert take(pages, there) == 0
        view[page * 4096 : page * 4096 + 4096] = kept
        pages.scan()
        assert take(pages, there) == 4096
        view[page * 4096] ^= 1
        view[page * 4096] ^= 1
        pages.scan()
        assert take(pages, there) == 0
    pages.close()
    store.close()


def test_a_store_without_memories() -> None:
    store = Store()
    store.instantiate(Module.from_text("(module (func))"))
    pages = OutgoingPages(store)
    assert pages.scan() == 0
    assert list(pages.batches()) == [] and pages.sizes == []
    pages.close()
    store.close()


def test_a_sample_of_a_round_is_of_pages_that_are_sent() -> None:
    program = Program.launch(WRITER)
    pages = OutgoingPages(program.store)
    view = program.store.memory_view(0)
    pages.scan()
    assert pages.sample(16) == (b"", 0) or not pages.sample(16)[0]
    take(pages, incoming())
    for page in range(0, 256, 2):
        view[page * 4096] = 1 + page // 2
    view[5 * 4096] = 0  # written, and as it was
    assert pages.scan() in (128, 129)
    for count in (1, 7, 32, 1000):
        data, looked = pages.sample(count)
        assert looked <= max(count, 1) and len(data) <= looked * 4096
        assert looked >= min(count, 128) // 2 and looked - len(data) // 4096 <= 1
    assert len(pages.sample(1000)[0]) == 128 * 4096
    pages.close()
    program.close()
    program.store.close()


def test_a_program_that_stays_paused_and_then_runs_on_after_all(
    method: type[DirtyMethod],
) -> None:
    """Nothing is made ready for a later round then; another move finds all pages all the same."""
    store = Store()
    store.instantiate(Module.from_text('(module (memory (export "m") 4))'))
    chance = random.Random(3)

    def write() -> None:
        view = store.memory_view(0)
        for page in chance.sample(range(64), 9):
            view[page * 4096 + chance.randrange(4096)] = chance.randrange(1, 256)

    def written() -> int:
        found = re.search(rb"wchar: (\d+)", Path("/proc/self/io").read_bytes())
        assert found
        return int(found[1])

    write()
    for move in range(3):
        pages, there = OutgoingPages(store, method), incoming()
        for last in (False, move == 0, True):
            told: list[int] = []

            def stays(count: int, last: bool = last, told: list[int] = told) -> bool:
                told.append(count)
                return last

            before = written()
            assert [pages.scan(stays)] == told
            assert not last or written() == before, "the source writes pages while it is paused"
            take(pages, there)
            if last:
                break
            write()
        assert bytes(there._memories[0].data) == store.memory_view(0).tobytes()
        pages.close()
        write()
