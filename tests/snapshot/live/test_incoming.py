"""States that arrive in rounds: equal to what was sent, or refused with a typed error."""

from __future__ import annotations

import os
import random
import threading
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.snapshot.live.sending import (
    LIMIT,
    incoming,
    received,
    rest_of,
    runs,
    send,
    send_memory,
    trees_of,
)
from tests.snapshot.mapped.samples import end_of, saved
from tests.snapshot.mapped.test_form import STATES, with_memories
from tests.snapshot.samples import full, large
from wasmsr import Limits, Snapshot
from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import HEADER, Header
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.format import encode
from wasmsr.snapshot.live import memories
from wasmsr.snapshot.live.incoming import IncomingState
from wasmsr.snapshot.live.rest import encode_rest
from wasmsr.snapshot.memory import adoption
from wasmsr.snapshot.memory.adoption import adopt
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.restore import restore
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import MemoryState, SnapshotState

PAGE = 4096
WASM = 65536


def root_of(state: SnapshotState) -> bytes:
    decoder = Decoder()
    for piece in encode(state, version=2):
        decoder.feed(piece)
    decoder.finish()
    return decoder.root


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("name", [*STATES, "large"])
def test_the_rest_has_the_root_of_every_other_form(name: str, compress: bool) -> None:
    state = large() if name == "large" else STATES[name]()
    root = encode_rest(state, trees_of(state), compress=compress).root
    assert root == root_of(state)
    target = send(state)
    assert target.finish() == state
    assert target.root == root


def test_the_rest_reads_no_page() -> None:
    """The bytes of the memories may be anything: only the digests count."""
    state = full()
    trees = trees_of(state)
    expected = encode_rest(state, trees)
    for memory in state.memories:
        memory.data = bytearray(b"x" * len(memory.data))
    assert encode_rest(state, trees) == expected


def test_digests_of_another_size_are_no_digests() -> None:
    state = with_memories(2)
    for trees in ({}, {SpaceName(0, 0): SpaceTree(16)}):
        with pytest.raises(ValueError, match="memory 0 has 32 pages"):
            encode_rest(state, trees)


@pytest.mark.parametrize("files", [True, False], ids=["memfd", "no memfd"])
@pytest.mark.parametrize("image", [True, False], ids=["image", "no image"])
@pytest.mark.parametrize("seed", range(4))
def test_random_rounds(
    seed: int, image: bool, files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages come again and again, memories grow and appear; a plain model says what must be."""
    if not files:
        monkeypatch.delattr(adoption.os, "memfd_create")
    source = random.Random(seed)
    model: list[bytearray] = []
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno() if image else None, rest=source.choice((0, 100, 300_000)))
        for _ in range(120):
            choice = source.random()
            number = source.randrange(len(model) + 1)
            if choice < 0.12 or not model:
                _grow(source, target, model, number)
                continue
            number = source.randrange(len(model))
            pages = len(model[number]) // PAGE
            places = _some(source, pages)
            count = sum(places[1::2])
            if choice < 0.3:
                target.zeros(number, places)
                data = bytes(count * PAGE)
            else:
                data = b"".join(
                    bytes(PAGE) if source.random() < 0.2 else source.randbytes(64) * 64
                    for _ in range(count)
                )
                target.take(number, places, data)
            at = 0
            for first, length in zip(places[::2], places[1::2], strict=True):
                end = at + length * PAGE
                model[number][first * PAGE : (first + length) * PAGE] = data[at:end]
                at = end
            if source.random() < 0.1:
                target.sync()
        state = replace(full(), memories=[MemoryState(0, None, data) for data in model])
        state.instances = [replace(one, memories=[]) for one in state.instances]
        state.limits.memory_pages = 1000
        rest, root = rest_of(state)
        for at in range(0, len(rest), 777):
            target.feed(rest[at : at + 777])
        assert target.finish() == state
        target.sync()
        assert target.root == root == root_of(state)
    if image:
        found = Snapshot.load(tmp_path / "image", adopt=True)
        assert found.state == state


def _grow(
    source: random.Random, target: IncomingState, model: list[bytearray], number: int
) -> None:
    """Make a memory longer, or a new one; sometimes over the size where files begin."""
    more = source.choice((0, 1, 3, 16)) * WASM
    if number == len(model):
        model.append(bytearray())
    if sum(map(len, model)) + more < LIMIT // 4:
        model[number] += bytes(more)
    target.resize(number, len(model[number]) // PAGE)


def _some(source: random.Random, pages: int) -> array[int]:
    """Some runs of pages, ascending; runs may touch."""
    found = array("Q")
    at = 0
    while at < pages and len(found) < 40:
        first = source.randrange(at, min(at + 40, pages))
        count = min(source.choice((1, 1, 2, 7, 60)), pages - first)
        found.extend((first, count))
        at = first + count
    return found


def test_a_store_is_laid_over_the_memories() -> None:
    """The program goes on where it was, and no page of the large memory was copied."""
    snapshot = saved()
    with snapshot.restore() as store:
        expected = end_of(store)
    state = send(snapshot.state).finish()
    with restore(state, lay=adopt(state.memories)) as store:
        places = [store.state.memory_place(number) for number in range(2)]
        assert [place.base for place in places] == [places[0].size, 0]
        assert end_of(store) == expected


def test_sync_on_another_thread(tmp_path: Path) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    state = with_memories(40, 20)
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno())

        def syncs() -> None:
            try:
                while not stop.is_set():
                    target.sync()
            except BaseException as error:  # noqa: BLE001
                failures.append(error)

        thread = threading.Thread(target=syncs)
        thread.start()
        try:
            for number, memory in enumerate(state.memories):
                target.resize(number, len(memory.data) // PAGE)
                for page in range(len(memory.data) // PAGE):
                    data = bytes(memory.data[page * PAGE : (page + 1) * PAGE])
                    target.take(number, runs((page, 1)), data)
            target.feed(rest_of(state)[0])
        finally:
            stop.set()
            thread.join()
        assert target.finish() == state
        target.sync()
    assert not failures
    assert Snapshot.load(tmp_path / "image", adopt=True).state == state


def test_the_last_pages_are_written_beside_a_restore(tmp_path: Path) -> None:
    """What a store over the memories writes is its own: the image has what came."""
    snapshot = saved()
    state = snapshot.state
    with open(tmp_path / "image", "w+b") as file:
        target = send(state, file.fileno())
        found = target.finish()
        assert not any(os.pread(file.fileno(), HEADER.size, 0))
        expected = root_of(state)
        with restore(found, lay=adopt(found.memories)) as store:
            end_of(store)  # no program of ours runs before `sync`: it writes more than a restore
            target.sync()
    found = Snapshot.load(tmp_path / "image", adopt=True).state
    assert root_of(found) == expected


def test_an_image_that_is_given_up_after_its_end(tmp_path: Path) -> None:
    """It never becomes a snapshot, and nothing of it is kept."""
    with open(tmp_path / "image", "w+b") as file:
        target = send(with_memories(3, 1), file.fileno())
        target.finish()
        target.close()
        target.sync()
        assert not any(os.pread(file.fileno(), HEADER.size, 0))


# What bad input gets ------------------------------------------------------------------------------

WRONG_PAGES: dict[str, tuple[Callable[[IncomingState], None], str]] = {
    "no such memory": (lambda t: t.take(2, runs((0, 1)), bytes(PAGE)), "there is no memory 2"),
    "a negative number": (lambda t: t.take(-1, runs((0, 1)), bytes(PAGE)), "there is no memory"),
    "beyond the end": (lambda t: t.take(0, runs((15, 2)), bytes(2 * PAGE)), "beyond the end"),
    "far beyond": (lambda t: t.take(0, runs(((1 << 64) - 1, 1)), bytes(PAGE)), "beyond the end"),
    "an overflow": (
        lambda t: t.take(0, runs((1, (1 << 64) - 1)), bytes(PAGE)),
        "beyond the end",
    ),
    "twice": (lambda t: t.take(0, runs((1, 2), (2, 1)), bytes(3 * PAGE)), "a page twice"),
    "out of order": (lambda t: t.take(0, runs((4, 1), (2, 1)), bytes(2 * PAGE)), "out of order"),
    "an empty run": (lambda t: t.take(0, runs((4, 0)), b""), "an empty run"),
    "half a run": (lambda t: t.take(0, array("Q", [1]), bytes(PAGE)), "middle of a run"),
    "too few bytes": (lambda t: t.take(0, runs((0, 2)), bytes(PAGE)), "2 pages of memory 0 came"),
    "too many bytes": (lambda t: t.take(0, runs((0, 1)), bytes(PAGE + 1)), "came with 4097"),
    "no bytes": (lambda t: t.take(0, runs((0, 1)), b""), "came with 0"),
    "zeros beyond": (lambda t: t.zeros(1, runs((0, 17))), "beyond the end of memory 1"),
    "zeros twice": (lambda t: t.zeros(1, runs((0, 2), (1, 1))), "a page twice"),
    "a gap": (lambda t: t.resize(3, 16), "memory 3 was announced before memory 2"),
    "a negative memory": (lambda t: t.resize(-1, 16), "was announced before"),
    "shorter": (lambda t: t.resize(0, 0), "cannot have 0"),
    "no whole pages": (lambda t: t.resize(0, 17), "cannot have 17"),
    "too large": (lambda t: t.resize(0, 1 << 52), "more than may be read"),
    "too large in all": (lambda t: t.resize(2, LIMIT // PAGE - 16), "more than may be read"),
}


@pytest.mark.parametrize("name", WRONG_PAGES)
def test_wrong_pages_are_refused_and_change_nothing(name: str, tmp_path: Path) -> None:
    state = with_memories(1, 1)
    act, words = WRONG_PAGES[name]
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno())
        for number, memory in enumerate(state.memories):
            send_memory(target, number, memory.data)
        with pytest.raises(FormatError, match=words):
            act(target)
        target.feed(rest_of(state)[0])
        assert target.finish() == state
        target.sync()
    assert Snapshot.load(tmp_path / "image", adopt=True).state == state


def test_limits_are_checked_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(memories, "allocate", lambda size: asked.append(size) or bytearray(size))
    target = IncomingState(
        limit=1 << 40, limits=Limits(memory_pages=3), files=0, image=None, rest=1 << 63
    )
    target.resize(0, 48)
    with pytest.raises(FormatError, match="exceeds the limit of 3 pages"):
        target.resize(1, 64)
    assert asked == [48 * PAGE]
    for number in range(1, 32768):
        target.resize(number, 0)
    with pytest.raises(FormatError, match="more than 32768 memories"):
        target.resize(32768, 0)


def test_no_room_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(size: int) -> bytearray:
        raise MemoryError

    monkeypatch.setattr(memories, "allocate", none)
    target = incoming()
    with pytest.raises(SnapshotError, match="no room for a memory of 65536 bytes"):
        target.resize(0, 16)


def test_other_content_is_found() -> None:
    state = with_memories(1, 2)
    rest, _ = rest_of(state)
    for number in range(2):
        target = send(state)
        data = bytearray(state.memories[number].data)
        data[5000] ^= 1
        target.take(number, runs((1, 1)), data[PAGE : 2 * PAGE])
        with pytest.raises(DigestError, match=f"memory {number} that were sent"):
            target.finish()
    target = incoming()
    send_memory(target, 0, state.memories[0].data)
    target.resize(1, 32)
    target.feed(rest)
    with pytest.raises(DigestError, match="memory 1 that were sent"):
        target.finish()


def test_other_memories_are_found() -> None:
    rest, _ = rest_of(with_memories(1, 2))
    for sizes in ([], [1], [2, 2], [1, 3], [1, 0]):
        target = incoming()
        for number, size in enumerate(sizes):
            target.resize(number, size * 16)
        with pytest.raises(FormatError, match="were announced"):
            target.feed(rest)
    target = incoming()
    for number, size in enumerate((1, 2, 1)):
        target.resize(number, size * 16)
    target.feed(rest)
    with pytest.raises(FormatError, match="has 2 memories, and 3 were sent"):
        target.finish()


def test_what_is_no_rest(tmp_path: Path) -> None:
    state = with_memories(1)
    rest, _ = rest_of(state)
    cases: list[tuple[bytes, type[SnapshotError], str]] = [
        (b"".join(encode(state, version=2)), FormatError, "must be the head of a mapped"),
        (b"".join(encode(state, version=1)), FormatError, "must be the head of a mapped"),
        (rest + b"\0", FormatError, "bytes follow the end"),
        (rest + bytes(2 * WASM), FormatError, "bytes follow the end"),
        (b"x" + rest[1:], FormatError, "not a snapshot"),
        (rest[:70] + b"\xff" + rest[71:], SnapshotError, ""),
        (rest[:-1] + b"\xff", DigestError, "trailer is damaged"),
        (Header.decode(rest[:64])._replace(version=9).encode() + rest[64:], VersionError, "9"),
    ]
    for data, kind, words in cases:
        for size in (7, len(data)):
            with open(tmp_path / "image", "w+b") as file:
                target = incoming(file.fileno())
                send_memory(target, 0, state.memories[0].data)
                with pytest.raises(kind, match=words) as caught:
                    for at in range(0, len(data), size):
                        target.feed(data[at : at + size])
                for again in (lambda: target.feed(b"x"), target.finish):  # noqa: B023
                    with pytest.raises(kind) as other:
                        again()
                    assert other.value is caught.value
                file.seek(0)
                assert not any(file.read(HEADER.size))


def test_every_truncation_is_found() -> None:
    state = full()
    rest, _ = rest_of(state)
    for length in range(0, len(rest), 41):
        target = incoming()
        for number, memory in enumerate(state.memories):
            send_memory(target, number, memory.data)
        target.feed(rest[:length])
        with pytest.raises(FormatError, match="cut off"):
            target.finish()


def test_padding_in_the_rest_is_refused(tmp_path: Path) -> None:
    """An image's own head is no rest: its regions would be at other places."""
    state = with_memories(1)
    image = received(state, tmp_path / "image")
    head = image[: image.index(b"WSR end\n") + 48]
    target = incoming()
    send_memory(target, 0, state.memories[0].data)
    target.feed(head)
    with pytest.raises(FormatError, match="the rest has a padding section"):
        target.finish()


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_to_the_rest(seed: int) -> None:
    """A damaged rest gives a typed error, or what it says is what was sent."""
    source = random.Random(seed)
    state = full()
    whole, _ = rest_of(state)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(len(data))
            data[at] ^= 1 << source.randrange(8)
        target = incoming()
        for number, memory in enumerate(state.memories):
            send_memory(target, number, memory.data)
        try:
            target.feed(data)
            found = target.finish()
        except SnapshotError as error:
            assert type(error) in (FormatError, DigestError, VersionError)
        else:
            assert found == state


def test_after_the_end() -> None:
    target = send(with_memories(1))
    target.finish()
    for again in (
        lambda: target.resize(0, 32),
        lambda: target.take(0, runs((0, 1)), bytes(PAGE)),
        lambda: target.feed(b"x"),
        target.finish,
    ):
        with pytest.raises(ValueError, match="complete, or was given up"):
            again()
    target.close()
    given_up = incoming()
    given_up.resize(0, 16)
    given_up.close()
    with pytest.raises(ValueError, match="given up"):
        given_up.resize(0, 32)
