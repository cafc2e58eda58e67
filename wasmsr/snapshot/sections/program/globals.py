"""Section *globals*: the values of all globals. Format document, section 5.6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.encoding.section import Draft, ReferenceNumbers, Section, WrittenPages
from wasmsr.snapshot.rules import LOW64, CheckScope, invalid
from wasmsr.snapshot.state import GlobalState, SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

GLOBAL = Struct("<IIQQ")
"""Value type, mutability, two slots."""
LENGTH_LIMIT = 32 << 20
"""Bytes that the section may have."""


class GlobalsSection(Section):
    """Type, mutability and value of each global."""

    kind = 6
    name = "globals"
    payload = "array"
    present = "there are globals"
    place = 80
    numbering = 2

    def renumber(self, state: SnapshotState, numbers: ReferenceNumbers) -> None:
        """Replace the values of globals with a reference type."""
        for cell in state.globals:
            cell.value = numbers.saved(cell.type, cell.value)

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return 24 bytes for each global."""
        return b"".join(
            [GLOBAL.pack(c.type, c.mutable, c.value & LOW64, c.value >> 64) for c in state.globals]
        )

    def limit(self, limits: ReadLimits) -> int:
        """Return 32 MiB."""
        return LENGTH_LIMIT

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's globals."""
        if len(data) % GLOBAL.size:
            raise self.malformed("it ends in the middle of a global")
        for code, mutable, low, high in GLOBAL.iter_unpack(data):
            if mutable > 1:
                raise self.malformed(f"a mutability is {mutable}")
            value = low | high << 64 if high else low
            draft.state.globals.append(GlobalState(code, mutable == 1, value))

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check types and values."""
        bounds = scope.bounds
        for number, cell in enumerate(state.globals):
            if cell.type not in bounds:
                raise invalid(f"global {number} has the unknown type {cell.type:#x}")
            if not 0 <= cell.value < bounds[cell.type]:
                raise invalid(f"the value of global {number} does not fit its type")

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return name, mutability, type and value of each global."""
        cells = [
            {
                "name": names.globals.get(address),
                "mutable": cell.mutable,
                **names.value(cell.type, cell.value),
            }
            for address, cell in enumerate(state.globals)
        ]
        return {"globals": cells}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the globals."""
        from wasmsr.snapshot.inspect.text_tables import text

        yield (
            "Globals",
            ("", "name", "type", "", "value"),
            [
                (
                    str(n),
                    text(g["name"]),
                    g["type"],
                    "mutable" if g["mutable"] else "",
                    text(g["value"]),
                )
                for n, g in enumerate(description["globals"])
            ],
        )


SECTIONS = (GlobalsSection(),)
