"""A check of the header of a line table, before pyelftools reads it.

Tables of DWARF 5 say which forms their folders and files have, and how many there are. If no form
takes a byte, any number of them fits into no bytes: the table of a few bytes would fill memory.
"""

from __future__ import annotations

from wasmsr.debug.limits import Allowance, Damaged

MODERN = 5
"""The version of tables that say their forms."""
_SIZES = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}
"""DW_FORM_data1 to data16."""
_OFFSETS = (0x0E, 0x1F)
"""DW_FORM_strp and line_strp."""
_STRING, _UDATA, _BLOCK = 0x08, 0x0F, 0x09


def check_line_header(table: bytes, at: int, entries: Allowance) -> None:
    """Check the header of a table.

    Args:
        table: The section `.debug_line`.
        at: The offset of the header.
        entries: How many folders and files may still be read.

    Raises:
        Damaged: The table counts entries that it has no bytes for.
        TooMuch: It has too many.

    Source: DWARF 5, section 6.2.4.
    """
    reader = _Reader(table, at)
    wide = reader.number(4) == 0xFFFFFFFF
    if wide:
        reader.number(8)
    if reader.number(2) < MODERN:
        return
    reader.skip(2 + (8 if wide else 4) + 5)
    reader.skip(reader.number(1) - 1)  # the lengths of the standard opcodes
    for _ in ("folders", "files"):
        forms = [reader.pair()[1] for _ in range(reader.number(1))]
        count = reader.leb()
        if (count and not forms) or count > reader.left():
            raise Damaged("a line table has entries without bytes")
        entries.take(count)
        for _ in range(count):
            for form in forms:
                reader.skip_form(form, wide)


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def left(self) -> int:
        return len(self._data) - self._at

    def skip(self, count: int) -> None:
        self._at += count
        if count < 0 or self._at > len(self._data):
            raise Damaged("a line table is cut off")

    def number(self, size: int) -> int:
        self.skip(size)
        return int.from_bytes(self._data[self._at - size : self._at], "little")

    def leb(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.number(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Damaged("a number is too long")

    def pair(self) -> tuple[int, int]:
        return self.leb(), self.leb()

    def skip_form(self, form: int, wide: bool) -> None:
        if form in _SIZES:
            self.skip(_SIZES[form])
        elif form in _OFFSETS:
            self.skip(8 if wide else 4)
        elif form == _STRING:
            end = self._data.find(0, self._at)
            self.skip(end + 1 - self._at)
        elif form == _UDATA:
            self.leb()
        elif form == _BLOCK:
            self.skip(self.leb())
        else:
            raise Damaged("a line table has an unknown form")


__all__ = ["check_line_header"]
