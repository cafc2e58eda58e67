"""Peers by address and by node id; a source moves programs to any of several."""

from __future__ import annotations

import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import DIGEST, MODULE, Counter, CounterHost, World
from wasmsr.errors import MigrationError
from wasmsr.migrate.ends.endpoint import Endpoint
from wasmsr.migrate.ends.news import Told
from wasmsr.migrate.events import Event
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover.admission import check_streams
from wasmsr.migrate.handover.source import MoveSource
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.protocol import (
    Answer,
    Committed,
    Ending,
    Move,
    Offer,
    OwnershipState,
    PeerRefused,
    Reason,
    Receipt,
    Report,
    RoundHead,
    RoundReceipt,
)


class Taking:
    """A transfer that says READY for whatever it gets."""

    waited = 0.0

    def __init__(self, peer: Willing) -> None:
        self._peer = peer
        self._receipt: Receipt | None = None

    def begin(self, head: RoundHead) -> None:
        """Take note of nothing."""

    def pages(self, batch: Any) -> None:
        """Take pages."""

    def end(self, number: int) -> RoundReceipt:
        return RoundReceipt(number)

    def send(self, piece: Any) -> None:
        self._peer.state += bytes(piece)

    def finish(self, receipt: Receipt) -> None:
        self._receipt = receipt

    def ready(self) -> Receipt:
        assert self._receipt is not None
        return self._receipt

    def cancel(self) -> None:
        """Nothing is left to do."""


class Willing:
    """A peer that takes every program."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.node = address.encode().ljust(16, b".")
        self.asked: list[str] = []
        self.state = b""

    def prepare(self, offer: Any) -> Answer:
        self.asked.append("prepare")
        return Answer(self.node)

    def transfer(
        self, move: Move, rest: int = 0, *, memory: bool = False, files: int = 0
    ) -> Taking:
        self.asked.append("transfer")
        return Taking(self)

    def commit(self, move: Move, stopped: float) -> Committed:
        self.asked.append("commit")
        return Committed(OwnershipState.OWNED)

    def status(self, move: Move) -> Report:
        self.asked.append("status")
        return Report(OwnershipState.UNKNOWN)

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        self.asked.append("ended")

    def interrupt(self) -> None:
        """Nothing is under way."""


def peers(*names: str) -> list[Any]:
    return [Willing(name) for name in names]


def test_a_registry_finds_peers() -> None:
    one, two = peers("h:1", "h:2")
    registry = Peers(one)
    assert registry.only is one and registry.at("h:9") is one and registry.named(b"?") is one
    registry.add(two)
    assert len(registry) == 2
    assert registry.at("h:2") is two and registry.at("h:1") is one
    registry.learn(b"n" * 16, two)
    assert registry.named(b"n" * 16) is two
    for ask in (lambda: registry.only, lambda: registry.at("h:9"), lambda: registry.named(b"?")):
        with pytest.raises(MigrationError, match="which of 2 peers"):
            ask()


def test_a_source_moves_to_the_peer_that_is_named(tmp_path: Path) -> None:
    """Two programs go to two peers; the journal knows each one's peer afterwards."""
    one, two = peers("h:1", "h:2")
    events: list[Event] = []
    journal = Journal(tmp_path)
    registry = Peers(one, two)
    source = MoveSource(journal, registry, events.append, threading.Event())
    for peer in (two, one):
        program = Counter(World(), "a")
        source.own(program, peer)
        program.start()
        assert source.move(program, peer) is not None
        assert peer.asked == ["prepare", *["status"] * 3, "transfer", "commit"] and peer.state
        record = journal.get(program.id)
        assert record is not None and record.peer == peer.address and record.confirmed
        assert registry.named(peer.node) is peer and registry.of(record) is peer
    assert [event.values["peer"] for event in events if event.kind == "moved"] == ["h:2", "h:1"]
    journal.close()


def test_a_move_is_settled_with_its_own_peer(tmp_path: Path) -> None:
    """What an earlier process began with one peer is asked of that one alone."""
    one, two = peers("h:1", "h:2")
    journal = Journal(tmp_path)
    source = MoveSource(journal, Peers(one, two), lambda event: None, threading.Event())
    program = Counter(World(), "a")
    source.own(program, two)
    source.attempt(program, two).offer()
    record = journal.get(program.id)
    assert record is not None
    source.settle(record)
    assert two.asked == ["status"] and one.asked == []
    journal.close()


def test_an_end_of_several_peers_names_the_one_that_is_meant(tmp_path: Path) -> None:
    """A program comes from one of two peers, goes back to it and ends there."""
    one, two = peers("h:1", "h:2")
    events: list[Event] = []
    registry = Peers(one, two)
    registry.learn(two.node, two)
    world = World()
    end = Endpoint(
        Journal(tmp_path / "journal"),
        Modules(tmp_path / "modules"),
        CounterHost(world, "c"),
        registry,
        events.append,
        every=1.0,
    )
    counter = Counter(World(), "b")
    move = Move(counter.id, 2, b"t" * 16)
    offer = Offer(two.node, move, counter.describe())
    assert end.answers.prepare(offer).missing == (DIGEST,)
    upload = end.answers.upload(counter.describe().modules[0])
    upload.write(MODULE)
    upload.finish()
    reception = end.answers.begin(move)
    reception.begin(RoundHead(1, (1,), last=True))
    state = b"".join(map(bytes, counter.pieces()))
    reception.write(state)
    reception.finish(Receipt(len(state), sha256(state).digest()))
    assert end.destination.ready is not None and end.destination.ready.source == "h:2"
    end._ask_source(end.destination.ready)
    assert two.asked == ["status"] and one.asked == []
    end.answers.commit(move, 0.0)
    program = end.news.wait(0, lambda: True)
    assert program is not None and world.running == {program.id: "c"}
    end.news.session[program.id] = end.source.peer_of(program.id).address
    assert end.source.move(program) is not None
    assert (
        two.asked == ["status", "prepare", *["status"] * 3, "transfer", "commit"]
        and one.asked == []
    )
    end.answers.ended(program.id, 3, Ending("exited", 0))
    assert end.news.told == Told(Ending("exited", 0), "h:2")
    said = [event.values["peer"] for event in events if event.kind in ("arrived", "moved")]
    assert said == ["h:2", "h:2"]
    assert (tmp_path / "journal").is_dir() and end.journal.records() == []
    end.journal.close()


def test_a_peer_without_a_known_address_has_its_node_id(tmp_path: Path) -> None:
    """Streams at such a peer are refused: this end cannot send anything there."""
    one, two = peers("h:1", "h:2")
    registry = Peers(one, two)
    stranger = b"\xab" * 16
    assert registry.address_of(stranger) == "node abababab" and not registry.reaches(stranger)
    assert Peers(one).address_of(stranger) == "h:1" and Peers(one).current("h:9") == "h:1"
    assert registry.current("h:9") == "h:9" and [*registry] == [one, two]
    described = replace(Counter(World(), "a").describe(), shown=stranger)
    offer = Offer(stranger, Move(b"p" * 16, 2, b"a" * 16), described)
    with pytest.raises(PeerRefused, match="third end") as caught:
        check_streams(offer, b"n" * 16, registry)
    assert caught.value.reason is Reason.FEATURE
    check_streams(offer, b"n" * 16, Peers(one))
