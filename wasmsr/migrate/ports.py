"""A program, the host that runs programs, and the peer at the other end, as this room sees them.

Three protocols. `hosting` makes the first two of `wasmsr.program`, `wasmsr.rpc.client` makes the
third of gRPC; tests put their own in, with faults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from wasmsr.migrate.protocol import (
    Answer,
    Description,
    Ending,
    Move,
    Offer,
    OwnershipState,
    Receipt,
    Refusal,
    Report,
)

Buffer = bytes | bytearray | memoryview

Say = Callable[[str, str, dict[str, object]], None]


class MovableProgram(Protocol):
    """A program on this host. It stands until `start`, and after `pause`."""

    id: bytes
    """16 random bytes, the same on every host that the program visits."""

    def describe(self) -> Description:
        """Return what a destination must have; at any time."""

    def module(self, digest: bytes) -> Buffer:
        """Return the binary of one of its modules."""

    def start(self) -> None:
        """Let it run, for the first time or on."""

    def pause(self, timeout: float) -> bool:
        """Pause the program.

        Returns:
            True when it is paused or has ended. False if `timeout` seconds were not enough; the
            request is then withdrawn and the program runs on.
        """

    def wait(self, timeout: float | None) -> Ending | None:
        """Return how it ended, waiting at most `timeout` seconds for that; None while it has
        not."""

    def pieces(self, held: Collection[bytes] = ()) -> Iterator[Buffer]:
        """Return its encoded snapshot, while it stands, without the pieces of files that the
        destination holds, by digest. Raises SnapshotError if it cannot be saved."""

    def close(self) -> None:
        """End the program where it is and release its files and memory."""


class ProgramHost(Protocol):
    """This host as a place for programs that come from elsewhere."""

    def refuse(self, description: Description) -> Refusal | None:
        """Return why a program so described cannot come, or None if it can."""

    def module(self, digest: bytes) -> Buffer | None:
        """Return a module that this host has anyway, or None."""

    def admit(self, binary: Buffer) -> None:
        """Validate and compile a module before the program comes. Raises ModuleError."""

    def arrival(self, relays: Relays | None = None) -> Arrival:
        """Begin to take a program in; `relays`: which ends show its output and have its input."""

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return digests of the pieces of files that are here since the program was."""

    def show(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Show a piece of output of a program that is elsewhere, once; the bytes before it since
        that move that an earlier process was to show. Raises OSError, ValueError."""

    def feed(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Return input for a program that is elsewhere, and whether it ends there; nothing if
        nothing comes in a while. Raises OSError, ValueError."""

    def forget(self, program: bytes, *, here: bool) -> None:
        """Release what is not needed any more of a program that has ended, here or elsewhere."""

    def close(self) -> None:
        """Release everything at the end of this end; wake whoever waits for input."""


@dataclass(frozen=True)
class Relays:
    """The ends where a program's streams are while it is here: node ids, b"" for none.

    Attributes:
        shown, fed: the end that shows its output, and the one that has its input.
        epoch: in which the program is owned here.
        send: sends a piece of output there; None: it is this end, or none.
        fetch: asks for input there; the same.
        say: tells people of this end what becomes of the output: an event's kind, text, values.
    """

    shown: bytes
    fed: bytes
    epoch: int
    send: Callable[[str, int, bytes], int] | None
    fetch: Callable[[int, int], tuple[bytes, bool]] | None
    say: Say | None = None


class Arrival(Protocol):
    """An encoded snapshot that becomes a program; that it is marked as handed is in order here."""

    def feed(self, piece: Buffer) -> None:
        """Read on. Raises SnapshotError."""

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> MovableProgram:
        """Make a standing program with the id `program` of what was fed, without any effect
        outside; `modules` are its modules by digest.

        Raises SnapshotError, ModuleError or WasiConfigError.
        """


class Sending(Protocol):
    """A transfer that has begun. Every method raises PeerLost or PeerRefused."""

    def send(self, piece: Buffer) -> None:
        """Send 1 byte to 1 MiB, and wait while the peer is too far behind."""

    def finish(self, receipt: Receipt) -> None:
        """Say that this was all, without waiting for the answer."""

    def ready(self) -> Receipt:
        """Wait until the peer is READY."""

    def cancel(self) -> None:
        """Break the transfer off, or do nothing if it is over."""


class Peer(Protocol):
    """The other end. Every method raises PeerLost (effect unknown) or PeerRefused (no effect)."""

    address: str
    """For people: HOST:PORT."""

    def prepare(self, offer: Offer) -> Answer:
        """Ask the peer to take a program."""

    def upload(self, module: Buffer, digest: bytes) -> None:
        """Send a module that the peer lacks."""

    def transfer(self, move: Move) -> Sending:
        """Begin to send the program's state."""

    def commit(self, move: Move, stopped: float) -> OwnershipState:
        """Tell the peer the decision; return what its journal says then."""

    def status(self, move: Move) -> Report:
        """Ask what the peer has decided about a move."""

    def abort(self, move: Move) -> OwnershipState:
        """Take an undecided move back; return what the journal of the peer says then."""

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        """Tell the peer that a program has ended."""

    def output(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Have a piece of output shown there, that stands at `offset` of the stream since `move`;
        the bytes before it that the process there has not shown, because it was started later. May
        be called by any thread beside the others."""

    def input(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Return input of a program that came here by `move`, and whether the input ends there.

        Args:
            move: The move by which the program came here.
            position: Offset in the stream.
            most: Bytes at most. There are none if nothing comes in a while.

        As for `output`, any thread may call this beside other calls.
        """

    def interrupt(self) -> None:
        """Make the call in progress raise PeerLost at once. Any thread may call this."""
