"""Images that are written in rounds: mapped snapshots in the end, and nothing before."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.snapshot import second_reader
from tests.snapshot.live.sending import incoming, received, rest_of, runs, send, send_memory
from tests.snapshot.mapped.samples import end_of, is_mapped, saved
from tests.snapshot.mapped.test_form import STATES, with_memories
from tests.snapshot.samples import full, large, parts, seal
from wasmsr import Snapshot
from wasmsr.errors import FormatError, HandedOver
from wasmsr.snapshot.encoding.container import FIRST, FULL, HEADER, INCREMENTAL, MAPPED, Header
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.live import image
from wasmsr.snapshot.live.image import room_for
from wasmsr.snapshot.mapped.admission import admit
from wasmsr.snapshot.mapped.opening import open_mapped
from wasmsr.snapshot.spaces.places import aligned, padding_for
from wasmsr.snapshot.state import MemoryState, SnapshotState

WASM = 65536
PADDING = 44


def read(data: bytes) -> Decoder:
    decoder = Decoder()
    decoder.feed(data)
    decoder.finish()
    return decoder


@pytest.mark.parametrize("rest", [0, 100, 60_000, 600_000, 3_000_000])
@pytest.mark.parametrize("name", [*STATES, "large"])
def test_it_is_a_mapped_snapshot(name: str, rest: int, tmp_path: Path) -> None:
    state = large() if name == "large" else STATES[name]()
    data = received(state, tmp_path / "image", rest)
    ours = read(data)
    assert ours.finish() == state
    assert ours.header is not None
    assert (ours.header.form, ours.header.handed) == (MAPPED, True)
    assert ours.root == rest_of(state)[1]
    assert ours.stored == len(data)
    found = second_reader.read(data)
    assert found.root == ours.root
    assert [bytes(one) for one in found.memories] == [bytes(m.data) for m in state.memories]
    if rest == 3_000_000:
        assert (PADDING in found.payloads) == bool(state.memories)


def test_the_program_goes_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read, mapped, and by the command: the same program."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    snapshot = saved()
    with snapshot.restore() as store:
        expected = end_of(store)
    path = tmp_path / "image"
    root = read(received(snapshot.state, path)).root
    with pytest.raises(HandedOver):
        Snapshot.load(path)
    with Snapshot.load(path, adopt=True).restore() as store:
        assert end_of(store) == expected
    line = [sys.executable, "-m", "wasmsr", "run", "--from-snapshot", str(path)]
    done = subprocess.run([*line, "--adopt"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1:] == [str(expected[0])]  # type: ignore[index]
    path.chmod(0o400)
    assert admit(str(path), root)
    assert open_mapped(path) is not None
    with Snapshot.load(path, adopt=True).restore() as store:
        assert is_mapped(store)
        assert end_of(store) == expected


def test_it_is_converted_and_verified(tmp_path: Path) -> None:
    path, copy = tmp_path / "image", tmp_path / "copy"
    root = read(received(full(), path)).root
    tool = [sys.executable, "-m", "wasmsr"]
    for words in ("snapshot verify", "inspect", f"snapshot convert --format 2 -o {copy}"):
        subprocess.run([*tool, *words.split(), str(path)], capture_output=True, check=True)
    copied = read(copy.read_bytes())
    assert copied.root == root
    assert PADDING not in [size.kind for size in copied.sections]


def test_its_holes_take_no_room(tmp_path: Path) -> None:
    state = with_memories(1000)
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno(), 10_000_000, limit=1 << 30)
        target.resize(0, 16_000)
        target.zeros(0, runs((0, 16_000)))
        target.take(0, runs((15_999, 1)), bytes(state.memories[0].data[-4096:]))
        target.feed(rest_of(state)[0])
        target.finish()
        target.sync()
        status = os.fstat(file.fileno())
    assert status.st_size > 80_000_000
    assert status.st_blocks * 512 < 400_000  # the heads of 77 batches of padding, a page for each


def test_it_is_no_snapshot_before_its_end(tmp_path: Path) -> None:
    state = full()
    rest, _ = rest_of(state)
    with open(tmp_path / "image", "w+b") as file:
        target = send(state, file.fileno())
        assert os.pread(file.fileno(), HEADER.size, 0) == bytes(HEADER.size)
        assert os.pread(file.fileno(), len(rest) - HEADER.size, HEADER.size) == rest[HEADER.size :]
        target.finish()
        assert os.pread(file.fileno(), HEADER.size, 0) == bytes(HEADER.size)
        target.sync()
        assert os.pread(file.fileno(), 8, 0) == rest[:8]


@pytest.mark.parametrize("pieces", [1000, 1 << 30])
def test_a_head_that_outgrows_its_room(
    pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The regions move, once or more often."""
    monkeypatch.setattr(image, "_SPARE", 1)
    state = full()
    state.wasi = {"args": [random.Random(1).randbytes(400_000)]}
    rest, _ = rest_of(state)
    assert len(rest) > 400_000
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno(), rest=1)
        for number, memory in enumerate(state.memories):
            send_memory(target, number, memory.data)
        for at in range(0, len(rest), pieces):
            target.feed(rest[at : at + pieces])
            if at % 50_000 == 0:
                target.sync()
                target.take(0, runs((0, 1)), bytes(state.memories[0].data[:4096]))
        assert target.finish() == state
        target.sync()
    data = (tmp_path / "image").read_bytes()
    assert read(data).finish() == state
    second_reader.read(data)


def test_too_much_padding_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "PADDING_LIMIT", 100_000)
    data = received(full(), tmp_path / "image", 10_000_000)
    found = second_reader.read(data)
    assert PADDING not in found.payloads
    assert len(data) < 1_000_000
    assert read(data).finish() == full()


def test_another_memory_than_the_last_grows(tmp_path: Path) -> None:
    state = with_memories(3, 1, 0, 2)
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno())
        for number, memory in enumerate(state.memories):
            target.resize(number, min(16, len(memory.data) // 4096))
        for number, memory in enumerate(state.memories):
            send_memory(target, number, memory.data)
            target.sync()
        target.feed(rest_of(state)[0])
        assert target.finish() == state
        target.sync()
    assert Snapshot.load(tmp_path / "image", adopt=True).state == state


def test_moves_of_regions_cost_nothing_before_the_next_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that makes a memory longer page by page does not make this host write the others."""
    with open(tmp_path / "image", "w+b") as file:
        target = incoming(file.fileno())
        target.resize(0, 0)
        target.resize(1, 1600)
        target.take(1, runs((0, 1600)), b"x" * (1600 * 4096))
        written: list[int] = []
        write = image.write_view
        monkeypatch.setattr(
            image, "write_view", lambda *given: (written.append(sum(given[3][1::2])), write(*given))
        )
        for pages in range(16, 1600, 16):
            target.resize(0, pages)
        assert not written
        target.sync()
        assert sum(written) == 1600


# The disk -----------------------------------------------------------------------------------------


@pytest.fixture
def no_signal() -> Iterator[None]:
    """The limit of the size of files gives an error, and no signal."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.usefixtures("no_signal")
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    state = with_memories(2, 3)
    for size in (0, 100, 300_000, 500_000):
        with open(tmp_path / f"image{size}", "w+b") as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            with pytest.raises(OSError, match="File too large") as caught:
                target = send(state, file.fileno())
                target.finish()
                target.sync()
            assert caught.value.errno == errno.EFBIG
            assert not any(os.pread(file.fileno(), HEADER.size, 0))


class FullDisk:
    """A disk that is full at the n-th write of any kind, and then has room again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self.writes = 0
        for name in ("write_view", "write_at"):
            self._guard(monkeypatch, image, name)
        mine = SimpleNamespace(ftruncate=os.ftruncate, pread=os.pread)  # memories have os's own
        monkeypatch.setattr(image, "os", mine)
        self._guard(monkeypatch, mine, "ftruncate")

    def _guard(self, monkeypatch: pytest.MonkeyPatch, place: object, name: str) -> None:
        true: Callable[..., object] = getattr(place, name)

        def write(*given: object) -> object:
            self.writes += 1
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return true(*given)

        monkeypatch.setattr(place, name, write)


def test_a_full_disk_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tries the same again has the image; a rest that was cut is refused for ever."""
    state = with_memories(30, 2)
    rest, _ = rest_of(state)
    disk = FullDisk(monkeypatch)
    again = False

    def attempt(act: Callable[[], object]) -> None:
        nonlocal again
        try:
            act()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert not any(os.pread(file.fileno(), HEADER.size, 0)[:8]) or act == target.sync
            again = True
            act()

    fed = 0
    for number in range(1, 40):
        disk.writes, disk.left, again = 0, number, False
        path = tmp_path / f"image{number}"
        with open(path, "w+b") as file:
            target = incoming(file.fileno())
            for address, memory in enumerate(state.memories):
                data = bytes(memory.data)
                pages = runs((0, len(data) // 4096))
                attempt(lambda: target.resize(address, 16))  # noqa: B023
                attempt(lambda: target.resize(address, len(data) // 4096))  # noqa: B023
                attempt(lambda: target.take(address, pages, data))  # noqa: B023
            attempt(target.sync)
            try:
                target.feed(rest)
            except OSError:
                fed += 1
                with pytest.raises(OSError, match="No space"):
                    target.finish()
                continue
            attempt(target.finish)
            attempt(target.sync)
        data = path.read_bytes()
        assert read(data).root == rest_of(state)[1]
        second_reader.read(data)
        if not again:
            break
    else:
        pytest.fail("there is always one more write")
    assert fed and number > 12


# Padding that nobody writes -----------------------------------------------------------------------


def padded(state: SnapshotState, size: int, payload: bytes | None = None, form: int = 0) -> bytes:
    """A file with a padding of this size, or with this payload."""
    head = seal(
        sorted(
            [
                *[part for part in parts(rest_of(state)[0]) if part[0] != 40],
                *[part for part in parts(rest_of(state)[0]) if part[0] == 40],
                (PADDING, bytes(size) if payload is None else payload),
            ]
        ),
        form or MAPPED,
    )
    regions = b"".join(bytes(memory.data) for memory in state.memories)
    shift = aligned(len(head))
    old = parts(rest_of(state)[0])
    places = next((payload for kind, payload in old if kind == 40), b"")
    first = struct.unpack_from("<Q", places, 8)[0] if places else 0
    moved = b"".join(
        struct.pack("<HHIQQ", *entry[:3], entry[3] - first + shift, entry[4])
        for entry in struct.iter_unpack("<HHIQQ", places)
    )
    if places:
        at = head.index(places)
        head = (
            head[: at - 4]
            + zlib.crc32(moved).to_bytes(4, "little")
            + moved
            + head[at + len(places) :]
        )
    return head + bytes(shift - len(head) if places else 0) + regions


@pytest.fixture
def _version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.snapshot.samples.written_version", 2)


@pytest.mark.usefixtures("_version_2")
def test_hostile_padding() -> None:
    state = with_memories(1, 2)
    natural = len(rest_of(state)[0])
    right = padding_for(natural, 2 * WASM)
    assert read(padded(state, right)).finish() == state
    for size in (1, right - 1, right - 13, right - 40_000, right + 1, right + 13, right + 40_000):
        with pytest.raises(FormatError, match=r"padding of the mapped snapshot has \d+ bytes"):
            read(padded(state, size))
    for at in (0, 1000, right - 1):
        payload = bytearray(right)
        payload[at] = 1
        with pytest.raises(FormatError, match="padding of the mapped snapshot is not zeros"):
            read(padded(state, 0, bytes(payload)))
    for form in (FULL, INCREMENTAL):
        with pytest.raises(FormatError, match=r"not mapped has a p|has no base"):
            read(padded(state, right, form=form))
    with pytest.raises(FormatError, match="without memories has a padding section"):
        read(padded(replace(state, memories=[]), right))
    whole = padded(state, right)
    sections = [part for part in parts(whole) if part[0] != 40]
    with pytest.raises(FormatError, match=r"without memories has a padding|no places section"):
        read(seal(sections, MAPPED))


@pytest.mark.usefixtures("_version_2")
def test_padding_of_a_full_snapshot() -> None:
    sections = [part for part in parts(rest_of(with_memories(1))[0]) if part[0] != 40]
    with pytest.raises(FormatError, match="not mapped has a padding section"):
        read(seal(sorted([*sections, (PADDING, bytes(100))]), FULL))


def test_long_padding_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = bytearray(received(with_memories(1), tmp_path / "image", 100))
    at = data.index(struct.pack("<HHI", PADDING, 0, 0))
    kind, _, _, _, codec, size, crc = FIRST.unpack_from(data, at)
    FIRST.pack_into(data, at, kind, 0, 0, (256 << 20) + 1, codec, size, crc)
    header = Header.decode(bytes(data[: HEADER.size]))
    data[: HEADER.size] = header._replace(plain=1 << 40).encode()
    with pytest.raises(FormatError, match="padding section is too large"):
        read(bytes(data))


def test_the_length_of_padding() -> None:
    """The head ends at the room, or at most 12 bytes before; no other length is nearer."""
    source = random.Random(3)
    end = 20 * WASM
    heads = [0, 64, 112, 18 * WASM, 19 * WASM, *(source.randrange(19 * WASM) for _ in range(500))]
    heads += range(end - 262_144 * 2 - 100, end - 262_144 * 2 + 100)
    for head in heads:
        size = padding_for(head, end)
        assert size
        whole = head + 16 + -(-size // 262_144) * 12 + size
        assert end - 12 <= whole <= end
        longer = head + 16 + -(-(size + 1) // 262_144) * 12 + size + 1
        assert longer > end
    for head in (19 * WASM + 1, end - 1, end):
        assert padding_for(head, end) == 0
    with pytest.raises(ValueError, match="does not fit"):
        padding_for(end + 1, end)


def test_the_room_has_bounds() -> None:
    assert room_for(0) == 4 * WASM
    assert room_for(100_000) == 8 * WASM
    assert room_for(1 << 30) - (1 << 30) < 200 << 20
    target = incoming(None, rest=1 << 63)
    target.resize(0, 16)


def test_memories_in_an_image_are_where_they_say(tmp_path: Path) -> None:
    state = replace(with_memories(1), memories=[MemoryState(0, None, bytearray(b"x" * WASM))])
    data = received(state, tmp_path / "image", 0)
    assert data.count(b"x" * WASM) == 1
    assert data.index(b"x" * WASM) == room_for(0)
