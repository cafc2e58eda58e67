"""Leases with real registers and threads: renewed, lost, taken over, and moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ownership.services import EtcdHost, etcd_missing
from wasmsr.ownership.failures import LeaseLost, OwnershipError, RegisterAway
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.lease import LEASE_SECONDS, Lease, RecordWatch, boot_clock
from wasmsr.ownership.leased_program import LeasedProgram
from wasmsr.ownership.owner_record import (
    FailoverPolicy,
    LastCheckpoint,
    OwnerRecord,
    Standing,
)
from wasmsr.ownership.register import Register
from wasmsr.ownership.sqlite_backend import SqliteBackend
from wasmsr.ownership.transitions import OwnerState

PROGRAM = b"p" * 16
SECONDS = 0.6
"""The lease of most tests."""


class Counting:
    """A program that counts every few milliseconds, as long as it may run."""

    def __init__(self) -> None:
        self.runs = threading.Event()
        self.since: list[tuple[int, int]] = []
        """Epoch, and the boot clock, of each resume."""
        self.paused: list[int] = []
        self.discarded = 0

    def resume(self, record: OwnerRecord) -> None:
        self.since.append((record.epoch, boot_clock()))
        self.runs.set()

    def extend(self, pause_at: int, end_at: int) -> None:
        assert pause_at < end_at

    def pause(self) -> None:
        self.paused.append(boot_clock())
        self.runs.clear()

    def discard(self) -> None:
        self.discarded += 1
        self.runs.clear()


class Broken:
    """A backend that can be away: it passes calls on, or raises."""

    def __init__(self, inner: SqliteBackend) -> None:
        self.inner = inner
        self.away = False

    def get(self, program: bytes) -> bytes | None:
        self._check()
        return self.inner.get(program)

    def compare_and_swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        self._check()
        return self.inner.compare_and_swap(program, old, new)

    def _check(self) -> None:
        if self.away:
            raise RegisterAway("away, as the test wants it")

    def programs(self) -> list[bytes]:
        return self.inner.programs()

    def close(self) -> None:
        self.inner.close()


class Host:
    """One node with its own connection to the register."""

    def __init__(self, path: Path, name: bytes, seconds: float = SECONDS) -> None:
        self.node = name * 16
        self.backend = Broken(SqliteBackend(path))
        self.guest = Counting()
        self.said: list[str] = []
        lease = Lease(seconds)
        program = LeasedProgram(PROGRAM, self.node, self.guest, lease)
        register = Register(self.backend, patience=0.1)
        self.keeper = LeaseKeeper(program, register, say=self.said.append)

    def is_(self, state: OwnerState) -> bool:
        return self.keeper.program.state is state


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[bytes], Host]]:
    made: list[Host] = []

    def make(name: bytes) -> Host:
        made.append(Host(tmp_path / "register.db", name))
        return made[-1]

    yield make
    for one in made:
        one.keeper.close()
        one.backend.close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_the_default_is_set_in_one_place() -> None:
    assert LEASE_SECONDS == 10.0 and Lease().length == 10_000_000_000


def test_an_owner_renews_and_runs_on(host: Callable[[bytes], Host]) -> None:
    a = host(b"a")
    assert a.keeper.create()
    assert a.is_(OwnerState.RUNNING) and a.guest.runs.is_set()
    a.keeper.start()
    time.sleep(SECONDS * 4)
    assert a.is_(OwnerState.RUNNING) and not a.guest.paused and not a.said
    found = a.keeper.register.read(PROGRAM)
    # Renewed at a third: about three times in a lease.
    assert found is not None and found.epoch == 1 and 8 <= found.serial <= 16


def test_an_outage_pauses_and_says_so(host: Callable[[bytes], Host]) -> None:
    a = host(b"a")
    a.keeper.create()
    a.keeper.start()
    a.backend.away = True
    gone = boot_clock()
    until(lambda: not a.guest.runs.is_set())
    # Paused two thirds after the last question that was answered, and before the lease ended.
    assert (a.guest.paused[0] - gone) / 1e9 < SECONDS
    assert any("does not work" in text for text in a.said)
    assert any("is paused" in text for text in a.said)
    time.sleep(SECONDS * 2)
    assert a.is_(OwnerState.ASKING) and not a.guest.runs.is_set() and not a.guest.discarded
    a.backend.away = False
    until(a.guest.runs.is_set)
    # Nobody else took it, so it is the same epoch, and nothing was restored.
    assert [epoch for epoch, _ in a.guest.since] == [1, 1] and not a.guest.discarded
    assert any("answers again" in text for text in a.said)


def test_another_takes_over_and_the_first_discards(host: Callable[[bytes], Host]) -> None:
    a, b = host(b"a"), host(b"b")
    a.keeper.create(failover=(b.node,))
    a.keeper.start()
    b.keeper.start()
    watcher = threading.Thread(target=b.keeper.watch, args=(20,))
    watcher.start()
    time.sleep(SECONDS * 2)
    assert not b.guest.runs.is_set()
    a.backend.away = True
    gone = boot_clock()
    until(b.guest.runs.is_set)
    watcher.join()
    epoch, began = b.guest.since[0]
    assert epoch == 2
    assert a.guest.paused and a.guest.paused[0] < began, "two ran at the same time"
    assert (began - gone) / 1e9 < SECONDS + 2
    a.backend.away = False
    until(lambda: a.guest.discarded == 1)
    assert a.is_(OwnerState.NONE) and len(a.guest.since) == 1
    assert a.keeper.lost is not None and a.keeper.lost.owner == b.node
    assert b.node.hex()[:8] in str(a.keeper.lost)
    # The first one is not in the failover set, so it never takes the program back.
    assert not a.keeper.program.may_take(a.keeper.lost.record, True)  # type: ignore[arg-type]


def test_a_node_that_was_started_again_has_a_new_epoch(
    host: Callable[[bytes], Host], tmp_path: Path
) -> None:
    a = host(b"a")
    a.keeper.create()
    again = host(b"a")  # the same node id: a new process with the old journal
    assert again.keeper.poll() is not None
    assert again.guest.since[0][0] == 2 and again.is_(OwnerState.RUNNING)
    a.keeper.renew()
    assert a.is_(OwnerState.NONE) and a.guest.discarded == 1


def test_a_program_that_is_given_back_is_taken_at_once(host: Callable[[bytes], Host]) -> None:
    a, b = host(b"a"), host(b"b")
    a.keeper.create(failover=(b.node,))
    last = LastCheckpoint(b"r" * 32, "/store", 1, output=77)
    assert a.keeper.renew(last)
    with a.keeper.lock:
        a.keeper.program.apply(_two_thirds())
    assert a.keeper.release()
    assert a.guest.discarded == 1
    found = b.keeper.poll()
    assert found is not None and found.standing is Standing.RELEASED
    assert b.is_(OwnerState.RUNNING)
    record = b.keeper.program.record
    assert record is not None and record.checkpoint == last and record.epoch == 2


def _two_thirds():
    from wasmsr.ownership.transitions import OwnerEvent

    return OwnerEvent.TWO_THIRDS


@pytest.mark.parametrize("policy", FailoverPolicy)
def test_policies(host: Callable[[bytes], Host], policy: FailoverPolicy) -> None:
    a, b = host(b"a"), host(b"b")
    a.keeper.create(policy, (b.node,))
    last = LastCheckpoint(b"r" * 32, "/store", 1)
    assert a.keeper.renew(last)
    b.keeper.watch(SECONDS * 3)
    found = b.keeper.register.read(PROGRAM)
    assert found is not None
    if policy is FailoverPolicy.FAIL:
        assert found.standing is Standing.ENDED and not b.guest.since
        a.keeper.renew()
        assert a.is_(OwnerState.NONE)
    else:
        assert found.epoch == 2 and b.guest.since
        assert found.checkpoint == (last if policy is FailoverPolicy.RESTORE else None)


def test_a_move_is_one_swap(host: Callable[[bytes], Host]) -> None:
    a, b = host(b"a"), host(b"b")
    a.keeper.create()
    with a.keeper.lock:
        attempt = a.keeper.program.offer()
    assert not a.guest.runs.is_set()
    with b.keeper.lock:
        b.keeper.program.receive(attempt, 2)
    assert b.keeper.poll() is not None and b.is_(OwnerState.RECEIVED)  # not decided yet
    assert a.keeper.hand(b.node)
    assert a.is_(OwnerState.NONE) and a.guest.discarded == 1
    b.keeper.poll()
    # No further question: the lease counts from before READY.
    assert b.is_(OwnerState.RUNNING) and b.guest.since[0][0] == 2
    found = b.keeper.register.read(PROGRAM)
    assert found is not None and (found.attempt, found.owner) == (attempt, b.node)


def test_a_move_without_an_answer(host: Callable[[bytes], Host]) -> None:
    a, b = host(b"a"), host(b"b")
    a.keeper.create()
    with a.keeper.lock:
        attempt = a.keeper.program.offer()
    with b.keeper.lock:
        b.keeper.program.receive(attempt, 2)
    a.backend.away = True
    assert not a.keeper.hand(b.node)
    assert a.is_(OwnerState.ASKING) and not a.guest.runs.is_set()
    a.backend.away = False
    a.keeper.keep()
    assert a.is_(OwnerState.RUNNING) and a.guest.since[-1][0] == 1
    found = b.keeper.register.read(PROGRAM)
    assert found is not None
    with b.keeper.lock:
        b.keeper.program.decide(found, over=True)
    assert b.is_(OwnerState.NONE)


def test_an_owner_is_not_taken_from_while_it_renews(host: Callable[[bytes], Host]) -> None:
    a, b = host(b"a"), host(b"b")
    a.keeper.create(failover=(b.node,))
    a.keeper.start()
    b.keeper.watch(SECONDS * 4)
    assert b.is_(OwnerState.NONE) and not b.guest.since


def test_a_program_that_cannot_be_restored_goes_elsewhere(
    host: Callable[[bytes], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = host(b"a"), host(b"b")
    a.keeper.create(failover=(b.node,))
    a.backend.away = True
    a.keeper.start()
    until(lambda: a.is_(OwnerState.ASKING))

    def fails(record: OwnerRecord) -> None:
        raise OSError("the checkpoint cannot be read")

    monkeypatch.setattr(a.guest, "resume", fails)
    a.backend.away = False
    until(lambda: a.keeper.failed is not None)
    assert any("cannot be read" in text for text in a.said)
    b.keeper.watch(10)
    assert b.is_(OwnerState.RUNNING) and b.guest.since[0][0] == 2


def test_a_program_that_cannot_be_paused_is_discarded(
    host: Callable[[bytes], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = host(b"a")
    a.keeper.create()

    def fails() -> None:
        raise OSError("the worker does not answer")

    monkeypatch.setattr(a.guest, "pause", fails)
    a.backend.away = True
    a.keeper.start()
    until(lambda: a.guest.discarded == 1)
    assert a.keeper.failed is not None


# ---- clocks --------------------------------------------------------------------------------------


class Hands:
    """A clock that is moved by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> int:
        return int(self.now * 1e9)


def test_a_lease_counts_from_before_the_question() -> None:
    clock = Hands()
    lease = Lease(9, clock)
    assert not lease.lasts() and lease.late()
    asked = clock()
    clock.now += 2  # the answer takes two seconds
    assert lease.begin(asked) and not lease.due()
    clock.now += 1.5
    assert lease.due() and not lease.late()
    clock.now += 3
    assert lease.late() and lease.lasts()
    lease.check(None)
    clock.now += 3
    assert not lease.lasts()
    with pytest.raises(LeaseLost):
        lease.check(None)


def test_an_answer_after_the_lease_gives_nothing() -> None:
    clock = Hands()
    guest = Counting()
    program = LeasedProgram(PROGRAM, b"a" * 16, guest, Lease(9, clock))
    question = program.create()
    clock.now += 10
    program.answered(True, question.new)
    assert program.state is OwnerState.ASKING and not guest.since


def test_a_watch_counts_from_the_answer_and_begins_again() -> None:
    clock = Hands()
    watch = RecordWatch(clock=clock)
    program = LeasedProgram(PROGRAM, b"a" * 16, Counting(), Lease(9, clock))
    record = program.create().new
    assert not watch.expired()
    watch.see(record)
    clock.now += 9.4
    assert not watch.expired()  # the lease, and the margin of a twentieth
    clock.now += 0.1
    assert watch.expired()
    watch.see(record)
    assert watch.expired()
    watch.see(record.next(deadline=0))
    assert not watch.expired()


def test_the_boot_clock_runs_while_the_machine_is_suspended() -> None:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system has no CLOCK_BOOTTIME")
    assert abs(boot_clock() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 1e9


def test_the_wall_clock_decides_nothing(
    host: Callable[[bytes], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It jumps by years, on one host and then on the other; leases are as before."""
    a, b = host(b"a"), host(b"b")
    a.keeper.create(failover=(b.node,))
    a.keeper.start()
    monkeypatch.setattr("wasmsr.ownership.leased_program.wall_milliseconds", lambda: 4 * 10**12)
    time.sleep(SECONDS)
    monkeypatch.setattr("wasmsr.ownership.leased_program.wall_milliseconds", lambda: 0)
    b.keeper.watch(SECONDS * 2)
    assert a.is_(OwnerState.RUNNING) and not b.guest.since


def test_an_event_that_cannot_be_is_an_error() -> None:
    program = LeasedProgram(PROGRAM, b"a" * 16, Counting(), Lease(1))
    with pytest.raises(OwnershipError, match="OFFER cannot happen while it is NONE"):
        program.offer()
    with pytest.raises(OwnershipError, match="does not own"):
        program.renewal()


@pytest.mark.full
def test_a_frozen_etcd_pauses_and_goes_on(tmp_path: Path) -> None:
    if why := etcd_missing():
        pytest.skip(why)
    service = EtcdHost(tmp_path)
    guest = Counting()
    register = Register(service.backend(timeout=0.3), patience=0.2)
    program = LeasedProgram(PROGRAM, b"a" * 16, guest, Lease(1.5))
    keeper = LeaseKeeper(program, register)
    try:
        assert keeper.create()
        keeper.start()
        service.freeze()
        frozen = boot_clock()
        until(lambda: not guest.runs.is_set())
        assert (guest.paused[0] - frozen) / 1e9 < 1.5
        time.sleep(2)
        assert program.state is OwnerState.ASKING
        service.thaw()
        until(guest.runs.is_set)
        assert [epoch for epoch, _ in guest.since] == [1, 1]
    finally:
        keeper.close()
        register.close()
        service.close()
