"""The DWARF of a module: where its sections are, and what its addresses are counted from.

In a module, an address of code is an offset from the start of the code section's contents.
Functions that a linker has dropped have the address 0, or one of the greatest two.

Source: "DWARF for WebAssembly" (yurydelendik.github.io/webassembly-dwarf), DWARF 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import Any

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


def open_dwarf(module: Module) -> Any:
    """Return what pyelftools makes of a module's DWARF. It reads units when they are asked for."""
    from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

    def section(name: str) -> Any:
        data = module.custom_section(f".debug_{name}")
        if data is None:
            return None
        return DebugSectionDescriptor(BytesIO(data), f".debug_{name}", None, len(data), 0)

    config = DwarfConfig(little_endian=True, machine_arch="wasm", default_address_size=4)
    return DWARFInfo(config, *map(section, SECTIONS))


__all__ = ["CodeSpace", "code_space", "has_debug_data", "is_installed", "open_dwarf"]
