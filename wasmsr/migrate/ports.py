"""What the room needs of a program, of the host that runs programs, and of a peer.

The wing `hosting` implements programs and hosts, and `wasmsr.rpc.client` implements peers. Tests
have their own implementations, which fail where a test says.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.protocol import (
    Answer,
    Committed,
    Description,
    Ending,
    KeptOutput,
    Move,
    Offer,
    OwnershipState,
    PackedFiles,
    PackedPages,
    Receipt,
    Refusal,
    Report,
    RoundHead,
    RoundReceipt,
)
from wasmsr.snapshot.live.outgoing import PageBatch

Buffer = bytes | bytearray | memoryview

Say = Callable[[str, str, dict[str, object]], None]


@dataclass(frozen=True)
class FileBatch:
    """Pieces of carried files.

    Attributes:
        digests: The digest of each.
        lengths: Bytes of each.
        data: Their bytes, one after the other; at most 1 MiB.
    """

    digests: tuple[bytes, ...]
    lengths: tuple[int, ...]
    data: bytes


class Stays(Protocol):
    """Decides whether a program stays paused for a round."""

    def __call__(self, pages: int, files: int = 0) -> bool:
        """Return whether it does.

        Args:
            pages: About how many pages are left to send.
            files: About how many bytes of files are left.
        """


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

    def guard(self, may: Callable[[], bool]) -> None:
        """Let host calls with an effect outside pass only while `may` returns True."""

    def lease(self, pause_at: int, end_at: int) -> None:
        """Take the times of a new lease; see `Executor.lease`. It may not run yet."""

    def leave(self, held: Collection[bytes] = (), known: int = 0, files: int = 0) -> Leaving:
        """Begin to send the program away. The program may be running, and runs on.

        Args:
            held: Digests of the pieces of files that the destination has. They are left out.
            known: The epoch of the image that the destination keeps, or 0: of pages that are the
                same in it only the numbers are sent.
            files: Most bytes of pieces of carried files that the destination takes in the rounds;
                0 if it takes none, and they are all in the rest.

        Raises:
            SnapshotError: The program cannot be saved.
            MigrationError: It did not pause in time.
        """

    def left(self, epoch: int, received: Path | None) -> None:
        """Take note that the program has left, to send less when it comes back.

        Args:
            epoch: The epoch in which it is elsewhere now.
            received: The image in which it came here; None if it began here.
        """

    def pieces(self) -> Iterator[Buffer]:
        """Return the paused program's whole snapshot, for a file.

        Raises:
            SnapshotError: The program cannot be saved.
        """

    def close(self) -> None:
        """End the program and release its files and memory."""


class Leaving(Protocol):
    """A program that leaves: its memories in rounds, then the rest of its state."""

    rest_size: int
    """About how many bytes the rest has; 0 if it is not known."""

    rest_seconds: float
    """About how many seconds it takes to capture and encode the rest."""

    early: Buffer
    """The rest as it is before the first round, for a store that is prepared; b"" for none."""

    sizes: Sequence[int]
    """Pages of 4 KiB of each memory in the present round."""

    digest: bytes
    """The root digest of the whole state, after `rest`."""

    method: str
    """How dirty pages are found."""

    files_size: int
    """About how many bytes of pieces of files are to be sent before the rest; 0 for none."""

    parts: dict[str, float]
    """Seconds of what was done while the program was paused: "pause", "scan", "encode"."""

    def called(self) -> Iterator[CalledFunctions]:
        """Return the functions that have code here, so that the peer makes it as well."""

    def round(self, stays: Stays, timeout: float) -> bool:
        """Begin a round: find the pages that have changed since the one before.

        The program stands for a moment. It may have ended.

        Args:
            stays: Is told about how many pages there are, and about how many bytes of files; True
                keeps the program paused.
            timeout: Seconds that the program has to pause.

        Returns:
            Whether the program is paused now, or has ended.

        Raises:
            MigrationError: It did not pause in time.
            SnapshotError: The pages cannot be found.
        """

    def sample(self, count: int) -> tuple[bytes, int]:
        """Return some pages of the round that will be sent, and how many were looked at for them.

        Args:
            count: How many are looked at, at most.
        """

    def batches(self) -> Iterator[PageBatch]:
        """Return the pages of the round; the program may run meanwhile."""

    def files(self) -> Iterator[FileBatch]:
        """Return pieces of carried files that the peer has not got; the program may run meanwhile.

        In the last round, after `batches` and before `rest`, this captures the program's state.

        Raises:
            SnapshotError: The program is paused and cannot be saved.
        """

    def output(self) -> Iterator[KeptOutput]:
        """Return kept output that this has not returned before; none where streams are relayed."""

    def rest(self, *, since: bool = False) -> Iterator[Buffer | tuple[int, int]]:
        """Return the rest of the paused program's state.

        Args:
            since: Whether the peer has `early`: parts of the rest that are in it come as their
                offset there and their size.

        Raises:
            SnapshotError: The program cannot be saved.
        """

    def slow(self, share: float) -> None:
        """Let the program stand for this share of the time, 0.0 to 0.9, while it leaves."""

    def close(self) -> None:
        """Release what is kept; the program itself stays as it is."""


class ProgramHost(Protocol):
    """This host as a place for programs that come from elsewhere."""

    def refuse(self, description: Description) -> Refusal | None:
        """Return why a program so described cannot come, or None if it can."""

    def module(self, digest: bytes) -> Buffer | None:
        """Return a module that this host has anyway, or None."""

    def admit(self, binary: Buffer) -> None:
        """Validate and compile a module before the program comes. Raises ModuleError."""

    def arrival(
        self,
        relays: Relays | None = None,
        *,
        image: int | None = None,
        rest: int = 0,
        program: bytes = b"",
        offer: Offer | None = None,
        files: int = 0,
    ) -> Arrival:
        """Begin to take a program in.

        Args:
            relays: How it reaches its streams.
            image: Descriptor of an empty file that becomes a snapshot of what comes, marked as
                handed; None for none.
            rest: About how many bytes the state has besides the memories.
            program: Its id.
            offer: By what it was announced.
            files: About how many bytes of pieces of files come before the rest.

        Raises:
            PeerRefused: It may not come after all.
        """

    def restored(self, file: Iterator[Buffer], relays: Relays) -> WholeState:
        """Return the state of a program whose snapshot is on this host's disk.

        Raises:
            SnapshotError: The file is damaged.
        """

    def restore_seconds(self, digest: bytes) -> float:
        """Return how long it took to restore a program of a module; 0.0 if none was."""

    def known(self, program: bytes) -> int:
        """Return the epoch of the image of a program that is kept since it was here, or 0."""

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return digests of the pieces of files that are here since the program was."""

    def room_for_files(self, description: Description) -> int:
        """Return how many bytes of pieces of files a program may bring in the rounds."""

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


class WholeState(Protocol):
    """The whole state of a program, of which only a program has to be made."""

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> MovableProgram:
        """Make a paused program of what was fed. Nothing outside changes.

        Args:
            program: The program's id.
            modules: The binaries of its modules by digest.

        Raises:
            SnapshotError, ModuleError, WasiConfigError: The program cannot be made.
        """


class Arrival(WholeState, Protocol):
    """The state of a program that comes: its memories in rounds, then the rest.

    Every method raises SnapshotError for bytes that cannot be, OSError and MemoryError where this
    host has no room.
    """

    def resize(self, sizes: Sequence[int]) -> None:
        """Take note of how many pages of 4 KiB each memory has."""

    def pages(
        self,
        memory: int,
        runs: array[int],
        data: Buffer,
        zeros: array[int],
        known: Sequence[int] = (),
    ) -> None:
        """Take pages of a memory; see `PackedPages`. `data` is not compressed."""

    def early(self, piece: Buffer) -> None:
        """Take the next piece of an earlier rest, which comes before all pages."""

    def prepare(self, modules: Mapping[bytes, Buffer]) -> None:
        """Restore the program on trial from the earlier rest, and keep what stays the same.

        Args:
            modules: The binaries of its modules by digest.

        Raises:
            SnapshotError, ModuleError: The program cannot be made.
        """

    def called(self, called: CalledFunctions, module: Buffer) -> None:
        """Make code of functions before the program needs it; it is advice.

        Args:
            called: The functions.
            module: The binary of their module.

        Raises:
            SnapshotError, ModuleError: They are no functions of the module.
        """

    def files(self, digests: Sequence[bytes], lengths: Sequence[int], data: Buffer) -> None:
        """Take pieces of carried files; see `PackedFiles`. `data` is not compressed."""

    def place(self) -> None:
        """Make carried files of what has come, between two rounds; it is advice.

        They are where they become a part of the program's folders when it is this host's.
        """

    def output(self, kept: KeptOutput) -> None:
        """Take a piece of kept output."""

    def feed(self, piece: Buffer) -> None:
        """Take the next piece of the rest."""

    def repeat(self, offset: int, size: int) -> None:
        """Take a part of the earlier rest as the next piece of the rest."""

    def finish(self) -> bytes:
        """Check all of the state, and return its root digest."""

    def sync(self) -> None:
        """Write what has come into the image, and the image to the disk; any thread may call this.

        Before the program runs it is called once more, beside `restore` or after it: then the image
        is complete.
        """

    def close(self) -> None:
        """Release what has come; after `restore` this does nothing."""


class Sending(Protocol):
    """A transfer that has begun. Every method raises PeerLost or PeerRefused."""

    waited: float
    """Seconds in which this end only waited for the peer, so far."""

    def early(self, piece: Buffer, *, last: bool) -> None:
        """Send 1 byte to 1 MiB of an earlier rest; wait as for `pages`."""

    def called(self, called: CalledFunctions) -> None:
        """Send functions that have code here, before the first round; wait as for `pages`."""

    def begin(self, head: RoundHead) -> None:
        """Begin a round."""

    def pages(self, batch: PackedPages) -> None:
        """Send pages; wait while the peer has too many bytes left to take."""

    def files(self, batch: PackedFiles) -> None:
        """Send pieces of carried files; wait as for `pages`."""

    def output(self, kept: KeptOutput) -> None:
        """Send a piece of kept output; wait as for `pages`."""

    def drain(self) -> None:
        """Wait until the peer has taken all that was sent."""

    def end(self, number: int) -> RoundReceipt:
        """End a round that is not the last one; wait until the peer has it."""

    def send(self, piece: Buffer) -> None:
        """Send 1 byte to 1 MiB of the rest of the state; wait likewise."""

    def repeat(self, offset: int, size: int) -> None:
        """Name a part of the earlier rest as the next piece of the rest."""

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

    def upload(self, module: Buffer, digest: bytes, move: Move | None = None) -> None:
        """Send a module that the peer lacks; `move` is the attempt for which it said so."""

    def transfer(
        self, move: Move, rest: int = 0, *, memory: bool = False, files: int = 0
    ) -> Sending:
        """Begin to send the program's state.

        Args:
            move: The attempt.
            rest: About how many bytes its rest will have.
            memory: Whether the peer may be READY in memory only.
            files: About how many bytes of pieces of files will come before the rest.
        """

    def commit(self, move: Move, stopped: float) -> Committed:
        """Tell the peer the decision.

        Args:
            move: The decided move.
            stopped: Seconds for which the program stands when the peer hears this.
        """

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
