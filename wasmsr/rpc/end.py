"""One end on the network: builds journal, client, endpoint and server, and takes them apart.

The order matters: before the server answers the first question, the journal is locked and all that
it has is restored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from wasmsr.migrate.decisions.journal_decision import JournalDecisions
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.ends.endpoint import Endpoint
from wasmsr.migrate.ends.programs_end import ProgramsEnd
from wasmsr.migrate.events import Announce
from wasmsr.migrate.files.modules import KEPT, Modules
from wasmsr.migrate.handover.arrivals import EndLimits
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram, ProgramHost
from wasmsr.migrate.protocol import Ending
from wasmsr.migrate.rounds.convergence import MovePolicy
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.server import Server, ServerTls
from wasmsr.runspec.address import Address


class EndTls(ServerTls, Protocol):
    """TLS as an end needs it; see `tls_end.TlsEnd`."""

    @property
    def node(self) -> bytes:
        """The node id of this end."""

    def peer(self, address: Address, ours: bytes, key: bytes) -> RemotePeer:
        """Return the other end."""


class ServedEndpoint:
    """An end that serves, with one peer.

    Attributes:
        endpoint: The end that runs programs. The caller runs its `run` on a thread.
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
        policy: MovePolicy | None = None,
        decisions: Callable[[Journal], Decisions] = JournalDecisions,
        tls: EndTls | None = None,
    ) -> None:
        """Open the journal, restore what it has, and serve.

        Args:
            listen: Where this end listens.
            peer: Where its peer listens.
            state: The folder of all ends of this user on this machine. Each port has a journal of
                its own there, so that two ends can share the folder.
            host: Runs the programs.
            announce: Gets the events.
            every: Seconds that a program runs here before this end sends it on.
            software: The version of wasmsr, for people at the peer.
            key: The key that the peer must have too; b"" for none.
            policy: How programs move.
            decisions: Makes who decides the moves.
            tls: The certificate of this end; None for plain text.

        Raises:
            MigrationError: The journal or the address cannot be used.
            WasmsrError: A program of the journal can no longer be restored.
        """
        journal = Journal(state / "remote" / str(listen.port))
        try:
            if tls is None:
                self._peer = RemotePeer(peer, journal.node, key)
            else:
                journal.take_name(tls.node)
                self._peer = tls.peer(peer, journal.node, key)
            self.endpoint = Endpoint(
                journal,
                Modules(state / "modules"),
                host,
                Peers(self._peer),
                announce,
                every=every,
                software=software,
                policy=policy,
                decisions=decisions(journal),
            )
            self.endpoint.recover()
            self._server = Server(self.endpoint.answers, listen, software, key, tls=tls)
        except BaseException:
            journal.close()
            raise
        self._host = host
        self._journal = journal

    def close(self) -> None:
        """Stop serving and close the journal."""
        self._host.close()
        self._server.stop()
        self.endpoint.source.decisions.close()
        self._peer.close()
        self._journal.close()


class ServedPrograms:
    """An end of many programs that serves, with any number of peers.

    Attributes:
        end: The end.
        peers: Its peers.
    """

    def __init__(
        self,
        *,
        listen: Address,
        peers: Sequence[Address],
        state: Path,
        host: ProgramHost,
        announce: Announce,
        limits: EndLimits,
        arrived: Callable[[MovableProgram], None],
        ended: Callable[[bytes, Ending], None] = lambda program, ending: None,
        software: str,
        key: bytes,
        policy: MovePolicy | None = None,
        decisions: Callable[[Journal], Decisions] = JournalDecisions,
    ) -> None:
        """Open the journal, restore what it has, and serve.

        Args:
            listen: Where this end listens.
            peers: Where its peers listen.
            state: The folder of all ends of this user on this machine.
            host: Runs the programs.
            announce: Gets the events.
            limits: How many programs this end takes.
            arrived, ended: See `ProgramsEnd`.
            software: The version of wasmsr, for people at the peers.
            key: The key that the peers must have too; b"" for none.
            policy: How programs move.
            decisions: Makes who decides the moves.

        Raises:
            MigrationError: The journal or the address cannot be used.
        """
        self._journal = Journal(state / "remote" / str(listen.port))
        self._remote = [RemotePeer(one, self._journal.node, key) for one in peers]
        self.peers = Peers(*self._remote)
        try:
            self.end = ProgramsEnd(
                self._journal,
                Modules(state / "modules", max(KEPT, 2 * limits.programs)),
                host,
                self.peers,
                announce,
                limits=limits,
                arrived=arrived,
                ended=ended,
                software=software,
                policy=policy,
                decisions=decisions(self._journal),
            )
            self.end.recover()
            self._server = Server(self.end.answers, listen, software, key, programs=limits.programs)
            self.end.serve()
        except BaseException:
            self._journal.close()
            raise
        self._host = host

    def close(self) -> None:
        """Stop serving and close the journal."""
        self.end.close()
        self._host.close()
        self._server.stop()
        self.end.source.decisions.close()
        for peer in self._remote:
            peer.close()
        self._journal.close()
