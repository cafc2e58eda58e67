"""How many programs an end takes, and what one arrival has to do with another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import MODULE, Counter, CounterHost, World
from tests.migrate.test_peers import Willing
from wasmsr.errors import MigrationError
from wasmsr.migrate.ends.programs_end import ProgramsEnd
from wasmsr.migrate.events import Event
from wasmsr.migrate.files.modules import LARGEST, Modules
from wasmsr.migrate.handover.arrivals import MOST_PROGRAMS, ArrivalState, EndLimits
from wasmsr.migrate.handover.attempt import STEPS, MoveAttempt, MoveState
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import (
    Ending,
    ModuleName,
    Move,
    Offer,
    OwnershipState,
    PeerRefused,
    Reason,
    Receipt,
    RoundHead,
)

TWO = EndLimits(3, 2)
"""Three programs, and two of them arrive at a time."""


class Holder:
    """An end of several programs, and what comes to it."""

    def __init__(self, folder: Path, limits: EndLimits) -> None:
        self.world = World()
        self.events: list[Event] = []
        self.arrived: list[MovableProgram] = []
        self.ended: list[bytes] = []
        peer: Any = Willing("h:2")
        self.peer = peer
        self.end = ProgramsEnd(
            Journal(folder / "journal"),
            Modules(folder / "modules"),
            CounterHost(self.world, "x"),
            Peers(peer),
            self.events.append,
            limits=limits,
            arrived=self.arrived.append,
            ended=lambda program, ending: self.ended.append(program),
        )

    def offer(self, number: int, attempt: int = 1) -> Offer:
        counter = Counter(World(), "y", program=bytes([number]) * 16)
        move = Move(counter.id, 2, bytes([attempt]) * 16)
        return Offer(self.peer.node, move, counter.describe())

    def prepare(self, offer: Offer) -> None:
        if self.end.answers.prepare(offer).missing:
            upload = self.end.answers.upload(offer.description.modules[0], offer.move)
            upload.write(MODULE)
            upload.finish()

    def begin(self, number: int, attempt: int = 1) -> tuple[Any, Move]:
        offer = self.offer(number, attempt)
        self.prepare(offer)
        return self.end.answers.begin(offer.move), offer.move

    def finish(self, reception: Any, number: int) -> None:
        counter = Counter(World(), "y", program=bytes([number]) * 16)
        state = b"".join(map(bytes, counter.pieces()))
        reception.begin(RoundHead(1, (1,), last=True))
        reception.write(state)
        reception.finish(Receipt(len(state), sha256(state).digest()))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    made = Holder(tmp_path, TWO)
    yield made
    made.end.close()
    made.end.journal.close()


@pytest.mark.parametrize("limits", [(0, 0), (1, 0), (1, 2), (MOST_PROGRAMS + 1, 1)])
def test_a_limit_that_cannot_be(limits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="an end takes 1 to"):
        EndLimits(*limits)


def test_so_many_arrive_at_a_time(holder: Holder) -> None:
    (first, _), (second, _) = holder.begin(1), holder.begin(2)
    with pytest.raises(PeerRefused, match="receiving 2 programs") as caught:
        holder.prepare(holder.offer(3))
    assert caught.value.reason is Reason.BUSY
    holder.finish(first, 1)
    holder.prepare(holder.offer(3))  # the first one waits for its decision, and two may arrive
    second.cancel()


def test_so_many_programs_are_here(holder: Holder) -> None:
    for number in (1, 2):
        reception, move = holder.begin(number)
        holder.finish(reception, number)
        assert holder.end.answers.commit(move, 0.0) is OwnershipState.OWNED
    assert [one.id[0] for one in holder.arrived] == [1, 2]
    holder.end.start(Counter(holder.world, "x"))
    with pytest.raises(PeerRefused, match="3 programs, and takes no more") as caught:
        holder.prepare(holder.offer(3))
    assert caught.value.reason is Reason.BUSY
    with pytest.raises(PeerRefused, match="takes no more"):
        holder.end.start(Counter(holder.world, "x"))
    first = holder.arrived[0]
    assert isinstance(first, Counter)
    first.limit = 1
    ending = first.wait(0)
    assert ending
    holder.end.finish(first.id, ending)
    assert holder.peer.asked[-1] == "ended" and holder.end.journal.get(first.id) is None
    holder.begin(3)[0].cancel()


def test_an_offer_holds_no_place(holder: Holder) -> None:
    """What counts is checked again when the state comes."""
    offers = [holder.offer(number) for number in (1, 2, 3)]
    for offer in offers:
        holder.prepare(offer)
    receptions = [holder.end.answers.begin(offer.move) for offer in offers[:2]]
    with pytest.raises(PeerRefused, match="receiving 2 programs"):
        holder.end.answers.begin(offers[2].move)
    receptions[0].cancel()
    holder.end.answers.begin(offers[2].move).cancel()
    receptions[1].cancel()


def test_a_later_attempt_replaces_only_its_own_program(holder: Holder) -> None:
    (first, old), (second, _) = holder.begin(1), holder.begin(2)
    again, new = holder.begin(1, attempt=2)
    with pytest.raises(PeerRefused, match="given this attempt up"):
        first.check()
    second.check()
    assert not holder.end.destination.receiving(old) and holder.end.destination.receiving(new)
    assert holder.end.answers.abort(old) is OwnershipState.UNKNOWN
    again.check()  # the older attempt is the one that was given up
    holder.finish(again, 1)
    holder.finish(second, 2)
    assert [ready.move.program[0] for ready in holder.end.destination.all_ready()] == [1, 2]


def test_a_ready_program_does_not_keep_others(holder: Holder) -> None:
    reception, move = holder.begin(1)
    holder.finish(reception, 1)
    with pytest.raises(PeerRefused, match="earlier attempt"):
        holder.prepare(holder.offer(1, attempt=2))
    other, other_move = holder.begin(2)
    holder.finish(other, 2)
    assert holder.end.answers.commit(other_move, 0.0) is OwnershipState.OWNED
    holder.end.destination.park(move.program)
    assert holder.end.destination.parked() == [(move, "h:2")]
    assert holder.end.answers.commit(move, 0.0) is OwnershipState.OWNED
    assert set(holder.world.running) == {bytes([1]) * 16, bytes([2]) * 16}


def test_nobody_waits_for_a_record_of_another(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes long for one program; another one arrives and runs meanwhile."""
    slow, _ = holder.begin(1)
    go, waits = threading.Event(), threading.Event()
    replace = Journal._replace

    def late(self: Journal, path: Path, line: bytes) -> None:
        if path.name.startswith("01"):
            waits.set()
            assert go.wait(30)
        replace(self, path, line)

    monkeypatch.setattr(Journal, "_replace", late)
    thread = threading.Thread(target=holder.finish, args=(slow, 1))
    thread.start()
    assert waits.wait(30)
    fast, move = holder.begin(2)
    holder.finish(fast, 2)
    assert holder.end.answers.commit(move, 0.0) is OwnershipState.OWNED
    assert not go.is_set() and thread.is_alive()
    go.set()
    thread.join()
    assert [ready.move.program[0] for ready in holder.end.destination.all_ready()] == [1]


def test_uploads_of_several_offers(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each offer has its own; all together are at most as large as the largest module."""
    offers = [holder.offer(1), holder.offer(2)]
    for offer in offers:
        holder.end.answers.prepare(offer)
    name = offers[0].description.modules[0]
    uploads = [holder.end.answers.upload(name, offer.move) for offer in offers]
    for upload in uploads:
        upload.write(MODULE)
    monkeypatch.setattr("wasmsr.migrate.handover.uploads.LARGEST", 2 * len(MODULE))
    third = holder.offer(3)
    holder.end.answers.prepare(third)
    with pytest.raises(PeerRefused, match="of other modules") as caught:
        holder.end.answers.upload(name, third.move)
    assert caught.value.reason is Reason.BUSY
    uploads[0].finish()
    uploads[1].close()
    holder.end.answers.upload(name, third.move).close()
    with pytest.raises(PeerRefused, match="not asked for"):
        holder.end.answers.upload(ModuleName(b"d" * 32, LARGEST), third.move)
    with pytest.raises(PeerRefused, match="not asked for"):
        holder.end.answers.upload(name, Move(third.move.program, 2, b"x" * 16))


def test_a_program_is_moved_once_at_a_time(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Counter(holder.world, "x")
    holder.end.start(program)
    told: list[MigrationError] = []

    def run(self: MoveAttempt) -> None:
        assert [one.move for one in holder.end.source.moving()] == [self.move]
        with pytest.raises(MigrationError, match="being moved already") as caught:
            holder.end.move(program.id)
        told.append(caught.value)

    with monkeypatch.context() as patch:
        patch.setattr(MoveAttempt, "run", run)
        assert holder.end.move(program.id) is None
    assert told and not holder.end.source.moving()
    assert holder.end.move(program.id) is not None
    with pytest.raises(MigrationError, match="is not here"):
        holder.end.move(program.id)
    assert program.closed and holder.end.programs() == []


def test_only_the_end_of_a_known_program_is_told(holder: Holder) -> None:
    holder.prepare(holder.offer(1))
    holder.end.answers.ended(b"s" * 16, 2, Ending("exited", 0))
    holder.end.answers.ended(bytes([1]) * 16, 1, Ending("exited", 0))
    program = Counter(holder.world, "x")
    holder.end.start(program)
    assert holder.end.move(program.id)
    holder.end.answers.ended(program.id, 2, Ending("exited", 0))
    assert holder.ended == [bytes([1]) * 16, program.id]


def test_the_steps_of_a_move(holder: Holder) -> None:
    """A state machine: what is decided is never given up, and what is over stays so."""
    assert MoveState.GIVEN_UP not in STEPS[MoveState.HANDED]
    assert not STEPS[MoveState.MOVED] and not STEPS[MoveState.GIVEN_UP]
    program = Counter(holder.world, "x")
    holder.end.start(program)
    attempt = holder.end.source.attempt(program)
    with pytest.raises(AssertionError, match="is new, and cannot be handed"):
        attempt._step(MoveState.HANDED)
    arriving = holder.begin(1)[1]
    entry = holder.end.destination.arrivals.get(arriving.program)
    assert entry
    with pytest.raises(AssertionError, match="is receiving"):
        entry.step(ArrivalState.OFFERED)


def test_a_program_that_does_not_start_is_lost_alone(holder: Holder) -> None:
    reception, move = holder.begin(1)
    holder.finish(reception, 1)
    holder.world.running[move.program] = "elsewhere"
    ready = holder.end.destination.ready
    assert ready

    def fails() -> None:
        raise OSError("no thread")

    ready.program.start = fails  # type: ignore[method-assign]
    holder.end.answers.commit(move, 0.0)
    record = holder.end.journal.get(move.program)
    assert record and record.standing is OwnershipState.LOST
    assert not holder.arrived and "cannot be started" in holder.events[-2].text
    other, other_move = holder.begin(2)
    holder.finish(other, 2)
    assert holder.end.answers.commit(other_move, 0.0) is OwnershipState.OWNED
