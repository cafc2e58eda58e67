"""What is on disk: records, states marked as handed, the lock, the cache of modules."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from wasmsr.errors import FormatError
from wasmsr.migrate.files.modules import KEPT, Modules
from wasmsr.migrate.handover.source import regroup
from wasmsr.migrate.journal.journal import Incoming, Journal, Record
from wasmsr.migrate.journal.ownership import SettleVerdict, owned, settle_offered, settle_ready
from wasmsr.migrate.protocol import Ending, JournalError, Move, OwnershipState, Report
from wasmsr.snapshot.encoding.container import Header

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
    path = tmp_path / f"{PROGRAM.hex()}.json"
    values = json.loads(path.read_text())
    del values["incoming"]["shown"], values["incoming"]["fed"]
    path.write_text(json.dumps(values))
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

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(JournalError, match="No space left"):
            journal.put(replace(RECORD, epoch=9))
    assert journal.get(PROGRAM) == RECORD
    journal.close()
    again = Journal(tmp_path)
    assert again.get(PROGRAM) == RECORD
    again.close()


def test_a_record_is_synced_before_and_after_its_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    steps: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    def replaced(old: str, new: str) -> None:
        steps.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replaced)
    journal.put(RECORD)
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    state = journal.state(MOVE, "handed")
    state.write(Header(0, 0, 0, bytes(32)).encode())
    state.commit()
    assert steps == ["file", "rename", "folder"]
    journal.close()


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
