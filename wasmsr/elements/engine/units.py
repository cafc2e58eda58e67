"""What starts, ends and goes on together in a run, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wasmsr.elements.folder.element import Element

if TYPE_CHECKING:
    from wasmsr.elements.engine.control import CopyControl

CopyKey = tuple[str, int]
"""The name of an element, and the index of a copy."""


@dataclass(eq=False)
class StartUnit:
    """Copies that start together, end together and start again together: a gang, or one copy.

    Attributes:
        copies: Elements with the indexes of their copies.
        memories: Names of the memories that they use.
        running: Numbers of the copies that run.
        ended: Copies that have ended well, with their results. They count when all have.
        failed: Whether a copy has failed: the others are killed, and all start again.
        over: Whether it has failed, and no copy of it runs any more.
        shares: Whether another unit has used a memory of this one at the same time.
        group: The units that start again together with this one; itself is among them.
    """

    copies: list[tuple[Element, int]]
    memories: frozenset[str]
    running: set[int] = field(default_factory=set)
    ended: list[tuple[RunningCopy, str]] = field(default_factory=list)
    failed: bool = False
    over: bool = False
    shares: bool = False
    group: list[StartUnit] = field(default_factory=list)

    @property
    def key(self) -> frozenset[CopyKey]:
        """What tells it from other units, also after a resume."""
        return frozenset((element.name, index) for element, index in self.copies)


@dataclass(eq=False)
class RunningCopy:
    """A copy that runs.

    Attributes:
        element: Its element.
        index: Its index.
        attempt: How often it was begun, with this time.
        unit: With which others it started.
        control: The way to pause and save it; None for a step in Python.
        unsure: How many of its saved states may be newer than the one that counts.
    """

    element: Element
    index: int
    attempt: int
    unit: StartUnit
    control: CopyControl | None = None
    unsure: int = 0

    @property
    def key(self) -> CopyKey:
        """Its element and its index."""
        return self.element.name, self.index


@dataclass
class StepState:
    """An element of a run.

    Attributes:
        left: Indexes of the copies that have not ended well.
        failed: How often a copy has failed, by its index.
        begun: How often a copy has begun, by its index.
    """

    element: Element
    left: set[int]
    failed: dict[int, int] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitCut:
    """The state of a unit in a cut: it goes on from there, and not from its beginning.

    Attributes:
        name: The name of the cut; the states of its copies say it, too.
        saved: For each copy that ran the root digest of its state, in hex, and how many bytes it
            had written to its standard output.
        ended: What the journal will have of each copy that had ended.
        memories: Names of the memories that the unit uses.
    """

    name: str
    saved: Mapping[CopyKey, tuple[str, int]]
    ended: Sequence[Mapping[str, Any]]
    memories: frozenset[str]

    @property
    def key(self) -> frozenset[CopyKey]:
        """The key of its unit."""
        return frozenset([*self.saved, *((one["element"], one["index"]) for one in self.ended)])

    def entry(self) -> dict[str, Any]:
        """Return what the journal has of it."""
        saved = [[*key, root, written] for key, (root, written) in sorted(self.saved.items())]
        return {"cut": self.name, "saved": saved, "ended": list(self.ended),
                "memories": sorted(self.memories)}  # fmt: skip

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> UnitCut:
        """Return the cut of an entry of the journal.

        Raises:
            LookupError, TypeError, ValueError: It has another form.
        """
        saved = {}
        for name, index, root, written in entry["saved"]:
            if type(index) is not int or type(written) is not int or written < 0:
                raise ValueError("a saved copy has another form")
            bytes.fromhex(root)
            saved[str(name), index] = (root, written)
        ended = [dict(one) for one in entry["ended"]]
        for one in ended:
            if type(one["index"]) is not int or "result" not in one or "element" not in one:
                raise ValueError("a copy that had ended has another form")
        return cls(str(entry["cut"]), saved, ended, frozenset(map(str, entry["memories"])))


def ended_entry(copy: RunningCopy, result: Any) -> dict[str, Any]:
    """Return what the journal has of a copy that has ended well."""
    return {"element": copy.element.name, "index": copy.index, "attempt": copy.attempt,
            "result": result}  # fmt: skip


def connected(units: Sequence[StartUnit], start: frozenset[str]) -> list[StartUnit]:
    """Return the units that use some memories, or share one with those that do, and so on.

    Args:
        units: All units that run.
        start: The names of the memories.
    """
    names, found, left = set(start), list[StartUnit](), list(units)
    while True:
        near = [one for one in left if one.memories & names]
        if not near:
            return found
        found += near
        left = [one for one in left if one not in near]
        names.update(*(one.memories for one in near))
