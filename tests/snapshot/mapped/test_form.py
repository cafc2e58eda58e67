"""The mapped form of version 2: layout, digests, holes, and files that nobody should have made."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.snapshot import second_reader
from tests.snapshot.mapped.samples import SIZE, mapped, saved
from tests.snapshot.samples import full, small
from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import HEADER, MAPPED, TRAILER, Header
from wasmsr.snapshot.encoding.mapped_writer import write_mapped
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.format import content_digest, encode
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.places import ALIGNMENT, PLACE, check_places, places_after
from wasmsr.snapshot.state import MemoryState, SnapshotState

TYPED = (FormatError, VersionError, DigestError)


def with_memories(*sizes: int) -> SnapshotState:
    """A state with memories of so many Wasm pages; the last bytes of each are not zeros."""
    memories = [MemoryState(0, None, bytearray(size * 65536)) for size in sizes]
    for memory in memories:
        if memory.data:
            memory.data[-3:] = b"end"  # type: ignore[index]
    return replace(small(), memories=memories)


def to_mapped(state: SnapshotState) -> bytes:
    with tempfile.TemporaryFile() as file:
        write_mapped(state, file.fileno())
        file.seek(0)
        return file.read()


def read(data: bytes) -> Decoder:
    decoder = Decoder()
    decoder.feed(data)
    decoder.finish()
    return decoder


STATES: dict[str, Callable[[], SnapshotState]] = {
    "no memory": small,
    "every section": full,
    "memories": lambda: with_memories(1, 0, 3, 0),
    "only empty memories": lambda: with_memories(0, 0),
    "a program": lambda: saved().state,
}


@pytest.mark.parametrize("name", STATES)
def test_it_has_the_digests_of_the_full_form(name: str) -> None:
    state = STATES[name]()
    data = to_mapped(state)
    ours = read(data)
    whole = read(b"".join(encode(state, version=2)))
    assert ours.finish() == whole.finish() == state
    assert (ours.root, ours.content) == (whole.root, whole.content)
    assert ours.header is not None and ours.header.form == MAPPED
    assert ours.content == content_digest(state, version=2)
    assert ours.stored == len(data)


@pytest.mark.parametrize("name", STATES)
def test_the_second_reader_agrees(name: str) -> None:
    state = STATES[name]()
    found = second_reader.read(to_mapped(state))
    ours = read(b"".join(encode(state, version=2)))
    assert (found.root, found.content) == (ours.root, ours.content)
    assert [bytes(one) for one in found.memories] == [bytes(m.data) for m in state.memories]


def test_each_memory_is_in_the_file_as_it_is() -> None:
    state = with_memories(2, 0, 1)
    data = to_mapped(state)
    places = list(PLACE.iter_unpack(second_reader.read(data).payloads[40]))
    assert [length for *_, length in places] == [131072, 0, 65536]
    for (*_, offset, length), memory in zip(places, state.memories, strict=True):
        assert offset % ALIGNMENT == 0
        assert data[offset : offset + length] == bytes(memory.data)


def test_zeros_are_holes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    state = with_memories(1000)
    save_mapped(state, path)
    status = path.stat()
    assert status.st_size > 65_000_000
    assert status.st_blocks * 512 < 1_000_000


def test_it_can_be_fed_in_any_pieces() -> None:
    state = full()
    data = to_mapped(state)
    for size in (1000, 65536, 70_001):
        decoder = Decoder()
        for start in range(0, len(data), size):
            decoder.feed(data[start : start + size])
        assert decoder.finish() == state


def test_truncated_files_are_refused() -> None:
    data = to_mapped(full())
    for length in (*range(0, 6000, 7), *range(6000, len(data), 4999), len(data) - 1):
        decoder = Decoder()
        decoder.feed(data[:length])
        with pytest.raises(FormatError, match="cut off"):
            decoder.finish()
    with pytest.raises(FormatError, match="bytes follow the end"):
        read(data + b"\0")


def test_every_changed_page_is_found() -> None:
    data = to_mapped(with_memories(1, 2))
    begin = len(data) - 3 * 65536
    for at in (begin, begin + 4096 * 3, begin + 65535, begin + 65536, len(data) - 1):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(DigestError, match=r"memory [01]"):
            read(bytes(broken))


def test_bytes_between_regions_are_zeros() -> None:
    data = bytearray(to_mapped(with_memories(1)))
    data[-65536 - 1] ^= 1
    with pytest.raises(FormatError, match="not zeros"):
        read(bytes(data))


# Places that nobody writes ------------------------------------------------------------------------


def with_places(data: bytes, change: Callable[[list[list[int]]], None]) -> bytes:
    """A mapped file with other places; no digest covers them, so only the checksum follows."""
    payload = second_reader.read(data).payloads[40]
    places = [list(place) for place in PLACE.iter_unpack(payload)]
    change(places)
    new = b"".join(PLACE.pack(*place) for place in places)
    at = data.index(payload)
    head = struct.pack("<III", 0, len(new), zlib.crc32(new))
    return data[: at - 12] + head + new + data[at + len(payload) :]


def _overlap(places: list[list[int]]) -> None:
    places[1][3] = places[0][3]


def _swap(places: list[list[int]]) -> None:
    places[0][3], places[1][3] = places[1][3], places[0][3]


def _unaligned(places: list[list[int]]) -> None:
    places[0][3] += 4096


def _in_the_head(places: list[list[int]]) -> None:
    places[0][3] = 0


def _beyond(places: list[list[int]]) -> None:
    places[1][3] = 1 << 63


def _gap(places: list[list[int]]) -> None:
    places[1][3] += 65536


def _longer(places: list[list[int]]) -> None:
    places[0][4] += 4096


def _huge(places: list[list[int]]) -> None:
    places[0][4] = (1 << 64) - 4096


def _other(places: list[list[int]]) -> None:
    places[0][2] = 1


def _kind(places: list[list[int]]) -> None:
    places[0][0] = 1


def _flags(places: list[list[int]]) -> None:
    places[0][1] = 1


HOSTILE = (_overlap, _swap, _unaligned, _in_the_head, _beyond, _gap, _longer, _huge, _other, _kind)


@pytest.mark.parametrize("change", [*HOSTILE, _flags])
def test_hostile_places(change: Callable[[list[list[int]]], None]) -> None:
    data = to_mapped(with_memories(1, 1))
    broken = with_places(data, change)
    with pytest.raises(FormatError, match="place"):
        read(broken)
    assert with_places(data, lambda places: None) == data


def test_places_have_one_form() -> None:
    spaces = [(SpaceName(0, 0), 4096), (SpaceName(0, 1), 0), (SpaceName(0, 2), 65536)]
    places = places_after(100, spaces)
    assert [place.offset for place in places] == [65536, 131072, 131072]
    check_places(100, places)
    check_places(65536, places)
    with pytest.raises(FormatError):
        check_places(65537, places)


def test_sections_of_other_forms() -> None:
    state = with_memories(1)
    whole = b"".join(encode(state, version=2))
    as_mapped = Header.decode(whole[: HEADER.size])._replace(form=MAPPED).encode()
    with pytest.raises(FormatError, match="a mapped snapshot has a page runs section"):
        read(as_mapped + whole[HEADER.size :])
    data = to_mapped(state)
    as_full = Header.decode(data[: HEADER.size])._replace(form=1).encode()
    with pytest.raises(FormatError, match="not mapped has a places section"):
        read(as_full + data[HEADER.size :])
    at = data.index(second_reader.read(data).payloads[40]) - 28
    header = Header.decode(data[: HEADER.size])
    short = header._replace(sections=header.sections - 1, plain=header.plain - PLACE.size).encode()
    without = short + data[HEADER.size : at] + data[at + 28 + PLACE.size :]
    with pytest.raises(FormatError, match="no places section"):
        read(without)


def test_a_wrong_root_is_found_before_the_pages_are_read() -> None:
    data = bytearray(to_mapped(with_memories(1)))
    at = data.index(b"WSR end\n")
    data[at + 8] ^= 1
    data[at + TRAILER.size - 4 : at + TRAILER.size] = zlib.crc32(
        data[at : at + TRAILER.size - 4]
    ).to_bytes(4, "little")
    decoder = Decoder()
    with pytest.raises(DigestError, match="not what its digest names"):
        decoder.feed(data[: at + TRAILER.size])


# Files --------------------------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    state = with_memories(4)
    state.memories[0].minimum = 9  # larger than the memory
    with pytest.raises(FormatError):
        save_mapped(state, tmp_path / "file")
    with pytest.raises(DigestError, match="not kept"):
        save_mapped(with_memories(1), tmp_path / "file", root=bytes(32))
    assert os.listdir(tmp_path) == []
    with pytest.raises(SnapshotError, match="no regular file"):
        save_mapped(with_memories(1), "/dev/null")


def test_nobody_may_write_it(tmp_path: Path) -> None:
    path = mapped(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o400
    assert path.stat().st_size == SIZE + 2 * 65536
    save_mapped(with_memories(1), path, readers=0o666)
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_stream_of_it_is_enough() -> None:
    stream = io.BytesIO(to_mapped(full()))
    decoder = Decoder()
    while piece := stream.read(5000):
        decoder.feed(piece)
    assert decoder.complete and decoder.finish() == full()
