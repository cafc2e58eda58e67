"""The model of the hand-over by journals: whole, each variant without a rule is caught, and the
product's own moves are traces of it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import Counter
from tests.migrate.ends import FailingJournal, Fault
from tests.migrate.test_faults import Session, faults_of
from tests.ownership.model.explore import Search, Violation
from tests.ownership.model.handover import (
    HANDED,
    LOST,
    OFFERED,
    OWNED,
    RUNS,
    UNKNOWN,
    VARIANTS,
    Handover,
    HandoverBounds,
    State,
    end,
)
from wasmsr.migrate.journal.record_file import last_of

STANDING = {
    "UNKNOWN": UNKNOWN, "OWNED": OWNED, "OFFERED": OFFERED, "HANDED": HANDED, "LOST": LOST,
}  # fmt: skip
SLOW = "a destination takes any Commit"
"""A variant whose violation needs three attempts."""
Journals = tuple[tuple[int, ...], ...]


@pytest.mark.parametrize("durable", ["ready", "none"])
def test_all_states_in_small_bounds(durable: str) -> None:
    search = Search(Handover(HandoverBounds(attempts=2, faults=1, durable=durable)), sample=1)
    assert search.run(100_000), "the bounds are larger than they should be"
    assert len(search.seen) > 1_000
    assert search.sampled == search.steps


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("durable", ["ready", "none"])
def test_all_states_in_larger_bounds(durable: str) -> None:
    search = Search(Handover(HandoverBounds(attempts=3, faults=3, durable=durable)), sample=1)
    assert search.run(1_000_000)
    assert len(search.seen) > 20_000


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.full] * (name == SLOW)) for name in VARIANTS],
)
def test_a_variant_without_a_rule(name: str) -> None:
    durable, rule = VARIANTS[name]
    for attempts, faults in ((1, 1), (2, 1), (2, 2), (3, 1)):
        bounds = HandoverBounds(attempts=attempts, faults=faults, durable=durable)
        try:
            Search(Handover(bounds, rule), sample=1).run(30_000)
        except Violation:
            return
    pytest.fail("the model does not notice that this rule is missing")


class Accepted:
    """The states of the model in which the product can be, by what it has written and started."""

    def __init__(self, session: Session) -> None:
        self.model = Handover(HandoverBounds(attempts=7, faults=3, journals_lost=False))
        self.session = session
        self.attempts: dict[str, int] = {"": 0}
        self.possible = {self.model.first()}
        self.seen = journals(self.model.first())
        self.changes = 0

    def look(self) -> None:
        """The journals may have changed."""
        now = tuple(self._journal(name) for name in ("a", "b"))
        if now == self.seen:
            return
        self.changes += 1
        after = {
            found
            for state in self._around()
            for _, wrong, found in self.model.successors(state)
            if not wrong and journals(found) == now
        }
        assert after, f"the model does not go from {self.seen} to {now}"
        self.possible, self.seen = after, now

    def started(self, name: str) -> None:
        """The program has begun to run on an end."""
        self.look()
        place = 1 + ("a", "b").index(name)
        self.possible = {one for one in self._around() if end(one[place]).program == RUNS}
        assert self.possible, f"the model does not run the program on {name}"

    def _around(self) -> set[State]:
        """All states that can be reached while the journals stay the same."""
        found, front = set(self.possible), list(self.possible)
        while front:
            for _, wrong, after in self.model.successors(front.pop()):
                if not wrong and after not in found and journals(after) == self.seen:
                    found.add(after)
                    front.append(after)
        return found

    def _journal(self, name: str) -> tuple[int, ...]:
        folder = self.session.ends[name].folder / "journal"
        path = next(iter(folder.glob("*.json")), None)
        record: dict[str, Any] = {} if path is None else json.loads(last_of(path.read_bytes())[0])
        incoming = record.get("incoming") or {}
        return (
            STANDING[record.get("standing", "UNKNOWN")],
            record.get("epoch", 0),
            self._number(record.get("attempt", "")),
            int(record.get("confirmed", False)),
            self._number(incoming.get("attempt", "")),
        )

    def _number(self, attempt: str) -> int:
        return self.attempts.setdefault(attempt, len(self.attempts))


def journals(state: State) -> Journals:
    """What the journals of a state say."""
    ends = [end(value) for value in state[1:]]
    return tuple((n.standing, n.epoch, n.attempt, n.confirmed, n.ready) for n in ends)


def moved(folder: Path, faults: list[Fault], patch: pytest.MonkeyPatch) -> tuple[Session, int]:
    """Two moves of the product, each step of which the model accepts; how many records changed."""
    folder.mkdir()
    session = Session(folder, faults)
    session.begin()
    watch = Accepted(session)
    start = Counter.start

    def noted(change: Any) -> Any:
        def changing(journal: FailingJournal, what: Any) -> None:
            try:
                change(journal, what)
            finally:
                watch.look()

        return changing

    def noted_start(counter: Counter) -> None:
        start(counter)
        watch.started(counter.end)

    with patch.context() as patched:
        patched.setattr(FailingJournal, "put", noted(FailingJournal.put))
        patched.setattr(FailingJournal, "forget", noted(FailingJournal.forget))
        patched.setattr(Counter, "start", noted_start)
        for _ in range(2):
            session.move()
            session.settle()
            session.check()
        watch.look()
    return session, watch.changes


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote, synced or not; so these tests may be fast."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def test_moves_of_the_product_are_traces_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, changes = moved(tmp_path / "none", [], monkeypatch)
    assert changes == 10  # OFFERED, READY, HANDED, OWNED and confirmed, twice
    found = list(faults_of(session.script.passed))
    for number, fault in enumerate(random.Random(5).sample(found, 3)):
        moved(tmp_path / str(number), [fault], monkeypatch)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_more_moves_with_two_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = moved(tmp_path / "none", [], monkeypatch)
    chance = random.Random(7)
    found = list(faults_of(session.script.passed))
    for number in range(60):
        moved(tmp_path / str(number), chance.sample(found, 2), monkeypatch)


def test_what_the_protocol_forbids_is_no_trace(tmp_path: Path) -> None:
    session = Session(tmp_path, [])
    watch = Accepted(session)
    nothing, first = (UNKNOWN, 0, 0, 0, 0), (OWNED, 1, 0, 0, 0)
    offered, ready = (OFFERED, 1, 1, 0, 0), (UNKNOWN, 0, 0, 0, 1)
    handed, owned = (HANDED, 2, 1, 0, 0), (OWNED, 2, 1, 0, 0)
    wrong = [
        [(first, owned)],
        [(handed, nothing)],
        [(offered, nothing), (handed, nothing)],
        [(offered, nothing), (offered, owned)],
        [(offered, nothing), (offered, ready), (offered, owned)],
        [(offered, nothing), (offered, ready), (handed, ready), (offered, ready)],
        [(offered, nothing), (offered, ready), (handed, ready), (handed, nothing)],
    ]
    for path in wrong:
        watch = Accepted(session)
        for number, now in enumerate(path):
            watch._journal = lambda name, now=now: now[("a", "b").index(name)]  # type: ignore[assignment,method-assign,misc]
            if number < len(path) - 1:
                watch.look()
            else:
                with pytest.raises(AssertionError, match="does not go from"):
                    watch.look()
