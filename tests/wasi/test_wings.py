"""The wings of the room: imports one way, and numbers of preview 1 only where they belong."""

from __future__ import annotations

from pathlib import Path

from tests.meta.test_imports import imports
from wasmsr.wasi.preview1.abi import FdFlag, FileType
from wasmsr.wasi.streams.descriptor import FileKind, StatusFlag

ORDER = ("streams", "filesystem", "process", "preview1", "state", "facade")
"""A wing, or file beside them, imports only from itself and from those before it."""
BELOW = {"engine", "errors", "syscalls", "clocks"}
"""Files that every wing may import; they import no wing."""


def test_wings_import_one_way() -> None:
    room = Path(__file__).parents[2] / "wasmsr/wasi"
    wrong = []
    for path in sorted(room.rglob("*.py")):
        parts = path.relative_to(room).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name, line in imports(path):
            if not name.startswith("wasmsr.wasi."):
                continue
            other, where = name.split(".")[2], f"{path.relative_to(room)}:{line}: {name}"
            if other in BELOW:
                continue
            if parts[0] in BELOW or ORDER.index(other) > ORDER.index(parts[0]):
                wrong.append(where)
    assert not wrong, "\n".join(wrong)


def flags(kind: type) -> dict[str, int]:
    return {name: value for name, value in vars(kind).items() if name.isupper() and name != "ALL"}


def test_the_numbers_of_preview_1_are_those_of_the_room() -> None:
    """The calls pass flags and kinds on as they are."""
    assert flags(FdFlag) == flags(StatusFlag)
    assert {m.name: int(m) for m in FileType} == {m.name: int(m) for m in FileKind}
