"""The source's half of the hand-over: a registry of the moves away from this end.

`attempt` is one move, `decisions` says who decides it, and `commitment` carries the decision to the
peer. `ends` calls this half.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from wasmsr.errors import MigrationError
from wasmsr.migrate.decisions.journal_decision import JournalDecisions
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.handover.attempt import MoveAttempt, Moved, Tries
from wasmsr.migrate.handover.commitment import FIRST_DELAY, LAST_DELAY, Commitment, NeverOwned
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.journal.state_file import state_name
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram, Peer
from wasmsr.migrate.protocol import (
    ID_BYTES,
    INPUT,
    LEASE,
    NODE,
    Answer,
    InDoubt,
    Move,
    Offer,
    OwnershipState,
    PeerLost,
    PeerRefused,
    Reason,
    Refusal,
    Report,
)
from wasmsr.migrate.rounds.convergence import MovePolicy
from wasmsr.migrate.rounds.speeds import LineSpeed


class MoveSource:
    """Moves programs away from this end. Each move runs in the thread that calls for it.

    Attributes:
        peers: The ends to which programs can go.
        decisions: Who decides the moves.
        stop: Is set when the user interrupts; every wait then ends.
        policy: How programs move, if nobody says how one does.
        address: Where peers call this end; see `Offer`.
        lines: What moves have shown of the way to each peer, by its address.
    """

    def __init__(
        self,
        journal: Journal,
        peers: Peers | Peer,
        announce: Announce,
        stop: threading.Event,
        *,
        software: str = "",
        policy: MovePolicy | None = None,
        decisions: Decisions | None = None,
        outlives: bool = False,
    ) -> None:
        self.journal = journal
        self.peers = peers if isinstance(peers, Peers) else Peers(peers)
        self.announce = announce
        self.stop = stop
        self.software = software
        self.policy = policy or MovePolicy()
        self.address = ""
        self._outlives = outlives
        self.decisions: Decisions = decisions or JournalDecisions(journal)
        self.lines: dict[str, LineSpeed] = {}
        self._lock = threading.Lock()
        self._moving: dict[bytes, MoveAttempt] = {}
        self._tries: dict[bytes, Tries] = {}

    def tries(self, program: bytes) -> Tries:
        """Return what earlier attempts to move a program have left."""
        with self._lock:
            return self._tries.setdefault(program, Tries())

    def forget(self, program: bytes) -> None:
        """Forget what earlier attempts have left of a program that is not here any more."""
        with self._lock:
            tries = self._tries.get(program)
            if tries is not None and tries.unheard is None:
                del self._tries[program]

    def moving(self) -> list[MoveAttempt]:
        """Return the moves that are under way."""
        with self._lock:
            return list(self._moving.values())

    def peer_of(self, program: bytes) -> Peer:
        """Return the only peer, or of several the one that the journal names for a program."""
        return self.peers.of(self.journal.get(program))

    def own(self, program: MovableProgram, to: Peer | None = None) -> None:
        """Become the first owner of a program that begins here.

        Raises:
            WasmsrError: The journal, or the register of a leased program, does not take it.
        """
        peer = to or self.peer_of(program.id)
        decision = self.decisions.of(program.id)
        decision.begin()
        node, lease = self.peers.node_of(peer), decision.lease
        self.journal.put(
            Record(
                program.id,
                OwnershipState.OWNED,
                epoch=1,
                peer=peer.address,
                node=node,
                lease=lease,
            )
        )

    def prepare(
        self,
        program: MovableProgram,
        move: Move,
        to: Peer | None = None,
        policy: MovePolicy | None = None,
    ) -> Answer:
        """Ask a peer to take `program`, and upload the modules that the peer lacks.

        This journals nothing.

        Args:
            program: The program.
            move: The attempt.
            to: The peer; None takes the program's peer.
            policy: How it moves; None takes the policy of this end.

        Returns:
            The peer's consent.

        Raises:
            PeerLost: The peer did not answer.
            PeerRefused: The peer does not take the program.
        """
        peer = to or self.peer_of(program.id)
        tries = self.tries(program.id)
        if tries.unheard:
            # The peer may still be READY for the attempt before; see `MoveAttempt`.
            tries.unheard[1].abort(tries.unheard[0])
            tries.unheard = None
        description = program.describe()
        policy = policy or self.policy
        offer = Offer(
            self.journal.node, move, description, software=self.software,
            rounds=1 if policy.stop_and_copy else policy.max_rounds, address=self.address,
        )  # fmt: skip
        answer = peer.prepare(offer)
        self.peers.learn(answer.node, peer)
        if description.fed not in (b"", answer.node) and INPUT not in answer.abilities:
            raise _too_old(
                peer,
                "cannot have the program's input relayed to it",
                ", or start the program with --stdin-after-move eof",
            )
        if description.lease and LEASE not in answer.abilities:
            raise _too_old(peer, "knows nothing of leases")
        if description.record and NODE not in answer.abilities:
            sentence = f"{peer.address} is no node, or one of an older version"
            raise PeerRefused(Refusal(Reason.VERSION, sentence, "start `wasmsr node` there"))
        if answer.missing:
            for module in description.modules:
                if module.digest in answer.missing:
                    peer.upload(program.module(module.digest), module.digest, move)
            answer = peer.prepare(offer)
        if answer.missing:
            raise PeerLost(f"{peer.address} asks again for a module that it was sent")
        self.announce(
            Event(
                "prepared",
                "",
                {"peer": peer.address, "program": move.program.hex(), "epoch": move.epoch},
            )
        )
        return answer

    def next_move(self, program: bytes) -> Move:
        """Return a new attempt at moving `program`, in the epoch after this end's."""
        epoch = self.decisions.of(program).epoch()
        return Move(program, epoch + 1, secrets.token_bytes(ID_BYTES))

    def move(
        self, program: MovableProgram, to: Peer | None = None, policy: MovePolicy | None = None
    ) -> Moved | None:
        """Move `program` to a peer.

        Args:
            program: The program.
            to: The peer; None takes the program's peer.
            policy: How it moves; None takes the policy of this end.

        Returns:
            The move. None if the program did not move: then it runs here, or has ended; if `stop`
            is set, it may be paused.

        Raises:
            HandedAway: `stop` was set after the decision.
            InDoubt: `stop` was set while nobody could tell what the register has decided.
            MigrationError: The program is being moved already.
        """
        with self._under_way(self.attempt(program, to, policy)) as attempt:
            return attempt.run()

    def attempt(
        self, program: MovableProgram, to: Peer | None = None, policy: MovePolicy | None = None
    ) -> MoveAttempt:
        """Return a new attempt at moving a program to a peer; nothing is done of it yet."""
        peer = to or self.peer_of(program.id)
        return MoveAttempt(self, program, self.next_move(program.id), peer, policy)

    @contextmanager
    def _under_way(self, attempt: MoveAttempt) -> Iterator[MoveAttempt]:
        program = attempt.move.program
        with self._lock:
            if program in self._moving:
                raise MigrationError(
                    f"program {program.hex()[:8]} is being moved already",
                    phase="prepare",
                    owner="source",
                )
            self._moving[program] = attempt
        try:
            yield attempt
        finally:
            with self._lock:
                del self._moving[program]

    def commitment(self, move: Move) -> Commitment:
        """Return what carries a decided move out."""
        over = partial(self.decisions.of(move.program).over, move)
        peer = self.peer_of(move.program)
        return Commitment(self.journal, peer, move, self.announce, self.stop, over)

    def settle(self, record: Record) -> None:
        """End a move that an earlier process began.

        Args:
            record: The program's record: OFFERED, or HANDED and not confirmed.

        Raises:
            InDoubt: `stop` was set before it was known who owns the program.
            HandedAway: `stop` was set before the peer confirmed.
        """
        peer = self.peers.of(record)
        move = Move(record.program, record.epoch + 1, record.attempt)
        if record.standing is OwnershipState.HANDED:
            self._carry_out(Move(record.program, record.epoch, record.attempt))
            return
        ask = partial(self._ask_once, peer, move)
        verdict = self.decisions.of(move.program).settle(move, self.stop, ask)
        if verdict is None:
            verdict = ownership.settle_offered(self._ask_until_answered(move), move)
            now = self.journal.get(move.program)
            if now is None or now.attempt != move.attempt:
                return  # somebody has decided by force meanwhile
        file = state_name(move, "handed")
        if not self.journal.path(file).exists():
            file = ""
        if verdict is SettleVerdict.GIVE_UP:
            standing = OwnershipState.OWNED if self._outlives else OwnershipState.LOST
            self.journal.put(replace(record, standing=standing, file=file))
            self.tries(move.program).unheard = move, peer
            return
        self.journal.put(
            replace(
                record,
                standing=OwnershipState.HANDED,
                epoch=move.epoch,
                file=file,
                received="",
                confirmed=verdict is SettleVerdict.CONFIRM,
            )
        )
        if verdict is SettleVerdict.DECIDE:
            self._carry_out(move)

    def _carry_out(self, move: Move) -> None:
        """Carry a decided move out whose program is not here any more; see `settle`."""
        try:
            self.commitment(move).carry_out()
        except NeverOwned:
            # Both ends had it in memory only, and both were killed.
            record = self.journal.get(move.program)
            if record is not None:
                lost = OwnershipState.LOST
                self.journal.put(replace(record, standing=lost, epoch=move.epoch - 1))

    def _ask_once(self, peer: Peer, move: Move) -> SettleVerdict:
        """Return what a peer's answer says about an offered move; WAIT without an answer."""
        try:
            return ownership.settle_offered(peer.status(move), move)
        except (PeerLost, PeerRefused):
            return SettleVerdict.WAIT

    def _ask_until_answered(self, move: Move) -> Report:
        peer = self.peer_of(move.program)
        delay = FIRST_DELAY
        told = False
        while True:
            try:
                answer = peer.status(move)
                if ownership.settle_offered(answer, move) is not SettleVerdict.WAIT:
                    return answer
            except (PeerLost, PeerRefused) as error:
                if not told:
                    told = True
                    text = f"cannot ask {peer.address} whether it has a program: {error}"
                    self.announce(Event("asking", f"{text}; asking again"))
            if self.stop.wait(delay):
                raise InDoubt(
                    f"program {move.program.hex()[:8]} was being moved when this end was killed, "
                    f"and {peer.address} has not said whether it has the program",
                    hint="start the same command again when the other end can be reached",
                )
            delay = min(delay * 2, LAST_DELAY)


def _too_old(peer: Peer, what: str, more: str = "") -> PeerRefused:
    return PeerRefused(
        Refusal(
            Reason.VERSION,
            f"{peer.address} {what}: it runs an older version",
            f"install the same version of wasmsr on both ends{more}",
        )
    )


__all__ = ["MoveSource"]
