"""What two ends say to each other about a move, as plain values. No file of the room is below.

`wasmsr.rpc` makes messages of these values, and values of messages. It checks each message that
comes, so values of these types are always well-formed. docs/migration-protocol.md has the terms.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from wasmsr.errors import EXIT_HANDED, MigrationError

PROTOCOL = 3
"""Version of the protocol. Two ends with different numbers do not move programs."""

PIECE = 1 << 20
"""Most bytes in one piece of a stream."""

INPUT = "input"
"""The ability to have a program's input from another end, and to give it one."""
LEASE = "lease"
"""The ability to take programs under a lease, for which the end needs a register."""
EARLY = "early"
"""The ability to prepare a store from an earlier rest of the state."""
JOINED = "joined"
"""The ability to take several parts of a transfer in one message."""
CALLED = "called"
"""The ability to make code of functions that the program has called, before it is stopped."""
NODE = "node"
"""The ability to take programs of a node: with what it notes of them, and with kept output."""
FILES = "files"
"""The ability to take pieces of carried files in the rounds, before the state that names them."""
AHEAD = "ahead"
"""The ability to make carried files between the rounds, so that only what has changed is written
when the program is stopped. It needs an earlier rest."""
ABILITIES = (INPUT, LEASE, EARLY, JOINED, CALLED, FILES, AHEAD)
"""What ends can do and some ends of the same protocol version cannot; a node has `NODE` too."""

LEASE_LOST = "lost"
"""The kind of the ending of a leased program that another end has taken over: it goes on there."""

ID_BYTES = 16
DIGEST_BYTES = 32


class OwnershipState(IntEnum):
    """What an end's journal says of a program. The wire has the same numbers."""

    UNKNOWN = 0
    RECEIVING = 1
    READY = 2
    OWNED = 3
    OFFERED = 4
    HANDED = 5
    ENDED = 6
    LOST = 7


SNAPSHOT_FORMAT = 2
"""The version of the snapshot format in which protocol 3 moves programs."""

MOST_ROUNDS = 1000
"""Most rounds of a move."""

BATCH_BYTES = 1 << 20
"""Most bytes of pages in one message."""

MODULES = 64
"""Most modules of a program that moves."""

MEMORIES = 64
"""Most memories of a program that moves."""


class Reason(IntEnum):
    """Why an end refuses. The wire has the same numbers."""

    UNSPECIFIED = 0
    VERSION = 1
    BUSY = 2
    MODULE = 3
    FEATURE = 4
    MOUNT = 5
    LIMIT = 6
    STATE = 7
    STORAGE = 8
    OWNERSHIP = 9
    SELF = 10


@dataclass(frozen=True)
class Move:
    """One attempt at moving one program.

    Attributes:
        program: The program's id, 16 bytes.
        epoch: The epoch in which the destination would own the program.
        attempt: The attempt's id, 16 bytes.
    """

    program: bytes
    epoch: int
    attempt: bytes


@dataclass(frozen=True)
class ModuleName:
    """A module by content: SHA-256 (32 bytes), size in bytes, and a name for people."""

    digest: bytes
    size: int
    name: str = ""


@dataclass(frozen=True)
class MountName:
    """A directory of the program: the path that the guest sees, and the mount's mode."""

    guest: str
    mode: str = "host"


@dataclass(frozen=True)
class ProgramLimits:
    """What the program may use: pages of 64 KiB, table elements, 64-bit slots, frames."""

    memory_pages: int = 0
    table_elements: int = 0
    stack_slots: int = 0
    stack_frames: int = 0
    deterministic: bool = False


@dataclass(frozen=True)
class Description:
    """What a destination must have and allow to take a program."""

    modules: tuple[ModuleName, ...]
    snapshot_format: int = SNAPSHOT_FORMAT
    features: tuple[str, ...] = ()
    mounts: tuple[MountName, ...] = ()
    shown: bytes = b""
    """Node id of the end that shows the program's output wherever it runs; b"": where it runs."""
    fed: bytes = b""
    """Node id of the end that has the program's input wherever it runs; b"": it goes along."""
    limits: ProgramLimits = field(default_factory=ProgramLimits)
    lease: int = 0
    """Milliseconds of the program's lease: a register says who owns it. 0: the journals do."""
    record: bytes = b""
    """What a node notes of its program, as JSON; b"" for a program of another end."""


@dataclass(frozen=True)
class Offer:
    """A source's question: may this program come?

    Attributes:
        node: The source's own id.
        move: The attempt.
        description: What the program needs.
        protocol: The version of the protocol that the source speaks.
        software: The source's version of wasmsr, for people.
        rounds: Most rounds in which its memories come, the last one included.
        address: Where the source is called, `[HOST]:PORT`; "" if the ends know each other.
    """

    node: bytes
    move: Move
    description: Description
    protocol: int = PROTOCOL
    software: str = ""
    rounds: int = MOST_ROUNDS
    address: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a destination refuses: the reason, one sentence, and what the user can do or ""."""

    reason: Reason
    sentence: str
    hint: str = ""


@dataclass(frozen=True)
class Answer:
    """A destination's consent.

    Attributes:
        node: The destination's node id.
        missing: Digests of the modules that it lacks.
        held: Digests of the pieces of carried files that it has; the source leaves them out.
        abilities: What it can do, such as `INPUT`.
        restore: Seconds that it took to restore a program of that module; 0.0 if it never did.
        known: The epoch of the image of the program that it keeps since the program was there; 0
            for none. The image has the state in which the program came into that epoch.
        journal: The id of its journal, if it can be READY in memory only; else b"".
        files: Most bytes of pieces of carried files that it takes in the rounds of one attempt.
    """

    node: bytes
    missing: tuple[bytes, ...] = ()
    held: tuple[bytes, ...] = ()
    abilities: tuple[str, ...] = ()
    restore: float = 0.0
    known: int = 0
    journal: bytes = b""
    files: int = 0


@dataclass(frozen=True)
class RoundHead:
    """What a round begins with.

    Attributes:
        number: 1 for the first round, one more for each later one.
        sizes: Pages of 4 KiB of each memory, by number. A memory never becomes shorter.
        last: Whether the program is paused for this round, so that no other follows.
    """

    number: int
    sizes: tuple[int, ...]
    last: bool = False


@dataclass(frozen=True)
class PackedPages:
    """Pages of one memory, as they go over the wire.

    In a round the batches ascend by memory and page, and no page is there twice.

    Attributes:
        memory: The memory's number.
        runs: Runs of pages (first, count), ascending, whose bytes are in `data`.
        zeros: Runs of pages that are zeros now.
        size: Bytes of the pages of `runs`.
        data: Their bytes, one page after the other; one zstd frame of them if `packed`.
        packed: Whether `data` is compressed.
        known: Runs of pages that are as in the image that the destination keeps.
    """

    memory: int
    runs: array[int]
    zeros: array[int]
    size: int
    data: bytes
    packed: bool
    known: array[int] = field(default_factory=lambda: array("Q"))


@dataclass(frozen=True)
class PackedFiles:
    """Pieces of carried files, as they go over the wire.

    They are chunks of the snapshot format, section 5.16. None comes twice in an attempt.

    Attributes:
        digests: The digest of each.
        lengths: Bytes of each, 1 to 65,536.
        data: Their bytes, one after the other; one zstd frame of them if `packed`.
        packed: Whether `data` is compressed.
    """

    digests: tuple[bytes, ...]
    lengths: tuple[int, ...]
    data: bytes
    packed: bool


@dataclass(frozen=True)
class KeptOutput:
    """Output that a node keeps of its program.

    Attributes:
        stream: "stdout" or "stderr".
        offset: Offset in the stream of the first byte.
        data: The bytes.
    """

    stream: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class RoundReceipt:
    """What a destination says when it has a whole round, and has it on its disk.

    Attributes:
        number: The round's.
        sync: Seconds that one small sync takes at the destination; 0.0 if it is not known.
        flush: Seconds that syncing the round took; 0.0 if it is not known.
        placed: Seconds for which carried files were made of what has come.
    """

    number: int
    sync: float = 0.0
    flush: float = 0.0
    placed: float = 0.0


@dataclass(frozen=True)
class Receipt:
    """What a READY destination holds.

    Attributes:
        size: Bytes of the rest of the state.
        digest: The root digest of the whole state, 32 bytes.
        sync: Seconds that the destination's syncs took, as it says; 0.0 at the source.
        restore: Seconds that it took to restore the program on trial.
    """

    size: int
    digest: bytes
    sync: float = field(default=0.0, compare=False)
    restore: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Ending:
    """How a program ended.

    Attributes:
        kind: "finished", "exited", "trapped", "fuel", "interrupted", "failed" or `LEASE_LOST`.
        code: The exit code of the command line.
        sentence: For people; may be "".
    """

    kind: str
    code: int
    sentence: str = ""


@dataclass(frozen=True)
class Report:
    """An end's answer about a move: what its record says, and the id of its journal."""

    standing: OwnershipState
    epoch: int = 0
    attempt: bytes = b""
    ending: Ending | None = None
    journal: bytes = field(default=b"", compare=False)


@dataclass(frozen=True)
class Committed:
    """A destination's answer to Commit.

    Attributes:
        standing: What its journal says now.
        started: Seconds from the arrival of Commit until the program ran; 0.0 if it ran before.
    """

    standing: OwnershipState
    started: float = 0.0


class Phase(str, Enum):
    """Where in a move something went wrong (`MigrationError.phase`)."""

    PREPARE = "prepare"
    STOP = "stop"
    STREAM = "stream"
    HAND_OVER = "hand-over"
    COMMIT = "commit"


class PeerLost(MigrationError):
    """The peer did not answer. Nobody can tell whether it did what it was asked."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, phase=Phase.STREAM.value, owner="unknown", hint=hint)


class PeerUnknown(PeerLost):
    """Somebody without this end's key answers there: it is not the peer."""


class PeerRefused(MigrationError):
    """The peer refused, and has done nothing.

    Attributes:
        reason: Why it refused.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(
            refusal.sentence,
            phase=Phase.PREPARE.value,
            owner="source",
            hint=refusal.hint or None,
        )
        self.reason = refusal.reason


def refused(reason: Reason, sentence: str, hint: str = "") -> PeerRefused:
    """Return the error that makes the server answer with a refusal."""
    return PeerRefused(Refusal(reason, sentence, hint))


class JournalError(MigrationError):
    """The journal cannot be written or read. It says the same as before."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, phase=Phase.HAND_OVER.value, owner="source", hint=hint)


class HandedAway(MigrationError):
    """This end was interrupted after its decision and before the peer confirmed it.

    Attributes:
        file: The file of the last state, which is marked as handed.
    """

    exit_code = EXIT_HANDED

    def __init__(self, message: str, *, file: str, hint: str | None = None) -> None:
        super().__init__(message, phase=Phase.COMMIT.value, owner="destination", hint=hint)
        self.file = file


class InDoubt(MigrationError):
    """This end was interrupted while it had a program whose owner was not decided."""

    exit_code = EXIT_HANDED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, phase=Phase.HAND_OVER.value, owner="unknown", hint=hint)
