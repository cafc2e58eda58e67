"""Cuts of a memory that goes on: each has the bytes of its instant."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.mem.served import SECONDS, served
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.serving.memory_images import MemoryImageError, MemoryImages
from wasmsr.mem.serving.memory_region import MemoryRegion

PAGE = 1 << 16


def test_what_is_written_meanwhile_is_in_the_next_cut() -> None:
    with served(4 * PAGE) as memory:
        link = MemoryLink("m", memory.url)
        link.write(PAGE - 2, memoryview(b"over"))  # pages 0 and 1
        cut, pages = memory.region.begin_cut()
        pieces = iter(pages)
        link.write(PAGE - 2, memoryview(b"more"))  # of pages that are not copied yet
        link.write(2 * PAGE, memoryview(b"new"))
        number, first = next(pieces)
        link.write(0, memoryview(b"late"))  # of a page that is copied
        (number_1, second), *rest = pieces
        memory.region.end_cut(pages)
        assert (number, number_1, rest) == (0, 1, [])
        assert first == bytes(PAGE - 2) + b"ov" and second[:4] == b"er\0\0"
        assert [one[2] for one in cut.clients] == [1]  # one command was done
        _, after = memory.region.cut()
        assert sorted(after) == [0, 1, 2] and after[0][:4] == b"late"
        link.close()


def test_a_write_over_many_pages_keeps_all_of_them() -> None:
    region = MemoryRegion(memoryview(bytearray(b"a" * (3 * PAGE + 5))))
    _, pages = region.begin_cut(every_page=True)
    pages.keep(0, 4)
    region.buffer[:] = b"b" * (3 * PAGE + 5)
    found = dict(pages)
    region.end_cut(pages)
    assert b"".join(found[at] for at in range(4)) == b"a" * (3 * PAGE + 5)


def test_a_second_cut_waits_for_the_first() -> None:
    region = MemoryRegion(memoryview(bytearray(2 * PAGE)))
    region.still_dirty([1])
    _, pages = region.begin_cut()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(region.cut()[1]), daemon=True)
    thread.start()
    thread.join(0.05)
    assert not found
    region.end_cut(pages)
    region.end_cut(pages)  # the end of a cut that has ended changes nothing
    thread.join(SECONDS)
    assert found == [{}]


def test_a_cut_that_does_not_count_is_in_the_next_one(tmp_path: Path) -> None:
    region = MemoryRegion(memoryview(bytearray(2 * PAGE)))
    images = MemoryImages(tmp_path)

    def write(value: int) -> None:
        region.buffer[0] = value
        region.still_dirty([0])

    def saved(counts: int | None = None) -> int:
        again = MemoryRegion(memoryview(bytearray(2 * PAGE)))
        MemoryImages(tmp_path, counts).load(again)
        return int(again.buffer[0])

    write(1)
    images.save(region)
    write(2)
    number = images.prepare(region)
    images.forget()
    images.forget()
    assert saved(number) == 1 and images.prepared == 0
    assert images.save(region) == PAGE  # the page is still to be saved
    assert saved() == 2
    write(3)
    begun = images.begin(region)
    begun.drop()
    assert images.save(region) == PAGE
    assert saved() == 3


def test_a_cut_that_cannot_be_written_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = MemoryRegion(memoryview(bytearray(2 * PAGE)))
    region.still_dirty([1])
    images = MemoryImages(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(MemoryImageError, match="No space left"):
            images.save(region)
    _, pages = region.cut()  # nobody holds it any more
    assert list(pages) == [1]


def test_programs_write_while_a_memory_is_saved(tmp_path: Path) -> None:
    """Each page of the saved memory is of the instant of the cut: two numbers in two pages."""
    with served(64 * PAGE) as memory:
        stop = threading.Event()

        def count() -> None:
            link = MemoryLink("m", memory.url)
            value = 0
            while not stop.is_set():
                value += 1
                for page in (63, 0):  # the last page first
                    link.write(page * PAGE, memoryview(value.to_bytes(4, "little")))
            link.close()

        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        images = MemoryImages(tmp_path)
        try:
            for _ in range(8):
                images.save(memory.region)
                again = MemoryRegion(memoryview(bytearray(64 * PAGE)))
                MemoryImages(tmp_path).load(again)
                last = int.from_bytes(again.buffer[63 * PAGE : 63 * PAGE + 4], "little")
                first = int.from_bytes(again.buffer[:4], "little")
                assert first in (last, last - 1)
        finally:
            stop.set()
            thread.join(SECONDS)
