"""What the room needs of a program, of the host that runs programs, and of a peer.

The wing `hosting` implements programs and hosts, and `wasmsr.rpc.client` implements peers. Tests
have their own implementations, which fail where a test says.
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
    """A program on this host. It runs after `start`, until `pause`."""

    id: bytes
    """16 random bytes, the same on every host that the program visits."""

    def describe(self) -> Description:
        """Return what a destination must have. The program may be running."""

    def module(self, digest: bytes) -> Buffer:
        """Return the binary of one of its modules."""

    def start(self) -> None:
        """Start the program, or continue it."""

    def pause(self, timeout: float) -> bool:
        """Pause the program.

        Returns:
            True when it is paused or has ended. False if `timeout` seconds were not enough; the
            request is then withdrawn and the program runs on.
        """

    def wait(self, timeout: float | None) -> Ending | None:
        """Return how the program ended, or None if it has not after `timeout` seconds."""

    def pieces(self, held: Collection[bytes] = ()) -> Iterator[Buffer]:
        """Return the encoded snapshot of the paused program.

        Args:
            held: Digests of the pieces of files that the destination has. They are left out.

        Raises:
            SnapshotError: The program cannot be saved.
        """

    def close(self) -> None:
        """End the program and release its files and memory."""


class ProgramHost(Protocol):
    """This host as a place for programs that come from elsewhere."""

    def refuse(self, description: Description) -> Refusal | None:
        """Return why a program so described cannot come, or None if it can."""

    def module(self, digest: bytes) -> Buffer | None:
        """Return a module that this host has anyway, or None."""

    def admit(self, binary: Buffer) -> None:
        """Validate and compile a module before the program comes. Raises ModuleError."""

    def arrival(self, relays: Relays | None = None) -> Arrival:
        """Begin to take a program in; `relays` says how it reaches its streams."""

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return digests of the pieces of files that are here since the program was."""

    def show(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Show a piece of output of a program that is elsewhere, once.

        Args:
            move: The move by which the program is where it is.
            stream: "stdout" or "stderr".
            offset: The piece's offset in the stream since `move`.
            data: The piece.

        Returns:
            How many bytes of the stream an earlier process of this end got.

        Raises:
            OSError: The piece cannot be shown.
            ValueError: The piece does not follow the one before.
        """

    def feed(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Return input for a program that is elsewhere, and whether the input ends after it.

        The input is empty if none comes in a while. Raises OSError and ValueError.
        """

    def forget(self, program: bytes, *, here: bool) -> None:
        """Release what is kept of a program that has ended, here or elsewhere."""

    def close(self) -> None:
        """Release everything, and wake the threads that wait for input."""


@dataclass(frozen=True)
class Relays:
    """How a program that is here reaches its streams.

    Attributes:
        shown: Node id of the end that shows the program's output; b"" for the end where it runs.
        fed: Node id of the end that has the program's input; b"" if the input came along.
        epoch: The epoch in which this end owns the program.
        send: Sends a piece of output to the end `shown`; None if that is this end, or none.
        fetch: Asks the end `fed` for input; None if that is this end, or none.
        say: Reports trouble with the output to people at this end: an event's kind, text, values.
    """

    shown: bytes
    fed: bytes
    epoch: int
    send: Callable[[str, int, bytes], int] | None
    fetch: Callable[[int, int], tuple[bytes, bool]] | None
    say: Say | None = None


class Arrival(Protocol):
    """An encoded snapshot that becomes a program. The snapshot may be marked as handed."""

    def feed(self, piece: Buffer) -> None:
        """Decode the next piece. Raises SnapshotError."""

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> MovableProgram:
        """Make a paused program of what was fed. Nothing outside changes.

        Args:
            program: The program's id.
            modules: The binaries of its modules by digest.

        Raises:
            SnapshotError, ModuleError, WasiConfigError: The program cannot be made.
        """


class Sending(Protocol):
    """A transfer that has begun. Every method raises PeerLost or PeerRefused."""

    def send(self, piece: Buffer) -> None:
        """Send 1 byte to 1 MiB; wait while the peer has too many bytes left to write."""

    def finish(self, receipt: Receipt) -> None:
        """Send the end of the state; do not wait for the answer."""

    def ready(self) -> Receipt:
        """Wait until the peer is READY."""

    def cancel(self) -> None:
        """End the transfer early; do nothing if it is over."""


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
        """Take an undecided move back; return what the peer's journal says then."""

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        """Tell the peer that a program has ended."""

    def output(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Send a piece of output to the peer, which shows it.

        Any thread may call this beside other calls.

        Args:
            move: The move by which the program is here.
            stream: "stdout" or "stderr".
            offset: The piece's offset in the stream since `move`.
            data: The piece.

        Returns:
            How many bytes of the stream an earlier process of the peer got.
        """

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
