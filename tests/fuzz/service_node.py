"""The migration service of a node, attacked by another node that it trusts.

The other node is in this process: a supervisor with its own certificate, which has sent a program
once. What it sent is the corpus.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.fuzz.service_messages import Call, MessageMutator
from tests.fuzz.service_targets import (
    EndTarget,
    FuzzTarget,
    Harm,
    NodeTarget,
    RecordedSession,
    free_port,
)
from tests.node.programs import counting
from wasmsr.errors import WasmsrError
from wasmsr.node.security.authority import Authority
from wasmsr.node.security.tls_identity import TlsFiles, TlsIdentity
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.rpc.control.control_server import ControlServer
from wasmsr.rpc.control.node_peer import NodePeer
from wasmsr.rpc.server import Sender
from wasmsr.rpc.session import PeerSession
from wasmsr.rpc.tls import server_credentials
from wasmsr.runspec.address import Address


class RecordedPeer(NodePeer):
    """A node to which calls are made that are kept."""

    def _meet(self) -> PeerSession:
        session = super()._meet()
        if not isinstance(session, RecordedSession):
            session = RecordedSession(session.nonce, session.secret, session._last, session._taken)
            self._session = session
        return session


class NodeEndTarget(EndTarget):
    """A node, as a peer with the certificate of a node."""

    name = "node-migration"

    def __init__(self, folder: Path) -> None:
        FuzzTarget.__init__(self, folder)
        self.attacked = NodeTarget(folder)
        self.process, self.node = self.attacked.process, self.attacked.node
        authority = Authority(folder / "ca")
        _, certificate, key = authority.issue("node", ["localhost"], folder / "other")
        ca, revoked = authority.folder / "authority.crt", authority.folder / "revoked.crl"
        self.tls = TlsIdentity(TlsFiles(certificate, key, ca, revoked))
        self.us = self.tls.identity.node
        there = Address.parse(self.node.address)
        port = free_port()

        def peer(address: str, node: bytes, ours: bytes) -> NodePeer:
            kind = RecordedPeer if address == str(there) else NodePeer
            return kind(Address.parse(address), ours, node=node, tls=self.tls)

        self.supervisor = NodeSupervisor(folder / "ours", NodeRules(peer=peer), self.us)
        self.supervisor.moves.serve(f"localhost:{port}")
        self.server = ControlServer(
            self.supervisor, f"127.0.0.1:{port}", "0",
            lambda peer, certificate, token: "fuzz",
            credentials=server_credentials(self.tls, mutual=True),
            admit_node=lambda wire: Sender(),
        )  # fmt: skip
        self.untouched = bytes.fromhex(self.attacked.untouched)
        self.other = bytes.fromhex(str(self.node.info()["node"]))
        self.me = self.us
        self.used = set()
        self.recorded = self._record()
        self.programs = [one.program for one in self._moves(self.recorded)][:1]
        self.peer = NodePeer(there, self.us, node=self.other, tls=self.tls)
        for number in range(2):
            for calls in self.corpus():
                for call in self.fresh(calls, random.Random(number)):
                    self.send(call)
            self.tidy()
        self.attacked.check_counting()
        self.before = self.held()

    def _record(self) -> list[Call]:
        """Move a program there, and return the calls that this took."""
        supervisor = self.supervisor
        program = supervisor.submit([counting(20_000, 5)], {})  # a busy host may take long
        time.sleep(0.3)
        supervisor.moves.migrate(supervisor.find(program), self.node.address)
        peer = supervisor.moves.peers.at(self.node.address)
        session = peer._session  # type: ignore[attr-defined]
        if not isinstance(session, RecordedSession):
            raise Harm("the move was not recorded")
        return [one for one in session.sent if one.messages]

    def mutator(self, numbers: random.Random) -> MessageMutator:
        """Return what makes the calls wrong."""
        made = super().mutator(numbers)
        port = numbers.randrange(1, 65536)
        made.texts += [f"127.0.0.{numbers.randrange(1, 255)}:{port}", f":{port}", "[::]:1", ":"]
        return made

    def fresh(self, calls: Sequence[Call], numbers: random.Random) -> list[Call]:
        """Return the calls for a program and an attempt of their own."""
        made = super().fresh(calls, numbers)
        old, new = self.programs[0].hex().encode(), self.programs[-1].hex().encode()
        for call in made:
            for message in call.messages:
                if "record" in message.DESCRIPTOR.fields_by_name:
                    message.record = message.record.replace(old, new)
        return made

    def tidy(self) -> None:
        """Take back the attempts of a sequence, and kill what has come."""
        super().tidy()
        self.attacked.tidy()

    def output(self) -> bytes:
        """Return what the untouched program has written since the last question."""
        return self.attacked.output()

    def close(self) -> None:
        """End both nodes."""
        self.peer.close()
        self.server.stop(0)
        with suppress(WasmsrError):
            self.supervisor.stop(save=False, seconds=5)
        self.attacked.close()


__all__ = ["NodeEndTarget", "RecordedPeer"]
