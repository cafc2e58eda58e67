"""One end on the network: journal, client, node and server put together, and taken apart.

`cli.commands.remote` makes it of its options. The order matters: the journal is locked and what it
holds is restored before the server answers the first question about it.
"""

from __future__ import annotations

from pathlib import Path

from wasmsr.migrate.events import Announce
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover.endpoint import Endpoint
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import ProgramHost
from wasmsr.rpc.address import Address
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.server import Server


class ServedEndpoint:
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
        host: ProgramHost,
        announce: Announce,
        every: float,
        software: str,
        key: bytes,
    ) -> None:
        """Open the journal, restores what it holds, and serves.

        `state` is the folder for all ends of this user on this machine; each port has its own
        journal in it, so that two ends can share it. `key` is what the peer must have too.
        Raises MigrationError, and what restoring a program raises.
        """
        journal = Journal(state / "remote" / str(listen.port))
        try:
            self._peer = RemotePeer(peer, journal.node, key)
            self.node = Endpoint(
                journal,
                Modules(state / "modules"),
                host,
                Peers(self._peer),
                announce,
                every=every,
                software=software,
            )
            self.node.recover()
            self._server = Server(self.node.answers, listen, software, key)
        except BaseException:
            journal.close()
            raise
        self._host = host
        self._journal = journal

    def close(self) -> None:
        """Stop serving and let go of the journal."""
        self._host.close()
        self._server.stop()
        self._peer.close()
        self._journal.close()
