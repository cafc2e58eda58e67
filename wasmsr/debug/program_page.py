"""Writes the page of a snapshot: the front door of this room."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from wasmsr.debug.debug_data import debug_data
from wasmsr.interp.modules.module import Module
from wasmsr.snapshot.inspect.describe import describe
from wasmsr.snapshot.page.page_file import page_file
from wasmsr.snapshot.tools.diff import compare
from wasmsr.snapshot.tools.diff_text import blocks
from wasmsr.snapshot.tools.export import known_modules, write_new
from wasmsr.snapshot.tools.opened import OpenedSnapshot


def write_page(
    opened: OpenedSnapshot,
    modules: Iterable[Module],
    out: str,
    *,
    against: OpenedSnapshot | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> int:
    """Write a page that shows a snapshot and runs its program, and return its size in bytes.

    Args:
        opened: The snapshot.
        modules: Modules that the caller has; embedded ones serve as well.
        out: The file, which must not be there; `-` is standard output.
        against: Another snapshot; the page shows what differs from it.
        warn: Gets sentences about what the page lacks.

    Raises:
        UnportableState: A module is missing, or the program has something that no page can have.
        SnapshotError: The file must not or cannot be written.
    """
    given = list(modules)
    known = known_modules(opened, given)
    found = [one for one in known if one is not None]
    names = [one.name or (module and module.name) for one, module in _pairs(opened, known)]
    said: list[str] = []

    def note(text: str) -> None:
        said.append(f"{text[:1].upper()}{text[1:]}.")
        warn(text)

    page = page_file(
        opened.state,
        known,
        title=next((name for name in names if name), os.path.basename(opened.path)),
        description=describe(opened.state, found, opened.decoder),
        debug=[None if one is None else debug_data(one, note) for one in known],
        warnings=said,
        difference=None if against is None else _difference(against, opened, found),
    )
    return write_new(opened, page, out)


def _pairs(opened: OpenedSnapshot, known: list[Module | None]) -> Any:
    return zip(opened.state.modules, known, strict=True)


def _difference(
    against: OpenedSnapshot, opened: OpenedSnapshot, modules: list[Module]
) -> dict[str, Any]:
    found = compare(against, opened, modules)
    name = os.path.basename(against.path)
    title = f"No difference from {name}" if found["same"] else f"What differs from {name}"
    return {"title": title, "tables": [] if found["same"] else list(blocks(found))}


__all__ = ["write_page"]
