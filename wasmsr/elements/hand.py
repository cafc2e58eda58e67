"""One element by hand, as Scad's `rundisagg` does it: with files between the elements."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wasmsr import small_files
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.element import Element
from wasmsr.elements.running import LARGEST_RESULT, run_element
from wasmsr.errors import printable, reason
from wasmsr.mem.action import ElementAction
from wasmsr.mem.durl import Durl, parse_values

MOST_MEMORIES = 10_000
"""Memories that one text of `-m` can stand for."""


def memories_of(text: str) -> list[Durl]:
    """Return the transports of `[N@]NAME:PORT[:TRANSPORT[:K,V…]]`.

    With N there are N memories NAME@0, NAME@1, …, each at the next port.

    Raises:
        ElementError: The text has another form.
    """
    match = re.fullmatch(r"(?:(\d{1,6})@)?([^:@;,]+):(\d{1,5})(?::([^:;,]+)((?::[^:]+)*))?", text)
    if match is None:
        raise ElementError(f"{printable(text)} is no memory",
                           hint="-m [N@]NAME:PORT[:TRANSPORT[:KEY,VALUE]]")  # fmt: skip
    count, port = int(match[1] or 0), int(match[3])
    last = port + max(count, 1) - 1
    if count > MOST_MEMORIES or not 1 <= port <= last <= 65_535:
        raise ElementError(f"{printable(text)}: ports {port} to {last} are not from 1 to 65535")
    kind = (match[4] or "tcp").removeprefix("rdma_")
    values = parse_values((match[5] or "").replace(":", ";"))
    host = "*" if "server" in kind else "localhost"
    return [
        Durl(f"{match[2]}@{at}" if count > 1 else match[2], kind.removesuffix("_server"),
             {"url": f"tcp://{host}:{port + at}", **values})
        for at in range(max(count, 1))
    ]  # fmt: skip


def result_file(folder: Path, name: str, index: int | None) -> Path:
    """Return the file of a result."""
    return folder / f"rundisagg.{name}{'' if index is None else f'@{index}'}.json"


def params_from(folder: Path, parents: Sequence[str]) -> dict[str, list[Any]]:
    """Return the parameters of an element: for each parent its results, in order of index.

    Raises:
        ElementError: A parent has no result, two kinds of results, or one that is no JSON.
    """
    return {parent: [_load(path) for path in _results(folder, parent)] for parent in parents}


def _results(folder: Path, parent: str) -> list[Path]:
    alone = result_file(folder, parent, None)
    numbered = []
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise ElementError(f"{printable(folder)}: {error.strerror or error}") from error
    for name in names:
        match = re.fullmatch(rf"rundisagg\.{re.escape(parent)}@(\d+)\.json", name)
        if match is not None:
            numbered.append((int(match[1]), folder / name))
    if alone.exists() and numbered:
        raise ElementError(
            f"{printable(parent)} has a result without an index and {len(numbered)} with one",
            hint=f"remove {alone} or the others",
        )
    if not alone.exists() and not numbered:
        raise ElementError(f"{printable(parent)} has no result in {printable(folder)}",
                           hint="run it first")  # fmt: skip
    return [path for _, path in sorted(numbered)] or [alone]


def _load(path: Path) -> Any:
    try:
        return json.loads(small_files.read(path, LARGEST_RESULT)[0])
    except (OSError, ValueError, RecursionError) as error:
        raise ElementError(f"{printable(path)}: {reason(error)}") from error


def run_by_hand(
    element: Element,
    memories: Sequence[Durl],
    folder: Path,
    *,
    index: int | None = None,
    where: str = "",
) -> str:
    """Run an element with files between, and return its result as JSON.

    Args:
        element: The element.
        memories: Its memories.
        folder: Where the results of others are, and where its own goes.
        index: The index of this copy, if there are several.
        where: The file of the element.

    Raises:
        ElementError: See `params_from` and `run_element`.
    """
    params = params_from(folder, element.parents)
    action = ElementAction(memories, index=index or 0)
    try:
        text = run_element(element, params, action, where)
    finally:
        action.terminate()
    small_files.replace(result_file(folder, element.name, index), text.encode(), 0o644)
    return text
