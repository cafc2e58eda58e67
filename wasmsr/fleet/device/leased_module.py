"""A module under a lease: it begins here, is taken over from a device that is lost, or leaves.

The node keeps the lease (`wasmsr.node.leases`): it renews it, pauses the program in time, restores
it after a crash, and takes it over. Here a thread goes with the module, as with any other one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from wasmsr.errors import WasmsrError
from wasmsr.fleet.device.device_module import (
    KILLED,
    DeviceModule,
    ModuleEnd,
    ModuleHost,
    end_of,
)
from wasmsr.fleet.device.module_leases import ModuleLeases
from wasmsr.fleet.device.module_run import ModuleRun, readable_module
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.output_pieces import OutputPiece, program_output
from wasmsr.node.supervision.program_record import STREAMS, ProgramStanding
from wasmsr.ownership.failures import OwnershipError, RegisterAway
from wasmsr.ownership.owner_record import OwnerRecord, Standing

LOOK_SECONDS: Final = 0.2
"""How often a module that waits here looks at its program, and asks who owns it."""
LONGEST_PAUSE: Final = 5.0
"""Most seconds between two tries to begin it, if the register does not take its first record."""


class LeasedModule(DeviceModule):
    """See above.

    Args:
        run: What runs.
        host: The device.
        leases: The node's leases.
        left: Is told that the module goes on elsewhere, or need not be here.
        index: Its number on this device.
    """

    def __init__(
        self,
        run: ModuleRun,
        host: ModuleHost,
        leases: ModuleLeases,
        left: Callable[[DeviceModule], None],
        index: int = 0,
    ) -> None:
        super().__init__(run, host, index)
        self._leases, self._told = leases, left
        self._leaving = threading.Event()
        self._given = threading.Event()
        """Whether it was given back, or could not be."""

    def kill(self, why: str) -> None:
        """End the module. Its thread asks the register, whose answer may come by this one."""
        with self._lock:
            self._killed = self._killed or why
            self._wanted.set()

    def leave(self) -> None:
        """Save the module and give it back, because the device ends."""
        self._leaving.set()
        self._wanted.set()
        here = self._leases.here(self.run)
        try:
            if here is not None and here.standing.is_alive:
                with suppress(WasmsrError, OSError):  # others wait for the end of its lease then
                    here.leave(True)
        finally:
            self._given.set()

    def makes_way(self, run: ModuleRun) -> bool:
        """Return whether this one ends, so that the device takes a later request after that.

        It does if the request is for another program, or if it waits here and was told to end. It
        does not if the orchestrator only asks again, because it was not sure.
        """
        if run.given < self.run.given:
            return False  # the request has come late
        if run.program != self.run.program:
            threading.Thread(target=self.leave, name="wasmsr-give-back", daemon=True).start()
            return True
        here = self._leases.here(self.run)
        return self._wanted.is_set() and (here is None or not here.standing.is_alive)

    def submit(self, code: bytes, caller: str) -> NodeProgram:
        """Begin the program as its first owner. Raises WasmsrError."""
        return self._leases.submit(self.run, code, caller)

    def lease(self) -> tuple[int, Callable[[], int]]:
        """Return the epoch in which the program runs here next, and what says when it ends."""
        here = self._leases.here(self.run)
        epoch = 1 if here is None else here.record.epoch
        return epoch, self._leases.ends(self.run, epoch)

    def _left(self) -> None:
        self._told(self)

    def _once(self) -> ModuleEnd | None:
        """Go with the module to its end, or until it is elsewhere."""
        program = self._begin()
        if program is None or isinstance(program, ModuleEnd):
            return program
        limit = self.run.limit
        self._has(program)
        return self._stay(program, None if limit is None else time.monotonic() + limit)

    # -- begin -------------------------------------------------------------------------------------

    def _begin(self) -> NodeProgram | ModuleEnd | None:
        """Begin the program, or wait until this node has taken it over.

        Returns:
            The program; or how it has ended; None if it is not to be here.
        """
        first: OwnerRecord | None = None
        tried, pause = False, LOOK_SECONDS
        while not self._wanted.is_set():
            try:
                found = self._leases.owner(self.run)
                if found is None and first is not None:
                    return None  # nobody knows the module any more
                if found is None:
                    tried = True
                    return self._launch(readable_module(self.run.file))
            except RegisterAway:
                self._wanted.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE) if tried else pause
                continue
            except OwnershipError as error:
                return ModuleEnd(error.exit_code, "error", error.message)
            first = first or found
            here = self._leases.here(self.run)
            if here is not None and here.standing.is_alive:
                return here
            over, end = self._judge(found, first, tried)
            if over:
                return end
            self._wanted.wait(LOOK_SECONDS)
        return self._stopped(first)

    def _judge(
        self, found: OwnerRecord, first: OwnerRecord, tried: bool
    ) -> tuple[bool, ModuleEnd | None]:
        """Return whether a module that waits here waits in vain, and how it has ended then."""
        ours = self._leases.is_ours(found)
        if found.standing is Standing.ENDED:
            return True, ModuleEnd(1, "error", found.sentence()) if ours else None
        if found.epoch > first.epoch and not ours:
            return True, None  # another one was faster
        if tried and ours and found.checkpoint is None:
            late = "the register has taken its first record too late"
            return True, ModuleEnd(1, "error", late)
        return False, None

    def _stopped(self, found: OwnerRecord | None) -> ModuleEnd | None:
        """Return what follows if it is not to be here any more, and did not run here.

        The orchestrator waits for the end of a module that it gave to this device, and not for that
        of one that is another's still.
        """
        if self._leaving.is_set() or (found is not None and not self._leases.is_ours(found)):
            return None
        return ModuleEnd(KILLED, "killed", self._killed)

    # -- meanwhile ---------------------------------------------------------------------------------

    def _stay(self, program: NodeProgram, deadline: float | None) -> ModuleEnd | None:
        """Publish output until the program has ended, or is elsewhere."""
        life, *offsets = program.record.begins[-1]  # what was written before was published
        had = {stream: (at, life) for stream, at in zip(STREAMS, offsets, strict=True)}
        ended = False
        while True:
            gone = self._disturbed(deadline, ended)
            self._publish(program_output(program, follow=True, had=had, gone=gone), had)
            standing = program.standing
            if standing is ProgramStanding.MOVED:
                return None
            if standing.is_final:
                return self._named(program, end_of(program))
            if self._given.is_set():
                self._publish(program_output(program, had=had), had)
                return None
            if deadline is not None and time.monotonic() >= deadline:
                self.kill(f"its limit of {self.run.limit:g} s is over")
                deadline = None
            if self._killed and not ended:
                ended = self._try_to_end(program)

    def _disturbed(self, deadline: float | None, ended: bool) -> Callable[[], bool]:
        """Return what tells that the thread has to look at the program."""

        def disturbed() -> bool:
            with self._lock:
                if self.input is not None:
                    self.input.pump()
            over = deadline is not None and time.monotonic() >= deadline
            return over or self._given.is_set() or bool(self._killed and not ended)

        return disturbed

    def _publish(self, pieces: Iterable[OutputPiece], had: dict[str, tuple[int, int]]) -> None:
        """Publish output; note in `had` what was published."""
        for piece in pieces:
            had[piece.stream] = piece.offset + len(piece.data), piece.life
            if piece.data:
                self._host.output(self, piece.data)

    def _try_to_end(self, program: NodeProgram) -> bool:
        """End the program; return whether the register has taken that."""
        try:
            program.kill(self._killed)
        except WasmsrError:
            time.sleep(LOOK_SECONDS)  # it is restored just now, or the register is away
            return program.standing.is_final
        return True


__all__ = ["LeasedModule"]
