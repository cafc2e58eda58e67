"""A snapshot as a module that any WASI engine runs: the front door of this room."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wasmsr.errors import SnapshotError, UnportableState, printable
from wasmsr.snapshot.runnable.compose import compose
from wasmsr.snapshot.runnable.outgoing import plain_program
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, CARRYING
from wasmsr.wasi.filesystem.tree_walk import remove
from wasmsr.wasi.state import checked_state
from wasmsr.wasi.state.checked_state import MountState
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.tree_restore import TreeReconciler

_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(slots=True)
class RunnableSnapshot:
    """A runnable module, and what its engine must give it.

    Attributes:
        module: The module.
        mounts: The folder of the host, or None where the user knows it, and the name by which the
            program sees it, for each mount.
    """

    module: bytes
    mounts: list[tuple[str | None, str]] = field(default_factory=list)

    def command(self, name: str) -> str:
        """Return a command that runs it by Wasmtime, for people.

        Args:
            name: The file of the module.
        """
        folders = [f"--dir={host or 'HOST'}::{guest}" for host, guest in self.mounts]
        return shlex.join(["wasmtime", "run", *folders, name])


def make_runnable(
    state: SnapshotState, binaries: Sequence[bytes | None], folder: str | None = None
) -> RunnableSnapshot:
    """Return a module that goes on from a snapshot.

    Args:
        state: The snapshot, checked.
        binaries: The binary of each of its modules; None where it is not known.
        folder: A new folder for the files that are in the snapshot (mounts of the modes `carry` and
            `mem`). The engine gives them to the program from there.

    Raises:
        UnportableState: It has something that cannot go along, or a module is missing; the message
            names it.
        SnapshotError: The folder cannot be written.
    """
    known: list[bytes] = []
    for one, binary in zip(state.modules, binaries, strict=True):
        if binary is None:
            raise UnportableState(
                f"the module {printable(one.name or one.digest.hex()[:16])} of the program is not "
                "in the snapshot",
                hint="--program PROGRAM gives it",
            )
        known.append(binary)
    mounts: list[tuple[str | None, str]] = []
    trees: list[tuple[MountState, str]] = []
    files = state.files or Contents()
    if state.wasi is not None:
        mounts, trees, state = _without_files(state, folder)
    module = compose(plain_program(state, known))
    _write_trees(trees, files)  # nothing is written of what cannot go along
    return RunnableSnapshot(module, mounts)


def _without_files(
    state: SnapshotState, folder: str | None
) -> tuple[list[tuple[str | None, str]], list[tuple[MountState, str]], SnapshotState]:
    """Return all mounts, the trees that are in the snapshot with a place for each, and the state
    without the trees."""
    assert state.wasi is not None
    wasi = checked_state.read(state.wasi)
    mounts: list[tuple[str | None, str]] = []
    trees: list[tuple[MountState, str]] = []
    plain = []
    for one, saved in zip(wasi.mounts, state.wasi["mounts"], strict=True):
        guest = os.fsdecode(one.guest)
        if one.mode not in CARRYING or one.mode == "overlay":
            mounts.append((None, guest))
            plain.append(saved)
            continue
        if folder is None:
            raise UnportableState(
                f"the snapshot cannot be made runnable: the files of {printable(guest)} are in it",
                hint="--files FOLDER writes them to a new folder, for the engine to give them",
            )
        place = os.path.join(folder, f"{len(mounts)}-{_PLAIN.sub('-', guest).strip('-') or 'root'}")
        trees.append((one, place))
        mounts.append((place, guest))
        plain.append({"guest": one.guest, "mode": "host"})
    return mounts, trees, replace(state, wasi={**state.wasi, "mounts": plain}, files=None)


def _write_trees(trees: Sequence[tuple[MountState, str]], files: Contents) -> None:
    """Write trees to their places, all or none. Raises SnapshotError."""
    made: list[str] = []
    try:
        for mount, place in trees:
            _write_tree(mount, place, files, made)
    except BaseException:
        for place in made:
            remove(Path(place))
        raise


def _write_tree(mount: MountState, place: str, contents: Contents, made: list[str]) -> None:
    try:
        os.makedirs(place, mode=0o700)
        made.append(place)
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SnapshotError(
            f"cannot write the files of {printable(os.fsdecode(mount.guest))} to "
            f"{printable(place)}: {error.strerror or error}",
            hint="name a folder that is not there yet",
        ) from error
    try:
        TreeReconciler(
            root,
            os.fsdecode(mount.guest),
            mount.entries,
            contents,
            on_changed="error",
            since=None,
            limit=CARRY_LIMIT,
        ).apply()
    finally:
        os.close(root)


__all__ = ["RunnableSnapshot", "make_runnable"]
