"""Peers by address and by node id; a source moves programs to any of several."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import Counter, World
from wasmsr.errors import MigrationError
from wasmsr.migrate.events import Event
from wasmsr.migrate.handover.source import MoveSource
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.protocol import Answer, Move, OwnershipState, Receipt, Report


class Taking:
    """A transfer that says READY for whatever it gets."""

    def __init__(self, peer: Willing) -> None:
        self._peer = peer
        self._receipt: Receipt | None = None

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

    def transfer(self, move: Move) -> Taking:
        self.asked.append("transfer")
        return Taking(self)

    def commit(self, move: Move, stopped: float) -> OwnershipState:
        self.asked.append("commit")
        return OwnershipState.OWNED

    def status(self, move: Move) -> Report:
        self.asked.append("status")
        return Report(OwnershipState.UNKNOWN)


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
        assert peer.asked == ["prepare", "transfer", "commit"] and peer.state
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
    source._journal_offer(source.next_move(program.id), two)
    record = journal.get(program.id)
    assert record is not None
    source.settle(record)
    assert two.asked == ["status"] and one.asked == []
    journal.close()
