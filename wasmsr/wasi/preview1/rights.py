"""What each kind of descriptor may do: the `rights` of preview 1, given and checked.

A descriptor keeps its rights as a number that only this wing and `state` understand.
"""

from __future__ import annotations

import os

from wasmsr.wasi.filesystem.open_files import Directory, RegularFile
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, Errno, Failure, Right
from wasmsr.wasi.process import Process
from wasmsr.wasi.streams.descriptor import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FILE_RIGHTS: Final = (
    Right.FD_DATASYNC
    | Right.FD_READ
    | Right.FD_SEEK
    | Right.FD_FDSTAT_SET_FLAGS
    | Right.FD_SYNC
    | Right.FD_TELL
    | Right.FD_WRITE
    | Right.FD_ADVISE
    | Right.FD_ALLOCATE
    | Right.FD_FILESTAT_GET
    | Right.FD_FILESTAT_SET_SIZE
    | Right.FD_FILESTAT_SET_TIMES
    | Right.POLL_FD_READWRITE
)
"""The rights that mean something for a regular file."""
DIRECTORY_RIGHTS: Final = (
    Right.FD_DATASYNC
    | Right.FD_FDSTAT_SET_FLAGS
    | Right.FD_SYNC
    | Right.PATH_CREATE_DIRECTORY
    | Right.PATH_CREATE_FILE
    | Right.PATH_LINK_SOURCE
    | Right.PATH_LINK_TARGET
    | Right.PATH_OPEN
    | Right.FD_READDIR
    | Right.PATH_READLINK
    | Right.PATH_RENAME_SOURCE
    | Right.PATH_RENAME_TARGET
    | Right.PATH_FILESTAT_GET
    | Right.PATH_FILESTAT_SET_SIZE
    | Right.PATH_FILESTAT_SET_TIMES
    | Right.FD_FILESTAT_GET
    | Right.FD_FILESTAT_SET_TIMES
    | Right.PATH_SYMLINK
    | Right.PATH_REMOVE_DIRECTORY
    | Right.PATH_UNLINK_FILE
    | Right.POLL_FD_READWRITE
)
"""The rights that mean something for a directory."""
STREAM_RIGHTS: Final = Right.FD_FDSTAT_SET_FLAGS | Right.FD_FILESTAT_GET | Right.POLL_FD_READWRITE
"""What the standard streams have beside reading or writing. They cannot seek: a program takes a
character device that it cannot seek for a terminal (wasi-libc, isatty)."""
LISTENER_RIGHTS: Final = STREAM_RIGHTS | Right.FD_READ | Right.SOCK_ACCEPT
"""The rights that mean something for a listening socket."""
CONNECTION_RIGHTS: Final = STREAM_RIGHTS | Right.FD_READ | Right.FD_WRITE | Right.SOCK_SHUTDOWN
"""The rights that mean something for a connection."""
APPLICABLE: Final = {
    "stdin": STREAM_RIGHTS | Right.FD_READ,
    "stdout": STREAM_RIGHTS | Right.FD_WRITE,
    "file": FILE_RIGHTS,
    "device": FILE_RIGHTS,
    "directory": DIRECTORY_RIGHTS,
    "listener": LISTENER_RIGHTS,
    "connection": CONNECTION_RIGHTS,
}
"""Kind of descriptor to the rights that mean something for it."""
_INHERITED: Final = {"directory": ALL_RIGHTS, "listener": CONNECTION_RIGHTS}


def grant(descriptor: Descriptor, rights: int = ALL_RIGHTS, inheriting: int | None = None) -> None:
    """Give a descriptor those of `rights` that mean something for its kind.

    Args:
        descriptor: A descriptor that was just made.
        rights: The `fs_rights_base` of it.
        inheriting: Rights of what is opened or accepted by it, where its kind has such; None gives
            all.
    """
    rights &= APPLICABLE[descriptor.kind]
    if isinstance(descriptor, RegularFile) and descriptor.access == os.O_RDONLY:
        rights &= ~(Right.FD_ALLOCATE | Right.FD_FILESTAT_SET_SIZE)
    descriptor.rights = rights
    most = _INHERITED.get(descriptor.kind, 0)
    descriptor.inheriting = most if inheriting is None else inheriting & most


def require(descriptor: Descriptor, right: int) -> None:
    """Check that a descriptor has a right.

    Raises:
        Failure: It has not: NOTCAPABLE. For reading and writing it is BADF and for reading a
            directory ISDIR, by which POSIX programs recognise a descriptor of the wrong mode.
    """
    if descriptor.rights & right == right:
        return
    if right == Right.FD_READ and type(descriptor) is Directory:
        raise Failure(Errno.ISDIR)
    if right & (Right.FD_READ | Right.FD_WRITE):
        raise Failure(Errno.BADF)
    raise Failure(Errno.NOTCAPABLE)


def directory(process: Process, fd: int, rights: int) -> Directory:
    """Return the directory of a number, which must have rights.

    Raises:
        Failure: BADF, NOTDIR or NOTCAPABLE.
    """
    found = process.descriptors.get(fd)
    if type(found) is not Directory:
        raise Failure(Errno.BADF if found is None else Errno.NOTDIR)
    if rights & ~found.rights:
        raise Failure(Errno.NOTCAPABLE)
    return found
