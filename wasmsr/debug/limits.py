"""Limits of what is read of debug data, which is input like any other.

pyelftools does what the data says: it reads numbers of any length and lists as long as their
section, and goes to an entry's sibling even where that is before the entry. So sections are streams
that count what is read of them, and the entries of a unit are read once, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

MOST_READS = 60_000_000
"""Reads of a module's sections: about a minute."""
MOST_OPEN_READS = 4_000_000
"""Reads of sections while they are open. What was read is kept that long, so it bounds memory."""
MOST_LINE_READS = 1_500_000
"""Of these, reads of line tables: each makes a row."""
LONGEST_NUMBER = 1024
"""Bytes of a number in the form LEB128, of which 10 have 64 bits. In a constant of many bytes, as
many may seem to be such a number."""
FREE_ATTRIBUTES = 64
"""Attributes of an entry that are not counted. Each more counts as an entry: it takes memory, even
if it takes no byte of the section."""
_PORTION = 64
"""Reads that a section takes at once: this is the inner loop."""
_WORD = 32
"""Characters of a text that count as one entry."""


class TooMuch(Exception):
    """There is more debug data than is read."""


class Damaged(Exception):
    """Debug data says what cannot be."""


class Allowance:
    """How much may still be read, also of a greater allowance."""

    def __init__(self, left: int, of: Allowance | None = None) -> None:
        self.left = left
        self._of = of

    def take(self, count: int = 1) -> None:
        """Take from it.

        Raises:
            TooMuch: So much is not left.
        """
        self.left -= count
        if self.left < 0:
            raise TooMuch
        if self._of is not None:
            self._of.take(count)

    def take_text(self, text: str) -> str:
        """Take for a text, and return it. Raises TooMuch."""
        self.take(len(text) // _WORD)
        return text


class CountedSection(BytesIO):
    """The bytes of a section; each read of them counts."""

    def __init__(self, data: bytes, allowance: Allowance) -> None:
        super().__init__(data)
        self._allowance = allowance
        self._left = 0  # of what was taken
        self._number = 0  # bytes so far of what may be a number in the form LEB128

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to an offset."""
        self._number = 0
        return super().seek(offset, whence)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes.

        Raises:
            TooMuch: There were too many reads.
            Damaged: A number is too long.
        """
        self._left -= 1
        if self._left < 0:
            self._allowance.take(_PORTION)
            self._left = _PORTION - 1
        found = BytesIO.read(self, size)
        if size == 1:
            if found < b"\x80":
                self._number = 0
            else:
                self._number += 1
                if self._number > LONGEST_NUMBER:
                    raise Damaged("a number is too long")
        return found


class UnitTrees:
    """The entries of units, each parsed once and counted.

    A unit is read from its start to its end. So it does not matter where an entry says that its
    sibling is: that could be a circle.

    Attributes:
        entries: What may still be read.
        damaged: Whether a unit was damaged; what is before the damage was read.
    """

    def __init__(self, entries: Allowance) -> None:
        self.entries = entries
        self.damaged = False
        self._trees: dict[int, dict[int, list[Any]]] = {}

    def children(self, die: Any) -> Sequence[Any]:
        """Return the entries inside an entry. Raises TooMuch."""
        tree = self._trees.get(die.cu.cu_offset)
        if tree is None:
            tree = self._trees[die.cu.cu_offset] = {}
            try:
                self._read(die.cu, tree)
            except TooMuch:
                raise
            except Exception:  # noqa: BLE001 - pyelftools raises whatever damage leads it to
                self.damaged = True
        return tree.get(die.offset, ())

    def follow(self, die: Any, attribute: str) -> Any:
        """Return the entry to which an attribute refers. Raises TooMuch."""
        found = die.get_DIE_from_attribute(attribute)
        self._count(found)
        return found

    def _read(self, unit: Any, found: dict[int, list[Any]]) -> None:
        around: list[int] = []
        for die in unit.iter_DIEs():
            self._count(die)
            if die.is_null():
                if around:
                    around.pop()
                continue
            if around:
                found.setdefault(around[-1], []).append(die)
            if die.has_children:
                around.append(die.offset)

    def _count(self, die: Any) -> None:
        if die.is_null():
            return self.entries.take()
        declared = die.cu.get_abbrev_table().get_abbrev(die.abbrev_code)["attr_spec"]
        self.entries.take(1 + max(0, len(declared) - FREE_ATTRIBUTES))


__all__ = ["Allowance", "CountedSection", "Damaged", "TooMuch", "UnitTrees"]
