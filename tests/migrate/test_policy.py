"""One end's decisions, with the other end called directly: refusals, full disks, interrupts."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import CODE, DIGEST, MODULE, Counter, CounterArrival, World
from tests.migrate.ends import Direct, End, FailingCounter, Script
from wasmsr.errors import EXIT_HANDED, MigrationError
from wasmsr.migrate.decisions.journal_decision import journal_handed
from wasmsr.migrate.ends.endpoint import Endpoint
from wasmsr.migrate.ends.news import Told
from wasmsr.migrate.events import Event
from wasmsr.migrate.handover.admission import PARKED
from wasmsr.migrate.handover.arrivals import ArrivalState
from wasmsr.migrate.handover.attempt import say_not_moved
from wasmsr.migrate.journal.journal import Incoming, Record
from wasmsr.migrate.protocol import (
    Description,
    Ending,
    HandedAway,
    InDoubt,
    ModuleName,
    MountName,
    Move,
    Offer,
    OwnershipState,
    PeerLost,
    PeerRefused,
    Reason,
    Refusal,
    Report,
)
from wasmsr.migrate.rounds.departure import Departure
from wasmsr.snapshot.encoding.container import Header


class Two:
    """Two ends and a program that runs on a."""

    def __init__(self, folder: Path) -> None:
        self.world, self.script = World(), Script()
        self.a = End("a", "b", folder / "a", self.world, self.script)
        self.b = End("b", "a", folder / "b", self.world, self.script)
        self.nodes: dict[str, Endpoint] = {}
        for end in (self.a, self.b):
            end.others = {"a": self.a, "b": self.b}
            self.nodes[end.name] = end.open()
        self.program = FailingCounter(self.world, "a")
        self.program.owner = self.a
        self.source.own(self.program)
        self.program.start()

    @property
    def source(self) -> Any:
        return self.nodes["a"].source

    def kinds(self, end: End) -> list[str]:
        return [event.kind for event in end.events if event.kind != "progress"]

    def standing(self, end: str) -> OwnershipState | None:
        record = self.nodes[end].journal.get(self.program.id)
        return record.standing if record else None

    def receive(self) -> Counter:
        counter = self.b.arrived
        assert isinstance(counter, Counter)
        return counter


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    yield made
    for end in (made.a, made.b):
        if end.node:
            end.node.journal.close()


def test_a_move(two: Two) -> None:
    two.program.wait(0)
    moved = two.source.move(two.program)
    assert moved.move.epoch == 2
    assert two.standing("a") is OwnershipState.HANDED
    assert two.standing("b") is OwnershipState.OWNED
    counter = two.receive()
    assert counter.number == 1
    assert counter.id == two.program.id
    assert two.program.ran == 1
    assert two.kinds(two.a) == ["prepared", "round", "moved"]
    assert two.kinds(two.b) == ["arrived"]
    # The module was sent once, and is compiled before the program stops.
    host = two.nodes["b"].destination.host
    assert host.admitted  # type: ignore[attr-defined]
    assert two.nodes["b"].destination.uploads.modules.get(DIGEST) == MODULE
    record = two.nodes["b"].journal.get(two.program.id)
    assert record
    assert Header.decode(two.nodes["b"].journal.path(record.received).read_bytes()[:64]).handed


@pytest.mark.parametrize("reason", list(Reason))
def test_a_refusal_leaves_it_running(two: Two, reason: Reason) -> None:
    host = two.nodes["b"].destination.host
    host.refusal = Refusal(reason, "no such thing here")  # type: ignore[attr-defined]
    assert two.source.move(two.program) is None
    assert two.world.running == {two.program.id: "a"}
    assert two.standing("a") is OwnershipState.OWNED
    assert "no such thing here" in two.a.events[-1].text


def test_a_mount_that_is_missing(two: Two) -> None:
    wanted = Description((ModuleName(DIGEST, len(MODULE)),), mounts=(MountName("/film"),))
    move = two.source.next_move(two.program.id)
    with pytest.raises(PeerRefused, match="/film") as caught:
        two.nodes["b"].answers.prepare(Offer(b"n" * 16, move, wanted))
    assert caught.value.reason is Reason.MOUNT
    assert caught.value.hint == "--dir it"


def test_a_state_that_cannot_be_restored(two: Two) -> None:
    host = two.nodes["b"].destination.host
    host.broken = "its frames are wrong"  # type: ignore[attr-defined]
    assert two.source.move(two.program) is None
    assert "its frames are wrong" in two.a.events[-1].text
    assert two.world.running == {two.program.id: "a"}
    host.broken = ""  # type: ignore[attr-defined]
    assert two.source.move(two.program)


def test_other_bytes_than_were_sent(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Direct._call

    def altered(self: Direct, name: str, act: Any) -> Any:
        if name == "a piece":
            (coming,) = two.nodes["b"].destination.arrivals.all_in(ArrivalState.RECEIVING)
            reception = coming.reception
            assert reception
            return send(self, name, lambda answers: reception.write(b"\0" * 64))
        return send(self, name, act)

    monkeypatch.setattr(Direct, "_call", altered)
    assert two.source.move(two.program) is None
    assert two.world.running == {two.program.id: "a"}
    assert two.standing("b") is None


def test_a_program_that_does_not_stand_still(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailingCounter, "pause", lambda self, timeout: False)
    # It runs on by itself; starting it again would be a fault of ours.
    monkeypatch.setattr(FailingCounter, "start", lambda self: None)
    assert two.source.move(two.program) is None
    assert "did not pause" in two.a.events[-1].text
    assert two.standing("a") is OwnershipState.OWNED


def test_a_program_that_ends_while_it_is_stopped(two: Two) -> None:
    two.program.limit = 1
    two.program.wait(0)
    assert two.source.move(two.program) is None
    assert two.standing("a") is OwnershipState.OWNED
    assert two.standing("b") is None
    assert not two.world.running


def test_interrupted_after_the_decision(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    two.source.stop = stop

    def lost(self: Direct, move: Move, stopped: float) -> OwnershipState:
        stop.set()
        raise PeerLost("nobody there")

    with monkeypatch.context() as patch:
        patch.setattr(Direct, "commit", lost)
        with pytest.raises(HandedAway) as caught:
            two.source.move(two.program)
    assert caught.value.exit_code == EXIT_HANDED
    assert caught.value.owner == "destination"
    assert Header.decode(Path(caught.value.file).read_bytes()[:64]).handed
    assert caught.value.file in str(caught.value)
    assert two.standing("a") is OwnershipState.HANDED
    assert two.program.id not in two.world.running
    # The receiver has not heard the decision, so it waits; when it asks it runs.
    node = two.nodes["b"]
    assert node.destination.ready
    assert two.standing("b") is OwnershipState.UNKNOWN
    node._ask_source(node.destination.ready)
    assert two.world.running == {two.program.id: "b"}


def test_a_ready_end_does_not_run_while_its_source_is_away(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: Direct, *arguments: object) -> None:
        raise PeerLost("nobody there")

    stop = threading.Event()
    stop.set()
    two.source.stop = stop
    send = Departure.send

    def sent(departure: Departure, answer: Any) -> Any:
        """The user interrupts, and the peer is away, when it has said READY."""
        stop.clear()
        receipt = send(departure, answer)
        stop.set()
        for name in ("commit", "status", "abort"):
            monkeypatch.setattr(Direct, name, lost)
        return receipt

    monkeypatch.setattr(Departure, "send", sent)
    with pytest.raises(HandedAway):
        two.source.move(two.program)
    node = two.nodes["b"]
    assert node.destination.ready
    node._ask_source(node.destination.ready)
    assert not two.world.running
    assert not node.destination.retire()
    node.stop = stop
    with pytest.raises(InDoubt) as caught:
        node._await()
    assert caught.value.exit_code == EXIT_HANDED
    # It refuses whatever else is offered meanwhile.
    with pytest.raises(PeerRefused) as refusal:
        node.answers.prepare(
            Offer(b"n" * 16, Move(b"q" * 16, 2, b"t" * 16), two.program.describe())
        )
    assert refusal.value.reason is Reason.BUSY


def test_commit_may_be_repeated(two: Two) -> None:
    moved = two.source.move(two.program)
    starts = two.world.starts
    for _ in range(3):
        assert two.nodes["b"].answers.commit(moved.move, 0.0) is OwnershipState.OWNED
    assert two.world.starts == starts


def test_commit_of_another_attempt_starts_nothing(two: Two) -> None:
    other = Move(two.program.id, 2, b"x" * 16)
    assert two.nodes["b"].answers.commit(other, 0.0) is OwnershipState.UNKNOWN
    assert two.world.running == {two.program.id: "a"}


def test_abort_of_what_is_owned_takes_nothing_back(two: Two) -> None:
    moved = two.source.move(two.program)
    assert two.nodes["b"].answers.abort(moved.move) is OwnershipState.OWNED
    assert two.world.running == {two.program.id: "b"}


@pytest.mark.parametrize("epoch", [1, 2])
def test_who_was_deposed_cannot_hand_it_over(two: Two, epoch: int) -> None:
    """b owned the program in epoch 2 and handed it on in 3; an owner of 1 or 2 is none any more."""
    assert two.source.move(two.program)
    counter = two.receive()
    two.nodes["b"].news.take()
    assert two.nodes["b"].source.move(counter)
    offer = Offer(b"n" * 16, Move(two.program.id, epoch + 1, b"t" * 16), counter.describe())
    with pytest.raises(PeerRefused) as caught:
        two.nodes["b"].answers.prepare(offer)
    assert caught.value.reason is Reason.OWNERSHIP


def test_an_end_with_a_program_takes_no_other(two: Two) -> None:
    offer = Offer(b"n" * 16, Move(b"q" * 16, 2, b"t" * 16), two.program.describe())
    with pytest.raises(PeerRefused) as caught:
        two.nodes["a"].answers.prepare(offer)
    assert caught.value.reason is Reason.BUSY


def test_the_peer_is_this_very_end(two: Two) -> None:
    node = two.nodes["b"]
    offer = Offer(node.journal.node, Move(b"q" * 16, 2, b"t" * 16), two.program.describe())
    with pytest.raises(PeerRefused) as caught:
        node.answers.prepare(offer)
    assert caught.value.reason is Reason.SELF


def test_a_transfer_needs_its_offer(two: Two) -> None:
    with pytest.raises(PeerRefused):
        two.nodes["b"].answers.begin(Move(two.program.id, 2, b"t" * 16))


def test_an_end_that_ends_takes_nothing(two: Two) -> None:
    assert two.nodes["b"].destination.retire()
    assert two.source.move(two.program) is None
    assert "about to end" in two.a.events[-1].text


def test_a_module_that_is_not_what_it_should_be(two: Two) -> None:
    node = two.nodes["b"]
    move = Move(two.program.id, 2, b"t" * 16)
    offer = Offer(b"n" * 16, move, two.program.describe())
    assert node.answers.prepare(offer).missing == (DIGEST,)
    upload = node.answers.upload(ModuleName(DIGEST, len(MODULE)))
    upload.write(MODULE[:-1] + b"x")
    with pytest.raises(PeerRefused, match="digest"):
        upload.finish()
    with pytest.raises(PeerRefused, match="longer"):
        node.answers.upload(ModuleName(DIGEST, len(MODULE))).write(MODULE + b"x")
    with pytest.raises(PeerRefused, match="not asked for"):
        node.answers.upload(ModuleName(b"d" * 32, 5))
    assert node.answers.prepare(offer).missing == (DIGEST,)


def test_one_upload_at_a_time(two: Two) -> None:
    """Each is held in memory; a peer that begins seven has room for one."""
    node = two.nodes["b"]
    offer = Offer(b"n" * 16, Move(two.program.id, 2, b"t" * 16), two.program.describe())
    node.answers.prepare(offer)
    name = ModuleName(DIGEST, len(MODULE))
    uploads = [node.answers.upload(name) for _ in range(7)]
    for upload in uploads[:-1]:
        with pytest.raises(PeerRefused, match="a later upload"):
            upload.write(MODULE)
        with pytest.raises(PeerRefused, match="a later upload"):
            upload.finish()
    uploads[-1].write(MODULE)
    uploads[-1].finish()
    assert node.answers.prepare(offer).missing == ()


@pytest.mark.parametrize("size", [1 << 61, (1 << 29) + 1])
def test_a_module_that_is_announced_too_large(two: Two, size: int) -> None:
    node = two.nodes["b"]
    described = replace(two.program.describe(), modules=(ModuleName(b"d" * 32, size),))
    with pytest.raises(PeerRefused) as caught:
        node.answers.prepare(Offer(b"n" * 16, Move(two.program.id, 2, b"t" * 16), described))
    assert caught.value.reason is Reason.LIMIT
    with pytest.raises(PeerRefused, match="not asked for"):
        node.answers.upload(ModuleName(b"d" * 32, size))


def test_the_end_is_told(two: Two) -> None:
    two.source.move(two.program)
    counter = two.receive()
    counter.limit = 1
    ending = counter.wait(0)
    assert ending
    two.nodes["a"].news.session[counter.id] = "end-b"
    finish = two.nodes["b"]._finish(counter, ending)
    assert finish.here
    assert finish.ending.code == CODE
    assert two.nodes["a"].news.told == Told(ending, "end-b")
    assert two.standing("a") is two.standing("b") is None


def test_a_program_that_ends_before_it_was_sent(two: Two) -> None:
    """b was asked whether it would take it, and waits; it must not wait for ever."""
    two.source.prepare(two.program, two.source.next_move(two.program.id))
    two.nodes["b"].answers.ended(b"x" * 16, 1, Ending("exited", 0))
    two.program.limit = 1
    two.program.wait(0)
    ending = two.program.wait(0)
    assert ending
    told: list[Told | None] = [two.nodes["b"].news.told]
    two.nodes["a"]._finish(two.program, ending)
    told.append(two.nodes["b"].news.told)
    assert told == [None, Told(ending, "end-a")]
    assert two.standing("a") is two.standing("b") is None


def test_what_an_older_session_left_ends_nothing(two: Two) -> None:
    """a handed a program away and was started anew; that this one ended clears its record only."""
    two.source.move(two.program)
    two.a.kill()
    node = two.a.open()
    assert two.a.node
    node.recover()
    assert node.journal.get(two.program.id)
    node.answers.ended(two.program.id, 2, Ending("exited", 0))
    assert node.journal.get(two.program.id) is None
    assert node.news.told is None


def test_what_an_older_session_lost_ends_nothing(two: Two) -> None:
    two.source.move(two.program)
    two.b.kill()
    two.b.open().recover()
    record = two.nodes["a"].journal.get(two.program.id)
    assert record
    assert not two.nodes["a"].away.ask_about(record, silent=False)
    assert two.nodes["a"].away.lost is None
    assert two.a.events[-1].kind == "lost"
    assert two.standing("a") is OwnershipState.LOST


def test_a_full_disk_at_either_end(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("pages", "finish", "sync"):
        with monkeypatch.context() as patch:
            patch.setattr(CounterArrival, step, full)
            assert two.source.move(two.program) is None
        assert "No space left" in str(two.a.events[-1].values["message"])
        assert two.world.running == {two.program.id: "a"}
        for end in (two.a, two.b):
            assert not list(end.folder.glob("journal/*.part"))
            assert not list(end.folder.glob("journal/*-*"))
    assert two.source.move(two.program)


def test_nobody_ends_a_program_that_is_owned_here(two: Two) -> None:
    with pytest.raises(PeerRefused) as caught:
        two.nodes["a"].answers.ended(two.program.id, 1, Ending("exited", 0))
    assert caught.value.reason is Reason.OWNERSHIP
    two.nodes["a"].answers.ended(b"unknown program.", 1, Ending("exited", 0))


def test_a_peer_that_stays_away(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.migrate.ends.contact.CONTACT_SECONDS", 0.0)
    two.b.kill()
    with pytest.raises(MigrationError, match="gave up") as caught:
        two.nodes["a"]._begin(FailingCounter(two.world, "a"))
    assert caught.value.exit_code == 124


def test_a_stranger_ends_no_end(two: Two) -> None:
    """A caller of another version, or without the key, is refused; that is said once in a while."""
    offer = Offer(b"", Move(b"q" * 16, 2, b"t" * 16), Description(()), 99, "9.9")
    node = two.nodes["b"]
    for _ in range(5):
        with pytest.raises(PeerRefused) as caught:
            node.answers.prepare(offer)
        assert caught.value.reason is Reason.VERSION
        node.answers.refused_calls.key("ipv4:127.0.0.1:1")
        node.answers.ended(b"q" * 16, 3, Ending("exited", 0, "so says a stranger"))
    said = [event for event in two.b.events if event.kind == "refused"]
    assert [event.values["reason"] for event in said] == ["version", "key"]
    assert "version 99 (wasmsr 9.9)" in said[0].text
    node.stop = threading.Event()
    waited: list[object] = []
    thread = threading.Thread(target=lambda: waited.append(node._await()), daemon=True)
    thread.start()
    thread.join(1.0)
    assert thread.is_alive() and not waited
    node.news.tell(b"q" * 16, Ending("exited", 0), "end-a")
    thread.join(20)
    assert waited


def parked(two: Two) -> tuple[Any, Move]:
    """b holds the program READY, a has decided, and its Commit is lost until b has parked it."""
    node = two.nodes["b"]
    attempt = two.source.attempt(two.program)
    answer = two.source.prepare(two.program, attempt.move)
    attempt.offer()
    assert attempt.departure().send(answer).size and node.destination.ready
    node.destination.park()
    journal_handed(two.nodes["a"].journal, attempt.move)
    return node, attempt.move


def test_a_ready_state_that_nobody_decides_about_blocks_nobody(two: Two) -> None:
    node, move = parked(two)
    assert node.destination.ready is None
    assert node.destination.parked() == [(move, "end-a")]
    assert node.answers.status(move) == Report(OwnershipState.READY, move.epoch, move.attempt)
    other = Counter(World(), "a")
    answer = node.answers.prepare(Offer(b"n" * 16, Move(b"o" * 16, 2, b"t" * 16), other.describe()))
    assert answer.node == node.journal.node
    # The same program is not taken twice, and the decision still counts.
    with pytest.raises(PeerRefused, match="earlier attempt"):
        node.answers.prepare(Offer(b"n" * 16, Move(move.program, 2, b"t" * 16), other.describe()))
    assert node.answers.commit(move, 0.1) is OwnershipState.OWNED
    assert two.world.running == {two.program.id: "b"}
    assert node.answers.commit(move, 0.1) is OwnershipState.OWNED


def test_a_parked_state_waits_while_another_program_is_here(two: Two) -> None:
    node, move = parked(two)
    record = Record(b"o" * 16, OwnershipState.OWNED, epoch=2)
    node.journal.put(record)
    with pytest.raises(PeerRefused, match="another program") as caught:
        node.answers.commit(move, 0.1)
    assert caught.value.reason is Reason.BUSY
    assert two.world.running == {}
    node.journal.put(replace(record, standing=OwnershipState.LOST))
    assert node.answers.commit(move, 0.1) is OwnershipState.OWNED


def test_a_parked_state_survives_a_restart_and_can_be_taken_back(two: Two) -> None:
    _, move = parked(two)
    two.b.kill()
    node = two.b.open()
    node.recover()
    assert node.destination.ready is None and node.destination.parked() == [(move, "end-a")]
    assert node.answers.abort(move) is OwnershipState.UNKNOWN
    assert node.destination.parked() == []
    assert not list(node.journal.folder.glob("*.received"))


def test_parked_states_are_few(two: Two) -> None:
    node = two.nodes["b"]
    for number in range(PARKED):
        id = bytes([number]) * 16
        incoming = Incoming(2, id, "a", "x.received", (DIGEST,), parked=True)
        node.journal.put(Record(id, incoming=incoming))
    with pytest.raises(PeerRefused, match="have not decided"):
        two.source.prepare(two.program, two.source.next_move(two.program.id))


def test_a_ready_state_is_parked_after_a_while(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.migrate.ends.endpoint.PARK_SECONDS", 0.2)
    monkeypatch.setattr("wasmsr.migrate.ends.endpoint.SETTLE_SECONDS", 0.05)
    node, attempt = two.nodes["b"], two.source.attempt(two.program)
    move = attempt.move
    answer = two.source.prepare(two.program, move)
    attempt.offer()
    attempt.departure().send(answer)
    node.stop = threading.Event()
    thread = threading.Thread(target=node._await, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not node.destination.parked() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert node.destination.parked() == [(move, "end-a")]
    assert "parked" in two.kinds(two.b)
    node.stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_move_that_is_refused_again_and_again_is_tried_less_often(two: Two) -> None:
    node = two.nodes["a"]
    refusal = PeerRefused(Refusal(Reason.STATE, "a file is not there", "start both in one folder"))
    for _ in range(2):
        say_not_moved(node.source, node.source.next_move(two.program.id), refusal, node.peers.only)
    texts = [event.text for event in two.a.events if event.kind == "not-moved"]
    assert "a file is not there; hint: start both in one folder" in texts[0]
    assert texts[1].startswith("not moved, for the same reason")
    assert node.source.tries(two.program.id).refused
    waits = []
    for refused in (0, 1, 3, 5, 1000):
        node._refused = refused
        two.program.number = two.program.limit  # it has ended: `_watch` does not wait
        node._watch(two.program)
        waits.append(two.a.events[-1].values.get("left", node.every))
    assert waits == [1.0, 2.0, 8.0, 32.0, 60.0]


def test_an_arrival_is_announced_before_the_end_can_be(two: Two) -> None:
    """The thread that hears of the end asks to retire first, which waits."""
    destination = two.nodes["b"].destination
    said: list[str] = []

    def retire() -> None:
        destination.retire()
        said.append("retired")

    def announce(event: Event) -> None:
        if event.kind == "arrived":
            threads.append(threading.Thread(target=retire))
            threads[0].start()
            threads[0].join(0.1)
            said.append("arrived")

    threads: list[threading.Thread] = []
    destination.announce = announce
    two.source.move(two.program)
    threads[0].join(20)
    assert said == ["arrived", "retired"]
