"""Increments of a store: what differs from a base, beside the base itself."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import zlib
from array import array
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard

from tests.snapshot.store.filled import GROWING, embedding, growing, random_memory, saved
from wasmsr import Limits, Module, Snapshot, SnapshotError, Store
from wasmsr.errors import DigestError, FormatError, HandedOver, SignatureError, VersionError
from wasmsr.sandbox.states.parking import fetched
from wasmsr.snapshot.encoding.container import FLAG_HANDED, HEADER, Header
from wasmsr.snapshot.format import encode
from wasmsr.snapshot.mapped.opening import open_mapped
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE
from wasmsr.snapshot.moments.history import History
from wasmsr.snapshot.moments.moment import Moment
from wasmsr.snapshot.restore import StoreTemplate
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.store import folder as folder_module
from wasmsr.snapshot.store.increments import HEAD, TAIL, WINDOW_LOG, IncrementBase, _tail
from wasmsr.snapshot.store.store import SnapshotStore
from wasmsr.snapshot.tools.opened import open_snapshot
from wasmsr.snapshot.trust.policy import ReadTrust


class Place(NamedTuple):
    """A store, a base that is not in it yet, and what comes after it."""

    store: SnapshotStore
    base: IncrementBase
    states: list[SnapshotState]

    @property
    def folder(self) -> Path:
        return Path(self.store.folder.path)

    def put(self, name: str, number: int) -> None:
        state = self.states[number]
        self.store.put_increment(state, name, self.base, all_pages(state))

    def file(self, name: str) -> Path:
        return self.folder / "increments" / f"{name}.bin"


def all_pages(state: SnapshotState) -> list[array[int]]:
    """Runs of all pages: what a writer says that knows nothing."""
    return [array("Q", (0, len(one.data) // PAGE_SIZE)) for one in state.memories]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first, *others = growing()
    save_mapped(first, tmp_path / "base.bin")
    base = IncrementBase.open(tmp_path / "base.bin")
    return Place(SnapshotStore(tmp_path / "store", create=True), base, others)


def test_it_is_whole_in_its_store(place: Place, tmp_path: Path) -> None:
    """What it needs of the base is in the store, whatever becomes of the base's own file."""
    for number in (0, 5, 18):
        place.put(f"n{number}", number)
    (tmp_path / "base.bin").unlink()
    shutil.move(place.folder, tmp_path / "moved")
    store = SnapshotStore(tmp_path / "moved")
    assert store.names() == ["n0", "n18", "n5"]
    assert all(error is None for _, error in store.verify())
    for number in (0, 5, 18):
        wanted = place.states[number]
        state, root = store.state(f"n{number}")
        assert state == wanted
        store.get(f"n{number}", str(tmp_path / "out.bin"))
        opened = open_snapshot(tmp_path / "out.bin")
        assert (opened.state, opened.decoder.root) == (wanted, root)
        assert opened.form == "full"


def test_what_is_as_in_the_base_takes_no_room(place: Place) -> None:
    place.store.put_increment(
        place.base.state, "same", place.base, [array("Q") for _ in place.base.state.memories]
    )
    assert place.file("same").stat().st_size < 2000
    state, _ = place.store.state("same")
    assert state == place.base.state
    bases = list((place.folder / "bases").iterdir())
    assert [one.stat().st_mode & 0o777 for one in bases] == [0o400]
    for number in range(3):
        place.put(f"n{number}", number)
    assert list((place.folder / "bases").iterdir()) == bases


def test_sections_as_in_the_base_take_no_room(tmp_path: Path) -> None:
    """A module in the snapshot, and a table of functions, are not stored again."""
    noise = random.Random(4).randbytes(300_000)
    state = embedding()
    state = replace(state, lineage=replace(state.lineage, host=noise[:60_000].hex()))
    save_mapped(state, tmp_path / "base.bin")
    base = IncrementBase.open(tmp_path / "base.bin")
    store = SnapshotStore(tmp_path / "store", create=True)
    store.put_increment(state, "one", base, [array("Q") for _ in state.memories])
    assert (tmp_path / "store" / "increments" / "one.bin").stat().st_size < 2000
    assert store.state("one")[0] == state


def test_pages_that_have_become_zeros(place: Place) -> None:
    state = place.states[3]
    memory = bytearray(state.memories[0].data)
    memory[: 3 * PAGE_SIZE] = bytes(3 * PAGE_SIZE)
    state = replace(state, memories=[replace(state.memories[0], data=memory)])
    place.store.put_increment(state, "one", place.base, all_pages(state))
    assert place.store.state("one")[0] == state
    assert [error for _, error in place.store.verify()] == [None]


def test_only_what_was_written_is_read_and_kept(place: Place) -> None:
    """A program over the base tells what it has written, and its state comes back from that."""
    with Moment.of_state(place.base.state) as moment:
        (program,) = moment.fork(1)
        with program:
            history = History(program, begun=moment)
            assert [list(one) for one in history.changed() or ()] == [[]]
            program.run(fuel=60_000)
            state = Snapshot.of(program, embed=True).state
            (dirty,) = history.changed() or ()
            pages = sum(dirty[1::2])
            assert 0 < pages < len(state.memories[0].data) // PAGE_SIZE
            place.store.put_increment(state, "one", place.base, [dirty])
            history.close()
    assert place.store.state("one")[0] == state
    assert place.store.increments is not None
    with place.store.increments.opened("one") as found:
        decoder = found.read(place.base, sparse=True)
    (runs,) = decoder.stored_pages
    assert sum(count for _, count in runs) <= pages
    sparse, whole = decoder.finish().memories[0].data, state.memories[0].data
    stored = {page for first, count in runs for page in range(first, first + count)}
    for page in range(len(whole) // PAGE_SIZE):
        part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
        assert sparse[part] == (whole[part] if page in stored else bytes(PAGE_SIZE))


def test_a_name_has_one_snapshot(place: Place, tmp_path: Path) -> None:
    place.put("one", 0)
    source = saved(tmp_path / "source.bin", random_memory(1))
    with pytest.raises(SnapshotError, match="has a snapshot with the name one"):
        place.store.put(source, "one")
    with pytest.raises(SnapshotError, match="has a snapshot with the name one"):
        place.put("one", 1)
    place.store.put(source, "one", replace=True)
    assert not place.file("one").exists()
    with pytest.raises(SnapshotError, match="has a snapshot with the name one"):
        place.put("one", 1)
    assert place.store.state("one")[0].memories == random_memory(1).memories
    with pytest.raises(SnapshotError, match="cannot be a name"):
        place.put("../one", 0)


def test_it_is_listed_and_removed(place: Place, tmp_path: Path) -> None:
    place.store.put(saved(tmp_path / "source.bin", random_memory(1)), "other")
    place.put("one", 0)
    one, other = place.store.ls()
    assert (one.name, other.name) == ("one", "other")
    assert one.stored == place.file("one").stat().st_size
    assert one.root == place.store.state("one")[1]
    with pytest.raises(SnapshotError, match="another snapshot"):
        place.store.remove("one", root=bytes(32))
    place.store.remove("one", root=one.root)
    assert place.store.names() == ["other"]
    with pytest.raises(SnapshotError, match="no snapshot with the name one"):
        place.store.remove("one")
    place.put("one", 1)
    with pytest.raises(SnapshotError, match="increment"):
        place.store.mapped("one")


def test_bases_stay_as_long_as_increments_do(place: Place) -> None:
    place.put("one", 0)
    place.put("two", 1)
    (base,) = (place.folder / "bases").iterdir()
    left = place.folder / "increments" / ".three.bin.x.part"
    left.write_bytes(b"a writer that was killed")
    place.store.remove("one")
    place.store.gc()
    assert base.exists() and not left.exists()
    place.store.remove("two")
    place.store.gc()
    assert not base.exists()
    place.put("one", 0)
    assert place.store.state("one")[0] == place.states[0]


def test_a_base_that_is_gone_is_named(place: Place) -> None:
    place.put("one", 0)
    (base,) = (place.folder / "bases").iterdir()
    hidden = place.folder.parent / "hidden"
    base.rename(hidden)
    with pytest.raises(SnapshotError, match=base.name) as refused:
        place.store.state("one")
    assert "copy the file" in (refused.value.hint or "")
    (_, error), *_ = list(place.store.verify())
    assert error is not None
    hidden.rename(base)
    assert place.store.state("one")[0] == place.states[0]


def test_a_base_that_is_damaged_is_written_anew(place: Place) -> None:
    """What is put over it could not be read otherwise."""
    place.put("one", 0)
    (base,) = (place.folder / "bases").iterdir()
    right, first = base.read_bytes(), base.stat().st_ino
    place.put("two", 1)
    assert base.stat().st_ino == first, "it is written once"
    for number, wrong in enumerate((right[:-5000] + b"other" + right[-4995:], right[:99], b"")):
        base.unlink()
        base.write_bytes(wrong)
        base.chmod(0o400)
        place.put(f"n{number}", number)
        assert base.read_bytes() == right
        assert [error for _, error in place.store.verify()] == [None] * (number + 3)


def test_another_base_is_refused(place: Place, tmp_path: Path) -> None:
    place.put("one", 0)
    (base,) = (place.folder / "bases").iterdir()
    base.unlink()
    save_mapped(place.states[7], base)
    with pytest.raises(DigestError, match="another prepared state"):
        place.store.state("one")
    assert place.store.increments is not None
    with place.store.increments.opened("one") as found, pytest.raises(SnapshotError):
        found.read(IncrementBase.open(base), sparse=True)


def test_a_base_that_came_with_its_store_is_checked_once(place: Place, tmp_path: Path) -> None:
    """A copy of a store has no record of what this user has checked."""
    place.put("one", 0)
    shutil.copytree(place.folder, tmp_path / "copy")
    (base,) = (tmp_path / "copy" / "bases").iterdir()
    assert open_mapped(base) is None
    assert SnapshotStore(tmp_path / "copy").state("one")[0] == place.states[0]
    assert open_mapped(base) is not None
    base.chmod(0o600)
    with base.open("r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"other")
    base.chmod(0o400)
    with pytest.raises(DigestError):
        SnapshotStore(tmp_path / "copy").state("one")
    base.chmod(0o422)
    with pytest.raises(SnapshotError):
        IncrementBase.open(base)


def test_a_mapped_base_that_was_changed_is_seen(place: Place) -> None:
    base = IncrementBase.open(place.folder.parent / "base.bin")
    data = bytearray(base.state.memories[0].data)
    data[0] ^= 1
    base.state.memories[0].data = data
    with pytest.raises(DigestError, match="changed after it was checked"):
        _ = base.trees


def test_a_base_that_was_read_stays_as_it_is(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader does not take it over, also where no record can be kept and it is not mapped."""
    memory = bytearray(place.base.state.memories[0].data)
    memory[:PAGE_SIZE] = b"x" * PAGE_SIZE
    changed = replace(
        place.base.state, memories=[replace(place.base.state.memories[0], data=memory)]
    )
    place.store.put_increment(changed, "changed", place.base, all_pages(changed))
    place.store.put_increment(place.base.state, "same", place.base, [array("Q")])
    (tmp_path / "no folder").write_bytes(b"")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "no folder"))
    base = IncrementBase.open(shutil.copy(tmp_path / "base.bin", tmp_path / "other.bin"))
    assert open_mapped(tmp_path / "other.bin") is None
    assert place.store.increments is not None
    for name, wanted in (("changed", changed), ("same", place.base.state)) * 2:
        with place.store.increments.opened(name) as found:
            assert found.read(base).finish() == wanted


def test_who_was_handed_over_is_not_run(place: Place, tmp_path: Path) -> None:
    """Another host has the program: it may be copied, and is not woken here."""
    place.store.put(saved(tmp_path / "source.bin", random_memory(1), handed=True), "whole")
    place.put("one", 0)
    plain = plain_of(place, place.file("one").read_bytes())
    header = Header.decode(plain[: HEADER.size])
    marked = header._replace(flags=header.flags | FLAG_HANDED).encode() + plain[HEADER.size :]
    place.file("one").write_bytes(made(place, marked, root=root_of(marked)))
    for name in ("whole", "one"):
        with pytest.raises(HandedOver, match=name):
            place.store.state(name)
        with pytest.raises(HandedOver, match=name):
            fetched(place.store, name)
        place.store.get(name, str(tmp_path / f"{name}.bin"))
        assert open_snapshot(tmp_path / f"{name}.bin").header.handed


def test_it_is_no_larger_than_its_reader_allows(place: Place) -> None:
    """What is larger is refused before its memory is allocated."""
    place.put("one", 18)
    place.store.put_state(place.states[18], "whole")
    pages = len(place.states[18].memories[0].data) // 65536
    for name in ("one", "whole"):
        small = Limits(memory_pages=pages - 1)
        with pytest.raises(FormatError, match="exceeds the limit"):
            place.store.state(name, limits=small)
        with pytest.raises(FormatError, match="exceeds the limit"):
            fetched(place.store, name, small)
        assert place.store.state(name, limits=Limits(memory_pages=pages))[0] == place.states[18]
        assert fetched(place.store, name, Limits(memory_pages=pages)).state.memories


def test_no_base_is_removed_if_nobody_can_say_what_needs_it(place: Place) -> None:
    """The folder of increments may be on a disk that is not mounted now."""
    place.put("one", 0)
    folder, elsewhere = place.folder / "increments", place.folder.parent / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(place.folder.parent / "not mounted")
    for work in (place.store.gc, place.store.names, place.store.ls):
        with pytest.raises(SnapshotError, match="increments"):
            work()
    folder.unlink()
    elsewhere.rename(folder)
    assert place.store.state("one")[0] == place.states[0]


def test_what_was_done_is_there_after_a_power_cut(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders are on the disk before what is in them, and a removed name stays removed."""
    seen: dict[str, set[str]] = {}
    sync = folder_module.sync_folder

    def watched(folder: str) -> None:
        seen[folder] = set(os.listdir(folder))
        sync(folder)

    monkeypatch.setattr(folder_module, "sync_folder", watched)
    deep = tmp_path / "a" / "b"
    store = SnapshotStore(deep, create=True)
    assert "a" in seen[str(tmp_path)] and "b" in seen[str(tmp_path / "a")]
    state = place.states[0]
    store.put_increment(state, "one", place.base, all_pages(state))
    store.put_state(random_memory(1), "whole")
    assert {"packs", "names", "increments", "bases"} <= seen[str(deep)]
    for folder, name in (("increments", "one"), ("names", "whole")):
        store.remove(name)
        assert not [one for one in seen[str(deep / folder)] if one.startswith(name)]


def test_signatures_are_asked_for(place: Place) -> None:
    place.put("one", 0)
    with pytest.raises(SignatureError):
        place.store.get("one", "-", trust=ReadTrust(accepted=()))


# ---- what is damaged, or lies -------------------------------------------------------------------


def made(place: Place, plain: bytes, *, log: int = 18, root: bytes = bytes(32)) -> bytes:
    """An increment with these plain bytes."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
    packer = zstandard.ZstdCompressor(
        compression_params=parameters, dict_data=place.base.prefix
    ).compressobj()
    head = HEAD.pack(b"WSRincr\n", 2, 0, place.base.root)
    small = packer.compress(plain) + packer.flush()
    return head + small + _tail(head, len(plain), root)


def refused(place: Place, data: bytes) -> SnapshotError:
    place.folder.joinpath("increments").mkdir(exist_ok=True)
    place.file("lies").write_bytes(data)
    assert place.store.increments is not None
    with pytest.raises(SnapshotError) as error, place.store.increments.opened("lies") as found:
        found.read(place.base, sparse=True)
    return error.value


def test_what_is_cut_or_changed_is_refused(place: Place) -> None:
    place.put("one", 4)
    data = place.file("one").read_bytes()
    for end in (0, 7, HEAD.size, HEAD.size + 5, len(data) // 2, len(data) - 1):
        assert isinstance(refused(place, data[:end]), (FormatError, DigestError))
    source = random.Random(5)
    assert place.store.increments is not None
    harmless = 0  # zstd has bits that change nothing
    for _ in range(100):
        changed = bytearray(data)
        changed[source.randrange(len(data))] ^= 1 << source.randrange(8)
        place.file("lies").write_bytes(changed)
        try:
            state, _ = place.store.state("lies")
        except SnapshotError:
            continue
        assert state == place.states[4]
        harmless += 1
    assert harmless < 5


def test_what_lies_is_refused(place: Place) -> None:
    whole = b"".join(encode(place.states[4], version=2))
    assert "no incremental one" in str(refused(place, made(place, whole, root=root_of(whole))))
    place.put("one", 4)
    data = place.file("one").read_bytes()
    plain = plain_of(place, data)
    root = root_of(plain)
    place.file("lies").write_bytes(made(place, plain, root=root))
    assert place.store.state("lies")[0] == place.states[4]
    assert "not what its end says" in str(refused(place, made(place, plain)))
    assert isinstance(refused(place, made(place, plain + b"more", root=root)), FormatError)
    assert isinstance(refused(place, made(place, plain[:-9], root=root)), FormatError)
    assert "damaged" in str(refused(place, made(place, plain, log=24, root=root)))
    head = HEAD.pack(b"WSRincr\n", 3, 0, place.base.root)
    wrong = head + data[HEAD.size : -TAIL.size] + _tail(head, len(plain), root)
    assert isinstance(refused(place, wrong), VersionError)
    short = data[: -TAIL.size] + _tail(data[: HEAD.size], len(plain) - 1, root)
    assert "more bytes than it says" in str(refused(place, short))


def plain_of(place: Place, data: bytes) -> bytes:
    """The plain bytes of an increment."""
    unpacker = zstandard.ZstdDecompressor(
        dict_data=place.base.prefix, max_window_size=1 << WINDOW_LOG
    )
    return unpacker.stream_reader(io.BytesIO(data[HEAD.size :])).read(1 << 30)


def root_of(plain: bytes) -> bytes:
    """The root in the trailer of a snapshot."""
    return plain[-40:-8]


def test_a_bomb_costs_nothing(place: Place) -> None:
    """What claims gigabytes is refused when it has more than its sections may have."""
    state = place.states[0]
    plain = b"".join(encode(state, version=2, compress=False))
    bomb = plain[:-48] + bytes(1 << 26)
    error = refused(place, made(place, bomb, root=bytes(32)))
    assert isinstance(error, (FormatError, DigestError))


def test_the_layout_is_as_documented(place: Place) -> None:
    place.put("one", 0)
    data = place.file("one").read_bytes()
    magic, version, zero, base = struct.unpack("<8sHH32s", data[:44])
    assert (magic, version, zero, base) == (b"WSRincr\n", 2, 0, place.base.root)
    plain, root, crc = struct.unpack("<Q32sI", data[-44:])
    assert crc == zlib.crc32(data[:44] + data[-44:-4])
    assert data[44:48] == b"\x28\xb5\x2f\xfd"
    assert root == place.store.state("one")[1]
    assert plain > 0


def test_a_template_gives_the_same_programs(place: Place) -> None:
    template = StoreTemplate(place.base.state, [], {})
    for number in (0, 9, 18):
        ends = []
        for given in (None, template):
            with Snapshot(place.states[number]).restore(template=given) as program:
                program.check()
                assert Snapshot.of(program).state.memories == place.states[number].memories
                program.run(fuel=30_000)
                ends.append(Snapshot.of(program).content_digest())
        assert ends[0] == ends[1]
    state = place.states[0]
    lies = (
        replace(state, memories=[replace(state.memories[0], data=b"")]),
        replace(state, memories=[replace(state.memories[0], maximum=7)]),
        replace(state, limits=replace(state.limits, memory_pages=3)),
        random_memory(1),
    )
    for lie in lies:
        with pytest.raises(FormatError):
            Snapshot(lie).restore(template=template)
    with Snapshot(state).restore(template=template) as program:
        program.check()


def test_programs_go_on_from_it(place: Place) -> None:
    place.put("one", 10)
    state, _ = place.store.state("one")
    module = Module.from_text(GROWING)
    ends = []
    for one in (state, place.states[10]):
        with Snapshot(one).restore(modules=[module]) as program:
            assert isinstance(program, Store)
            program.run()
            ends.append(Snapshot.of(program).content_digest())
    assert ends[0] == ends[1]
