"""The other ends that this end can reach, by address and by node id."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from wasmsr.errors import MigrationError
from wasmsr.migrate.journal.journal import Record
from wasmsr.migrate.ports import Peer


class Peers:
    """A registry of peers. Any thread may call its methods.

    An address says where a peer is asked; it can change. A node id names the journal of an end and
    stays. `learn` connects the two when a peer has answered.
    """

    def __init__(self, *peers: Peer) -> None:
        self._lock = threading.Lock()
        self._at = {peer.address: peer for peer in peers}
        self._named: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Peer]:
        with self._lock:
            return iter(list(self._at.values()))

    def add(self, peer: Peer) -> None:
        """Add a peer; it replaces another one at the same address."""
        with self._lock:
            self._at[peer.address] = peer

    def learn(self, node: bytes, peer: Peer) -> None:
        """Note the node id that a peer has answered with."""
        with self._lock:
            if self._named.get(node) is not peer:
                # An end that was started without its journal has another id.
                for old in [one for one, known in self._named.items() if known is peer]:
                    del self._named[old]
            self._named[node] = peer

    def node_of(self, peer: Peer) -> bytes:
        """Return the node id with which a peer has answered, or b""."""
        with self._lock:
            named = (node for node, known in self._named.items() if known is peer)
            return next(named, b"")

    @property
    def only(self) -> Peer:
        """The peer of an end that has one.

        Raises:
            MigrationError: There are several peers, or none.
        """
        with self._lock:
            if len(self._at) == 1:
                return next(iter(self._at.values()))
        raise MigrationError(
            f"which of {len(self._at)} peers is meant is not said", phase="prepare", owner="source"
        )

    def at(self, address: str) -> Peer:
        """Return the peer at an address, or the only one: its address may have changed."""
        with self._lock:
            peer = self._at.get(address)
        return self.only if peer is None else peer

    def named(self, node: bytes) -> Peer:
        """Return the peer with a node id, or the only one, which may not have answered yet."""
        with self._lock:
            peer = self._named.get(node)
        return self.only if peer is None else peer

    def of(self, record: Record | None) -> Peer:
        """Return the peer that a record of the journal names, or the only one."""
        return self.only if record is None else self.at(record.peer)

    def reaches(self, node: bytes) -> bool:
        """Return whether `named` finds a peer for a node id."""
        with self._lock:
            return node in self._named or len(self._at) == 1

    def address_of(self, node: bytes) -> str:
        """Return how people call the end with a node id: its address, or else its node id."""
        return self.named(node).address if self.reaches(node) else f"node {node.hex()[:8]}"

    def current(self, address: str) -> str:
        """Return the address that a record has, or the one that the only peer has now."""
        with self._lock:
            one = next(iter(self._at)) if len(self._at) == 1 else address
        return one
