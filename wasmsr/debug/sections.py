"""The DWARF of a module: where its sections are, and what its addresses are counted from.

In a module, an address of code is an offset from the start of the code section's contents.
Functions that a linker has dropped have the address 0, or one of the greatest two.

Source: "DWARF for WebAssembly" (yurydelendik.github.io/webassembly-dwarf), DWARF 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from wasmsr.debug.limits import MOST_LINE_READS, MOST_OPEN_READS, Allowance, CountedSection
from wasmsr.interp.modules.custom_sections import read_unsigned
from wasmsr.interp.modules.module import Module

CODE = 10
"""The number of the code section."""
SECTIONS = (
    "info", "aranges", "abbrev", "frame", "eh_frame", "str", "loc", "ranges", "line", "pubtypes",
    "pubnames", "addr", "str_offsets", "line_str", "loclists", "rnglists", "sup", "altlink",
    "types",
)  # fmt: skip
"""Sections without `.debug_`, in the order in which pyelftools takes them."""


def has_debug_data(module: Module) -> bool:
    """Return whether a module has DWARF."""
    return module.custom_section(".debug_info") is not None


def is_installed() -> bool:
    """Return whether pyelftools is here, which reads DWARF."""
    return find_spec("elftools") is not None


@dataclass(frozen=True, slots=True)
class CodeSpace:
    """The addresses of a module's code.

    Attributes:
        base: Offset in the module of the code section's contents.
        size: Bytes of them.
    """

    base: int
    size: int

    def offset(self, address: int) -> int | None:
        """Return the offset in the module of an address of DWARF; None if there is no code."""
        return self.base + address if 0 < address <= self.size else None

    def span(self, low: int, high: int) -> list[int] | None:
        """Return a range as offsets; None if it has no code."""
        begin, end = self.offset(low), self.offset(high)
        return None if begin is None or end is None or begin >= end else [begin, end]


def code_space(binary: bytes) -> CodeSpace:
    """Return where the code of a valid module is."""
    at = 8
    while at < len(binary):
        kind = binary[at]
        size, at = read_unsigned(binary, at + 1)
        if kind == CODE:
            return CodeSpace(at, size)
        at += size
    return CodeSpace(0, 0)


class DebugSections:
    """The sections of a module with DWARF.

    Attributes:
        size: Bytes of `.debug_info`.
    """

    def __init__(self, module: Module) -> None:
        found = {name: module.custom_section(f".debug_{name}") for name in SECTIONS}
        self._data = {name: bytes(data) for name, data in found.items() if data is not None}
        self.size = len(self._data.get("info", b""))

    def data(self, name: str) -> bytes:
        """Return the bytes of a section; none if it is not there."""
        return self._data.get(name, b"")

    def open(self, reads: Allowance) -> Any:
        """Return what pyelftools makes of them. It reads units when they are asked for.

        Args:
            reads: Reads that are still allowed. Beyond them, or beyond what is allowed of one
                opening, whatever reads raises TooMuch.
        """
        from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

        these = Allowance(MOST_OPEN_READS, reads)
        lines = Allowance(MOST_LINE_READS, these)

        def section(name: str) -> Any:
            data = self._data.get(name)
            if data is None:
                return None
            stream = CountedSection(data, lines if name == "line" else these)
            return DebugSectionDescriptor(stream, f".debug_{name}", None, len(data), 0)

        config = DwarfConfig(little_endian=True, machine_arch="wasm", default_address_size=4)
        return DWARFInfo(config, *map(section, SECTIONS))


__all__ = ["CodeSpace", "DebugSections", "code_space", "has_debug_data", "is_installed"]
