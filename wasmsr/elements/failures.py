"""The errors of elements."""

from __future__ import annotations

from collections.abc import Sequence

from wasmsr.errors import EXIT_USAGE, WasmsrError, listed


class ElementError(WasmsrError):
    """A folder of elements, a graph or one element cannot be used."""

    exit_code = EXIT_USAGE


class GraphError(ElementError):
    """A graph has faults.

    Attributes:
        faults: A sentence for each of them.
    """

    def __init__(self, where: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(
            f"{where}: {faults[0]}{more}", hint=f"`wasmsr dag check {where}` lists all of them"
        )


class ElementFailed(WasmsrError):
    """An element failed while it ran.

    Attributes:
        element: Its name.
        index: The index of the copy.
        lines: The last lines that it wrote.
    """

    def __init__(self, element: str, index: int, why: str, lines: Sequence[str] = ()) -> None:
        self.element, self.index, self.lines = element, index, tuple(lines)
        last = "".join(f"\n  {line}" for line in lines)
        super().__init__(f"element {listed([element])}@{index}: {why}{last}")
