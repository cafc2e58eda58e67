"""One end on the network: journal, client, node and server put together, and taken apart.

What `wasmsr.cli.remote` makes of its options. The order matters: the journal is locked and what it
holds is restored before the server answers the first question about it.
"""

from __future__ import annotations

from pathlib import Path

from wasmsr.migrate.events import Announce
from wasmsr.migrate.journal import Journal
from wasmsr.migrate.modules import Modules
from wasmsr.migrate.node import Node
from wasmsr.migrate.ports import Host
from wasmsr.rpc.address import Address
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.server import Server


class End:
    """See the module's docstring.

    Attributes:
        node: what runs programs; its `run` is for the caller to call, on a thread.
    """

    def __init__(
        self,
        *,
        listen: Address,
        peer: Address,
        state: Path,
        host: Host,
        announce: Announce,
        every: float,
        software: str,
        key: bytes,
    ) -> None:
        """Opens the journal, restores what it holds, and serves.

        `state` is the folder for all ends of this user on this machine; each port has its own
        journal in it, so that two ends can share it. `key` is what the peer must have too.
        Raises MigrationError, and what restoring a program raises.
        """
        journal = Journal(state / "remote" / str(listen.port))
        try:
            self._peer = RemotePeer(peer, journal.node, key)
            self.node = Node(
                journal,
                Modules(state / "modules"),
                host,
                self._peer,
                announce,
                every=every,
                software=software,
            )
            self.node.recover()
            self._server = Server(self.node, listen, software, key)
        except BaseException:
            journal.close()
            raise
        self._host = host
        self._journal = journal

    def close(self) -> None:
        """Stops serving and lets go of the journal."""
        self._host.close()
        self._server.stop()
        self._peer.close()
        self._journal.close()
