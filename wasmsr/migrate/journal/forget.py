"""What the state folder keeps of lost programs, and its removal: `wasmsr remote --forget`.

Without a program's id, only what no decision needs is removed: programs that are LOST, and states
that no record names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.protocol import JournalError, OwnershipState
from wasmsr.wasi.filesystem.tree_walk import remove

STATES = ("*.handed", "*.received")
FILES = "files"
"""The folder of an end's folder that has the files of programs; see `carried_trees`."""


@dataclass(frozen=True)
class Kept:
    """What is kept of a program at one end.

    Attributes:
        port: The end's port, which is the name of its folder.
        program: The program's id as hexadecimal digits.
        standing: What the record says, or "nothing" for states that no record names.
        size: Bytes on disk.
    """

    port: str
    program: str
    standing: str
    size: int


def kept(journal: Journal) -> list[Kept]:
    """Return what the folder of one end holds, by program."""
    records = {record.program.hex(): _standing(record) for record in journal.records()}
    names = {path.name.partition("-")[0] for path in _states(journal.folder)}
    return [
        Kept(journal.folder.name, name, records.get(name, "nothing"), _size(journal.folder, name))
        for name in sorted(names | set(records))
    ]


def lost(journal: Journal) -> tuple[int, int]:
    """Return how many lost programs the end keeps, and how many bytes they take."""
    gone = [one for one in kept(journal) if one.standing in ("LOST", "nothing")]
    return len(gone), sum(one.size for one in gone)


def forget(state: Path, port: int | None, program: str, say: Callable[[str], None]) -> list[Kept]:
    """Remove what is kept of programs.

    Args:
        state: The state folder.
        port: The port of an end; None for all ends.
        program: How the program's id begins; "" for all lost programs.
        say: Gets a line about each program that is left out, with the reason.

    Returns:
        What was removed.

    Raises:
        JournalError: A folder cannot be read or written.
    """
    removed = []
    for folder in _ends(state, port):
        try:
            journal = Journal(folder)
        except JournalError as error:
            if "in use" not in error.message:
                raise
            say(f"the end of port {folder.name} is running: end it first")
            continue
        try:
            for one in kept(journal):
                if _unwanted(one, program, say):
                    _remove(journal, one.program)
                    removed.append(one)
        finally:
            journal.close()
    return removed


def _unwanted(one: Kept, program: str, say: Callable[[str], None]) -> bool:
    if one.standing in ("LOST", "nothing"):
        return one.program.startswith(program)
    if program and one.program.startswith(program):
        return True
    if not program:
        say(
            f"program {one.program[:8]} at port {one.port} is {one.standing} and is kept: start "
            "that end, which asks the other end; only if the other end is gone for good, remove "
            f"the program with `wasmsr remote --forget {one.program[:8]}`"
        )
    return False


def _ends(state: Path, port: int | None) -> Iterator[Path]:
    folder = state / "remote"
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in found:
        if path.name.isdecimal() and (path / "node").exists() and port in (None, int(path.name)):
            yield path


def _remove(journal: Journal, program: str) -> None:
    if journal.get(bytes.fromhex(program)):
        journal.renew()
        journal.forget(bytes.fromhex(program))
    for path in _states(journal.folder, program):
        path.unlink(missing_ok=True)
    files = journal.folder / FILES / program
    if files.is_dir() and not files.is_symlink():
        remove(files)


def _states(folder: Path, program: str = "") -> Iterator[Path]:
    for pattern in STATES:
        yield from (path for path in folder.glob(pattern) if path.name.startswith(program))


def _standing(record: Record) -> str:
    return OwnershipState.READY.name if record.incoming else record.standing.name


def _size(folder: Path, program: str) -> int:
    """Return bytes on disk of a program's states and files."""
    total = sum(_blocks(path) for path in _states(folder, program))
    pending = [folder / FILES / program]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    else:
                        total += _blocks(Path(entry.path))
        except OSError:
            continue
    return total


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
