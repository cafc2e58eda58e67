"""Pages that the other side has from an earlier visit are named, and not sent."""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import pytest

from tests.snapshot.live.sending import received
from tests.snapshot.live.test_outgoing import WRITER, incoming
from tests.snapshot.mapped.test_form import with_memories
from wasmsr.errors import FormatError, SnapshotError
from wasmsr.interp.outcomes import Limits
from wasmsr.migrate.files import known_pages
from wasmsr.migrate.files.known_pages import KnownPages
from wasmsr.program.program import Program
from wasmsr.snapshot.live.incoming import IncomingState
from wasmsr.snapshot.live.known import KnownImage
from wasmsr.snapshot.live.outgoing import OutgoingPages
from wasmsr.snapshot.live.rest import encode_rest
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.space_tree import SpaceTree

PROGRAM = b"p" * 16


def opened(path: Path) -> KnownImage:
    return KnownImage(os.open(path, os.O_RDONLY))


def test_an_image_gives_its_pages(tmp_path: Path) -> None:
    state = with_memories(3, 1)
    path = tmp_path / "image"
    received(state, path)
    image = opened(path)
    path.unlink()  # it stays open
    for number, memory in enumerate(state.memories):
        pages = len(memory.data) // 4096
        assert image.pages(number, 0, pages) == bytes(memory.data)
        assert image.pages(number, pages - 1, 1) == bytes(memory.data[-4096:])
        for first, count in ((pages, 1), (0, pages + 1), (1 << 40, 1)):
            with pytest.raises(FormatError, match="does not have"):
                image.pages(number, first, count)
    with pytest.raises(FormatError, match="does not have"):
        image.pages(len(state.memories), 0, 1)
    image.close()
    image.close()


def test_a_file_that_is_cut_or_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "image"
    received(with_memories(2), path)
    image = opened(path)
    os.truncate(path, path.stat().st_size - 8192)
    with pytest.raises(FormatError, match="does not have"):
        image.pages(0, 0, 32)
    for size in (10_000, 100, 0):
        os.truncate(path, size)
        with pytest.raises(SnapshotError):
            opened(path)


def take(pages: OutgoingPages, there: IncomingState, image: KnownImage | None) -> tuple[int, int]:
    """Give a round to the other side; the bytes that went, and the pages that were named."""
    pages.scan()
    for number, size in enumerate(pages.sizes):
        there.resize(number, size)
    sent = named = 0
    for batch in pages.batches():
        for first, count in zip(batch.known[::2], batch.known[1::2], strict=True):
            assert image is not None
            data = image.pages(batch.memory, first, count)
            there.take(batch.memory, array("Q", (first, count)), data)
            named += count
        if batch.runs:
            there.take(batch.memory, batch.runs, batch.data)
        if batch.zeros:
            there.zeros(batch.memory, batch.zeros)
        sent += len(batch.data)
    return sent, named


def test_a_program_that_comes_back_sends_what_has_changed(tmp_path: Path) -> None:
    program = Program.launch(WRITER)
    view = program.store.memory_view(0)
    for page in range(1000):
        view[page * 4096 : page * 4096 + 4] = (page + 1).to_bytes(4, "little")
    path = tmp_path / "image"
    with open(path, "w+b") as file:
        first = OutgoingPages(program.store)
        there = IncomingState(limit=1 << 30, limits=Limits(), files=0, image=file.fileno())
        whole, named = take(first, there, None)
        assert (whole, named) == (1000 * 4096, 0)
        there.feed(encode_rest(program.snapshot(), first.trees).data)
        there.finish()
        there.sync()
    first.close()
    image = opened(path)
    for page in range(100):
        view[page * 4096] = 7
    view[200 * 4096 : 201 * 4096] = bytes(4096)
    for known in (first.trees, {SpaceName(0, 0): SpaceTree(3)}, {}):
        second = OutgoingPages(program.store, known=known)
        there = incoming()
        sent, named = take(second, there, image)
        if known is first.trees:
            assert sent <= 101 * 4096 and named >= 899
            data, looked = second.sample(1000)
            assert looked and len(data) == 0  # the other side has all of them by now
        else:
            assert (sent, named) == (999 * 4096, 0)
        # Pages of later rounds are sent, whatever the image has.
        view[300 * 4096] = 9
        take(second, there, image)
        view[300 * 4096 : 300 * 4096 + 4] = (301).to_bytes(4, "little")
        sent, named = take(second, there, image)
        assert (sent, named) == (4096, 0)
        rest = encode_rest(program.snapshot(), second.trees)
        there.feed(rest.data)
        assert bytes(there.finish().memories[0].data) == bytes(view)
        assert there.root == rest.root
        second.close()
    program.close()
    program.store.close()


def test_what_is_kept_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    received(with_memories(2), path)
    size = path.stat().st_size
    known = KnownPages()
    trees = {SpaceName(0, 0): SpaceTree(32)}
    names = [bytes([n]) * 16 for n in range(12)]
    for name in names:
        known.left(name, 5, trees, path)
    assert [known.epoch(name) for name in names] == [0] * 8 + [4] * 4
    assert [known.sent(name, 5) is not None for name in names] == [False] * 4 + [True] * 8
    assert known.sent(names[-1], 4) is None and known.sent(names[-1], 0) is None
    image = known.image(names[-1])
    assert image is not None
    known.forget(names[-1])
    assert known.epoch(names[-1]) == 0 and known.image(names[-1]) is None
    assert image.pages(0, 0, 1)  # whoever uses it still can
    known.left(names[-2], 7, trees, None)
    assert known.epoch(names[-2]) == 0 and known.sent(names[-2], 7) is trees
    monkeypatch.setattr(known_pages, "IMAGE_BYTES", size)
    known.left(names[0], 3, trees, path)
    assert [known.epoch(name) for name in names] == [2] + [0] * 11
    monkeypatch.setattr(known_pages, "IMAGE_BYTES", size - 1)
    known.left(names[0], 3, trees, path)
    known.left(names[1], 3, trees, tmp_path / "none")
    assert known.epoch(names[0]) == known.epoch(names[1]) == 0
    known.close()
