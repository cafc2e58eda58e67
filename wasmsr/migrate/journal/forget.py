"""What the state directory keeps of programs that are gone, and its removal.

Beside `journal`; for `wasmsr remote --forget` and for the line that says how much there is. Without
a program's id only what nobody can need for a decision goes: programs that are LOST, and states
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
"""Where an end keeps the files of programs, in its folder; see `belongings`."""


@dataclass(frozen=True)
class Kept:
    """What is kept of a program at one end.

    Attributes:
        port: the end's, which is the name of its folder.
        program: its id as hexadecimal digits.
        standing: what the record says, or "nothing" for states that no record names.
        size: bytes on disk.
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
    """Return how many programs the end keeps that nobody needs, and how many bytes they hold."""
    gone = [one for one in kept(journal) if one.standing in ("LOST", "nothing")]
    return len(gone), sum(one.size for one in gone)


def forget(state: Path, port: int | None, program: str, say: Callable[[str], None]) -> list[Kept]:
    """Remove what is kept below `state` of the program whose id begins with `program`, or, if that
    is "", of all that are gone; of one end, or of all. `say` is told what is left out and why.

    Raises JournalError if a folder cannot be read or written.
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
            "that end, which asks the other one; if that is gone for good, `wasmsr remote --forget "
            f"{one.program[:8]}` removes it"
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
