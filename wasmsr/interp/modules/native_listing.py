"""What native code is made of a function: its instructions, cells of fast code, and code.

`wasmsr inspect --code` shows it. The code is made for the listing, so no store needs to run it.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile

from wasmsr._ffi import ffi, lib
from wasmsr.errors import WasmsrError
from wasmsr.interp.instruction_set.instructions import disassemble
from wasmsr.interp.modules.module import Module
from wasmsr.record import record


@record(frozen=True)
class ListedCell:
    """One cell of fast code.

    Attributes:
        offset: The instruction's, in the module.
        instruction: Its text; the cell does its work, and perhaps that of those before it.
        cell: The name of the cell; empty for one that no template knows.
        native: Whether a template makes its code; otherwise its C handler runs.
        code: Its code, without what is rare.
    """

    offset: int
    instruction: str
    cell: str
    native: bool
    code: bytes


@record(frozen=True)
class Listing:
    """The native code of a function.

    Attributes:
        entry: What runs before the first cell when native code calls the function.
        cells: In the order of the code.
        rare: The code of ways to C handlers, edges of loops, and entries; it follows.
        records: Bytes behind that, which say what calls there are.
    """

    name: str
    index: int
    entry: bytes
    cells: tuple[ListedCell, ...]
    rare: bytes
    records: int


def function_index(module: Module, text: str) -> int:
    """Return the index of a function of the module's own, from its number or name.

    Raises:
        WasmsrError: The module does not define it.
    """
    first, last = module.counts.imported_functions, module.counts.functions
    if text.isascii() and text.isdecimal() and len(text) < 10:
        index = int(text)
    else:
        index = next((i for i in range(first, last) if module.function_name(i) == text), -1)
    if not first <= index < last:
        raise WasmsrError(
            f"the module defines no function {text!r}",
            hint=f"name one, or give a number from {first} to {last - 1}",
        )
    return index


def listing(module: Module, index: int) -> Listing:
    """Return the listing of a function of the module's own.

    Raises:
        WasmsrError: No native code is made of it here.
    """
    from wasmsr.interp.tier import refusal

    name = module.function_name(index)
    if (why := refusal()) is not None:
        raise WasmsrError(f"there is no native code: {why}")
    made = ffi.new("wsr_native_listing *")
    try:
        if not lib.wsr_native_list(module.c, index, made):
            raise WasmsrError(f"no native code can be made of {name}: it is too large")
        code = bytes(ffi.buffer(made.code, made.bytes))
        rows = [made.cells[i] for i in range(made.n_cells)]
        ends = [row.native for row in rows[1:]] + [made.hot]
        cells = [
            ListedCell(
                row.offset,
                _instruction(module, row.offset),
                ffi.string(row.name).decode(),
                bool(row.template),
                code[row.native : end],
            )
            for row, end in zip(rows, ends, strict=True)
        ]
        rare = code[made.hot : made.bytes - made.records]
        return Listing(name, index, code[: rows[0].native], tuple(cells), rare, made.records)
    finally:
        lib.wsr_native_list_free(made)


def _instruction(module: Module, offset: int) -> str:
    mnemonic, immediates, _ = disassemble(module.binary, offset)
    return f"{mnemonic} {immediates}".rstrip()


def disassembled(code: bytes, start: int = 0) -> list[str]:
    """Return the instructions of native code, if `objdump` is there; else its bytes.

    Args:
        start: Where the code begins; distances are shown as places.
    """
    objdump = shutil.which("objdump")
    if objdump is None or not code:
        return [code[i : i + 16].hex(" ") for i in range(0, len(code), 16)]
    with tempfile.NamedTemporaryFile() as file:
        file.write(code)
        file.flush()
        command = [objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel"]
        command += ["--no-show-raw-insn", f"--adjust-vma={start}", file.name]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [" ".join(line.split("\t", 1)[1].split()) for line in out.splitlines() if ":\t" in line]


def description(listed: Listing) -> dict[str, object]:
    """Return a listing for JSON; code as hexadecimal digits."""
    cells = [
        {
            "offset": cell.offset,
            "instruction": cell.instruction,
            "cell": cell.cell,
            "native": cell.native,
            "code": cell.code.hex(),
        }
        for cell in listed.cells
    ]
    return {
        "name": listed.name,
        "index": listed.index,
        "entry": listed.entry.hex(),
        "cells": cells,
        "rare": listed.rare.hex(),
        "record_bytes": listed.records,
    }


def text(listed: Listing) -> str:
    """Return a listing as a table: offset, instruction, cell, code."""
    more = len(listed.rare) + listed.records
    rows = [f"{listed.name} (function {listed.index}); {more} more bytes are rare ways", "called:"]
    rows += [f"{'':48}{line}" for line in disassembled(listed.entry)]
    start = len(listed.entry)
    for cell in listed.cells:
        where = f"{cell.offset:#8x}  {cell.instruction[:24]:24}"
        kind = cell.cell if cell.native else f"{cell.cell} (in C)".lstrip()
        rows.append(f"{where} {kind}".rstrip())
        rows += [f"{'':48}{line}" for line in disassembled(cell.code, start)]
        start += len(cell.code)
    return "".join(f"{row}\n" for row in rows)
