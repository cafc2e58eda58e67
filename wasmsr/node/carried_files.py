"""Carried files of a program that has come to its end, for whoever asks for them.

A carried mount without a folder of the host has its files in a folder of the node. They stay there
when the program has ended or was killed, as long as the node shows the program, or until somebody
who has them says that they are not needed any more.
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from wasmsr.errors import listed, printable
from wasmsr.migrate.files.carried_trees import folder_name
from wasmsr.node.failures import SubmissionRefused, WrongState
from wasmsr.wasi.filesystem import archives, tree_walk
from wasmsr.wasi.filesystem.mounts import Mount

PIECE: Final = 1 << 20
"""Bytes of a piece at most."""

_TREE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def carried_mounts(spec: Mapping[str, Any]) -> list[str]:
    """Return the paths of the mounts of a run whose files are in a folder of the node."""
    mounts = [Mount.parse(text) for text in spec.get("mounts", ())]
    return [one.guest for one in mounts if one.mode == "carry" and one.host is None]


def carried_tree(spec: Mapping[str, Any], folder: Path, mount: str) -> Path:
    """Return the folder that has the files of a mount.

    Args:
        spec: The run.
        folder: The folder of the program's carried trees.
        mount: The path at which the program had them.

    Raises:
        SubmissionRefused: It has no such mount.
        WrongState: They are not here any more.
    """
    known = carried_mounts(spec)
    if mount not in known:
        raise SubmissionRefused(
            f"the program has no files that the node keeps at {printable(mount, 200)}",
            hint=f"it has: {listed(known) or 'none'}",
        )
    place = folder / folder_name(mount)
    if not place.is_dir():
        raise WrongState(f"the files of {printable(mount, 200)} are not on this node any more")
    return place


def keep_carried(spec: Mapping[str, Any], folder: Path) -> None:
    """Remove from a program's folder of carried trees what is not a tree of a mount.

    There are notes for moves, and trees of earlier lives. What cannot be removed stays: the worker
    could do there what it liked.
    """
    kept = {folder_name(one) for one in carried_mounts(spec)}
    if not kept:
        tree_walk.remove(folder)
        return
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                tree_walk.remove(path)
            else:
                path.unlink(missing_ok=True)


def sync_carried(spec: Mapping[str, Any], folder: Path) -> None:
    """Have the files of all carried mounts of a run on the disk.

    Args:
        spec: The run.
        folder: The folder of the program's carried trees.

    Raises:
        OSError: They cannot be read or written.
    """
    for mount in carried_mounts(spec):
        with suppress(FileNotFoundError):
            root = os.open(folder / folder_name(mount), _TREE)
            try:
                tree_walk.sync(root)
            finally:
                os.close(root)


def packed(tree: Path) -> Iterator[bytes]:
    """Yield a folder as a tar file, in pieces. What the program has put there is not followed.

    Raises:
        OSError: It cannot be read.
    """
    root = os.open(tree, _TREE)
    reader, writer = os.pipe()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with (
                open(writer, "wb", buffering=PIECE) as file,
                tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tape,
            ):
                archives.pack(root, tape)
        except BrokenPipeError:
            pass  # nobody reads it any more
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)
        finally:
            os.close(root)

    thread = threading.Thread(target=write, name="wasmsr-carried", daemon=True)
    thread.start()
    try:
        with open(reader, "rb", buffering=PIECE) as file:
            while piece := file.read(PIECE):
                yield piece
    finally:
        thread.join()
    if errors:
        raise errors[0]


__all__ = ["carried_mounts", "carried_tree", "keep_carried", "packed", "sync_carried"]
