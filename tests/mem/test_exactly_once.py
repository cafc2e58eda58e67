"""A write of our own client is done once: repeated, moved, set back, fenced."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.mem.served import SECONDS, ServedMemory, served
from wasmsr.mem.failures import RemoteMemoryAway, RemoteMemoryError
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.serving.memory_images import MemoryImageError, MemoryImages, taken
from wasmsr.mem.serving.memory_region import MemoryRegion
from wasmsr.mem.wire import commands


class Cutter:
    """Stands between a link and a memory, and closes connections where it is told to.

    It counts the bytes of answers: after `answers` bytes of them a connection ends.
    """

    def __init__(self, port: int, cuts: list[tuple[int, int]]) -> None:
        self._port, self._cuts = port, cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            there, back = self._cuts.pop(0) if self._cuts else (1 << 40, 1 << 40)
            with near, socket.create_connection(("127.0.0.1", self._port)) as far:
                copies = [
                    threading.Thread(target=self._copy, args=(near, far, there)),
                    threading.Thread(target=self._copy, args=(far, near, back)),
                ]
                for one in copies:
                    one.start()
                for one in copies:
                    one.join(SECONDS)

    def _copy(self, source: socket.socket, sink: socket.socket, count: int) -> None:
        try:
            while count > 0:
                data = source.recv(min(count, 65_536))
                if not data:
                    break
                sink.sendall(data)
                count -= len(data)
        except OSError:
            pass
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


HELLO_SENT = 8 + 8 + 4 + 24 + commands.HELLO.size
HELLO_BACK = 8 + 8 + 4 + 24 + commands.WELCOME.size


def counted(memory: ServedMemory) -> list[int]:
    """Make the memory count how often each write is done."""
    done: list[int] = []
    inner = memory.region._done

    def _done(command, data):
        if command.op == commands.OP_WRITE:
            done.append(command.seq)
        return inner(command, data)

    memory.region._done = _done  # type: ignore[method-assign]
    return done


@pytest.mark.parametrize("there", [0, 3, 8, HELLO_SENT, HELLO_SENT + 9, HELLO_SENT + 36, 1 << 30])
@pytest.mark.parametrize("back", [0, 5, 8, HELLO_BACK - 1, HELLO_BACK, HELLO_BACK + 35, 1 << 30])
def test_a_write_whose_connection_breaks_is_done_once(there: int, back: int) -> None:
    with served() as memory:
        done = counted(memory)
        cutter = Cutter(memory.server.port, [(there, back), (there, back)])
        link = MemoryLink("m", cutter.url)
        for value in range(1, 4):
            link.write(value, memoryview(bytes([value])))
        link.close()
        cutter.close()
        assert done == [1, 2, 3]
        assert memory.bytes[:4] == b"\0\1\2\3"


def test_numbers_go_on_after_the_last() -> None:
    with served() as memory:
        link = MemoryLink("m", memory.url, seq=65_534)
        for _ in range(4):
            link.write(0, memoryview(b"x"))
        assert link.seq == 2
        link.close()


def test_a_number_that_is_neither_next_nor_last() -> None:
    with served() as memory:
        link = MemoryLink("m", memory.url)
        link.write(0, memoryview(b"a"))
        link.seq = 40
        with pytest.raises(RemoteMemoryError) as found:
            link.write(0, memoryview(b"b"))
        assert found.value.status == commands.OUT_OF_ORDER
        link.seq = 0  # the number of the write before, with other words
        with pytest.raises(RemoteMemoryError):
            link.write(9, memoryview(b"c"))
        assert memory.bytes[0] == ord("a")
        link.close()


def test_an_older_epoch_is_refused() -> None:
    with served() as memory:
        old, new = MemoryLink("m", memory.url, epoch=1), MemoryLink("m", memory.url, epoch=2)
        old.write(0, memoryview(b"old"))
        new.write(0, memoryview(b"new"))
        for again in (old, MemoryLink("m", memory.url, epoch=1)):
            with pytest.raises(RemoteMemoryError) as found:
                again.write(0, memoryview(b"old"))
            assert found.value.status == commands.FENCED
        assert memory.bytes[:3] == b"new"
        old.close()
        new.close()


def test_clients_follow_a_memory_that_moves() -> None:
    with served() as first, served() as second:
        done = counted(second)
        link = MemoryLink("m", first.url)
        link.write(0, memoryview(b"first"))
        cut, pages = first.region.cut(every_page=True)
        for page, data in pages.items():
            second.region.buffer[page << 16 : (page << 16) + len(data)] = data
        second.region.take_over(cut)
        first.region.move_to(second.url)
        link.write(5, memoryview(b"second"))
        assert second.bytes[:11] == b"firstsecond" and first.bytes[:11] == b"first\0\0\0\0\0\0"
        assert link.url == second.url and done == [2]
        link.close()


def test_two_memories_that_send_each_other_the_client() -> None:
    with served() as first, served() as second:
        link = MemoryLink("m", first.url)
        link.write(0, memoryview(b"x"))
        first.region.move_to(second.url)
        second.region.move_to(first.url)
        with pytest.raises(RemoteMemoryError, match="moved"):
            link.write(0, memoryview(b"y"))
        link.close()


def test_a_write_without_an_answer_is_settled_by_the_next() -> None:
    """The memory did it, and no answer came within the patience of the client."""
    with served() as memory:
        done = counted(memory)
        cuts = [(1 << 30, HELLO_BACK + 1)] + [(1 << 30, 0)] * 400
        cutter = Cutter(memory.server.port, cuts)
        link = MemoryLink("m", cutter.url, patience=0.2)
        with pytest.raises(RemoteMemoryAway):
            link.write(0, memoryview(b"1"))
        cuts.clear()
        link.patience = SECONDS
        link.write(1, memoryview(b"2"))
        assert done == [1, 2] and memory.bytes[:2] == b"12"
        link.close()
        cutter.close()


# ---- saved and found again -----------------------------------------------------------------------


def test_a_saved_memory_keeps_bytes_clients_and_epoch(tmp_path: Path) -> None:
    size = 300_001
    with served(size) as memory:
        link = MemoryLink("m", memory.url, epoch=4)
        link.write(65_530, memoryview(b"over a boundary"))
        link.write(size - 3, memoryview(b"end"))
        images = MemoryImages(tmp_path / "m")
        assert images.save(memory.region) == 2 * 65_536 + size - 4 * 65_536
        link.write(0, memoryview(b"one page"))
        assert images.save(memory.region) == 65_536
        assert images.save(memory.region) == 0
        link.write(0, memoryview(b"lost"))
    region = MemoryRegion(memoryview(bytearray(size)))
    MemoryImages(tmp_path / "m").load(region)
    assert bytes(region.buffer[:9]) == b"one page\0"
    assert bytes(region.buffer[65_530:65_545]) == b"over a boundary"
    assert bytes(region.buffer[-3:]) == b"end" and region.epoch == 4
    assert region.ident == memory.region.ident
    cut, pages = region.cut()
    assert not pages
    assert [one[:3] for one in cut.clients] == [(link.client, 4, 3)]


def test_a_client_hears_that_its_memory_was_set_back(tmp_path: Path) -> None:
    with served() as memory:
        link = MemoryLink("m", memory.url)
        link.write(0, memoryview(b"1"))
        images = MemoryImages(tmp_path)
        images.save(memory.region)
        link.write(0, memoryview(b"2"))
        link.write(0, memoryview(b"3"))
        again = MemoryRegion(memoryview(bytearray(1 << 16)))
        images.load(again)
        memory.region.buffer[:] = again.buffer
        memory.region.take_over(again.cut()[0])
        link._drop()
        with pytest.raises(RemoteMemoryError, match="set back"):
            link.write(0, memoryview(b"4"))
        assert memory.bytes[:1] == b"1"
        link.close()


def test_a_memory_that_was_set_back_is_noticed_at_number_0_too() -> None:
    with served() as memory:
        link = MemoryLink("m", memory.url, seq=65_533)
        link.write(0, memoryview(b"1"))
        before = memory.region.cut()[0]
        link.write(0, memoryview(b"2"))
        link.write(0, memoryview(b"3"))
        assert link.seq == 0
        memory.region.take_over(before)
        link._drop()
        with pytest.raises(RemoteMemoryError, match="set back"):
            link.write(0, memoryview(b"4"))
        assert memory.bytes[:1] == b"3"
        link.close()


def test_pages_that_nobody_needs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.mem.serving.memory_images.SLACK", 1 << 17)
    region = MemoryRegion(memoryview(bytearray(5 << 16)))
    images = MemoryImages(tmp_path)
    for value in range(40):
        for page in range(5):
            if page == 0 or value % 7 == page:
                region.buffer[page << 16] = value + 1
                region.still_dirty([page])
        images.save(region)
    stored = sum(path.stat().st_size for path in tmp_path.glob("pack-*"))
    assert stored <= 16 << 16
    again = MemoryRegion(memoryview(bytearray(5 << 16)))
    MemoryImages(tmp_path).load(again)
    assert again.buffer == region.buffer


@pytest.mark.parametrize("name", ["image.json", "index-1", "pack-1"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "gone"])
def test_a_damaged_image_is_an_error(tmp_path: Path, name: str, harm: str) -> None:
    region = MemoryRegion(memoryview(bytearray(1 << 17)))
    region.buffer[:4] = b"data"
    MemoryImages(tmp_path).save(region, every_page=True)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 3] ^= 0x55
    path.write_bytes({"cut": bytes(data[: len(data) // 2]), "empty": b""}.get(harm, bytes(data)))
    if harm == "gone":
        path.unlink()
        if name == "image.json":
            assert MemoryImages(tmp_path).is_empty
            return
    again = MemoryRegion(memoryview(bytearray(1 << 17)))
    with pytest.raises(MemoryImageError, match="damaged"):
        MemoryImages(tmp_path).load(again)


def test_a_memory_of_another_size_is_refused(tmp_path: Path) -> None:
    MemoryImages(tmp_path).save(MemoryRegion(memoryview(bytearray(100))))
    with pytest.raises(MemoryImageError, match="100 bytes, not 200"):
        MemoryImages(tmp_path).load(MemoryRegion(memoryview(bytearray(200))))


def test_a_prepared_cut_counts_if_somebody_says_so(tmp_path: Path) -> None:
    """With a crash before it is published, the next one to open the folder knows whether it did."""
    region = MemoryRegion(memoryview(bytearray(2 << 16)))
    images = MemoryImages(tmp_path)

    def written(value: int) -> None:
        region.buffer[0] = value
        region.still_dirty([0])

    def found(counts: int | None) -> int:
        again = MemoryRegion(memoryview(bytearray(2 << 16)))
        MemoryImages(tmp_path, counts).load(again)
        return int(again.buffer[0])

    written(1)
    images.save(region)
    written(2)
    number = images.prepare(region)
    copy = tmp_path.with_name("copy")
    shutil.copytree(tmp_path, copy)
    assert found(number) == 2
    assert found(None) == found(number) == 2  # it counts for good
    images = MemoryImages(copy, number - 1)
    again = MemoryRegion(memoryview(bytearray(2 << 16)))
    images.load(again)
    assert again.buffer[0] == 1
    assert not (copy / "next.json").exists()
    again.buffer[1] = 7
    again.still_dirty([0])
    assert images.prepare(again) == number  # the files of the forgotten cut are in nobody's way
    images.publish()
    images.publish()
    last = MemoryRegion(memoryview(bytearray(2 << 16)))
    MemoryImages(copy).load(last)
    assert bytes(last.buffer[:2]) == b"\1\7"


def test_more_packs_than_descriptors(tmp_path: Path) -> None:
    """Each cut adds a pack, and all of them are needed if each wrote another page."""
    region = MemoryRegion(memoryview(bytearray(60 << 16)))
    images = MemoryImages(tmp_path)
    for page in range(60):
        region.buffer[page << 16] = page + 1
        region.still_dirty([page])
        images.save(region)
    again = MemoryRegion(memoryview(bytearray(60 << 16)))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 10, before[1]))
    try:
        MemoryImages(tmp_path).load(again)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert again.buffer == region.buffer


def test_pages_of_a_cut_that_failed_are_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = MemoryRegion(memoryview(bytearray(2 << 16)))
    images = MemoryImages(tmp_path)

    def fails(*_: object) -> None:
        raise MemoryImageError("a pack is damaged")

    region.buffer[0] = 7
    region.still_dirty([0])
    with monkeypatch.context() as patch:
        patch.setattr(images, "_scattered", fails)
        with pytest.raises(MemoryImageError, match="a pack is damaged"):
            images.save(region)
    images.save(region)
    again = MemoryRegion(memoryview(bytearray(2 << 16)))
    MemoryImages(tmp_path).load(again)
    assert again.buffer[0] == 7


@pytest.mark.parametrize(
    "said", [b"[]", b"7", b"[" * 100_000, b'{"version": 1, "packs": []}'], ids=repr
)
def test_an_image_of_another_form_is_damaged(tmp_path: Path, said: bytes) -> None:
    region = MemoryRegion(memoryview(bytearray(1 << 16)))
    MemoryImages(tmp_path).save(region)
    path = tmp_path / "image.json"
    if b"packs" in said:
        said = json.dumps(json.loads(path.read_bytes()) | json.loads(said)).encode()
    path.write_bytes(said)
    with pytest.raises(MemoryImageError, match="damaged"):
        MemoryImages(tmp_path)


def test_an_offset_that_no_file_has(tmp_path: Path) -> None:
    region = MemoryRegion(memoryview(bytearray(b"x" * (1 << 16))))
    images = MemoryImages(tmp_path)
    images.save(region, every_page=True)
    cut, _ = region.cut()
    index = bytearray(images._index)
    index[36:44] = b"\xff" * 8
    images._prepare(cut, index, 2, {1: 1 << 16})
    images.publish()
    with pytest.raises(MemoryImageError, match="damaged"):
        MemoryImages(tmp_path).load(MemoryRegion(memoryview(bytearray(1 << 16))))


def test_a_folder_has_one_memory_at_a_time(tmp_path: Path) -> None:
    other = taken(tmp_path / "m")
    with taken(tmp_path / "m"), pytest.raises(MemoryImageError, match="another process"):
        other.__enter__()
    with taken(tmp_path / "m"), pytest.raises(OSError, match="of the caller"):
        raise OSError("of the caller")
    (tmp_path / "file").touch()
    with pytest.raises(MemoryImageError, match="file"), taken(tmp_path / "file"):
        pass
