"""The nodes to which this one speaks: made when they are first named, by address."""

from __future__ import annotations

from collections.abc import Callable

from wasmsr.errors import MigrationError
from wasmsr.migrate.journal.journal import Record
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import Peer

MakePeer = Callable[[str, bytes, bytes], Peer]
"""Makes a peer: its address, the node that it must be (b"" for whichever answers), and our own."""

NODES = 200
"""Nodes that are known at a time; one that is forgotten is made anew when it is named again."""


class NodePeers(Peers):
    """A registry of nodes. Any thread may call its methods."""

    def __init__(self, make: MakePeer, node: bytes) -> None:
        """Make it; `node` is this node."""
        super().__init__()
        self._make, self._node = make, node

    @property
    def only(self) -> Peer:
        """Refuse it: a node says of each program where it goes."""
        raise MigrationError("no other node is named", phase="prepare", owner="source")

    def at(self, address: str) -> Peer:
        """Return the node at an address."""
        return self.meet(address)

    def meet(self, address: str, node: bytes = b"") -> Peer:
        """Return the node at an address.

        Args:
            address: `HOST:PORT`.
            node: The node that it must be; b"" for whichever answers.
        """
        with self._lock:
            found = self._at.get(address)
            if found is None or (node and self._named.get(node) is not found):
                self._at.pop(address, None)
                found = self._at[address] = self._make(address, node, self._node)
                self._forget_old()
            if node:
                self._named[node] = found
            return found

    def _forget_old(self) -> None:
        """Forget the nodes that were named longest ago: offers name any address."""
        while len(self._at) > NODES:
            gone = self._at.pop(next(iter(self._at)))
            for node in [one for one, peer in self._named.items() if peer is gone]:
                del self._named[node]

    def of(self, record: Record | None) -> Peer:
        """Return the node that a record names."""
        if record is None:
            return self.only
        return self.meet(record.peer, record.node)

    def reaches(self, node: bytes) -> bool:
        """Return whether `named` finds a node."""
        with self._lock:
            return node in self._named

    def current(self, address: str) -> str:
        """Return the address that a record has."""
        return address


__all__ = ["MakePeer", "NodePeers"]
