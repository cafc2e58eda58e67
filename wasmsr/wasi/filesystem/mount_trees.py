"""Opens the tree of a mount, of the kind that the mount needs, with its first files."""

from __future__ import annotations

from wasmsr.errors import WasiConfigError
from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, Mount
from wasmsr.wasi.filesystem.trees import InputTree, MountTree, ReadOnlyTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final
SMALL_ARCHIVE: Final = 128 << 20
"""Bytes up to which an archive is unpacked into the host's memory."""


def open_tree(mount: Mount, limit: int = CARRY_LIMIT) -> MountTree:
    """Open the tree of a mount when a program starts.

    Args:
        mount: The mount.
        limit: Most bytes of the tree; a folder of the host has no limit.

    Raises:
        WasiConfigError: It cannot be opened; the message names the folder.
    """
    mode = mount.effective_mode
    try:
        if mode == "archive":
            return open_archive(mount, limit)
        if mode == "mem":
            from wasmsr.wasi.filesystem.memory_tree import MemoryTree, fill

            tree = MemoryTree(limit)
            try:
                fill(tree, mount.files or {})
            except BaseException:
                tree.close()
                raise
            return tree
        if mode == "carry" and mount.host is None:
            from wasmsr.wasi.filesystem.private_folders import PrivateFolder

            private = PrivateFolder()
            return MountTree(private.root, mode, private)
    except OSError as error:
        raise WasiConfigError(
            f"there is no room for the files of {mount.guest}: {error.strerror or error}"
        ) from error
    if mode == "overlay":
        from wasmsr.wasi.filesystem.overlay import OverlayTree

        below = open_archive(mount, limit) if mount.is_archive else MountTree(mount.open())
        try:
            return OverlayTree(below)
        except OSError as error:
            below.close()
            raise WasiConfigError(
                f"there is no room for the changes of {mount.guest}: {error.strerror or error}"
            ) from error
    if mode == "carry" and mount.is_archive:
        raise WasiConfigError(
            f"an archive cannot be carried: {mount.host}",
            hint=f"write --dir {mount.host}::{mount.guest}::overlay",
        )
    kind = {"ro": ReadOnlyTree, "input": InputTree}.get(mode, MountTree)
    return kind(mount.open(), mode)


def open_shared(mount: Mount, limit: int = CARRY_LIMIT) -> MountTree | None:
    """Open what several processes share of a mount's tree: all of it, or an overlay's base.

    Returns:
        None for a mount whose whole tree belongs to one process.

    Raises:
        WasiConfigError: It cannot be opened; the message names the folder.
    """
    mode = mount.effective_mode
    if mode == "overlay":
        return open_archive(mount, limit) if mount.is_archive else MountTree(mount.open())
    return open_tree(mount, limit) if mode in ("ro", "input", "archive", "host") else None


def open_archive(mount: Mount, limit: int) -> ReadOnlyTree:
    """Unpack the archive of a mount."""
    from wasmsr.wasi.filesystem import archives

    assert mount.host is not None
    from wasmsr.wasi.filesystem.private_folders import PrivateFolder

    path = mount.host
    room = archives.measure(path, limit)
    # A new file takes up to a millisecond on a disk, and microseconds in memory.
    private = PrivateFolder(memory=room <= SMALL_ARCHIVE, room=room)
    try:
        archives.unpack(path, private.root, limit)
        tree = ReadOnlyTree(private.root, "archive", private)
        tree.digest = archives.digest(path)
    except BaseException:
        private.close()
        raise
    return tree
