"""The source lines of a module's instructions, from the line tables of its DWARF."""

from __future__ import annotations

from typing import Any

from wasmsr.debug.sections import CodeSpace

MOST_LINES = 4_000_000
"""Rows that are read of all tables; a page with more would be too large."""


class LineTable:
    """Rows of line tables, which `add` collects unit by unit."""

    def __init__(self, code: CodeSpace) -> None:
        self._code = code
        self._files: dict[str, int] = {}
        self._rows: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, dwarf: Any, unit: Any) -> list[str]:
        """Read the table of a unit; returns the names of its files, for its other data."""
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            return []
        names = _file_names(program.header)
        sequence: list[Any] = []
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            sequence.append(state)
            if state.end_sequence:
                self._take(sequence, names)
                sequence = []
            if len(self._rows) > MOST_LINES:
                break
        return names

    def _take(self, sequence: list[Any], names: list[str]) -> None:
        if self._code.offset(sequence[0].address) is None:
            return  # the code was dropped by the linker
        for state in sequence:
            offset = self._code.offset(state.address)
            if offset is None:
                continue
            if state.end_sequence:
                self._rows.setdefault(offset, (0, 0))
            else:
                name = names[state.file] if 0 <= state.file < len(names) else "?"
                self._rows[offset] = (self.file(name), state.line)

    def file(self, name: str) -> int:
        """Return the number of a file."""
        return self._files.setdefault(name, len(self._files))

    def as_dict(self) -> dict[str, Any]:
        """Return the table for a page: ascending offsets, with a file and a line (0: none)."""
        rows = sorted(self._rows.items())
        return {
            "files": list(self._files),
            "at": [offset for offset, _ in rows],
            "file": [file for _, (file, _) in rows],
            "line": [line for _, (_, line) in rows],
        }


def _file_names(header: Any) -> list[str]:
    """Return the names of a table's files by their numbers, which begin at 1 before DWARF 5."""

    def text(value: Any) -> str:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    folders = [text(one) for one in header["include_directory"]]
    modern = header["version"] >= 5
    names = [] if modern else ["?"]
    for entry in header["file_entry"]:
        name = text(entry.name)
        folder = entry.dir_index if modern else entry.dir_index - 1
        inside = folder > 0 or (not modern and folder >= 0)
        if inside and folder < len(folders) and not name.startswith("/"):
            name = f"{folders[folder]}/{name}"
        names.append(name)
    return names


__all__ = ["MOST_LINES", "LineTable"]
