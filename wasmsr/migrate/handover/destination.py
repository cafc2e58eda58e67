"""The destination's half of the hand-over: answer, receive, verify, try; then `ready_programs`.

This end journals READY only when all of the state is on disk, is verified and has been restored on
trial.

The threads of `wasmsr.rpc.server` call it through `answers`; `ends` calls it too. What concerns one
program holds the lock of that program only.
"""

from __future__ import annotations

import time
from dataclasses import replace

from wasmsr.migrate.events import Event
from wasmsr.migrate.handover import admission
from wasmsr.migrate.handover.arrivals import ArrivalState, ReadyProgram
from wasmsr.migrate.handover.ready_programs import ReadyPrograms
from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.handover.uploads import Upload
from wasmsr.migrate.journal.journal import Incoming, Record
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import (
    ABILITIES,
    Answer,
    JournalError,
    ModuleName,
    Move,
    Offer,
    PeerRefused,
    Reason,
    refused,
)


class MoveDestination(ReadyPrograms):
    """Takes programs in. Methods that answer a peer raise PeerRefused to refuse.

    Attributes:
        more: What this end can do beside what all ends of this version can.
    """

    more: tuple[str, ...] = ()

    # Preparing.

    def prepare(self, offer: Offer) -> Answer:
        """Return that the offered program may come, and which of its modules are missing."""
        node, move, arrivals = self.journal.node, offer.move, self.arrivals
        admission.check_protocol(offer, node)
        with self.journal.locked(move.program):
            admission.check_journal(self.journal, move, arrivals.limits.programs)
            arrivals.check_room(move)
            arriving = arrivals.get(move.program)
            if arriving and arriving.state is ArrivalState.READY:
                raise refused(Reason.BUSY, "it waits for the decision on an earlier attempt")
            if self.busy(move.program):
                raise refused(Reason.BUSY, "it has not released the program since it left")
            if arriving and arriving.reception:
                # This end has promised nothing yet, so a later attempt may replace the earlier one.
                arriving.reception.cancel()
            admission.confirm(self.journal, move, offer.node)
            if refusal := self.host.refuse(offer.description):
                raise PeerRefused(refusal)
            admission.check_streams(offer, node, self.peers)
            self.decisions.check(offer)
            missing = self.uploads.missing(offer.description.modules)
            arrivals.offered(offer)
            held = self.host.held(move.program)
            spans = [self.host.restore_seconds(one.digest) for one in offer.description.modules]
            known = self.host.known(move.program)
            restore = max(spans, default=0.0)
            abilities = (*ABILITIES, *self.more)
            files = self.host.room_for_files(offer.description)
            return Answer(node, missing, held, abilities, restore, known, self.journal.id, files)

    def upload(self, module: ModuleName, move: Move | None = None) -> Upload:
        """Begin to receive a module that `prepare` named as missing.

        Args:
            module: Its name.
            move: The attempt for which it is; None takes the newest that needs it.
        """
        if move is None:
            arriving = self.arrivals.offering(module.digest, module.size)
        else:
            arriving = self.arrivals.get(move.program)
            if arriving is not None and arriving.move != move:
                arriving = None
        offered = arriving.offer.description.modules if arriving and arriving.offer else ()
        upload = self.uploads.begin(module, offered, arriving.upload if arriving else None)
        if arriving:
            arriving.upload = upload
        return upload

    # Receiving.

    def begin(
        self, move: Move, rest: int = 0, *, memory: bool = False, files: int = 0
    ) -> Reception:
        """Begin to receive the state of a program that was prepared.

        Args:
            move: The attempt.
            rest: About how many bytes the state has besides the memories.
            memory: Whether it may be READY in memory only; a leased program never is.
            files: About how many bytes of pieces of files come before the rest.
        """
        with self.journal.locked(move.program):
            arriving = self.arrivals.get(move.program)
            offer = arriving.offer if arriving and arriving.move == move else None
            if arriving is None or offer is None or arriving.state is not ArrivalState.OFFERED:
                raise refused(Reason.OWNERSHIP, "it was not prepared for this attempt")
            self.arrivals.begin(arriving)
            description = offer.description
            try:
                relays = self.relays(move, description.shown, description.fed)
                arriving.reception = Reception(
                    self,
                    move,
                    offer,
                    self.peers.address_of(offer.node),
                    lambda image: self.host.arrival(
                        relays,
                        image=image,
                        rest=rest,
                        program=move.program,
                        offer=offer,
                        files=files,
                    ),
                    memory=memory and not description.lease,
                )
            except BaseException:
                self.arrivals.remove(arriving)
                raise
            return arriving.reception

    def receiving(self, move: Move) -> bool:
        """Return whether the state of an attempt is being received."""
        arriving = self.arrivals.get(move.program)
        return arriving is not None and (arriving.move, arriving.state) == (
            move,
            ArrivalState.RECEIVING,
        )

    def is_current(self, reception: Reception) -> bool:
        """Return whether the reception is still the one of its program that is in progress."""
        arriving = self.arrivals.get(reception.move.program)
        return arriving is not None and arriving.reception is reception

    def drop(self, reception: Reception) -> bool:
        """End the reception if it is still in progress; return whether it was."""
        arriving = self.arrivals.get(reception.move.program)
        if arriving is None or arriving.reception is not reception:
            return False
        return self.arrivals.remove(arriving)

    def hold(
        self, reception: Reception, incoming: Incoming, program: MovableProgram, duration: float
    ) -> None:
        """Journal READY and keep the program until the source's decision."""
        move = reception.move
        with self.arrivals.committing(), self.journal.locked(move.program):
            try:
                reception.check()
                arriving = self.arrivals.get(move.program)
                assert arriving is not None
                program = self.decisions.received(move, program, incoming.lease)
                record = self.journal.get(move.program) or Record(
                    move.program, peer=reception.source
                )
                if not reception.memory:
                    self.journal.put(replace(record, incoming=incoming))
                self.decisions.of(move.program).ready(move)
            except JournalError as error:
                # The state's file stays: if the record has reached the disk, it names the file.
                self._release(program)
                raise refused(Reason.STORAGE, error.message) from error
            except PeerRefused:
                self._release(program)
                raise
            now = time.monotonic()
            ready = ReadyProgram(
                move, program, reception.source, reception.received, duration, now, now,
                incoming if reception.memory else None,
            )  # fmt: skip
            self.arrivals.hold(arriving, ready)

    def retire(self, ended: bytes = b"") -> bool:
        """Take no more programs, so that this end may end.

        Args:
            ended: The id of a program that has ended, which does not count.

        Returns:
            False if this end owns or may own another program.
        """
        return self.arrivals.retire(ended)

    def say_refused(self, error: PeerRefused, source: str) -> None:
        """Report here too why a program of the end at the address `source` was refused."""
        hint = f"; hint: {error.hint}" if error.hint else ""
        self.announce(
            Event(
                "refused",
                f"refused a program from {source}: {error}{hint}",
                {"peer": source, "reason": error.reason.name.lower(), "message": str(error)},
            )
        )


__all__ = ["MoveDestination"]
