"""What holds of every snapshot, whatever its modules contain.

The reader and the writer both call `check`. A reader must not hand out what no machine can be in; a
writer must not write what no reader takes. Restore checks what needs a module's code: positions,
and the types of locals, operands, globals and tables.
"""

from __future__ import annotations

from wasmsr.snapshot.earlier import EarlierState
from wasmsr.snapshot.encoding.registry import SECTIONS
from wasmsr.snapshot.field_types import check_field_types
from wasmsr.snapshot.rules import CheckScope, invalid
from wasmsr.snapshot.state import SnapshotState


def check(state: SnapshotState, earlier: EarlierState | None = None) -> None:
    """Check everything that can be checked without the modules' code.

    The state came from bytes, or Python code built it of anything at all.

    Args:
        state: The state.
        earlier: A state that was checked. Lists that are its own are not checked again.

    Raises:
        FormatError: One sentence names what cannot be.
        DigestError: An embedded module is not the one that its digest names.
    """
    checked = frozenset[int]() if earlier is None else earlier.checked()
    check_field_types(state, checked)
    scope = CheckScope(state, checked)
    for section in SECTIONS:
        section.check(state, scope)
    for name in state.extra.keys() - {section.name for section in SECTIONS}:
        raise invalid(f"there is no section for its part {name!r}")
