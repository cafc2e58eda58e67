"""A leased program that moves: it runs only while its lease lasts, whoever starts it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from wasmsr.errors import EXIT_MIGRATION
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.ports import Buffer, FileBatch, Leaving, MovableProgram, Stays
from wasmsr.migrate.protocol import LEASE_LOST, Description, Ending, KeptOutput
from wasmsr.ownership.failures import LeaseLost
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.lease import Lease
from wasmsr.ownership.leased_program import LeasedProgram
from wasmsr.ownership.owner_record import OwnerRecord
from wasmsr.ownership.register import Register
from wasmsr.ownership.transitions import OwnerEvent, OwnerState
from wasmsr.snapshot.live.outgoing import PageBatch

PAUSE_SECONDS = 0.5
"""How long a program may take to pause when its lease ends; its host calls have no effect then."""


LAST_SECONDS = 10.0
"""How long one try to pause a program takes that this end has lost."""


class MovableGuest:
    """The program, as the keeper of its lease sees it (`leased_program.LeasedGuest`).

    It runs if an end has started it, the lease allows it, and it is not stopped for a move.

    Attributes:
        gone: Whether this end has lost or handed the program: it never runs here again.
    """

    def __init__(self, inner: MovableProgram) -> None:
        self.gone = False
        self._inner = inner
        self._turn = threading.RLock()
        self._wanted = self._may_run = self._runs = self._frozen = False

    def resume(self, record: OwnerRecord) -> None:
        """Let the program run."""
        with self._turn:
            self._may_run = True
            self._go_on()

    def extend(self, pause_at: int, end_at: int) -> None:
        """Tell the program the times of a new lease."""
        self._inner.lease(pause_at, end_at)

    def pause(self) -> None:
        """Pause the program. Raises LeaseLost if it does not pause."""
        with self._turn:
            self._may_run = False
            if self._runs:
                if not self._inner.pause(PAUSE_SECONDS):
                    raise LeaseLost("it does not pause", program=self._inner.id)
                self._runs = False

    def discard(self) -> None:
        """Never run the program again; its memory stays until it is closed."""
        with self._turn:
            self._may_run, self.gone = False, True
            if self._runs and not self._inner.pause(PAUSE_SECONDS):
                # It is in a host call that takes long. It stops after it; nobody waits for that.
                threading.Thread(target=self._stop, name="wasmsr-stop", daemon=True).start()
            self._runs = False

    def _stop(self) -> None:
        while not self._inner.pause(LAST_SECONDS):
            continue

    def _go_on(self) -> None:
        may = self._wanted and self._may_run and not (self._runs or self._frozen or self.gone)
        if may and self._inner.wait(0) is None:
            self._inner.start()
            self._runs = True

    # What the end does.

    def want(self) -> None:
        """Let the program run from now on, as the lease allows."""
        with self._turn:
            self._wanted, self._frozen = True, False
            self._go_on()

    def again(self) -> None:
        """Start the program once more: its worker paused it before it heard of a new lease."""
        with self._turn:
            may = self._wanted and self._may_run and self._runs and not self._frozen
            if may and not self.gone and self._inner.wait(0) is None:
                self._inner.start()

    def freeze(self) -> None:
        """Keep the program from being started: it stops for its move at this moment.

        The program's own thread may call this. It waits for no lock.
        """
        self._frozen = True

    def stopped(self) -> None:
        """Note that the program has stopped without `pause`."""
        with self._turn:
            self._runs = False

    def thaw(self) -> None:
        """Take `freeze` back; the program stays paused until the lease is renewed."""
        with self._turn:
            self._frozen = False


class LeasedMovable:
    """A program under a lease (`ports.MovableProgram`).

    Attributes:
        id: The program's id.
        keeper: Keeps the lease.
    """

    def __init__(
        self,
        inner: MovableProgram,
        node: bytes,
        register: Register,
        lease: Lease,
        say: Callable[[str], None],
        keeper: LeaseKeeper | None = None,
    ) -> None:
        """Make it of a program that does not run.

        Args:
            inner: The program.
            node: The id of this end.
            register: The register.
            lease: The lease.
            say: Gets sentences for people.
            keeper: The keeper by which this end owns the program, with a lease of its own; None
                makes one, and nobody owns the program here yet.
        """
        self.id = inner.id
        self._inner = inner
        self._guest = MovableGuest(inner)
        if keeper is None:
            owned = LeasedProgram(inner.id, node, self._guest, lease)
            keeper = LeaseKeeper(owned, register, say=say)
        self.keeper = keeper
        self._owned = keeper.program
        self._lease = self._owned.lease
        inner.guard(self._lease.lasts)
        with keeper.lock:
            self._owned.guest = self._guest
            if self._owned.record is not None:
                self._guest.extend(*self._lease.times)
            if self._owned.state is OwnerState.RUNNING:
                assert self._owned.record is not None
                self._guest.resume(self._owned.record)

    def describe(self) -> Description:
        """Return what a destination must have; a register too."""
        return replace(self._inner.describe(), lease=self._lease.length // 1_000_000)

    def module(self, digest: bytes) -> Buffer:
        """Return the binary of a module by digest."""
        return self._inner.module(digest)

    def start(self) -> None:
        """Let the program run as soon as its lease allows it."""
        keeper = self.keeper
        with keeper.lock:
            if self._owned.state is OwnerState.OFFERING:
                self._owned.apply(OwnerEvent.GIVE_UP)
            self._guest.want()
            waits = self._owned.state in (OwnerState.HELD, OwnerState.ASKING)
        if waits:
            keeper.renew()  # without an answer, the keeper's thread asks again

    def pause(self, timeout: float) -> bool:
        """Pause the program; a renewal does not let it run on."""
        self._guest.freeze()
        paused = self._inner.pause(timeout)
        if paused:
            self._guest.stopped()
        else:
            self._guest.thaw()
        return paused

    def wait(self, timeout: float | None) -> Ending | None:
        """Return how the program ended, or that this end has lost it; None otherwise."""
        ending = self._inner.wait(timeout)
        lost = self.keeper.lost or self.keeper.failed
        if ending is None and self._guest.gone and lost is not None:
            return Ending(LEASE_LOST, EXIT_MIGRATION, str(lost))
        return ending

    def guard(self, may: Callable[[], bool]) -> None:
        """Let host calls with an effect outside pass only while `may` allows it."""
        self._inner.guard(may)

    def lease(self, pause_at: int, end_at: int) -> None:
        """Take the times of a new lease; the keeper has told them to the program."""
        self._inner.lease(pause_at, end_at)

    def again(self) -> None:
        """Let the program run that its worker paused before it heard of a new lease."""
        self._guest.again()

    def leave(self, held: Collection[bytes] = (), known: int = 0, files: int = 0) -> LeavingLeased:
        """Begin to send the program away."""
        return LeavingLeased(self._inner.leave(held, known, files), self)

    def left(self, epoch: int, received: Path | None) -> None:
        """Take note that the program has left, to send less when it comes back."""
        self._inner.left(epoch, received)

    def offer(self) -> None:
        """Note that the program has stopped for its move: no renewal lets it run on.

        Raises:
            LeaseLost: The lease has not been renewed. The program is paused, and goes on when it
                is.
        """
        guest = self._guest
        with self.keeper.lock:
            guest.stopped()
            if self._owned.state is not OwnerState.RUNNING:
                guest.thaw()
                raise self.not_renewed()
            self._owned.offer()

    def not_renewed(self) -> LeaseLost:
        """Return the error of a program that its lease has paused."""
        return LeaseLost(
            "the register has not renewed its lease, so it is paused and does not move",
            program=self.id,
            record=self._owned.record,
        )

    def freeze(self) -> None:
        """Keep the program from being started; see `MovableGuest.freeze`."""
        self._guest.freeze()

    def pieces(self) -> Iterator[Buffer]:
        """Return the paused program's whole snapshot."""
        return self._inner.pieces()

    def close(self) -> None:
        """End the program."""
        self._guest.freeze()
        self._inner.close()


class LeavingLeased:
    """A leased program that leaves (`ports.Leaving`): it is offered when it has stopped."""

    def __init__(self, inner: Leaving, program: LeasedMovable) -> None:
        self._inner = inner
        self._program = program
        self.early = inner.early
        self.rest_size = inner.rest_size
        self.rest_seconds = inner.rest_seconds
        self.method = inner.method
        self.files_size = inner.files_size
        self.sizes: Sequence[int] = inner.sizes
        self.digest = inner.digest
        self.parts = inner.parts

    def round(self, stays: Stays, timeout: float) -> bool:
        """Begin a round; see `ports.Leaving`. Raises LeaseLost too."""
        last = False

        def asked(pages: int, files: int = 0) -> bool:
            nonlocal last
            last = stays(pages, files)
            if last:
                self._program.freeze()
            return last

        stands = self._inner.round(asked, timeout)
        self.sizes, self.parts = self._inner.sizes, self._inner.parts
        if stands and self._program.wait(0) is None:
            if not last:
                raise self._program.not_renewed()
            self._program.offer()
        return stands

    def called(self) -> Iterator[CalledFunctions]:
        """Return the functions that have code; see `ports.Leaving`."""
        return self._inner.called()

    def sample(self, count: int) -> tuple[bytes, int]:
        """Return some pages of the round, and of how many; see `ports.Leaving`."""
        return self._inner.sample(count)

    def batches(self) -> Iterator[PageBatch]:
        """Return the pages of the round."""
        return self._inner.batches()

    def files(self) -> Iterator[FileBatch]:
        """Return pieces of carried files; see `ports.Leaving`."""
        return self._inner.files()

    def rest(self, *, since: bool = False) -> Iterator[Buffer | tuple[int, int]]:
        """Return the rest of the state; see `ports.Leaving`."""
        yield from self._inner.rest(since=since)
        self.digest = self._inner.digest

    def output(self) -> Iterator[KeptOutput]:
        """Return kept output; see `ports.Leaving`."""
        return self._inner.output()

    def slow(self, share: float) -> None:
        """Let the program stand for this share of the time."""
        self._inner.slow(share)

    def close(self) -> None:
        """Release what is kept."""
        self._inner.close()


__all__ = ["LeasedMovable", "LeavingLeased", "MovableGuest"]
