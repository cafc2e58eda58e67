"""The source lines of a module's instructions, from the line tables of its DWARF."""

from __future__ import annotations

from typing import Any

from wasmsr.debug.limits import Allowance
from wasmsr.debug.line_headers import check_line_header
from wasmsr.debug.sections import CodeSpace, DebugSections
from wasmsr.errors import printable

MOST_LINES = 2_000_000
"""Rows that are read of all tables; a page with more would be too large."""
MOST_FILES = 5_000_000
"""Folders and files of all tables."""
LONGEST_PATH = 1024
"""Bytes of a folder or a name that are read."""


class LineTable:
    """Rows of line tables, which `add` collects unit by unit."""

    def __init__(self, code: CodeSpace, sections: DebugSections, entries: Allowance) -> None:
        self._code = code
        self._table = sections.data("line")
        self._entries = entries
        self._left, self._names = Allowance(MOST_LINES), Allowance(MOST_FILES)
        self._files: dict[str, int] = {}
        self._rows: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, dwarf: Any, unit: Any) -> FileNames:
        """Read the table of a unit; returns the names of its files, for its other data."""
        place = unit.get_top_DIE().attributes.get("DW_AT_stmt_list")
        if place is not None:
            check_line_header(self._table, place.value, self._names)
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            return FileNames(None)
        names = FileNames(program.header)
        sequence: list[Any] = []
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            self._left.take()
            sequence.append(state)
            if state.end_sequence:
                self._take(sequence, names)
                sequence = []
        return names

    def _take(self, sequence: list[Any], names: FileNames) -> None:
        if self._code.offset(sequence[0].address) is None:
            return  # the code was dropped by the linker
        for state in sequence:
            offset = self._code.offset(state.address)
            if offset is None:
                continue
            if state.end_sequence:
                self._rows.setdefault(offset, (0, 0))
            else:
                line = state.line if 0 <= state.line < 1 << 31 else 0
                self._rows[offset] = (self._file(names[state.file]), line)

    def _file(self, name: str) -> int:
        """Return the number of a file."""
        number = self._files.get(name)
        if number is None:
            number = self._files[self._entries.take_text(name)] = len(self._files)
        return number

    def as_dict(self) -> dict[str, Any]:
        """Return the table for a page: ascending offsets, with a file and a line (0: none)."""
        rows = sorted(self._rows.items())
        return {
            "files": list(self._files),
            "at": [offset for offset, _ in rows],
            "file": [file for _, (file, _) in rows],
            "line": [line for _, (_, line) in rows],
        }


class FileNames:
    """The names of a table's files by their numbers, which begin at 1 before DWARF 5."""

    def __init__(self, header: Any) -> None:
        self._header = header
        self._known: dict[int, str] = {}

    def __getitem__(self, number: int) -> str:
        found = self._known.get(number)
        if found is None:
            found = self._known[number] = self._name(number)
        return found

    def _name(self, number: int) -> str:
        header = self._header
        if header is None:
            return "?"
        modern = header["version"] >= 5
        at = number if modern else number - 1
        if not 0 <= at < len(header["file_entry"]):
            return "?"
        entry = header["file_entry"][at]
        name = _text(entry.name)
        folders = header["include_directory"]
        folder = entry.dir_index if modern else entry.dir_index - 1
        inside = folder > 0 or (not modern and folder >= 0)
        if inside and folder < len(folders) and not name.startswith("/"):
            return f"{_text(folders[folder])}/{name}"
        return name


def _text(value: Any) -> str:
    data = value[:LONGEST_PATH] if isinstance(value, bytes) else b"?"
    return printable(data.decode("utf-8", "replace"))


__all__ = ["FileNames", "LineTable"]
