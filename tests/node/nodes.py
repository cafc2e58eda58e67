"""Two nodes in this process, without a network: each calls the other's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.ports import Buffer
from wasmsr.migrate.protocol import (
    Answer,
    Committed,
    Ending,
    KeptOutput,
    ModuleName,
    Move,
    Offer,
    OwnershipState,
    PackedFiles,
    PackedPages,
    PeerLost,
    PeerRefused,
    Receipt,
    Report,
    RoundHead,
    RoundReceipt,
)
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor


class Killed(BaseException):
    """The supervisor was killed here: nothing that follows happens."""


class World:
    """The nodes by address.

    Attributes:
        nodes: The nodes.
        lost: Names of calls that nobody hears.
        kills: The call in which the caller is killed: "commit" before it is heard, "commit done"
            after it was answered.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, NodeSupervisor] = {}
        self.lost: set[str] = set()
        self.kills = ""

    def lose(self, address: str) -> None:
        """End a node as a killed one ends: sockets and locks are closed, and nothing is said."""
        node = self.nodes.pop(address)
        for program in node.programs():
            program._closing = True
            if program._executor is not None:
                program._executor._end.shutdown(2)
        for coming in node.moves.host.coming():
            coming.executor._end.shutdown(2)
        node.close()

    def killed(self, address: str) -> Killed:
        """Return what ends a supervisor: nothing that it still does is on its disk."""

        def put(record: object) -> None:
            raise Killed

        self.nodes[address].moves.journal.put = put  # type: ignore[method-assign]
        return Killed()

    def node(self, address: str, folder: Path, **rules: Any) -> NodeSupervisor:
        """Return a new node at an address."""

        def peer(other: str, node: bytes, ours: bytes) -> DirectNode:
            return DirectNode(self, address, other)

        made = NodeSupervisor(folder, NodeRules(peer=peer, **rules))
        self.nodes[address] = made
        made.moves.serve(address)
        return made


class DirectNode:
    """Another node (`ports.Peer`) that is called directly."""

    def __init__(self, world: World, ours: str, address: str) -> None:
        self.address = address
        self._world, self._ours = world, ours

    def _done(self, call: str) -> None:
        if self._world.kills == f"{call} done":
            raise self._world.killed(self._ours)

    def _answers(self, call: str) -> Any:
        if self._world.kills == call:
            raise self._world.killed(self._ours)
        if call in self._world.lost or self.address not in self._world.nodes:
            raise PeerLost(f"{self.address} does not answer")
        return self._world.nodes[self.address].moves.end.answers

    def _node(self) -> bytes:
        return self._world.nodes[self._ours].node

    def prepare(self, offer: Offer) -> Answer:
        answers = self._answers("prepare")
        self._world.nodes[self.address].moves.peers.meet(offer.address, offer.node)
        found: Answer = answers.prepare(offer)
        return found

    def upload(self, module: Buffer, digest: bytes, move: Move | None = None) -> None:
        upload = self._answers("upload").upload(ModuleName(digest, len(module)), move)
        upload.write(module)
        upload.finish()

    def transfer(
        self, move: Move, rest: int = 0, *, memory: bool = False, files: int = 0
    ) -> DirectTransfer:
        return DirectTransfer(self, self._answers("transfer").begin(move, rest, False, files))

    def commit(self, move: Move, stopped: float) -> Committed:
        answers = self._answers("commit")
        answers.check_sender(move.program, self._node())
        standing = answers.commit(move, stopped)
        self._done("commit")
        return Committed(standing)

    def status(self, move: Move) -> Report:
        found: Report = self._answers("status").status(move)
        return found

    def abort(self, move: Move) -> OwnershipState:
        found: OwnershipState = self._answers("abort").abort(move)
        return found

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        self._answers("ended").ended(program, epoch, ending)

    def output(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        raise AssertionError("a node has its output with it")

    def input(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        raise AssertionError("a node has no input")

    def interrupt(self) -> None:
        pass


class DirectTransfer:
    """A transfer to a node that is called directly (`ports.Sending`)."""

    waited = 0.0

    def __init__(self, node: DirectNode, reception: Any) -> None:
        self._node = node
        self._reception = reception
        self._receipt: Receipt | None = None

    def _do(self, name: str, *values: Any, **more: Any) -> Any:
        try:
            return getattr(self._reception, name)(*values, **more)
        except PeerRefused as error:
            self._reception.failed(error)
            raise

    def early(self, piece: Buffer, *, last: bool) -> None:
        self._do("early", bytes(piece), last=last)

    def output(self, kept: KeptOutput) -> None:
        self._do("output", kept)

    def called(self, called: CalledFunctions) -> None:
        self._do("called", called)

    def repeat(self, offset: int, size: int) -> None:
        self._do("repeat", offset, size)

    def begin(self, head: RoundHead) -> None:
        self._do("begin", head)

    def pages(self, batch: PackedPages) -> None:
        self._do("pages", batch)

    def files(self, batch: PackedFiles) -> None:
        self._do("files", batch)

    def drain(self) -> None:
        pass

    def end(self, number: int) -> RoundReceipt:
        found: RoundReceipt = self._do("end", number)
        return found

    def send(self, piece: Buffer) -> None:
        self._do("write", bytes(piece))

    def finish(self, receipt: Receipt) -> None:
        self._node._answers("finish")
        self._receipt = self._do("finish", receipt)
        self._node._done("finish")

    def ready(self) -> Receipt:
        assert self._receipt is not None
        return self._receipt

    def cancel(self) -> None:
        self._reception.cancel()
