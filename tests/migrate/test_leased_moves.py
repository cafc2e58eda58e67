"""Moves of leased programs, with a register of SQLite and faults at every step.

As in `test_faults.py`, the points are found by running; the register's swaps and readings are
points too. Whatever fails: never two copies run, the register never names another end than the one
that runs, and one copy runs when all is back, unless an end was killed that owned it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import Counter, LeavingCounter
from tests.migrate.ends import End, FailingCounter, Fault, Killed, Waiting
from tests.migrate.test_faults import Session, faults_of
from tests.ownership.model.traces import accepts
from wasmsr.errors import EXIT_MIGRATION
from wasmsr.migrate.decisions.journal_decision import JournalDecisions
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.migrate.decisions.register_decision import RegisterDecisions
from wasmsr.migrate.ends.endpoint import Endpoint
from wasmsr.migrate.handover.attempt import MoveAttempt
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import LEASE_LOST, Ending, OwnershipState, PeerLost, PeerRefused
from wasmsr.ownership.failures import RegisterAway
from wasmsr.ownership.leased_program import LeasedProgram
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.record_bytes import decode_record, encode_record
from wasmsr.ownership.register import Register, Unanswered
from wasmsr.ownership.sqlite_backend import SqliteBackend
from wasmsr.ownership.transitions import OwnerEvent, OwnerState

LEASE = 60.0
"""Seconds: no keeper renews by itself during a test."""

AWAY = 4
"""Calls for which a register is away."""


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class FailingRegister:
    """A backend whose end may be killed, and which may be away or silent, at each swap."""

    def __init__(self, end: End, path: Path) -> None:
        self.end = end
        self.inner = SqliteBackend(path)
        self.inner._database.execute("PRAGMA synchronous = OFF")
        self.away = 0

    def _at(self, point: str) -> bool:
        """Passes a point; returns whether the message is lost there."""
        if self.away:
            self.away -= 1
            raise RegisterAway("away, as the test wants it")
        try:
            self.end.script.at(self.end, point)
        except PeerLost:
            return True
        except OSError:
            self.away = AWAY
            raise RegisterAway("away, as the test wants it") from None
        return False

    def get(self, program: bytes) -> bytes | None:
        if self._at("before a reading"):
            raise RegisterAway("lost")
        return self.inner.get(program)

    def compare_and_swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        before = None if old is None else decode_record(old, program)
        after = decode_record(new, program)
        kind = "move" if before and after.epoch > before.epoch else "change"
        if self._at(f"before the swap of a {kind}"):
            raise RegisterAway("lost")
        done = self.inner.compare_and_swap(program, old, new)
        try:
            lost = self._at(f"after the swap of a {kind}")
        except RegisterAway as error:
            raise Unanswered(str(error)) from error
        if lost:
            raise Unanswered("lost")
        return done

    def programs(self) -> list[bytes]:
        return self.inner.programs()

    def close(self) -> None:
        self.inner.close()


class Asking(Waiting):
    """While an end waits, those that hold a program ask its source too."""

    def wait(self, timeout: float) -> bool:
        super().wait(timeout)
        kills = self.end.kills
        for end in self.end.others.values():
            ready = end.node.destination.ready if end.node else None
            if end is not self.end and ready and end.node:
                with suppress(Killed):
                    end.node._ask_source(ready)
        if self.end.kills != kills:
            raise Killed(self.end)
        return False


class LeasedEnd(End):
    """An end with a register; a new process of it has a new connection."""

    register: Path
    decisions: RegisterDecisions | None = None

    def open(self) -> Endpoint:
        node = super().open()
        node.stop = node.source.stop = Asking(self)  # type: ignore[assignment]
        return node

    def make_decisions(self, journal: Journal) -> RegisterDecisions:
        self.decisions = RegisterDecisions(
            journal,
            lambda: Register(FailingRegister(self, self.register), patience=0.0),
            self.events.append,
            unfenced=("host",),
        )
        return self.decisions

    def kill(self) -> None:
        assert self.decisions
        for leased in self.decisions._leased.values():
            leased.keeper.close(wait=False)
            leased._guest.gone = True  # its memory is gone
        super().kill()


class LeasedSession(Session):
    """A session whose program is under a lease."""

    def __init__(self, folder: Path, faults: list[Fault]) -> None:
        LeasedEnd.register = folder / "register.db"
        super().__init__(folder, faults)

    end_type = LeasedEnd

    def begin(self) -> None:
        counter = FailingCounter(self.world, "a", program=self.program)
        counter.owner = self.a
        node = self.a.node
        assert node and isinstance(self.a, LeasedEnd) and self.a.decisions
        self.script.quiet = True
        leased = self.a.decisions.leased(counter, LEASE)
        assert isinstance(leased, LeasedMovable)
        node.source.own(leased)
        leased.start()
        self.script.quiet = False
        self.held["a"] = leased

    def plain(self, program: MovableProgram) -> Counter:
        assert isinstance(program, LeasedMovable)
        return super().plain(program._inner)

    def settle(self) -> None:
        for _ in range(AWAY + 2):
            super().settle()
            for end in self.ends.values():
                assert isinstance(end, LeasedEnd)
                for leased in list(end.decisions._leased.values()) if end.decisions else ():
                    with suppress(Killed):
                        leased.keeper.keep()  # as its thread does, sooner or later

    def record(self) -> OwnerRecord:
        backend = SqliteBackend(LeasedEnd.register)
        try:
            data = backend.get(self.program)
        finally:
            backend.close()
        assert data
        return decode_record(data, self.program)

    def check(self) -> None:
        found, record = self.runner(), self.record()
        if found:
            end = found[0]
            assert end.node
            assert record.owner == end.node.journal.node, "the register names another end"
            assert record.standing is Standing.OWNED
        super().check()

    def close(self) -> None:
        self.script.quiet = True
        for end in self.ends.values():
            if end.node:
                assert isinstance(end, LeasedEnd) and end.decisions
                end.decisions.close()
        super().close()


def attempt(folder: Path, *faults: Fault) -> list[tuple[str, str]]:
    """Runs a session in a new folder; returns the points that it passed."""
    number = sum(1 for _ in folder.iterdir())
    place = folder / str(number)
    place.mkdir()
    session = LeasedSession(place, list(faults))
    try:
        session.run()
    finally:
        session.close()
    return session.script.passed


def leased_faults(passed: list[tuple[str, str]], start: int = 0) -> Iterator[Fault]:
    """Every fault of `faults_of`, and a register that is away for a while."""
    yield from faults_of(passed, start)
    for index, (end, point) in enumerate(passed):
        if index >= start and ("swap" in point or "reading" in point):
            yield Fault(end, point, "disk", passed[: index + 1].count((end, point)))


def test_without_faults(tmp_path: Path) -> None:
    passed = attempt(tmp_path)
    swaps = [end for end, point in passed if point == "after the swap of a move"]
    assert swaps == ["a", "b"]
    # The swap is the decision: HANDED follows it, and the destination reads it before it runs.
    order = [
        ("b", "after READY is on disk"),
        ("a", "before the swap of a move"),
        ("a", "after the swap of a move"),
        ("a", "before HANDED is on disk"),
        ("a", "before Commit"),
        ("b", "after OWNED is on disk"),
        ("b", "before start"),
    ]
    assert [passed.index(point) for point in order] == sorted(map(passed.index, order))
    reading = max(
        index
        for index, point in enumerate(passed[: passed.index(("b", "before start"))])
        if point == ("b", "before a reading")
    )
    assert reading > passed.index(("a", "after the swap of a move"))


@pytest.mark.full
def test_each_fault(tmp_path: Path) -> None:
    faults = list(leased_faults(attempt(tmp_path)))
    assert len(faults) > 120
    for fault in faults:
        try:
            attempt(tmp_path, fault)
        except BaseException as error:
            raise AssertionError(f"{fault}: {error!r}") from error


def pairs(folder: Path, count: int) -> Iterator[tuple[Fault, Fault]]:
    """Pairs of faults, the second after the first, drawn by a fixed seed."""
    chance = random.Random(7)
    singles = list(leased_faults(attempt(folder)))
    for _ in range(count):
        first = chance.choice(singles)
        passed = attempt(folder, first)
        seen = -1
        for _ in range(first.time):
            seen = passed.index((first.end, first.point), seen + 1)
        seconds = list(leased_faults(passed, seen + 1))
        if seconds:
            yield first, chance.choice(seconds)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [60, pytest.param(1_000, marks=pytest.mark.full)])
def test_pairs_of_faults(tmp_path: Path, count: int) -> None:
    for first, second in pairs(tmp_path, count):
        try:
            attempt(tmp_path, first, second)
        except BaseException as error:
            raise AssertionError(f"{first}, {second}: {error!r}") from error


# ---- one rule each -------------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[tuple[LeasedSession, MoveAttempt]]:
    """The program is READY at b, and the register has not been asked for the swap."""
    session = LeasedSession(tmp_path, [])
    session.begin()
    node = session.a.node
    assert node
    attempt = node.source.attempt(session.held["a"])
    answer = node.source.prepare(session.held["a"], attempt.move)
    attempt.offer()
    attempt.departure().send(answer)
    session.script.passed.clear()
    yield session, attempt
    session.close()


def owned(session: LeasedSession, end: str) -> LeasedProgram:
    one = session.ends[end]
    assert isinstance(one, LeasedEnd) and one.decisions
    leased = one.decisions.get(session.program)
    assert leased
    return leased.keeper.program


def other(session: LeasedSession) -> Endpoint:
    node = session.b.node
    assert node
    return node


def ask(node: Endpoint) -> None:
    ready = node.destination.ready
    assert ready
    node._ask_source(ready)


def test_commit_before_the_swap_starts_nothing(ready: Any) -> None:
    session, attempt = ready
    node = other(session)
    assert node.answers.commit(attempt.move, 0.0) is OwnershipState.READY
    assert not session.world.running
    # Nor does the answer of a source that still tries make this end forget the state.
    ask(node)
    assert node.destination.ready and owned(session, "b").state is OwnerState.RECEIVED


def test_abort_after_the_swap_takes_nothing_back(ready: Any) -> None:
    session, attempt = ready
    node = other(session)
    assert attempt.hand(node.journal.node)
    assert node.answers.abort(attempt.move) is OwnershipState.OWNED
    assert session.world.running == {session.program: "b"}


def test_a_destination_reads_the_register_if_its_source_is_gone(ready: Any) -> None:
    session, attempt = ready
    node = other(session)
    assert attempt.hand(node.journal.node)
    session.a.kill()
    ask(node)
    assert session.world.running == {session.program: "b"}


@pytest.mark.parametrize("ended", [False, True])
def test_a_decided_move_is_over_when_the_register_has_gone_on(ready: Any, ended: bool) -> None:
    """Another end has taken the program over before the destination heard of its own move."""
    session, attempt = ready
    assert attempt.hand(other(session).journal.node)
    found = session.record()
    later = {"standing": Standing.ENDED} if ended else {"epoch": 3, "owner": b"c" * 16}
    backend = SqliteBackend(LeasedEnd.register)
    assert backend.compare_and_swap(
        session.program, encode_record(found), encode_record(found.next(**later))
    )
    backend.close()
    node = session.a.node
    node.source.commitment(attempt.move).carry_out()  # it would raise Stuck if it did not end
    record = node.journal.get(session.program)
    assert record.standing is OwnershipState.HANDED and record.confirmed
    assert not session.world.running


def test_a_late_swap_of_a_killed_source_has_no_effect(ready: Any) -> None:
    session, attempt = ready
    node = other(session)
    late = owned(session, "a").ready(node.journal.node, attempt.move.attempt)
    session.a.kill()
    session.world.excused = True
    session.a.revive()  # it hears that the destination is READY, and makes that swap itself
    found = session.record()
    assert (found.owner, found.epoch) == (node.journal.node, attempt.move.epoch)
    assert found.standing is Standing.OWNED
    backend = SqliteBackend(LeasedEnd.register)
    assert late.old
    assert not backend.compare_and_swap(
        session.program, encode_record(late.old), encode_record(late.new)
    )
    backend.close()
    session.settle()
    assert session.record().owner == node.journal.node
    session.check()


def test_the_record_stays_while_a_destination_that_may_be_ready_is_silent(ready: Any) -> None:
    session, attempt = ready
    session.a.kill()
    session.b.kill()
    session.a.revive()  # while it waits for the answer, the destination is started again
    assert any("may be READY" in event.text for event in session.a.events)
    found = session.record()
    assert (found.epoch, found.standing) == (attempt.move.epoch, Standing.OWNED)
    assert other(session).journal.node == found.owner
    session.settle()
    session.check()


def test_a_register_that_is_away_refuses_commit(ready: Any) -> None:
    session, attempt = ready
    node = other(session)
    assert attempt.hand(node.journal.node)
    session.script.faults.append(Fault("b", "before a reading", "disk"))
    with pytest.raises(PeerRefused, match="does not say who owns it"):
        node.answers.commit(attempt.move, 0.0)
    assert not session.world.running
    for _ in range(AWAY):
        with pytest.raises(PeerRefused):
            node.answers.commit(attempt.move, 0.0)
    assert node.answers.commit(attempt.move, 0.0) is OwnershipState.OWNED


def test_a_renewal_does_not_resume_what_stops_for_its_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = LeasedSession(tmp_path, [])
    session.begin()
    node, program = session.a.node, owned(session, "a")
    leased = session.held["a"]
    assert node and isinstance(leased, LeasedMovable)
    inner = LeavingCounter.round

    def late(self: LeavingCounter, stays: Any, timeout: float) -> bool:
        stands = inner(self, stays, timeout)
        if stands:  # the lease was not renewed in time, and is now
            with leased.keeper.lock:
                program.apply(OwnerEvent.TWO_THIRDS)
            assert leased.keeper.renew() and program.state is OwnerState.RUNNING
        return stands

    monkeypatch.setattr(LeavingCounter, "round", late)
    assert node.source.move(leased)
    assert session.world.running == {session.program: "b"} and session.world.starts == 2
    session.close()


def test_a_lease_that_ends_during_the_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is paused and does not move; it goes on when the lease is renewed."""
    session = LeasedSession(tmp_path, [])
    session.begin()
    node, program = session.a.node, owned(session, "a")
    leased = session.held["a"]
    assert node and isinstance(leased, LeasedMovable)
    inner = LeavingCounter.round

    def ends(self: LeavingCounter, stays: Any, timeout: float) -> bool:
        with leased.keeper.lock:
            if program.state is OwnerState.RUNNING:
                program.apply(OwnerEvent.DEADLINE)
        return inner(self, stays, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(LeavingCounter, "round", ends)
        patch.setattr(leased.keeper, "renew", lambda *more: False)
        assert node.source.move(leased) is None
    assert "has not renewed its lease" in session.a.events[-1].text
    assert not session.world.running and program.state is OwnerState.ASKING
    leased.keeper.keep()
    assert session.world.running == {session.program: "a"}
    assert node.source.move(leased)
    session.close()


def test_another_takes_the_program_over(tmp_path: Path) -> None:
    """An end that has lost its lease says so, runs nothing, and ends nothing elsewhere."""
    session = LeasedSession(tmp_path, [])
    session.begin()
    leased = session.held["a"]
    assert isinstance(leased, LeasedMovable) and session.a.node
    found = session.record()
    backend = SqliteBackend(LeasedEnd.register)
    taken = found.next(owner=b"z" * 16, epoch=2, attempt=b"t" * 16)
    assert backend.compare_and_swap(session.program, encode_record(found), encode_record(taken))
    leased.keeper.renew()
    assert not session.world.running
    ending = leased.wait(0)
    assert ending and ending.kind == LEASE_LOST and "owns it in epoch 2" in ending.sentence
    finish = session.a.node._finish(leased, ending)
    assert finish.ending.code == EXIT_MIGRATION
    record = session.a.node.journal.get(session.program)
    assert record and record.standing is OwnershipState.LOST
    assert session.record() == taken
    backend.close()
    session.close()


def test_messages_of_an_older_epoch_are_dropped(ready: Any) -> None:
    """b has handed the program on, and was frozen: what it says then has no effect at a."""
    session, attempt = ready
    node, a = other(session), session.a.node
    assert a and attempt.hand(node.journal.node)
    node.answers.commit(attempt.move, 0.0)
    a.destination.host.show = lambda *more: 0
    assert a.answers.output(attempt.move, "stdout", 0, b"x") == 0
    found = session.record()
    backend = SqliteBackend(LeasedEnd.register)
    taken = found.next(owner=b"z" * 16, epoch=3, attempt=b"t" * 16)
    assert backend.compare_and_swap(session.program, encode_record(found), encode_record(taken))
    backend.close()
    with pytest.raises(PeerRefused, match="does not end in epoch 2"):
        a.answers.ended(session.program, 2, Ending("exited", 0))
    assert a.journal.get(session.program)
    # An end that was started again asks the register, and knows the newest epoch from then on.
    a.source.decisions.gate._largest.clear()
    with pytest.raises(PeerRefused, match="epoch 3 had begun"):
        a.answers.output(attempt.move, "stdout", 1, b"x")


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "another lease": ({"lease": 59_000}, "nobody else can hand it over"),
    "another owner": ({"owner": b"z" * 16, "epoch": 2, "attempt": b"t" * 16}, "node 7a7a7a7a"),
    "it has ended": ({"standing": Standing.ENDED}, "it has ended"),
}


@pytest.mark.parametrize("case", [*CASES, "no record", "no register", "away"])
def test_an_offer_that_the_register_contradicts(tmp_path: Path, case: str) -> None:
    session = LeasedSession(tmp_path, [])
    session.begin()
    a, b = session.a.node, session.b.node
    assert a and b
    backend, found = SqliteBackend(LeasedEnd.register), session.record()
    words = "does not have the program"
    if case in CASES:
        changes, words = CASES[case]
        assert backend.compare_and_swap(
            session.program, encode_record(found), encode_record(found.next(**changes))
        )
    elif case == "no record":
        backend._database.execute("DELETE FROM records")
    elif case == "away":
        session.script.faults.append(Fault("b", "before a reading", "disk"))
        words = "does not say who owns it"
    else:
        b.destination.decisions = JournalDecisions(b.journal)
        words = "has no register"
    backend.close()
    assert a.source.move(session.held["a"]) is None
    assert words in str(session.a.events[-1].values["message"])
    assert session.world.running == {session.program: "a"}
    session.close()


@pytest.mark.parametrize("count", [40, pytest.param(None, marks=pytest.mark.full)])
def test_the_model_accepts_what_ends_do(
    count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every trace of leased programs that move, with a fault each, is one of the model."""
    told: list[tuple[bytes, str]] = []
    apply = LeasedProgram.apply

    def noted(self: LeasedProgram, event: OwnerEvent) -> None:
        apply(self, event)
        told.append((self.node, event.name))

    again = LeasedProgram.received_before

    def received_before(self: LeasedProgram, attempt: bytes, epoch: int) -> None:
        again(self, attempt, epoch)
        told.pop()  # it was RECEIVED all the time
        before = [at for at, (node, name) in enumerate(told) if node == self.node]
        crash = max(at for at in before if told[at][1] == "CRASH")
        since = [told[at][1] for at in before if at < crash and told[at][1] != "CRASH"]
        if since[-1:] != ["RECEIVE"]:  # it was killed when its journal, but nobody else, knew it
            told.insert(crash, (self.node, "RECEIVE"))

    killed = LeasedEnd.kill

    def kill(self: LeasedEnd) -> None:
        assert self.node
        told.append((self.node.journal.node, "CRASH"))
        killed(self)

    monkeypatch.setattr(LeasedProgram, "apply", noted)
    monkeypatch.setattr(LeasedProgram, "received_before", received_before)
    monkeypatch.setattr(LeasedEnd, "kill", kill)
    faults = list(leased_faults(attempt(tmp_path)))
    chosen = faults if count is None else random.Random(3).sample(faults, count)
    seen: set[str] = set()
    for fault in (None, *chosen):
        told.clear()
        attempt(tmp_path, *([fault] if fault else []))
        nodes = list(dict.fromkeys(node for node, _ in told))
        events = [(nodes.index(node), name) for node, name in told]
        wrong = accepts(events)
        assert not wrong, f"{fault}: {wrong}"
        seen |= {name for _, name in events}
    move = [(0, "CREATE"), (0, "GRANTED"), (0, "OFFER"), (1, "RECEIVE"), (0, "READY")]
    assert accepts([*move, (1, "DECIDED"), (0, "MOVED")]) == ""  # the record was read early
    assert accepts([*move[:4], (1, "DECIDED")]), "nobody has asked for the swap"
    assert accepts([*move, (0, "GIVE_UP")]), "an owner that has asked gives up"
    missing = {"CREATE", "GRANTED", "OFFER", "READY", "MOVED", "RECEIVE", "DECIDED"} - seen
    assert not missing
