"""A snapshot as one file of HTML, in which a browser shows the program and runs it.

The file is in windows-1252, in which each byte is a character. So a compressed part costs 1.6 %
more than its bytes; base64 costs 33 %. Four bytes would be changed by a reader of HTML or end the
part (NUL, CR, "<", and the mark "="): each is "=" and the byte with bit 6 turned. The idea is that
of yEnc (www.yenc.org). Parts are in the form of gzip, whose CRC-32 finds damage.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

from wasmsr.errors import UnportableState, printable
from wasmsr.interp.instruction_set.instructions import BY_CODE
from wasmsr.interp.modules.module import Module
from wasmsr.snapshot.inspect.describe import blocks_of
from wasmsr.snapshot.inspect.names import SnapshotNames
from wasmsr.snapshot.page import machine_module
from wasmsr.snapshot.runnable.outgoing import plain_program
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.preview1.functions import FUNCTIONS
from wasmsr.wasi.state import checked_state

SCRIPTS = ("machine.js", "hostcalls.js", "disassembler.js", "sources.js", "view.js", "app.js")
"""The script of the page, in this order."""
LONGEST = 4000
"""Characters of a cell that are shown."""
MOST_ROWS = 2001
"""Rows of a table that the page gets; it shows one less."""
_ESCAPED = re.compile(rb"[\0\r<=]")
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def page_file(
    state: SnapshotState,
    modules: Sequence[Module | None],
    *,
    title: str,
    description: Mapping[str, Any],
    debug: Sequence[Mapping[str, Any] | None] = (),
    difference: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> bytes:
    """Return the page of a snapshot.

    Args:
        state: The snapshot, checked.
        modules: Its modules; None where one is not known.
        title: The name of the program.
        description: What `inspect.describe` says of it.
        debug: The debug data of each module, if it has some (`wasmsr.debug.debug_data`).
        difference: `title` and `tables` (blocks of text) of what differs from another snapshot.
        warnings: Sentences to show.

    Raises:
        UnportableState: A module is missing, or the program has something that cannot go along.
    """
    known: list[Module] = []
    for reference, module in zip(state.modules, modules, strict=True):
        if module is None:
            name = printable(reference.name or reference.digest.hex()[:16])
            raise UnportableState(
                f"the module {name} of the program is not in the snapshot",
                hint="--program PROGRAM gives it",
            )
        known.append(module)
    # A person or the page answers host calls, so files and streams stay where they are.
    alone = replace(state, wasi=None, files=None)
    program = plain_program(alone, [bytes(one.binary) for one in known], any_host=True)
    names = SnapshotNames(state, known)
    about = {
        "title": printable(title),
        "modules": [
            _about_module(one, debug[number] if debug else None) for number, one in enumerate(known)
        ],
        "hosts": {
            one.address: {"module": printable(one.module), "name": printable(one.name)}
            for one in state.host_functions
        },
        "globals": _names(names.globals),
        "memories": _names(names.memories),
        # As text: a number of JavaScript has 53 bits.
        "monotonic": str(checked_state.read(state.wasi).monotonic if state.wasi else 0),
        "wasi": [(row.name, row.parameters()) for row in FUNCTIONS],
        "instructions": {
            code: (row.name.removesuffix(" t"), row.immediates) for code, row in BY_CODE.items()
        },
        "saved": _cells(blocks_of(description)),
        "difference": difference
        and {
            "title": printable(difference["title"]),
            "tables": _cells(difference["tables"]),
        },
        "warnings": list(warnings),
    }
    parts = {
        "about": json.dumps(about).encode(),
        "machine": machine_module(),
        "head": program.head,
        "pages": b"".join(program.pages()),
    }
    return _composed(parts)


def _about_module(module: Module, debug: Mapping[str, Any] | None) -> dict[str, Any]:
    names = [printable(module.function_name(index)) for index in range(module.function_count)]
    return {
        "imported": module.imported_functions,
        "functions": names,
        "locals": {index: _names(found) for index, found in module.names.locals.items()},
        "debug": debug,
    }


def _names(names: Mapping[int, str]) -> dict[int, str]:
    return {number: printable(name) for number, name in names.items()}


def _cells(blocks: Any) -> list[Any]:
    return [
        (
            title,
            list(headings),
            [[printable(cell, LONGEST) for cell in row] for row in islice(rows, MOST_ROWS)],
        )
        for title, headings, rows in blocks
    ]


def _composed(parts: Mapping[str, bytes]) -> bytes:
    """Return the file, of its parts."""
    script, style = _script(), _text("page.css")
    policy = (
        f"default-src 'none'; script-src 'wasm-unsafe-eval' {_hash(script)}; "
        f"style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = _text("page.html").replace("@POLICY@", policy).replace("@STYLE@", style)
    before, after = page.replace("@SCRIPT@", script).split("@PARTS@")
    pieces = [before.encode("ascii")]
    for name, data in parts.items():
        head = f'<script type="text/plain" id="part-{name}" data-size="{len(data)}">'
        pieces += [head.encode("ascii"), escaped(gzip.compress(data, 9, mtime=0)), b"</script>\n"]
    return b"".join([*pieces, after.encode("ascii")])


def escaped(data: bytes) -> bytes:
    """Return bytes as text of windows-1252 that HTML does not change."""
    return _ESCAPED.sub(lambda found: b"=" + bytes([found[0][0] ^ 0x40]), data)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="ascii")


@cache
def _script() -> str:
    """Return the files of the script as one; what they export to tests stays inside."""
    script = "\n".join(_EXPORT.sub("", _text(name)) for name in SCRIPTS)
    assert "</script" not in script and "<!--" not in script
    return script


__all__ = ["escaped", "page_file"]
