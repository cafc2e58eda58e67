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

import pytest

from tests.migrate.counter import Counter
from tests.migrate.ends import End, FailingCounter, Fault, Killed
from tests.migrate.test_faults import Session, faults_of
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.migrate.decisions.register_decision import RegisterDecisions
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import PeerLost
from wasmsr.ownership.failures import RegisterAway
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.record_bytes import decode_record
from wasmsr.ownership.register import Register, Unanswered
from wasmsr.ownership.sqlite_backend import SqliteBackend

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
        if self._at(f"after the swap of a {kind}"):
            raise Unanswered("lost")
        return done

    def programs(self) -> list[bytes]:
        return self.inner.programs()

    def close(self) -> None:
        self.inner.close()


class LeasedEnd(End):
    """An end with a register; a new process of it has a new connection."""

    register: Path
    decisions: RegisterDecisions | None = None

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
        for _ in range(3):
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
