"""The register: one suite for SQLite and for a real etcd, which are killed, frozen and cut off."""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ownership.services import EtcdHost, RegisterHost, SqliteHost, etcd_missing, first, taken
from wasmsr.ownership.failures import (
    OwnershipError,
    RecordDamaged,
    RecordTooNew,
    RegisterAway,
    RegisterDamaged,
    SwapInDoubt,
    SwapRefused,
)
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.record_bytes import encode_record
from wasmsr.ownership.register import Register, RegisterBackend, Unanswered
from wasmsr.ownership.sqlite_backend import SqliteBackend


@pytest.fixture(params=["sqlite", "etcd"], scope="module")
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RegisterHost]:
    if request.param == "etcd" and (why := etcd_missing()):
        pytest.skip(why)
    folder = tmp_path_factory.mktemp(request.param)
    made: RegisterHost = SqliteHost(folder) if request.param == "sqlite" else EtcdHost(folder)
    yield made
    made.close()


@pytest.fixture
def register(host: RegisterHost) -> Iterator[Register]:
    made = host.register()
    yield made
    made.close()


# ---- what a register does ------------------------------------------------------------------------


def test_a_record_is_made_once_and_stays(register: Register, host: RegisterHost) -> None:
    record = first()
    assert register.read(record.program) is None
    register.swap(None, record)
    assert register.read(record.program) == record
    other = first(record.program)
    with pytest.raises(SwapRefused) as refused:
        register.swap(None, other)
    assert refused.value.record == record and refused.value.owner == record.owner
    assert record.program.hex()[:8] in str(refused.value)
    assert record.owner.hex()[:8] in str(refused.value) and "epoch 1" in str(refused.value)
    assert record.program in register.programs()
    again = host.register()
    assert again.read(record.program) == record
    again.close()


def test_a_swap_compares_the_whole_record(register: Register) -> None:
    record = first()
    register.swap(None, record)
    renewed = record.next(deadline=record.deadline + 1)
    register.swap(record, renewed)
    # Owner, epoch and attempt are still the same; the serial is not.
    with pytest.raises(SwapRefused):
        register.swap(record, taken(record))
    assert register.read(record.program) == renewed
    register.swap(renewed, taken(renewed))


def test_of_many_that_take_a_program_one_gets_it(host: RegisterHost, register: Register) -> None:
    record = first()
    register.swap(None, record)
    got: list[tuple[int, bytes]] = []

    def compete(node: bytes) -> None:
        mine = host.register()
        mine.patience = 30
        for _ in range(6):
            while True:
                found = mine.read(record.program)
                assert found is not None
                try:
                    mine.swap(found, taken(found, node))
                except SwapRefused:
                    continue
                except RegisterAway:  # SQLite: another held the lock for long
                    continue
                got.append((found.epoch + 1, node))
                break
        mine.close()

    threads = [threading.Thread(target=compete, args=(secrets.token_bytes(16),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epoch for epoch, _ in got) == list(range(2, 26))
    last = register.read(record.program)
    assert last is not None and (last.epoch, last.owner) == max(got)


def test_an_ended_program_has_no_next_owner(register: Register) -> None:
    record = first()
    register.swap(None, record)
    ended = record.next(standing=Standing.ENDED)
    register.swap(record, ended)
    with pytest.raises(ValueError, match="nothing follows"):
        register.swap(ended, taken(ended))


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 3}, {"epoch": 1, "owner": bytes(16)}, {"serial": 4}, {"program": bytes(16)},
        {"attempt": None}, {"failover": (b"short",)}, {"deadline": -1}, {"lease": 0},
    ],
)  # fmt: skip
def test_a_step_that_cannot_be_is_a_bug_of_the_caller(change: dict[str, object]) -> None:
    register = Register(Told())
    record = first()
    register.swap(None, record)
    if change.get("attempt", 1) is None:
        change = {"attempt": record.attempt}
    wrong = OwnerRecord(**{**vars(taken(record)), **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        register.swap(record, wrong)


# ---- killed, frozen, cut off, at each step -------------------------------------------------------

FAULTS = {"kill": "restart", "freeze": "thaw", "partition": "heal"}


@pytest.mark.full
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", ["read", "create", "renew", "take"])
def test_a_fault_at_each_step(
    host: RegisterHost, register: Register, fault: str, step: str
) -> None:
    """While it lasts, nothing is said that may be wrong; afterwards one record decides."""
    old = first()
    if step != "create":
        register.swap(None, old)
    new = {"create": old, "take": taken(old)}.get(step, old.next(deadline=old.deadline + 1))
    getattr(host, fault)()
    begin = time.monotonic()
    try:
        if step == "read":
            if host.kind == "sqlite":  # readers do not wait for a writer
                assert register.read(old.program) == old
            else:
                with pytest.raises(RegisterAway) as away:
                    register.read(old.program)
                assert away.value.program == old.program
        else:
            with pytest.raises((RegisterAway, SwapInDoubt)) as failed:
                register.swap(None if step == "create" else old, new)
            assert failed.value.record == (None if step == "create" else old)
            assert old.program.hex()[:8] in str(failed.value)
        assert time.monotonic() - begin < 5
    finally:
        getattr(host, FAULTS[fault])()
    register.patience = 20
    if step == "read":
        found = register.read(old.program)
        assert found == old
        return
    # The same swap again: it is done once, whether the first one arrived or not.
    register.swap(None if step == "create" else old, new)
    assert register.read(old.program) == new
    with pytest.raises(SwapRefused):
        register.swap(None if step == "create" else old, taken(old) if old != new else first(
            old.program))  # fmt: skip


def test_what_was_answered_survives_a_kill(host: RegisterHost, register: Register) -> None:
    record = first()
    register.swap(None, record)
    for _ in range(5):
        new = taken(record)
        register.swap(record, new)
        record = new
    host.kill()
    host.restart()
    register.patience = 20
    again = host.register()
    assert again.read(record.program) == record
    again.close()


def test_a_lost_answer_is_looked_up(tmp_path: Path) -> None:
    """The swap is done, and its answer is lost on the way: no error, and it counts once."""
    if why := etcd_missing():
        pytest.skip(why)
    host = EtcdHost(tmp_path)
    try:
        register = Register(host.backend(), patience=20)
        record = first()
        register.swap(None, record)
        host.proxy.mode = "mute"
        threading.Timer(1.0, host.heal).start()
        new = taken(record)
        register.swap(record, new)
        assert register.read(record.program) == new
        # As long as no answer comes at all, the swap is in doubt, and the error names it.
        host.proxy.mode = "mute"
        register.patience = 0.5
        late = taken(new)
        with pytest.raises(SwapInDoubt) as doubt:
            register.swap(new, late)
        assert doubt.value.record == new and late.attempt.hex()[:8] in str(doubt.value)
        host.heal()
        assert register.read(record.program) == late
        register.close()
    finally:
        host.close()


# ---- what became of a swap -----------------------------------------------------------------------


class Told:
    """A backend in memory that is told how each swap goes: it tests the decisions of `Register`.

    "lost": it never arrives. "done": it is done, the answer is lost. "late": it arrives after the
    next call. "away": it is not sent. "raced": another swaps first, and the answer is lost.
    """

    def __init__(self, *how: str) -> None:
        self.how = list(how)
        self.data: dict[bytes, bytes] = {}
        self.late: list[tuple[bytes, bytes | None, bytes]] = []
        self.rival: bytes = b""
        self.away = False

    def get(self, program: bytes) -> bytes | None:
        if self.away:
            raise RegisterAway("away")
        found = self.data.get(program)
        for what in self.late:
            self._swap(*what)
        self.late.clear()
        return found

    def _swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        if self.data.get(program) != old:
            return False
        self.data[program] = new
        return True

    def compare_and_swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        how = self.how.pop(0) if self.how else "fine"
        if how == "fine":
            return self._swap(program, old, new)
        if how == "away":
            raise RegisterAway("away")
        if how == "done":
            self._swap(program, old, new)
        elif how == "late":
            self.late.append((program, old, new))
        elif how == "raced":
            self.data[program] = self.rival
        raise Unanswered(how)

    def programs(self) -> list[bytes]:
        return sorted(self.data)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("how", [["lost"], ["done"], ["late"], ["lost", "late", "done"]])
def test_a_swap_without_an_answer_is_done_once(how: list[str]) -> None:
    backend = Told()
    register = Register(backend)
    record = first()
    register.swap(None, record)
    backend.how = how
    new = taken(record)
    register.swap(record, new)
    assert register.read(record.program) == new


def test_a_swap_without_an_answer_that_another_overtook(register: Register) -> None:
    backend = Told()
    register = Register(backend)
    record = first()
    register.swap(None, record)
    rival = taken(record)
    backend.how, backend.rival = ["raced"], encode_record(rival)
    with pytest.raises(SwapRefused) as refused:
        register.swap(record, taken(record))
    assert refused.value.record == rival


def test_a_swap_is_in_doubt_once_a_try_got_no_answer() -> None:
    """A later try that was surely not sent does not make the first one undone."""
    backend = Told()
    register = Register(backend, patience=0.2)
    record = first()
    register.swap(None, record)
    backend.how = ["late", *["away"] * 50]
    with pytest.raises(SwapInDoubt):
        register.swap(record, taken(record))
    backend.how = ["away"]
    with pytest.raises(RegisterAway) as away:
        register.swap(record, taken(record))
    assert away.value.record == record


# ---- what bad input gets -------------------------------------------------------------------------

RECORD = first(bytes(15) + b"\1", bytes(16))
GOOD = encode_record(RECORD)
BAD = {
    "empty": b"",
    "no JSON": b"\xff\xfe garbage",
    "cut off": GOOD[:-9],
    "deep": b"[" * 60_000,
    "long": b" " * 70_000,
    "a list": b"[]",
    "no version": GOOD.replace(b'"version"', b'"virsion"'),
    "another field": GOOD.replace(b'"version":1', b'"version":1,"x":1'),
    "not canonical": GOOD.replace(b'"version":1', b'"version": 1'),
    "true for 1": GOOD.replace(b'"version":1', b'"version":true'),
    "epoch 0": GOOD.replace(b'"epoch":1', b'"epoch":0'),
    "epoch -1": GOOD.replace(b'"epoch":1', b'"epoch":-1'),
    "huge epoch": GOOD.replace(b'"epoch":1', b'"epoch":' + b"9" * 30),
    "endless epoch": GOOD.replace(b'"epoch":1', b'"epoch":' + b"9" * 5000),
    "epoch as text": GOOD.replace(b'"epoch":1', b'"epoch":"1"'),
    "short owner": GOOD.replace(b'"owner":"00', b'"owner":"'),
    "unknown policy": GOOD.replace(b'"restore"', b'"perhaps"'),
    "unknown standing": GOOD.replace(b'"owned"', b'"doubted"'),
    "checkpoint of a later epoch": GOOD.replace(b'{"epoch":1,', b'{"epoch":2,'),
    "another program's": encode_record(first(bytes(16), bytes(16))),
}


@pytest.mark.parametrize("name", BAD)
def test_bytes_that_are_no_record(name: str, host: RegisterHost, register: Register) -> None:
    assert name == "not canonical" or BAD[name] != GOOD
    host.put(RECORD.program, BAD[name])
    with pytest.raises(RecordDamaged) as damaged:
        register.read(RECORD.program)
    assert damaged.value.program == RECORD.program and damaged.value.owner is None
    assert RECORD.program.hex()[:8] in str(damaged.value)
    # Such bytes are never replaced by a swap.
    with pytest.raises((RecordDamaged, SwapRefused)):
        register.swap(RECORD, taken(RECORD))


def test_a_record_of_a_newer_version(host: RegisterHost, register: Register) -> None:
    host.put(RECORD.program, GOOD.replace(b'"version":1', b'"version":2'))
    with pytest.raises(RecordTooNew, match="version 2") as error:
        register.read(RECORD.program)
    assert error.value.hint


def test_all_programs_are_listed(
    host: RegisterHost, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one page of etcd's answers."""
    if host.kind == "etcd":
        monkeypatch.setattr("wasmsr.http.etcd_backend.PROGRAMS", 7)
    many = sorted(secrets.token_bytes(16) for _ in range(30))
    for program in many:
        register.backend.compare_and_swap(program, None, b"x")
    listed = register.programs()
    assert set(many) <= set(listed) and listed == sorted(listed)


# ---- only SQLite ---------------------------------------------------------------------------------


def test_files_that_are_no_register(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"this is no database" * 500)
    with pytest.raises(RegisterDamaged):
        SqliteBackend(garbage)
    other = tmp_path / "other"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE records (x)")
    database.close()
    with pytest.raises(RegisterDamaged, match="no register"):
        SqliteBackend(other)
    newer = tmp_path / "newer"
    SqliteBackend(newer).close()
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(RecordTooNew, match="version 2"):
        SqliteBackend(newer)
    with pytest.raises(RegisterAway):
        SqliteBackend(garbage / "below")


def test_a_file_that_is_damaged_later(tmp_path: Path) -> None:
    path = tmp_path / "register.db"
    backend = SqliteBackend(path)
    record = first()
    register = Register(backend)
    register.swap(None, record)
    backend._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    register.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xee" * (len(data) - 4096)
    path.write_bytes(data)
    register = Register(SqliteBackend(path))
    with pytest.raises(OwnershipError) as error:
        register.read(record.program)
    assert isinstance(error.value, RegisterDamaged) and error.value.program == record.program
    register.close()


def test_a_disk_that_is_full_at_the_swap(tmp_path: Path) -> None:
    """SQLite's own limit gives the error of a full disk; the record is as it was."""
    backend = SqliteBackend(tmp_path / "register.db")
    register = Register(backend)
    record = first()
    register.swap(None, record)
    (pages,) = backend._database.execute("PRAGMA page_count").fetchone()
    backend._database.execute(f"PRAGMA max_page_count = {pages}")
    large = record.next(failover=tuple(secrets.token_bytes(16) for _ in range(250)))
    with pytest.raises(RegisterAway, match="full") as full:
        register.swap(record, large)
    assert full.value.record == record and full.value.owner == record.owner
    assert register.read(record.program) == record
    backend._database.execute("PRAGMA max_page_count = 1000")
    register.swap(record, large)
    register.close()


def test_a_commit_that_fails_is_looked_up(tmp_path: Path) -> None:
    class Failing:
        """A database whose commits are done, or not, and then fail."""

        def __init__(self, inner: sqlite3.Connection, done: bool) -> None:
            self.inner, self.done, self.times = inner, done, 1

        def execute(self, text: str, *values: object) -> object:
            if text == "COMMIT" and self.times:
                self.times -= 1
                self.inner.execute("COMMIT" if self.done else "ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")
            return self.inner.execute(text, *values)  # type: ignore[arg-type]

        def close(self) -> None:
            self.inner.close()

    for done in (True, False):
        backend = SqliteBackend(tmp_path / f"{done}.db")
        register = Register(backend)
        record = first()
        register.swap(None, record)
        backend._database = Failing(backend._database, done)  # type: ignore[assignment]
        new = taken(record)
        register.swap(record, new)
        assert register.read(record.program) == new
        register.close()


def test_the_told_backend_is_one() -> None:
    backend: RegisterBackend = Told()
    assert backend.programs() == []
