"""What is on disk: records, states marked as handed, the lock, the cache of modules."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from wasmsr.errors import FormatError
from wasmsr.migrate.files.modules import KEPT, Modules
from wasmsr.migrate.journal.journal import Incoming, Journal, Record
from wasmsr.migrate.journal.ownership import SettleVerdict, owned, settle_offered, settle_ready
from wasmsr.migrate.journal.record_file import LONG, last_of, line_of
from wasmsr.migrate.protocol import Ending, JournalError, Move, OwnershipState, Report
from wasmsr.migrate.rounds.regroup import regroup
from wasmsr.snapshot.encoding.container import MAGIC, Header

PROGRAM, ATTEMPT, OTHER = b"p" * 16, b"a" * 16, b"b" * 16
MOVE = Move(PROGRAM, 5, ATTEMPT)
RECORD = Record(
    PROGRAM,
    OwnershipState.HANDED,
    epoch=5,
    attempt=ATTEMPT,
    peer="host:1",
    file="x.handed",
    received="y.received",
    confirmed=True,
    ending=Ending("exited", 3, "why"),
    incoming=Incoming(6, OTHER, "host:1", "z.received", (b"m" * 32,), b"s" * 16, b"f" * 16),
)


def _path(folder: Path) -> Path:
    return folder / f"{PROGRAM.hex()}.json"


def _values(folder: Path) -> dict[str, Any]:
    """The record on disk."""
    values = json.loads(last_of(_path(folder).read_bytes())[0])
    assert isinstance(values, dict)
    return values


def _on_disk(folder: Path) -> Record | None:
    """The record that another process would find."""
    journal = Journal(folder)
    try:
        return journal.get(PROGRAM)
    finally:
        journal.close()


def test_records_survive_the_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(RECORD)
    node = journal.node
    journal.close()
    again = Journal(tmp_path)
    assert again.get(PROGRAM) == RECORD
    assert again.node == node
    again.forget(PROGRAM)
    assert Journal.get(again, PROGRAM) is None
    again.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "node"]


def test_a_record_from_before_input_was_relayed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(RECORD)
    journal.close()
    values = _values(tmp_path)
    del values["incoming"]["shown"], values["incoming"]["fed"]
    _path(tmp_path).write_bytes(line_of(json.dumps(values).encode()))
    again = Journal(tmp_path)
    record = again.get(PROGRAM)
    assert record and record.incoming
    assert (record.incoming.shown, record.incoming.fed) == (b"", b"")
    again.close()


def test_only_one_process_has_the_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(JournalError, match="in use"):
        Journal(tmp_path)
    journal.close()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new")
    journal.put(RECORD)
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "new").iterdir()}
    assert modes == {"0o600"}
    assert (tmp_path / "new").stat().st_mode & 0o77 == 0
    journal.close()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1}',
        b'{"version": 99}',
        line_of(b'{"version": 99}'),
        line_of(b"[]"),
        line_of(b"{"),
        b"00000000 {}\n",
        b"garbage",
        b"garbage\n",
        b"\n",
        bytes(4096),
        bytes(100) + b"\n",
    ],
)
def test_a_damaged_record_is_never_guessed_at(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / f"{PROGRAM.hex()}.json").write_bytes(damage)
    with pytest.raises(JournalError):
        Journal(tmp_path)
    # and the folder is free again
    (tmp_path / f"{PROGRAM.hex()}.json").unlink()
    Journal(tmp_path).close()


@pytest.mark.parametrize("field", ["file", "received"])
def test_a_record_names_files_of_its_own_folder(tmp_path: Path, field: str) -> None:
    journal = Journal(tmp_path)
    journal.put(replace(RECORD, **{field: "../../etc/passwd"}))  # type: ignore[arg-type]
    journal.close()
    with pytest.raises(JournalError, match="damaged"):
        Journal(tmp_path)


def test_a_full_disk_leaves_the_record_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.put(RECORD)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fdatasync", "fsync"):  # the second file is replaced after a failure
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(JournalError, match="No space left"):
                journal.put(replace(RECORD, epoch=9))
        assert journal.get(PROGRAM) == RECORD
    journal.close()
    assert _on_disk(tmp_path) == RECORD


def test_the_first_record_is_synced_with_its_name_and_others_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    steps: list[str] = []
    sync, sync_data, rename = os.fsync, os.fdatasync, os.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    def fdatasync(handle: int) -> None:
        steps.append("data")
        sync_data(handle)

    def replaced(old: str, new: str) -> None:
        steps.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "replace", replaced)
    journal.put(RECORD)
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    journal.put(replace(RECORD, epoch=6))
    assert steps == ["data"]
    steps.clear()
    state = journal.state(MOVE, "handed")
    state.write(Header(0, 0, 0, bytes(32)).encode())
    state.commit()
    assert steps == ["file", "rename", "folder"]
    journal.close()


# Lines of records ---------------------------------------------------------------------------------


def _two(folder: Path) -> tuple[bytes, int]:
    """The file of a record that was changed once, and where its second line begins."""
    journal = Journal(folder)
    journal.put(replace(RECORD, epoch=1))
    first = _path(folder).stat().st_size
    journal.put(RECORD)
    journal.close()
    return _path(folder).read_bytes(), first


def test_a_record_cut_at_each_byte(tmp_path: Path) -> None:
    """Whatever of the last line is on disk: the record is the one before, until all of it is."""
    data, first = _two(tmp_path)
    old = replace(RECORD, epoch=1)
    for length in range(first, len(data) + 1):
        _path(tmp_path).write_bytes(data[:length])
        assert _on_disk(tmp_path) == (RECORD if length == len(data) else old)
        zeros = data[:length] + bytes(len(data) - length)  # blocks that were never written
        _path(tmp_path).write_bytes(zeros)
        assert _on_disk(tmp_path) == (RECORD if length == len(data) else old)
    for length in range(first):
        _path(tmp_path).write_bytes(data[:length])
        with pytest.raises(JournalError, match="damaged"):
            Journal(tmp_path)


def test_an_unwritten_block_inside_the_last_line(tmp_path: Path) -> None:
    data, first = _two(tmp_path)
    torn = data[: first + 20] + bytes(100) + data[first + 120 :]
    _path(tmp_path).write_bytes(torn)
    assert _on_disk(tmp_path) == replace(RECORD, epoch=1)


def test_after_a_torn_line_the_file_is_written_anew(tmp_path: Path) -> None:
    data, first = _two(tmp_path)
    _path(tmp_path).write_bytes(data[: first + 30])
    journal = Journal(tmp_path)
    journal.put(replace(RECORD, epoch=7))
    journal.close()
    assert _path(tmp_path).read_bytes().count(b"\n") == 1
    assert _on_disk(tmp_path) == replace(RECORD, epoch=7)


def test_a_damaged_line_is_never_ignored(tmp_path: Path) -> None:
    """A changed bit in what was synced must not bring the record before back."""
    data, _ = _two(tmp_path)
    for at in (*range(0, len(data) - 1, 7), len(data) - 1):
        broken = bytearray(data)
        broken[at] ^= 1
        _path(tmp_path).write_bytes(broken)
        with pytest.raises(JournalError, match="damaged"):
            Journal(tmp_path)


def test_a_record_of_version_1_is_read_and_replaced(tmp_path: Path) -> None:
    data, _ = _two(tmp_path)
    values = json.loads(last_of(data)[0]) | {"version": 1}
    _path(tmp_path).write_text(json.dumps(values, indent=1))
    journal = Journal(tmp_path)
    assert journal.get(PROGRAM) == RECORD
    journal.put(replace(RECORD, epoch=8))
    journal.close()
    assert _path(tmp_path).read_bytes().count(b"\n") == 1
    assert _on_disk(tmp_path) == replace(RECORD, epoch=8)


def test_a_long_file_is_replaced(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    sizes = []
    for epoch in range(300):
        journal.put(replace(RECORD, epoch=epoch))
        sizes.append(_path(tmp_path).stat().st_size)
    journal.close()
    assert max(sizes) <= LONG
    assert sum(one > other for one, other in pairwise(sizes)) in (2, 3, 4)
    assert _on_disk(tmp_path) == replace(RECORD, epoch=299)


def _full_after(patch: pytest.MonkeyPatch, room: int) -> None:
    """Let the disk take so many bytes of lines, and no more for ever."""
    left = [room]
    true = os.pwrite

    def pwrite(file: int, data: bytes, at: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = true(file, data[: left[0]], at)
        left[0] -= taken
        return taken

    patch.setattr(os, "pwrite", pwrite)


def test_a_disk_that_is_full_at_each_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, first = _two(tmp_path)
    new = replace(RECORD, epoch=9)
    for room in (*range(40), *range(40, len(data) - first, 23)):
        _path(tmp_path).write_bytes(data)
        journal = Journal(tmp_path)
        with monkeypatch.context() as patch:
            _full_after(patch, room)
            with pytest.raises(JournalError, match="No space left") as caught:
                journal.put(new)
        assert "nor can" not in caught.value.message
        assert journal.get(PROGRAM) == RECORD
        assert _path(tmp_path).read_bytes() == data
        journal.put(new)  # there is room again
        journal.close()
        assert _on_disk(tmp_path) == new


@pytest.mark.parametrize("whole", [False, True])
def test_a_line_that_cannot_be_taken_back(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says so; what is on the disk then is one of the two records."""
    data, _ = _two(tmp_path)
    journal = Journal(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        if not whole:
            _full_after(patch, 50)
        patch.setattr(os, "fdatasync", fail)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(JournalError, match="nor can the record before be restored: the disk"):
            journal.put(replace(RECORD, epoch=9))
    assert journal.get(PROGRAM) == RECORD
    copy = _path(tmp_path).read_bytes()
    assert len(copy) > len(data)
    found = last_of(copy)
    assert json.loads(found[0])["epoch"] == (9 if whole else 5)
    journal.put(replace(RECORD, epoch=10))  # never after a line that may be half there
    assert _path(tmp_path).read_bytes().count(b"\n") == 1
    journal.close()
    assert _on_disk(tmp_path) == replace(RECORD, epoch=10)


def test_a_file_that_somebody_else_has_written(tmp_path: Path) -> None:
    data, first = _two(tmp_path)
    journal = Journal(tmp_path)
    for other in (data + b"more", data[: first + 4], b""):
        _path(tmp_path).write_bytes(other)
        with pytest.raises(JournalError, match="somebody else"):
            journal.put(replace(RECORD, epoch=9))
        assert last_of(_path(tmp_path).read_bytes())[0]
        journal.put(RECORD)
        journal.put(RECORD)
    journal.close()
    assert _on_disk(tmp_path) == RECORD


class _Stop(BaseException):
    """The process was killed here."""


@pytest.mark.parametrize("change", ["first", "append", "long", "forget"])
def test_killed_at_each_step(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record before or the new one is there, and the next process can write."""
    calls = ("open", "write", "pwrite", "fsync", "fdatasync", "replace", "unlink")
    seen = set()
    new = replace(RECORD, epoch=9)
    for step in range(1, 40):
        folder = tmp_path / str(step)
        journal = Journal(folder)
        if change != "first":
            journal.put(RECORD)
            journal.put(RECORD)
        if change == "long":
            monkeypatch.setattr("wasmsr.migrate.journal.journal.LONG", 10)
        count = [0]

        def guarded(name: str, count: list[int] = count, step: int = step) -> None:
            true = getattr(os, name)

            def call(*given: Any, **named: Any) -> Any:
                count[0] += 1
                if count[0] == step:
                    raise _Stop
                return true(*given, **named)

            patch.setattr(os, name, call)

        done = False
        with monkeypatch.context() as patch:
            for name in calls:
                guarded(name)
            try:
                if change == "forget":
                    journal.forget(PROGRAM)
                else:
                    journal.put(new)
                done = True
            except _Stop:
                pass
        journal.close()
        found = _on_disk(folder)
        before = None if change == "first" else RECORD
        after = None if change == "forget" else new
        assert found in (before, after)
        assert not done or found == after
        seen.add(found == after)
        again = Journal(folder)
        again.put(replace(RECORD, epoch=11))
        again.close()
        assert _on_disk(folder) == replace(RECORD, epoch=11)
        if done:
            break
    assert done and step > 2
    assert seen == {False, True}


# Images -------------------------------------------------------------------------------------------


def test_an_image_has_its_name_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    steps: list[str] = []
    sync, sync_data = os.fsync, os.fdatasync
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("folder"), sync(fd))[1])
    monkeypatch.setattr(os, "fdatasync", lambda fd: (steps.append("data"), sync_data(fd))[1])
    image = journal.image(MOVE)
    path = tmp_path / image.name
    assert image.name == f"{PROGRAM.hex()}-5.received"
    assert path.stat().st_mode & 0o777 == 0o600
    assert steps == ["folder"]
    os.pwrite(image.fd, MAGIC, 0)
    assert os.pread(image.fd, len(MAGIC), 0) == MAGIC
    assert image.commit() == path
    assert steps == ["folder", "data"]
    image.discard()
    assert path.read_bytes() == MAGIC
    with pytest.raises(JournalError, match="given up"):
        image.commit()
    journal.close()


def test_an_image_that_is_given_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = journal.image(MOVE)
    second = journal.image(MOVE)  # a later attempt in the same epoch
    first.discard()
    assert (tmp_path / second.name).exists()
    second.discard()
    second.discard()
    assert not (tmp_path / second.name).exists()
    with pytest.raises(JournalError, match="given up"):
        second.commit()
    journal.close()


def test_incomplete_images_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    other = replace(MOVE, program=OTHER)
    whole, half, empty = (
        journal.image(MOVE),
        journal.image(other),
        journal.image(replace(MOVE, epoch=6)),
    )
    os.pwrite(whole.fd, Header(1, 0, 0, bytes(32)).encode(), 0)
    os.pwrite(half.fd, b"pages", 65536)
    named = journal.image(replace(MOVE, epoch=7))
    journal.put(replace(RECORD, received=named.name))
    journal.close()
    again = Journal(tmp_path)
    left = sorted(path.name for path in tmp_path.glob("*.received"))
    assert left == sorted([whole.name, named.name])
    assert not (tmp_path / empty.name).exists()
    with pytest.raises(JournalError, match="earlier attempt"):
        again.image(replace(MOVE, epoch=7))
    again.close()


def test_no_room_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(JournalError, match="No space left"):
            journal.image(MOVE)
    assert not list(tmp_path.glob("*.received"))
    image = journal.image(MOVE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(JournalError, match="No space left"):
            image.commit()
    image.discard()
    assert not list(tmp_path.glob("*.received"))
    journal.close()


# States -------------------------------------------------------------------------------------------


def test_a_state_on_disk_is_marked_however_it_is_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    data = Header(0, 3, 7, b"r" * 32).encode() + b"the rest"
    for cut in (1, 10, 63, 64, 65, len(data)):
        state = journal.state(MOVE, "received")
        for start in range(0, len(data), cut):
            state.write(data[start : start + cut])
        assert state.size == len(data)
        written = state.commit().read_bytes()
        header = Header.decode(written[:64])
        assert header.handed
        assert header._replace(flags=0).encode() + written[64:] == data
    journal.close()


def test_a_state_that_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    state = journal.state(MOVE, "received")
    with pytest.raises(FormatError):
        state.write(b"x" * 64)
    state.discard()
    short = journal.state(MOVE, "received")
    short.write(b"\x89WSR")
    with pytest.raises(FormatError):
        short.commit()
    short.discard()
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.received"))
    journal.close()


def test_parts_of_an_earlier_process_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.state(MOVE, "handed").write(b"x")
    journal.close()
    assert list(tmp_path.glob("*.part"))
    Journal(tmp_path).close()
    assert not list(tmp_path.glob("*.part"))


def test_the_cache_of_modules(tmp_path: Path) -> None:
    modules = Modules(tmp_path / "modules")
    digests = []
    for number in range(KEPT + 3):
        binary = b"module %d" % number
        digests.append(hashlib.sha256(binary).digest())
        modules.put(binary, digests[-1])
        os.utime(modules._path(digests[-1]), (number, number))
    assert modules.get(digests[-1]) == b"module %d" % (KEPT + 2)
    assert modules.get(digests[0]) is None
    assert len(list((tmp_path / "modules").iterdir())) == KEPT
    modules._path(digests[-2]).write_bytes(b"damaged")
    assert modules.get(digests[-2]) is None
    assert not modules._path(digests[-2]).exists()


def test_regroup_keeps_the_bytes() -> None:
    data = bytes(range(256)) * 20
    for cuts in ([1, 2, 3], [5120], [100, 1000, 4020], [0, 700, 0]):
        pieces, at = [], 0
        for cut in cuts:
            pieces.append(memoryview(data)[at : at + cut])
            at += cut
        made = list(regroup([*pieces, data[at:]], 1000))
        assert b"".join(made) == data
        assert all(len(piece) == 1000 for piece in made[:-1])
    assert list(regroup([])) == []


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Report(OwnershipState.HANDED, 5, ATTEMPT), SettleVerdict.TAKE),
        (Report(OwnershipState.OFFERED, 4, ATTEMPT), SettleVerdict.WAIT),
        (Report(OwnershipState.UNKNOWN), SettleVerdict.WAIT),
        (Report(OwnershipState.OFFERED, 4, OTHER), SettleVerdict.DROP),
        (Report(OwnershipState.HANDED, 5, OTHER), SettleVerdict.DROP),
        (Report(OwnershipState.OWNED, 4), SettleVerdict.DROP),
        (Report(OwnershipState.ENDED, 4), SettleVerdict.DROP),
        (Report(OwnershipState.LOST, 4, ATTEMPT), SettleVerdict.DROP),
    ],
)
def test_what_a_ready_end_does(answer: Report, verdict: SettleVerdict) -> None:
    assert settle_ready(answer, MOVE) is verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Report(OwnershipState.READY, 5, ATTEMPT), SettleVerdict.DECIDE),
        (Report(OwnershipState.READY, 5, OTHER), SettleVerdict.GIVE_UP),
        (Report(OwnershipState.RECEIVING, 5, ATTEMPT), SettleVerdict.WAIT),
        (Report(OwnershipState.UNKNOWN), SettleVerdict.GIVE_UP),
        (Report(OwnershipState.OWNED, 5, ATTEMPT), SettleVerdict.CONFIRM),
        (Report(OwnershipState.HANDED, 6, OTHER), SettleVerdict.CONFIRM),
        (Report(OwnershipState.HANDED, 4, OTHER), SettleVerdict.GIVE_UP),
        (Report(OwnershipState.ENDED, 5), SettleVerdict.CONFIRM),
    ],
)
def test_what_a_source_does_that_was_killed(answer: Report, verdict: SettleVerdict) -> None:
    assert settle_offered(answer, MOVE) is verdict


def test_who_has_owned() -> None:
    assert owned(Report(OwnershipState.OWNED, 5), MOVE)
    assert owned(Report(OwnershipState.HANDED, 6), MOVE)
    assert not owned(Report(OwnershipState.HANDED, 5), MOVE)
    assert not owned(Report(OwnershipState.OWNED, 4), MOVE)
