"""What a node notes of each program: one file, replaced whole, with a checksum.

The file is written before anybody is told what it says. A node that starts again decides by it,
and by what it finds of workers, what has become of the program.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from wasmsr.migrate.journal.durable import replace_file
from wasmsr.migrate.journal.record_file import last_of, line_of
from wasmsr.node.failures import NodeError
from wasmsr.node.leases.lease_terms import LeaseTerms

LARGEST = 1 << 20
"""Bytes of a record that are read at most."""

LIVES = 64
"""Starts of a program whose offsets of output are kept."""

STREAMS = ("stdout", "stderr")

DAMAGE = (NodeError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""Errors of a record that is damaged."""


class ProgramStanding(enum.Enum):
    """What a node says of a program."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"
    KILLED = "killed"
    RESUMABLE = "resumable"
    LOST = "lost"
    MOVED = "moved"

    @property
    def is_alive(self) -> bool:
        """Whether a worker has, or should have, the program."""
        return self in (self.STARTING, self.RUNNING, self.PAUSED)

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow here by itself."""
        return self in (self.ENDED, self.KILLED, self.LOST, self.MOVED)


@dataclass(frozen=True)
class SavePoint:
    """A state from which a program can be resumed.

    Attributes:
        life: The number of the start during which it was saved.
        time: When, in seconds since 1970.
        root: Root digest of a checkpoint in hexadecimal digits; "" for a snapshot that a worker
            wrote when it had waited for a supervisor in vain, and for the state in which the
            program came here.
        number: Number of the checkpoint; 0 for such a snapshot.
        size: Bytes of its file.
        output: Bytes of standard output that the program had written.
        errors: The same of standard error.
    """

    life: int
    time: float
    root: str
    number: int
    size: int
    output: int
    errors: int

    @property
    def offsets(self) -> dict[str, int]:
        """Bytes of each stream, by its name."""
        return {"stdout": self.output, "stderr": self.errors}


@dataclass(frozen=True)
class MovedTo:
    """Where a program is that has left.

    Attributes:
        address: The address of the node.
        node: The node's id in hexadecimal digits.
        epoch: The epoch in which that node owns it.
        confirmed: Whether that node has said that it does.
    """

    address: str
    node: str
    epoch: int
    confirmed: bool


@dataclass
class ProgramRecord:
    """The record of one program.

    Attributes:
        program: Its id in hexadecimal digits.
        name: What people call it.
        digest: SHA-256 of its module in hexadecimal digits.
        spec: Its run, as `RunSpec.as_dict` gives it.
        submitted: When it came, in seconds since 1970.
        submitter: Who brought it.
        standing: What the node says of it.
        reason: Why, as a sentence, or "".
        ending: How it ended, as in `ProgramStatus`, or "".
        code: Its exit code.
        changed: When the standing changed.
        life: How often it was started or resumed from a save point.
        begins: Where the output of each life begins: [life, stdout, stderr].
        saved: The save point from which it can be resumed, or None.
        every: Seconds between checkpoints, or None.
        snapshot: SHA-256 of the snapshot in which it began, in hexadecimal digits; "" for none.
        epoch: The epoch in which this node owns the program, or owned it.
        attempt: The attempt by which it came, in hexadecimal digits; "" if it began here.
        went: Where it is, if it has moved.
        lease: The terms of its lease, or None.
        stands: Whether somebody has paused it, and wants it paused wherever it goes on.
        lent_until: Until when a browser may run it, in ns of `realtime.boot`; 0 for never.
    """

    program: str
    name: str
    digest: str
    spec: dict[str, Any]
    submitted: float
    submitter: str = ""
    standing: ProgramStanding = ProgramStanding.STARTING
    reason: str = ""
    ending: str = ""
    code: int = 0
    changed: float = 0.0
    life: int = 1
    begins: list[list[int]] = field(default_factory=lambda: [[1, 0, 0]])
    saved: SavePoint | None = None
    every: float | None = None
    snapshot: str = ""
    epoch: int = 1
    attempt: str = ""
    went: MovedTo | None = None
    lease: LeaseTerms | None = None
    stands: bool = False
    lent_until: int = 0

    def write(self, path: Path) -> None:
        """Write the record, durably. Raises OSError."""
        values = asdict(self) | {"standing": self.standing.value}
        replace_file(path, line_of(json.dumps(values).encode()))

    @classmethod
    def read(cls, path: Path) -> ProgramRecord:
        """Read a record.

        Raises:
            OSError: The file cannot be read.
            NodeError: It is damaged, or of a later version.
        """
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        try:
            values = json.loads(last_of(data)[0])
            unknown = values.keys() - {one.name for one in fields(cls)}
            if unknown:
                raise ValueError(f"it has {', '.join(sorted(unknown))}")
            values["standing"] = ProgramStanding(values["standing"])
            saved = values.get("saved")
            values["saved"] = None if saved is None else SavePoint(**saved)
            went = values.get("went")
            values["went"] = None if went is None else MovedTo(**went)
            lease = values.get("lease")
            values["lease"] = None if lease is None else LeaseTerms.read(lease)
            return cls(**values)
        except DAMAGE as error:
            raise NodeError(
                f"the record {path} is damaged, or of a later wasmsr: {error}",
                hint="move the program's folder away to let the node start without it",
            ) from error

    def begin_life(self, offsets: dict[str, int]) -> None:
        """Note that the program is started once more, at these offsets of its output."""
        self.life += 1
        self.begins.append([self.life, offsets["stdout"], offsets["stderr"]])
        del self.begins[:-LIVES]

    def rewound(self, life: int, stream: str, offset: int) -> int | None:
        """Return where a reader must begin again, or None if what it has still counts.

        Args:
            life: The life during which the reader read last.
            stream: "stdout" or "stderr".
            offset: Bytes of the stream that it has.
        """
        at = 1 + STREAMS.index(stream)
        later = [begin[at] for begin in self.begins if begin[0] > life]
        cut = min(later, default=offset)
        return cut if cut < offset else None
