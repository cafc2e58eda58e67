"""Chunks of carried files that arrive in rounds: in the image, and with the state."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from tests.snapshot import second_reader
from tests.snapshot.live.sending import LIMIT, rest_of, send_memory
from tests.snapshot.samples import full
from wasmsr.errors import DigestError, FormatError
from wasmsr.snapshot.encoding.container import MAPPED
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.live import carried, image
from wasmsr.snapshot.live.early import EarlyRest
from wasmsr.snapshot.live.incoming import IncomingState
from wasmsr.snapshot.sections.host import files as sections
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.state.contents import Contents, digest_of

FILE_PADDING, INDEX, DATA = 23, 24, 25
FILES = 8 << 20


def chunks(count: int, seed: int = 1, size: int = 65536) -> list[bytes]:
    """Chunks of all lengths, most of them whole."""
    made = random.Random(seed)
    return [made.randbytes(made.choice((size, size, size, made.randint(1, size)))) for _ in
            range(count)]  # fmt: skip


def incoming(file: int | None, *, rest: int = 0, expected: int = 0) -> IncomingState:
    return IncomingState(
        limit=LIMIT, limits=None, files=FILES, image=file, rest=rest, expected=expected
    )


def give(target: IncomingState, *data: bytes) -> None:
    target.take_files([digest_of(one) for one in data], [len(one) for one in data], b"".join(data))


def sent(
    file: int | None,
    state: SnapshotState,
    files: list[bytes],
    *,
    rest: int = 10_000,
    expected: int = 0,
    early: bool = False,
) -> tuple[IncomingState, SnapshotState]:
    """Send a state with chunks before, between and after its pages."""
    target = incoming(file, rest=rest, expected=expected)
    data, _ = rest_of(state)
    before = EarlyRest(limit=LIMIT, limits=None, files=FILES)
    if early:
        before.feed(data)
        before.finish()
        target.foresee(before)
    half = len(files) // 2
    for at in range(0, half, 3):
        give(target, *files[at : min(at + 3, half)])
    for number, memory in enumerate(state.memories):
        send_memory(target, number, memory.data)
        target.sync()
    if files[half:]:
        give(target, *files[half:])
    if early:
        target.feed(data[:64])
        target.feed(before.part(64, len(data) - 64), 64)
    else:
        for at in range(0, len(data), 777):
            target.feed(data[at : at + 777])
    found = target.finish()
    target.sync()
    return target, found


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("expected", [0, 100, 3 << 20, 1 << 40])
@pytest.mark.parametrize("count", [1, 7, 50])
def test_they_are_in_the_image(count: int, expected: int, early: bool, tmp_path: Path) -> None:
    state, files = full(), chunks(count)
    with open(tmp_path / "image", "w+b") as file:
        target, found = sent(file.fileno(), state, files, expected=expected, early=early)
    assert found.files is not None
    assert [found.files.read(digest) for digest, _ in found.files] == files
    data = (tmp_path / "image").read_bytes()
    other = second_reader.read(data)
    assert other.payloads[DATA] == b"".join(files)
    assert (other.form, other.root) == (MAPPED, target.root)
    decoder = Decoder()
    for at in range(0, len(data), 100_000):
        decoder.feed(data[at : at + 100_000])
    again = decoder.finish()
    assert again.files is not None
    assert [again.files.read(digest) for digest, _ in again.files] == files
    again.files = found.files = None
    assert again == found == state
    assert decoder.stored == len(data)


@pytest.mark.parametrize("held", [100, 64 << 20])
@pytest.mark.parametrize("rest", [0, 5_000_000])
def test_the_rest_has_chunks_too(
    rest: int, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are many, the rest is not kept in memory until its end."""
    monkeypatch.setattr(sections, "SPOOL_SIZE", held)
    state, (one, *others) = full(), chunks(5)
    state.files = Contents()
    state.files.add(digest_of(one), one, None)
    with open(tmp_path / "image", "w+b") as file:
        _, found = sent(file.fileno(), state, others, rest=rest)
    assert found.files is not None
    assert [found.files.read(digest) for digest, _ in found.files] == [*others, one]
    assert second_reader.read((tmp_path / "image").read_bytes()).payloads[DATA].endswith(one)


def test_without_an_image_they_are_with_the_state() -> None:
    state, files = full(), chunks(20)
    _, found = sent(None, state, files)
    assert found.files is not None
    assert [found.files.read(digest) for digest, _ in found.files] == files


def test_without_chunks_the_image_has_no_room_for_them(tmp_path: Path) -> None:
    with open(tmp_path / "image", "w+b") as file:
        _, found = sent(file.fileno(), full(), [], expected=3 << 20)
    assert found.files is None
    payloads = second_reader.read((tmp_path / "image").read_bytes()).payloads
    assert not payloads.keys() & {FILE_PADDING, INDEX, DATA}


@pytest.mark.parametrize("spare", [1, 256 << 10])
@pytest.mark.parametrize("rest", [0, 300_000_000])
def test_sections_that_do_not_fit_their_room(
    rest: int, spare: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The section of files moves, up where the others are too long, down where they are short."""
    monkeypatch.setattr(image, "_SPARE", spare)
    monkeypatch.setattr(image, "PADDING_LIMIT", 1 << 20)
    state, files = full(), chunks(30)
    state.tables[0].elements = bytes(state.tables[0].elements) + bytes(8 * 40_000)
    state.limits.table_elements = 1 << 20
    with open(tmp_path / "image", "w+b") as file:
        _, found = sent(file.fileno(), state, files, rest=rest, expected=1)
    data = (tmp_path / "image").read_bytes()
    assert second_reader.read(data).payloads[DATA] == b"".join(files)
    assert len(data) < 60 << 20
    assert found.files is not None
    assert [found.files.read(digest) for digest, _ in found.files] == files


@pytest.mark.parametrize("shift", [*range(60), 300, 262_100, 262_172, 262_184, 262_185])
def test_every_length_of_the_padding(shift: int, tmp_path: Path) -> None:
    """Where no section has the length that is left, the section of files moves."""
    state, files = full(), chunks(2)
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno(), rest=1000, expected=1)
        area = target._files.area
        assert area is not None
        data, _ = rest_of(state)
        decoder = Decoder(map_pages=lambda offset, length: memoryview(bytearray(length)))
        decoder.feed(data)
        first = 64 + sum(size.stored for size in decoder.sections if size.kind < FILE_PADDING)
        index = len(files) * 36 + 28
        area.at = first + index + shift
        give(target, *files)
        for number, memory in enumerate(state.memories):
            send_memory(target, number, memory.data)
        target.feed(data)
        target.finish()
        target.sync()
    found = second_reader.read((tmp_path / "image").read_bytes())
    assert found.payloads[DATA] == b"".join(files)


@pytest.mark.parametrize("image_too", [True, False])
def test_what_is_refused(image_too: bool, tmp_path: Path) -> None:
    one, two = b"one" * 1000, b"two" * 1000
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno() if image_too else None)
        give(target, one)
        with pytest.raises(FormatError, match="a piece of a file came twice"):
            give(target, one)
        with pytest.raises(FormatError, match="a piece of a file came twice"):
            give(target, two, two)
        with pytest.raises(DigestError, match="not what its digest names"):
            target.take_files([digest_of(two)], [len(one)], one)
        with pytest.raises(FormatError, match="without the bytes"):
            target.take_files([digest_of(two)], [len(two)], two + b"!")
        with pytest.raises(FormatError, match="without the bytes"):
            target.take_files([digest_of(two)], [], two)
        with pytest.raises(FormatError, match="without the bytes"):
            target.take_files([], [], b"")
        for length in (0, 65537):
            with pytest.raises(FormatError, match="empty or too long"):
                target.take_files([digest_of(bytes(length))], [length], bytes(length))
        for more in range(FILES // 65536 - 1):
            give(target, more.to_bytes(4, "little") * 16384)
        with pytest.raises(FormatError, match=f"more than the {FILES} bytes of files"):
            give(target, b"\xff" * 65536)
        give(target, two)  # nothing of what was refused is kept, or counts
        data, _ = rest_of(full())
        target.feed(data[:100])
        with pytest.raises(FormatError, match="after the rest has begun"):
            give(target, b"late")


def test_too_many_small_ones_are_refused() -> None:
    """Those of the rest count too: a reader of the image takes an index of that length only."""
    state = full()
    state.files = Contents()
    state.files.add(digest_of(b"4"), b"4", None)
    data, _ = rest_of(state)
    target = incoming(None)
    assert target._files._most == 2 * FILES // 65536 + (1 << 20)
    target._files._most = 3
    give(target, b"1", b"2", b"3")
    with pytest.raises(FormatError, match="more than 3 pieces"):
        give(target, b"5")
    for number, memory in enumerate(state.memories):
        send_memory(target, number, memory.data)
    target.feed(data)
    with pytest.raises(FormatError, match="more than 3 pieces"):
        target.finish()


def test_a_rest_with_file_padding_is_refused(tmp_path: Path) -> None:
    """Only the end that writes the image adds it."""
    state, files = full(), chunks(2)
    with open(tmp_path / "image", "w+b") as file:
        sent(file.fileno(), state, files)
    data = (tmp_path / "image").read_bytes()
    size = data.index(b"WSR end\n") + 48
    target = incoming(None)
    for number, memory in enumerate(state.memories):
        send_memory(target, number, memory.data)
    target.feed(data[:size])
    with pytest.raises(FormatError, match=r"the rest has a (file )?padding section"):
        target.finish()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno(), expected=1)
        give(target, b"one")
        with monkeypatch.context() as patched:
            patched.setattr(carried, "write_at", full_disk)
            with pytest.raises(OSError, match="No space left"):
                give(target, b"two")
        with pytest.raises(OSError, match="No space left"):
            give(target, b"three")
        before = len(os.listdir("/proc/self/fd"))
        target.close()
        target.close()
        assert len(os.listdir("/proc/self/fd")) == before - 1
