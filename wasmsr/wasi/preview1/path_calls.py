"""The calls that name a file by a directory descriptor and a path below it.

Every path goes through the mount's tree (`filesystem.trees`). The tree finds the place by the rules
of `path_resolution` and does there what the call asks. No system call here gets a path.
"""

from __future__ import annotations

import os
from struct import Struct

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.filesystem.open_files import MountPath, RegularFile, descriptor_for, open_flags
from wasmsr.wasi.preview1.abi import (
    FILESTAT,
    SIZE,
    SYMLINK_FOLLOW,
    U32,
    U64,
    Errno,
    Failure,
    FdFlag,
    OFlag,
    Right,
    span,
    text,
)
from wasmsr.wasi.preview1.fd_calls import pack_filestat, times
from wasmsr.wasi.preview1.rights import directory, grant
from wasmsr.wasi.process import Process


def _follow(flags: int) -> bool:
    """Return the one `lookupflags` bit.

    Raises:
        Failure: INVAL for other bits.
    """
    if flags & ~SYMLINK_FOLLOW:
        raise Failure(Errno.INVAL)
    return bool(flags)


def path_open(
    process: Process,
    caller: Caller,
    fd: int,
    dirflags: int,
    path: int,
    path_len: int,
    oflags: int,
    fs_rights_base: int,
    fs_rights_inheriting: int,
    fdflags: int,
    opened: int,
) -> None:
    """Open a file or directory, and write its descriptor."""
    base = directory(process, fd, Right.PATH_OPEN)
    memory = caller.memory
    name = text(memory, path, path_len)
    opened = span(memory, opened, 4)
    follow = _follow(dirflags)
    if oflags & ~OFlag.ALL or fdflags & ~FdFlag.ALL:
        raise Failure(Errno.INVAL)
    creating = oflags & OFlag.CREAT
    if oflags & OFlag.DIRECTORY and oflags != OFlag.DIRECTORY:
        raise Failure(Errno.INVAL)
    if creating and not base.rights & Right.PATH_CREATE_FILE:
        raise Failure(Errno.NOTCAPABLE)
    if oflags & OFlag.TRUNC and not base.rights & Right.PATH_FILESTAT_SET_SIZE:
        raise Failure(Errno.NOTCAPABLE)
    asked = fs_rights_base & U64
    rights = asked & base.inheriting
    if asked & ~rights & (Right.FD_READ | Right.FD_WRITE):
        raise Failure(Errno.NOTCAPABLE)

    reading, writing = rights & Right.FD_READ, rights & Right.FD_WRITE
    access = os.O_RDONLY
    if writing or oflags & OFlag.TRUNC:
        access = os.O_RDWR if reading else os.O_WRONLY
    flags = open_flags(access, fdflags)
    if creating:
        flags |= os.O_CREAT
    if oflags & OFlag.EXCL:
        flags |= os.O_EXCL
    if oflags & OFlag.TRUNC:
        flags |= os.O_TRUNC
    if oflags & OFlag.DIRECTORY:
        flags |= os.O_DIRECTORY
    with process.locate(base, name) as location:
        host = location.open(flags, follow)
        place = MountPath(base.place.mount, (*base.place.path, *location.path))
    inheriting = fs_rights_inheriting & base.inheriting
    try:
        descriptor = descriptor_for(host, place, fdflags, access)
    except BaseException:
        os.close(host)
        raise
    grant(descriptor, rights, inheriting)
    if isinstance(descriptor, RegularFile):
        process.tree_of(descriptor).opened(descriptor)
    SIZE.pack_into(memory, opened, process.add(descriptor))


def path_create_directory(
    process: Process, caller: Caller, fd: int, path: int, path_len: int
) -> None:
    """Make a directory."""
    base = directory(process, fd, Right.PATH_CREATE_DIRECTORY)
    with process.locate(base, text(caller.memory, path, path_len)) as location:
        location.mkdir()


def path_filestat_get(
    process: Process,
    caller: Caller,
    fd: int,
    flags: int,
    path: int,
    path_len: int,
    filestat: int,
    layout: Struct = FILESTAT,
) -> None:
    """Write the attributes of what a path names."""
    base = directory(process, fd, Right.PATH_FILESTAT_GET)
    memory = caller.memory
    filestat = span(memory, filestat, layout.size)
    follow = _follow(flags)
    with process.locate(base, text(memory, path, path_len)) as location:
        pack_filestat(memory, filestat, location.stat(follow), layout)


def path_filestat_set_times(
    process: Process,
    caller: Caller,
    fd: int,
    flags: int,
    path: int,
    path_len: int,
    atim: int,
    mtim: int,
    fst_flags: int,
) -> None:
    """Set the times of what a path names."""
    base = directory(process, fd, Right.PATH_FILESTAT_SET_TIMES)
    follow = _follow(flags)
    name = text(caller.memory, path, path_len)
    wanted = times(process, atim, mtim, fst_flags)
    with process.locate(base, name) as location:
        location.stat(follow)
        location.set_times(*wanted)


def path_link(
    process: Process,
    caller: Caller,
    old_fd: int,
    old_flags: int,
    old_path: int,
    old_path_len: int,
    new_fd: int,
    new_path: int,
    new_path_len: int,
) -> None:
    """Give a file another name."""
    source = directory(process, old_fd, Right.PATH_LINK_SOURCE)
    target = directory(process, new_fd, Right.PATH_LINK_TARGET)
    memory = caller.memory
    old, new = text(memory, old_path, old_path_len), text(memory, new_path, new_path_len)
    follow = _follow(old_flags)
    origin, link = process.locate_two(source, old, target, new)
    with origin, link:
        if follow or origin.slash:
            origin.stat(follow)
        origin.link_to(link)


def path_readlink(
    process: Process,
    caller: Caller,
    fd: int,
    path: int,
    path_len: int,
    buf: int,
    buf_len: int,
    bufused: int,
) -> None:
    """Write what a symbolic link says, cut to the buffer."""
    base = directory(process, fd, Right.PATH_READLINK)
    memory = caller.memory
    buf_len &= U32
    buf, bufused = span(memory, buf, buf_len), span(memory, bufused, 4)
    with process.locate(base, text(memory, path, path_len)) as location:
        content = location.readlink()[:buf_len]
    memory[buf : buf + len(content)] = content
    SIZE.pack_into(memory, bufused, len(content))


def path_remove_directory(
    process: Process, caller: Caller, fd: int, path: int, path_len: int
) -> None:
    """Remove an empty directory."""
    base = directory(process, fd, Right.PATH_REMOVE_DIRECTORY)
    with process.locate(base, text(caller.memory, path, path_len)) as location:
        location.rmdir()


def path_rename(
    process: Process,
    caller: Caller,
    fd: int,
    old_path: int,
    old_path_len: int,
    new_fd: int,
    new_path: int,
    new_path_len: int,
) -> None:
    """Rename what a path names."""
    source = directory(process, fd, Right.PATH_RENAME_SOURCE)
    target = directory(process, new_fd, Right.PATH_RENAME_TARGET)
    memory = caller.memory
    old, new = text(memory, old_path, old_path_len), text(memory, new_path, new_path_len)
    origin, renamed = process.locate_two(source, old, target, new)
    with origin, renamed:
        origin.rename_to(renamed)


def path_symlink(
    process: Process,
    caller: Caller,
    old_path: int,
    old_path_len: int,
    fd: int,
    new_path: int,
    new_path_len: int,
) -> None:
    """Make a symbolic link."""
    base = directory(process, fd, Right.PATH_SYMLINK)
    memory = caller.memory
    content = text(memory, old_path, old_path_len)
    if b"\0" in content:
        raise Failure(Errno.INVAL)
    # The program cannot follow such a link, and a user of the host would leave the folder by it.
    if content.startswith(b"/"):
        raise Failure(Errno.PERM)
    with process.locate(base, text(memory, new_path, new_path_len)) as location:
        location.symlink(content)


def path_unlink_file(process: Process, caller: Caller, fd: int, path: int, path_len: int) -> None:
    """Remove a name of a file."""
    base = directory(process, fd, Right.PATH_UNLINK_FILE)
    with process.locate(base, text(caller.memory, path, path_len)) as location:
        location.unlink()
