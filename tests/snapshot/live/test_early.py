"""Stores that are prepared from an earlier state, and rests that repeat what an earlier one had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.snapshot.live.sending import (
    LIMIT,
    incoming,
    received,
    rest_of,
    send,
    send_memory,
    trees_of,
)
from tests.snapshot.mapped.test_form import STATES
from wasmsr import Limits, Module, Store
from wasmsr.errors import DigestError, FormatError, ModuleMismatch, SnapshotError
from wasmsr.program.restoring import PreparedStore
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.live.early import EarlyRest
from wasmsr.snapshot.live.rest import EncodedRest, encode_rest
from wasmsr.snapshot.restore import restore
from wasmsr.snapshot.state import SnapshotState

CHANGING = Module.from_text("""(module
  (memory 1 40) (table $t 2 40 funcref) (table $e 2 40 externref)
  (global $n (mut i64) (i64.const 0)) (global $f (mut funcref) (ref.null func))
  (tag $tag (param i64)) (global $x (mut exnref) (ref.null exn))
  (elem $s func $run $other) (data $d "abc")
  (func $other (result i32) (i32.const 7))
  (func $run (export "run") (local $i i32)
    (loop $more
      (global.set $n (i64.add (global.get $n) (i64.const 3)))
      (i32.store (i32.and (i32.mul (local.get $i) (i32.const 517)) (i32.const 0xfffc))
        (local.get $i))
      (if (i32.eq (local.get $i) (i32.const 20))
        (then (drop (memory.grow (i32.const 20))) (data.drop $d)))
      (if (i32.eq (local.get $i) (i32.const 40))
        (then (table.set $t (i32.const 1) (ref.func $other)) (global.set $f (ref.func $run))))
      (if (i32.eq (local.get $i) (i32.const 60))
        (then (drop (table.grow $t (ref.func $other) (i32.const 9))) (elem.drop $s)
          (drop (table.grow $e (ref.null extern) (i32.const 3)))))
      (if (i32.eq (local.get $i) (i32.const 80))
        (then (block $h (result i64 exnref)
            (try_table (catch_ref $tag $h) (throw $tag (global.get $n)))
            (unreachable))
          (global.set $x) (drop)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 100))))))""")


def states(*marks: int) -> list[SnapshotState]:
    """The states after so many instructions, independent of each other."""
    found = []
    for mark in marks:
        store = Store()
        instance = store.instantiate(CHANGING)
        store.enqueue(instance.function("run"))
        if mark:
            store.run(fuel=mark)
        found.append(capture(store))
    return found


def early(data: bytes) -> EarlyRest:
    made = EarlyRest(limit=LIMIT, limits=Limits(), files=0)
    for at in range(0, len(data), 777):
        made.feed(data[at : at + 777])
    return made


def same(one: SnapshotState, other: SnapshotState) -> bool:
    return replace(one, lineage=other.lineage) == other


@pytest.mark.parametrize("first", [0, 1, 800, 1900])
def test_a_prepared_store_is_the_one_that_a_restore_makes(first: int) -> None:
    for last in (first, first + 1, first + 900, first + 1800, first + 2600):
        before, now = states(first, last)
        prepared = PreparedStore(early(rest_of(before)[0]).finish(), CHANGING, None)
        store, _ = prepared.fill(now, HostGrants(), live=True, deferred=True)
        whole = restore(now, modules=[CHANGING])
        assert same(capture(store), capture(whole))
        assert same(capture(store), now)
        store.run()
        whole.run()
        assert same(capture(store), capture(whole))
        prepared.close()
        assert not store.closed
        store.close()


def test_a_prepared_store_takes_memories_over() -> None:
    before, now = states(800, 2600)
    target = send(now)
    prepared = PreparedStore(before, CHANGING, None)
    store, _ = prepared.fill(target.finish(), HostGrants(), live=True, deferred=True)
    assert same(capture(store), now)
    assert store.bases is not None
    store.close()


LIES: dict[str, Callable[[SnapshotState], object]] = {
    "another limit": lambda s: setattr(s.limits, "stack_frames", 1 << 10),
    "another global": lambda s: setattr(s.globals[0], "mutable", False),
    "other bounds of a table": lambda s: setattr(s.tables[0], "maximum", 41),
    "other bounds of a memory": lambda s: setattr(s.memories[0], "minimum", 0),
    "a smaller table": lambda s: setattr(s.tables[0], "elements", bytes(16)),
    "a smaller memory": lambda s: setattr(s.memories[0], "data", bytes(65536)),
    "one tag less": lambda s: s.tags.clear(),
    "WASI": lambda s: setattr(s, "wasi", {}),
    "a function that is none": lambda s: setattr(s.tables[0], "elements", b"\x40" * 8 * 11),
    "a position that is none": lambda s: setattr(s.thread.frames[0], "offset", 3),
    "a segment that is none": lambda s: s.instances[0].dropped_data.append(7),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_last_state_that_does_not_fit_is_refused(lie: str) -> None:
    before, now = states(2600, 2800)
    prepared = PreparedStore(before, CHANGING, None)
    LIES[lie](now)
    with pytest.raises(SnapshotError):
        prepared.fill(now, HostGrants(), live=True, deferred=True)
    assert prepared._restorer.store.closed
    prepared.close()


@pytest.mark.parametrize("lie", [lie for lie in LIES if not lie.startswith(("a s", "another l"))])
def test_an_early_state_that_cannot_be_is_refused(lie: str) -> None:
    (before,) = states(2600)
    LIES[lie](before)
    with pytest.raises((SnapshotError, ModuleMismatch)):
        PreparedStore(before, CHANGING, None)


def test_an_early_state_of_another_program_is_refused() -> None:
    (before,) = states(10)
    with pytest.raises(ModuleMismatch):
        PreparedStore(before, Module.from_text("(module)"), None)


@pytest.mark.parametrize("first", STATES)
def test_a_rest_repeats_what_an_earlier_one_has(first: str) -> None:
    one = STATES[first]()
    before = encode_rest(one, trees_of(one))
    known = early(before.data)
    for name in STATES:
        other = STATES[name]()
        rest = encode_rest(other, trees_of(other))
        joined = bytearray()
        sent = 0
        for part in rest.since(before):
            if isinstance(part, tuple):
                joined += known.part(*part)
            else:
                joined += part
                sent += len(part)
        assert joined == rest.data
        if name == first:
            assert sent <= 400


def test_little_is_sent_again() -> None:
    before, now = (encode_rest(one, trees_of(one)) for one in states(2600, 2650))
    sent = sum(len(part) for part in now.since(before) if not isinstance(part, tuple))
    assert sent < len(now.data) * 2 // 3


def test_parts_that_no_earlier_rest_has() -> None:
    rest = rest_of(states(100)[0])[0]
    known = early(rest)
    size = len(rest)
    assert known.part(0, size) == rest
    for offset, count in ((0, size + 1), (size, 1), (5, 0), (1 << 63, 1), (0, 1 << 63)):
        with pytest.raises(FormatError, match="does not have"):
            known.part(offset, count)


def test_an_earlier_rest_that_is_none() -> None:
    rest = rest_of(states(100)[0])[0]
    with pytest.raises(FormatError, match="cut off"):
        early(rest[:-1]).finish()
    with pytest.raises(FormatError, match="bytes follow"):
        early(rest + b"x")
    damaged = bytearray(rest)
    damaged[len(rest) // 2] ^= 1
    with pytest.raises((FormatError, DigestError)):
        early(bytes(damaged)).finish()


def test_an_earlier_rest_within_the_limits() -> None:
    rest = rest_of(states(100)[0])[0]
    made = EarlyRest(limit=LIMIT, limits=Limits(memory_pages=0), files=0)
    with pytest.raises(FormatError, match="exceeds the limit"):
        made.feed(rest)


def test_sections_of_a_rest_are_where_it_says() -> None:
    rest = encode_rest(*(lambda one: (one, trees_of(one)))(states(100)[0]))
    assert isinstance(rest, EncodedRest)
    assert list(rest.sections.values()) == sorted(rest.sections.values())
    for kind, start in rest.sections.items():
        assert int.from_bytes(rest.data[start : start + 2], "little") == kind


@pytest.mark.parametrize("first", [0, 800, 2600])
def test_a_rest_since_an_earlier_one_is_the_same_rest(first: int) -> None:
    before, now = states(first, 2800)
    earlier = encode_rest(before, trees_of(before))
    rest = encode_rest(now, trees_of(now), since=earlier)
    assert (rest.data, rest.root) == rest_of(now)


@pytest.mark.parametrize(("first", "last"), [(0, 2800), (2600, 2700), (2600, 800)])
def test_an_image_with_an_earlier_rest_is_that_of_the_last(
    first: int, last: int, tmp_path: Path
) -> None:
    # The last one of them is shorter than the earlier rest: nothing of that may remain.
    before, now = states(first, last)
    earlier = encode_rest(before, trees_of(before))
    rest = encode_rest(now, trees_of(now))
    known = early(earlier.data)
    known.finish()
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno(), len(earlier.data))
        target.foresee(known)
        for number, memory in enumerate(now.memories):
            send_memory(target, number, memory.data)
        for part in rest.since(earlier):
            if isinstance(part, tuple):
                target.feed(known.part(*part), part[0])
            else:
                target.feed(part)
        assert target.finish() == now
        target.sync()
    assert (tmp_path / "image").read_bytes() == received(now, tmp_path / "other", len(earlier.data))


def test_what_an_earlier_rest_has_is_not_read_again() -> None:
    before, now = states(0, 2600)
    now.instances[0].dropped_data[:] = [0]
    known = early(rest_of(now)[0])
    lists = known.finish().instances[0].dropped_data
    target = incoming()
    target.foresee(known)
    for number, memory in enumerate(now.memories):
        send_memory(target, number, memory.data)
    target.feed(rest_of(now)[0])
    assert target.finish().instances[0].dropped_data is lists
    # A later state with other segments is read and checked.
    for wrong in ([1, 0], [0, 0], [-1]):
        now.instances[0].dropped_data[:] = wrong
        data = encode_rest(now, trees_of(now), since=encode_rest(before, trees_of(before))).data
        known = early(rest_of(before)[0])
        known.finish()
        target = incoming()
        target.foresee(known)
        for number, memory in enumerate(now.memories):
            send_memory(target, number, memory.data)
        with pytest.raises(FormatError, match=r"dropped segments of instance 0|packed"):
            target.feed(data)
