"""Whatever fails at whatever point of two moves, a program never runs twice, and runs once when all
ends are up again, unless an end was killed that owned it.

The points are found by running: first without a fault, then with each fault at each point that was
passed, then with a second fault at each point passed after the first.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.migrate.counter import CODE, Counter, World
from tests.migrate.ends import End, FailingCounter, Fault, Killed, Script
from wasmsr.migrate.decisions.journal_decision import JournalDecision
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import OwnershipState
from wasmsr.migrate.rounds.departure import Departure


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote, synced or not; so these tests may be fast."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Session:
    """Two ends and one program that begins on end a and moves to b and back, with faults."""

    end_type: type[End] = End

    def __init__(self, folder: Path, faults: list[Fault], durable: str = "ready") -> None:
        self.world = World()
        self.script = Script(faults)
        self.a = self.end_type("a", "b", folder / "a", self.world, self.script)
        self.b = self.end_type("b", "a", folder / "b", self.world, self.script)
        self.ends = {"a": self.a, "b": self.b}
        for end in self.ends.values():
            end.others = self.ends
            end.durable = durable
            end.open()
        self.program = bytes(range(16))
        self.held: dict[str, MovableProgram] = {}

    def run(self) -> None:
        """The whole session: start, there, back, and the end of the program."""
        self.begin()
        for _ in range(2):
            self.move()
            self.settle()
            self.check()
        self.end()

    def begin(self) -> None:
        counter = FailingCounter(self.world, "a", program=self.program)
        counter.owner = self.a
        node = self.a.node
        assert node
        self.script.quiet = True
        node.source.own(counter)
        counter.start()
        self.script.quiet = False
        self.held["a"] = counter

    def plain(self, program: MovableProgram) -> Counter:
        """The counter that a program is, or has."""
        assert isinstance(program, Counter)
        return program

    def runner(self) -> tuple[End, MovableProgram] | None:
        """The end on which the program runs, and the program."""
        for end in self.ends.values():
            if end.arrived:
                self.held[end.name] = end.arrived
            counter = self.held.get(end.name)
            if self.world.running.get(self.program) == end.name:
                assert counter
                return end, counter
        return None

    def move(self) -> None:
        """Moves the program from where it runs, twice if the first time came to nothing."""
        for _ in range(2):
            found = self.runner()
            if not found:
                return
            end, counter = found
            counter.wait(0)
            kills = end.kills
            assert end.node
            end.node.news.take()
            try:
                if end.node.source.move(counter):
                    counter.close()
                    return
            except Killed as killed:
                assert killed.end.kills > (kills if killed.end is end else 0)
            self.settle()

    def settle(self) -> None:
        """Starts dead ends again and lets ends that hold a program ask."""
        for _ in range(6):
            for end in self.ends.values():
                try:
                    end.revive()
                    if end.node and end.node.destination.ready:
                        end.node._ask_source(end.node.destination.ready)
                except Killed:
                    continue

    def check(self) -> None:
        """One copy runs, or an end was killed that owned it; nobody is in doubt any more."""
        found = self.runner()
        assert found or self.world.excused, "nobody runs it, and nobody was killed who owned it"
        for end in self.ends.values():
            assert end.node
            record = end.node.journal.get(self.program)
            if record:
                assert record.incoming is None
                # OFFERED it may still say if the disk failed while the attempt was taken back.
                owner = record.standing in (OwnershipState.OWNED, OwnershipState.OFFERED)
                assert owner == bool(found and found[0] is end), f"{end.name} says {record}"

    def end(self) -> None:
        """The program ends; both ends hear of it and keep nothing."""
        found = self.runner()
        if not found:
            return
        end, counter = found
        plain = self.plain(counter)
        plain.limit = plain.number + 1
        ending = counter.wait(0)
        assert end.node
        assert ending
        with suppress(Killed):
            end.node._finish(counter, ending)
        self.settle()
        assert not self.world.running
        if not self.script.faults:
            assert ending.code == CODE
            for each in self.ends.values():
                assert each.node
                assert not each.node.journal.records()
                left = {path.name for path in each.node.journal.folder.iterdir()}
                assert left == {"lock", "node"}

    def close(self) -> None:
        for end in self.ends.values():
            if end.node:
                end.node.journal.close()


def attempt(folder: Path, *faults: Fault, durable: str = "ready") -> list[tuple[str, str]]:
    """Runs a session in a new folder; returns the points that it passed."""
    number = sum(1 for _ in folder.iterdir())
    session = Session(folder / str(number), list(faults), durable)
    try:
        session.run()
    finally:
        session.close()
    return session.script.passed


def faults_of(passed: list[tuple[str, str]], start: int = 0) -> Iterator[Fault]:
    """Every fault that is possible at the points from the one numbered `start` on."""
    for index, (end, point) in enumerate(passed):
        if index < start:
            continue
        time = passed[: index + 1].count((end, point))
        yield Fault(end, point, "kill", time)
        if "on disk" in point:
            yield Fault(end, point, "disk", time)
        elif "start" not in point and "pause" not in point and "record" not in point:
            yield Fault(end, point, "lose", time)


def test_without_faults(tmp_path: Path) -> None:
    passed = attempt(tmp_path)
    moves = [point for point in passed if point[1] == "before HANDED is on disk"]
    assert moves == [("a", "before HANDED is on disk"), ("b", "before HANDED is on disk")]
    # What the whole protocol is about: the decision is on disk before anybody hears of it, and
    # nobody runs before he has journaled that he owns.
    order = [
        ("a", "before OFFERED is on disk"),
        ("a", "before pause"),
        ("b", "after READY is on disk"),
        ("a", "after HANDED is on disk"),
        ("a", "before Commit"),
        ("b", "after OWNED is on disk"),
        ("b", "before start"),
        ("a", "after Commit"),
    ]
    assert [passed.index(point) for point in order] == sorted(map(passed.index, order))


@pytest.mark.parametrize("durable", ["ready", "none"])
def test_each_fault(tmp_path: Path, durable: str) -> None:
    faults = list(faults_of(attempt(tmp_path, durable=durable)))
    assert len(faults) > 100
    for fault in faults:
        try:
            attempt(tmp_path, fault, durable=durable)
        except BaseException as error:
            raise AssertionError(f"{fault}: {error!r}") from error


PARTS = 8
"""The pairs are tested in so many parts, for several processes at once."""

EACH = {"ready": 4, "none": 16}
"""Of how many pairs one is tested here; `fault_pairs.py` runs all of them."""


def pairs(folder: Path, durable: str = "ready") -> Iterator[tuple[Fault, Fault]]:
    """Every pair of faults where the second is at a point passed after the first."""
    for first in faults_of(attempt(folder, durable=durable)):
        for second in second_faults(folder, first, durable):
            yield first, second


def second_faults(folder: Path, first: Fault, durable: str) -> Iterator[Fault]:
    """Every fault at a point that is passed after the one of a first fault."""
    passed = attempt(folder, first, durable=durable)
    seen = -1
    for _ in range(first.time):
        seen = passed.index((first.end, first.point), seen + 1)
    yield from faults_of(passed, seen + 1)


@pytest.mark.full
@pytest.mark.parametrize(("durable", "count"), [("ready", 300), ("none", 150)])
def test_some_pairs_of_faults(tmp_path: Path, durable: str, count: int) -> None:
    chosen = random.Random(1).sample(list(pairs(tmp_path, durable)), count)
    for first, second in chosen:
        try:
            attempt(tmp_path, first, second, durable=durable)
        except BaseException as error:
            raise AssertionError(f"{first}, {second}: {error!r}") from error


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("durable", ["ready", "none"])
@pytest.mark.parametrize("part", range(PARTS))
def test_many_pairs_of_faults(tmp_path: Path, part: int, durable: str) -> None:
    chosen = list(pairs(tmp_path, durable))[:: EACH[durable]]
    random.Random(2).shuffle(chosen)  # parts take as long as each other
    for first, second in chosen[part::PARTS]:
        try:
            attempt(tmp_path, first, second, durable=durable)
        except BaseException as error:
            raise AssertionError(f"{first}, {second}: {error!r}") from error


def test_a_kill_releases_the_folder(tmp_path: Path) -> None:
    session = Session(tmp_path, [])
    session.a.kill()
    Journal(tmp_path / "a" / "journal").close()
    session.close()


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", ["leave", "send", "before HANDED", "after HANDED"])
def test_a_fault_of_the_code_leaves_nothing_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, kind: type[BaseException]
) -> None:
    """What nobody expects is raised; before the decision the program runs on, after it it does not
    run here."""
    session = Session(tmp_path, [])
    session.begin()
    node, other = session.a.node, session.b.node
    assert node and other

    def fail(before: Callable[..., object]) -> Callable[..., object]:
        def failing(*given: object) -> object:
            before(*given)
            raise kind("as the test wants it")

        return failing

    def nothing(*given: object) -> None:
        pass

    if after == "leave":
        monkeypatch.setattr(FailingCounter, "leave", fail(FailingCounter.leave))
    elif after == "send":
        monkeypatch.setattr(Departure, "send", fail(Departure.send))
    else:
        decide = JournalDecision.hand if after == "after HANDED" else nothing
        monkeypatch.setattr(JournalDecision, "hand", fail(decide))
    with pytest.raises(kind, match="as the test wants it"):
        node.source.move(session.held["a"])
    record = node.journal.get(session.program)
    assert record
    if after == "after HANDED":
        assert record.standing is OwnershipState.HANDED and not session.world.running
    else:
        assert record.standing is OwnershipState.OWNED
        assert session.world.running == {session.program: "a"}
        assert not other.destination.ready and not other.journal.records()
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    session.settle()
    session.move()
    session.check()
    session.close()
