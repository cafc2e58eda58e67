"""The moves of one node: its end of the hand-over, with the journal and the other nodes.

The journal says who owns a program; the record of the program only repeats it, for people. The
hand-over is the one of `migrate`; this file connects it with the programs of the node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from wasmsr import __version__
from wasmsr.errors import MigrationError
from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.migrate.decisions.register_decision import RegisterDecisions
from wasmsr.migrate.ends.programs_end import ProgramsEnd
from wasmsr.migrate.events import Event
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover.arrivals import MOST_PROGRAMS, EndLimits
from wasmsr.migrate.handover.attempt import Moved
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import NODE, Ending, OwnershipState
from wasmsr.migrate.rounds.convergence import MovePolicy
from wasmsr.node.failures import NotMoved, WrongState
from wasmsr.node.leases.program_leases import LeasedStayView
from wasmsr.node.moving.node_host import ComingProgram, NodeHost, NodeModules, NodePlace
from wasmsr.node.moving.node_peers import MakePeer, NodePeers
from wasmsr.node.moving.seen_moves import SeenMoves, Tell
from wasmsr.node.moving.worker_program import WorkerProgram
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.program_record import MovedTo
from wasmsr.ownership.fencing import UNFENCED
from wasmsr.ownership.register import Register

ARRIVALS = 16
"""Programs that arrive at the same time at most; one more is refused for now."""

REFUSALS = 1.0
"""Seconds between two notes about refusals of one node."""


class MovingNode(NodePlace, Protocol):
    """What moves need of the node's supervisor."""

    def note(self, event: str, **values: Any) -> None:
        """Write an event to the node's log."""

    def trace(self, event: Event) -> None:
        """Take an event of a move, for spans."""

    def named(self, program: bytes) -> NodeProgram | None:
        """Return the program with this id, or None."""

    def take_over(self, coming: ComingProgram, leased: LeasedMovable | None) -> None:
        """Make a program that has come one of the node's."""


class NodeMoves:
    """Moves programs away from a node, and takes others in. Any thread may call its methods.

    Attributes:
        end: The node's end of the hand-over; the server gives it the calls of other nodes.
        journal: Who owns which program.
        host: What arrives.
        peers: The other nodes.
        seen: How far the moves are.
    """

    def __init__(
        self,
        node: MovingNode,
        make_peer: MakePeer,
        open_register: Callable[[], Register] | None = None,
    ) -> None:
        """Open the journal.

        Args:
            node: The supervisor.
            make_peer: Makes the other nodes.
            open_register: Opens the register of leased programs; None if the node has none.

        Raises:
            MigrationError: The journal cannot be used.
        """
        self._node = node
        self._lock = threading.Lock()
        self.seen = SeenMoves()
        self._refused: dict[str, float] = {}
        self.journal = Journal(node.folder.journal, node.folder.node)
        self.host = NodeHost(node)
        self.peers = NodePeers(make_peer, self.journal.node)
        self.decisions: RegisterDecisions | None = None
        if open_register is not None:
            # What programs may do here is checked when their records come (`travel_record`).
            self.decisions = RegisterDecisions(
                self.journal, open_register, self.announce, unfenced=UNFENCED, outlives=True
            )
        self.end = ProgramsEnd(
            self.journal, cast(Modules, NodeModules()), self.host, self.peers, self.announce,
            limits=EndLimits(MOST_PROGRAMS, ARRIVALS), arrived=self._arrived, ended=self._ended,
            software=__version__, outlives=True, settled=self._settled, decisions=self.decisions,
        )  # fmt: skip
        self.end.destination.more = (NODE,)

    def recover(self) -> None:
        """Restore the programs that were READY, before any other node can ask."""
        for record in self.journal.records():
            came = record.source or record.peer
            for address, node in ((record.peer, record.node), (came, record.origin)):
                if address and node:
                    self.peers.meet(address, node)
            if record.incoming and record.incoming.node:
                self.peers.meet(record.incoming.source, record.incoming.node)
        self.end.recover()

    def serve(self, address: str) -> None:
        """Begin to settle what is open; `address` is where other nodes call this one."""
        self.end.source.address = address
        self.end.serve()

    def interrupt(self) -> None:
        """End all moves that are not decided."""
        self.end.interrupt()

    def close(self) -> None:
        """End the threads, and give the journal up."""
        self.end.close()
        if self.decisions is not None:
            self.decisions.close()
        self.journal.close()

    # ---- what people see -------------------------------------------------------------------------

    def announce(self, event: Event) -> None:
        """Take an event of the hand-over: for the log, and for whoever watches the move."""
        more = self.seen.take(event)
        self._node.trace(event)
        if event.kind in ("lease", "leased"):
            self._node.note("lease", text=event.text)
        elif event.kind != "progress" and not self._is_said(event):
            values = {**event.values, **more}
            if program := str(event.values.get("program", "")):
                values["program"] = program[:8]
            text = {"text": event.text} if event.text else {}
            self._node.note(f"move-{event.kind}", **{**values, **text})

    def _is_said(self, event: Event) -> bool:
        """Return whether a refusal for the same node was noted within the last second."""
        if event.kind != "refused":
            return False
        peer, now = str(event.values.get("peer", "")), time.monotonic()
        with self._lock:
            before = self._refused.get(peer, -REFUSALS)
            if now - before < REFUSALS:
                return True
            if len(self._refused) > 1000:
                self._refused.clear()
            self._refused[peer] = now
        return False

    def is_moving(self, program: bytes) -> bool:
        """Return whether a move of a program away is under way."""
        return self.seen.is_moving(program.hex())

    def shown(self, program: str) -> dict[str, Any] | None:
        """Return how far the last move of a program is, or None; see `SeenMoves.shown`."""
        return self.seen.shown(program)

    def record_of(self, program: bytes) -> Record | None:
        """Return what the journal says of a program, or None."""
        return self.journal.get(program)

    def waiting_modules(self) -> set[str]:
        """Return the digests of the modules of programs that wait for a decision here."""
        found = [one.incoming.modules for one in self.journal.records() if one.incoming]
        return {digest.hex() for modules in found for digest in modules}

    # ---- away ------------------------------------------------------------------------------------

    def migrate(
        self,
        program: NodeProgram,
        address: str,
        policy: MovePolicy | None = None,
        tell: Tell = lambda event: None,
    ) -> Moved:
        """Move a program to another node, and return when that node has confirmed it.

        Args:
            program: The program.
            address: The other node.
            policy: How it moves.
            tell: Gets the events of the move.

        Raises:
            WrongState: The program cannot be moved now.
            NotMoved: It was not moved, and runs on here, or has ended.
            HandedAway: The node is being stopped, and the other one has not confirmed yet.
        """
        failed: list[Event] = []

        def watch(event: Event) -> None:
            if event.kind == "not-moved":
                failed.append(event)
            tell(event)

        peer = self.peers.meet(address)
        executor = program.hold(address)
        name = program.record.program
        self.seen.begin(name, address, watch)
        moved: Moved | None = None
        why = ""
        try:
            self._own(program, address)
            self.end.enter(program.leased or self.worker_program(program, executor))
            moved = self.end.move(program.id, peer, policy)
        except BaseException as error:
            why = getattr(error, "message", "") or str(error) or type(error).__name__
            raise
        finally:
            self.seen.end(name, why or _why(moved, failed))
            self._release(program)
        if moved is not None:
            if program.record.went is None:
                raise NotMoved(f"program {name[:8]} was taken back by force while it was moved")
            return moved
        if failed:
            said = failed[-1].values
            raise NotMoved(
                f"program {name[:8]} was not moved to {address}: {said['message']}",
                hint=str(said["hint"]) or None,
            )
        raise NotMoved(f"program {name[:8]} has ended, and was not moved")

    def worker_program(self, program: LeasedStayView, executor: ProcessExecutor) -> WorkerProgram:
        """Return a program as the hand-over sees it."""
        return WorkerProgram(
            executor,
            program.record,
            program.folder,
            self._node.folder.module(program.record.digest),
            lambda: self._left(program.id),
        )

    def _left(self, program: bytes) -> None:
        """End the worker of a program that another node has."""
        record, found = self.journal.get(program), self._node.named(program)
        handed = record is not None and record.standing is OwnershipState.HANDED
        if found is not None and handed:
            found.end_worker()

    def _own(self, program: NodeProgram, address: str) -> None:
        """Note in the journal that a program is this node's that has not moved before."""
        with self.journal.locked(program.id):
            if self.journal.get(program.id) is None:
                terms = program.record.lease
                self.journal.put(
                    Record(
                        program.id, OwnershipState.OWNED, program.record.epoch, peer=address,
                        lease=0 if terms is None else terms.milliseconds,
                    )
                )  # fmt: skip

    def _release(self, program: NodeProgram) -> None:
        """Let a program go on, or be elsewhere: as the journal says."""
        record = self.journal.get(program.id)
        if record is not None and record.standing is OwnershipState.HANDED:
            program.moved(_where(record))
            return
        self.end.leave(program.id)
        if record is not None and record.epoch != program.record.epoch:  # adopted by force
            program.adopt(record.epoch)
        else:
            program.stays()

    def _settled(self, program: bytes) -> None:
        """Hear that the move of a program is settled that an earlier process has left."""
        found, record = self._node.named(program), self.journal.get(program)
        if found is None or record is None:
            return
        if record.standing is OwnershipState.HANDED:
            found.moved(_where(record))
        elif record.standing is OwnershipState.OWNED:
            found.settle_here()

    def ended_here(self, program: bytes, ending: Ending) -> None:
        """Hear that a program has ended here; the node from which it came is told."""
        record = self.journal.get(program)
        if record is None:
            return
        self.end.leave(program)
        if record.origin:
            self.end.finish(program, ending)
        else:
            with suppress(MigrationError):
                self.journal.forget(program)

    def forget(self, program: bytes) -> None:
        """Forget a program that the node does not show any more."""
        with suppress(MigrationError):
            self.journal.forget(program)

    # ---- here ------------------------------------------------------------------------------------

    def _arrived(self, program: MovableProgram) -> None:
        coming = self.host.take(program.id)
        if coming is not None:
            leased = program if isinstance(program, LeasedMovable) else None
            self._node.take_over(coming, leased)

    def _ended(self, program: bytes, ending: Ending) -> None:
        """Hear that a program that was here has ended elsewhere."""
        found = self._node.named(program)
        if found is not None:
            found.ended_there(f"{ending.kind} with code {ending.code}")

    def received(self, program: bytes) -> Path | None:
        """Return the file of the state in which a program came here, or None."""
        record = self.journal.get(program)
        if record is None or not record.received:
            return None
        path = self.journal.path(record.received)
        return path if path.exists() else None

    def drop_arrival(self, program: bytes) -> None:
        """Ask the register about a state that waits here, and forget it if it is over."""
        record = self.journal.get(program)
        if record is not None and record.incoming is not None:
            self.end.destination.settle(record.incoming.move(program), None)

    # ---- by force --------------------------------------------------------------------------------

    def adopt(self, program: bytes) -> int:
        """Make this node the owner of a program whose owner cannot be asked; return the epoch.

        Nobody can know that the program does not run elsewhere too: the caller says so.

        Raises:
            WrongState: The journal has no doubt.
            WasmsrError: The state that waits here cannot be restored.
        """
        with self.journal.locked(program):
            record = self.journal.get(program)
            if record is not None and record.incoming is not None:
                move = record.incoming.move(program)
                self.end.destination.commit(move, 0.0)
                return move.epoch
            if record is None or record.standing not in (
                OwnershipState.HANDED,
                OwnershipState.OFFERED,
            ):
                raise WrongState(
                    f"program {program.hex()[:8]} is this node's: nothing is undecided"
                )
            # Higher than the epoch in which the other node may own it.
            epoch = record.epoch + (2 if record.standing is OwnershipState.OFFERED else 1)
            self.journal.put(
                replace(
                    record,
                    standing=OwnershipState.OWNED,
                    epoch=epoch,
                    attempt=b"",
                    node=b"",
                    confirmed=False,
                )
            )
            return epoch


def _why(moved: Moved | None, failed: list[Event]) -> str:
    """Return why a program was not moved, or ""."""
    if moved is not None:
        return ""
    return str(failed[-1].values["message"]) if failed else "it has ended"


def _where(record: Record) -> MovedTo:
    return MovedTo(record.peer, record.node.hex(), record.epoch, record.confirmed)


__all__ = ["ARRIVALS", "MovingNode", "NodeMoves", "Tell"]
