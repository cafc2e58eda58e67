"""The calls on an open descriptor: reading, writing, seeking, attributes, directory listings."""

from __future__ import annotations

import os
from struct import Struct

from wasmsr.wasi import syscalls
from wasmsr.wasi.engine import Caller
from wasmsr.wasi.filesystem.open_files import Directory, RegularFile
from wasmsr.wasi.preview1 import rights
from wasmsr.wasi.preview1.abi import (
    DIRENT,
    FDSTAT,
    FILESTAT,
    PRESTAT,
    SIZE,
    TIMESTAMP,
    U32,
    U64,
    Errno,
    Failure,
    FdFlag,
    FstFlag,
    Right,
    Whence,
    file_type,
    span,
    vectors,
)
from wasmsr.wasi.preview1.rights import require
from wasmsr.wasi.process import Process
from wasmsr.wasi.streams.descriptor import Descriptor
from wasmsr.wasi.streams.waiting import read_file
from wasmsr.wasi.syscalls import MAX_OFFSET


def fd_read(
    process: Process, caller: Caller, fd: int, iovs: int, iovs_len: int, nread: int
) -> None:
    """Read into the buffers, from where the descriptor is."""
    descriptor = process.descriptors.get(fd)
    if descriptor is None:
        raise Failure(Errno.BADF)
    if not descriptor.rights & Right.FD_READ:
        require(descriptor, Right.FD_READ)
    memory = caller.memory
    buffers = vectors(memory, iovs, iovs_len)
    nread = span(memory, nread, 4)
    SIZE.pack_into(memory, nread, descriptor.read(caller, buffers))


def fd_write(
    process: Process, caller: Caller, fd: int, iovs: int, iovs_len: int, nwritten: int
) -> None:
    """Write the buffers, to where the descriptor is."""
    descriptor = process.descriptors.get(fd)
    if descriptor is None:
        raise Failure(Errno.BADF)
    if not descriptor.rights & Right.FD_WRITE:
        require(descriptor, Right.FD_WRITE)
    memory = caller.memory
    buffers = vectors(memory, iovs, iovs_len)
    nwritten = span(memory, nwritten, 4)
    SIZE.pack_into(memory, nwritten, descriptor.write(caller, buffers))


def _seekable(descriptor: Descriptor) -> RegularFile:
    """Return the descriptor as one that has an offset.

    Raises:
        Failure: SPIPE for a stream, BADF for a directory.
    """
    if isinstance(descriptor, Directory):
        raise Failure(Errno.BADF)
    if not isinstance(descriptor, RegularFile) or not descriptor.seekable:
        raise Failure(Errno.SPIPE)
    return descriptor


def _position(offset: int) -> int:
    """Return a file offset or size argument as an unsigned number.

    Raises:
        Failure: INVAL, where the host has no such offset.
    """
    offset &= U64
    if offset > MAX_OFFSET:
        raise Failure(Errno.INVAL)
    return offset


def fd_pread(
    process: Process, caller: Caller, fd: int, iovs: int, iovs_len: int, offset: int, nread: int
) -> None:
    """Read into the buffers, from an offset of the file."""
    descriptor = process.get(fd)
    require(descriptor, Right.FD_READ)
    file = _seekable(descriptor)
    require(file, Right.FD_SEEK)
    memory = caller.memory
    buffers = vectors(memory, iovs, iovs_len)
    nread = span(memory, nread, 4)
    SIZE.pack_into(memory, nread, read_file(caller, file, buffers, _position(offset)))


def fd_pwrite(
    process: Process, caller: Caller, fd: int, iovs: int, iovs_len: int, offset: int, nwritten: int
) -> None:
    """Write the buffers, to an offset of the file."""
    descriptor = process.get(fd)
    require(descriptor, Right.FD_WRITE)
    file = _seekable(descriptor)
    require(file, Right.FD_SEEK)
    memory = caller.memory
    buffers = vectors(memory, iovs, iovs_len)
    nwritten = span(memory, nwritten, 4)
    SIZE.pack_into(memory, nwritten, file.write_at(buffers, _position(offset)))


def fd_seek(
    process: Process, caller: Caller, fd: int, offset: int, whence: int, newoffset: int
) -> None:
    """Move the offset, and write the new one."""
    file = _seekable(process.get(fd))
    if not 0 <= whence <= Whence.END:
        raise Failure(Errno.INVAL)
    looking = whence == Whence.CUR and not offset
    if not file.rights & (Right.FD_SEEK | Right.FD_TELL if looking else Right.FD_SEEK):
        raise Failure(Errno.NOTCAPABLE)
    if offset > MAX_OFFSET:
        offset -= 1 << 64
    memory = caller.memory
    newoffset = span(memory, newoffset, 8)
    TIMESTAMP.pack_into(memory, newoffset, os.lseek(file.host, offset, whence))


def fd_tell(process: Process, caller: Caller, fd: int, offset: int) -> None:
    """Write the offset."""
    fd_seek(process, caller, fd, 0, int(Whence.CUR), offset)


def fd_close(process: Process, caller: Caller, fd: int) -> None:
    """Close the descriptor and free its number."""
    process.remove(fd).close()


def fd_renumber(process: Process, caller: Caller, fd: int, to: int) -> None:
    """Move a descriptor over another one, which is closed."""
    moved, replaced = process.get(fd), process.get(to)
    if fd == to:
        return
    process.remove(fd)
    process.descriptors[to] = moved
    replaced.close()


def fd_fdstat_get(process: Process, caller: Caller, fd: int, stat: int) -> None:
    """Write type, flags and rights."""
    descriptor = process.get(fd)
    memory = caller.memory
    FDSTAT.pack_into(
        memory,
        span(memory, stat, FDSTAT.size),
        descriptor.filetype,
        descriptor.flags,
        descriptor.rights,
        descriptor.inheriting,
    )


def fd_fdstat_set_flags(process: Process, caller: Caller, fd: int, flags: int) -> None:
    """Set the `fdflags`."""
    descriptor = process.get(fd)
    if flags & ~FdFlag.ALL:
        raise Failure(Errno.INVAL)
    require(descriptor, Right.FD_FDSTAT_SET_FLAGS)
    descriptor.set_flags(flags)


def fd_fdstat_set_rights(
    process: Process, caller: Caller, fd: int, fs_rights_base: int, fs_rights_inheriting: int
) -> None:
    """Take rights away."""
    descriptor = process.get(fd)
    base, inheriting = fs_rights_base & U64, fs_rights_inheriting & U64
    if base & ~descriptor.rights or inheriting & ~descriptor.inheriting:
        raise Failure(Errno.NOTCAPABLE)
    descriptor.rights, descriptor.inheriting = base, inheriting


def pack_filestat(
    memory: memoryview, pointer: int, result: os.stat_result, layout: Struct = FILESTAT
) -> None:
    """Write a `filestat` to an address that was checked."""
    layout.pack_into(
        memory,
        pointer,
        result.st_dev & U64,
        result.st_ino & U64,
        file_type(result.st_mode),
        min(result.st_nlink, U32),
        result.st_size,
        result.st_atime_ns & U64,
        result.st_mtime_ns & U64,
        result.st_ctime_ns & U64,
    )


def fd_filestat_get(
    process: Process, caller: Caller, fd: int, stat: int, layout: Struct = FILESTAT
) -> None:
    """Write the attributes of an open file."""
    descriptor = process.get(fd)
    require(descriptor, Right.FD_FILESTAT_GET)
    memory = caller.memory
    stat = span(memory, stat, layout.size)
    result = descriptor.stat()
    if result is None:
        layout.pack_into(memory, stat, 0, 0, descriptor.filetype, 0, 0, 0, 0, 0)
    else:
        pack_filestat(memory, stat, result, layout)


def fd_filestat_set_size(process: Process, caller: Caller, fd: int, size: int) -> None:
    """Cut or extend a file."""
    descriptor = process.get(fd)
    file = _regular(descriptor)
    require(file, Right.FD_FILESTAT_SET_SIZE)
    os.ftruncate(file.host, _position(size))
    if file.watch is not None:
        file.watch.resized(file.host)


def _regular(descriptor: Descriptor) -> RegularFile:
    """Return the descriptor as a file whose size can be set.

    Raises:
        Failure: BADF for a directory, INVAL for all else.
    """
    if isinstance(descriptor, Directory):
        raise Failure(Errno.BADF)
    if not isinstance(descriptor, RegularFile) or not descriptor.seekable:
        raise Failure(Errno.INVAL)
    return descriptor


def times(process: Process, atim: int, mtim: int, flags: int) -> tuple[int | None, int | None]:
    """Return access time and modification time in ns that `fst_flags` ask for.

    Returns:
        The two times; None for one that stays.

    Raises:
        Failure: INVAL, where a time is to be both given and now.
    """
    both_atim, both_mtim = FstFlag.ATIM | FstFlag.ATIM_NOW, FstFlag.MTIM | FstFlag.MTIM_NOW
    if flags & ~FstFlag.ALL or flags & both_atim == both_atim or flags & both_mtim == both_mtim:
        raise Failure(Errno.INVAL)
    now = process.clocks.realtime()
    access = modification = None
    if flags & both_atim:
        access = now if flags & FstFlag.ATIM_NOW else _position(atim)
    if flags & both_mtim:
        modification = now if flags & FstFlag.MTIM_NOW else _position(mtim)
    return access, modification


def fd_filestat_set_times(
    process: Process, caller: Caller, fd: int, atim: int, mtim: int, fst_flags: int
) -> None:
    """Set the times of an open file."""
    descriptor = process.get(fd)
    require(descriptor, Right.FD_FILESTAT_SET_TIMES)
    if descriptor.stat() is None:
        raise Failure(Errno.INVAL)
    if isinstance(descriptor, (RegularFile, Directory)):
        process.tree_of(descriptor).touched(descriptor)
    syscalls.set_times(descriptor.host, None, *times(process, atim, mtim, fst_flags))


def fd_advise(
    process: Process, caller: Caller, fd: int, offset: int, len: int, advice: int
) -> None:
    """Tell the host how the program is going to use a part of a file."""
    file = _seekable(process.get(fd))
    require(file, Right.FD_ADVISE)
    if not 0 <= advice < 6:
        raise Failure(Errno.INVAL)
    position, size = _position(offset), _position(len)
    advise = getattr(os, "posix_fadvise", None)
    if advise is not None:
        advise(file.host, position, size, _ADVICE[advice])


# WASI: normal, sequential, random, willneed, dontneed, noreuse; absent on macOS, with the call.
_ADVICE = [
    getattr(os, "POSIX_FADV_" + name, 0)
    for name in ("NORMAL", "SEQUENTIAL", "RANDOM", "WILLNEED", "DONTNEED", "NOREUSE")
]


def fd_allocate(process: Process, caller: Caller, fd: int, offset: int, len: int) -> None:
    """Make a file at least so long."""
    file = _seekable(process.get(fd))
    require(file, Right.FD_ALLOCATE)
    position, size = _position(offset), _position(len)
    if not size:
        raise Failure(Errno.INVAL)
    if position + size > MAX_OFFSET:
        raise Failure(Errno.FBIG)
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        raise Failure(Errno.NOTSUP)
    if file.charged is not None:
        file.charged.charge(size)
    allocate(file.host, position, size)
    if file.watch is not None:
        file.watch.resized(file.host)


def fd_sync(process: Process, caller: Caller, fd: int) -> None:
    """Wait until content and attributes are on the disk."""
    descriptor = process.get(fd)
    if isinstance(descriptor, (RegularFile, Directory)):
        require(descriptor, Right.FD_SYNC)
        os.fsync(descriptor.host)
    else:
        raise Failure(Errno.INVAL)


def fd_datasync(process: Process, caller: Caller, fd: int) -> None:
    """Wait until the content is on the disk."""
    descriptor = process.get(fd)
    if isinstance(descriptor, (RegularFile, Directory)):
        require(descriptor, Right.FD_DATASYNC)
        getattr(os, "fdatasync", os.fsync)(descriptor.host)
    else:
        raise Failure(Errno.INVAL)


def fd_prestat_get(process: Process, caller: Caller, fd: int, prestat: int) -> None:
    """Write the length of a preopen's name."""
    name = _preopen(process, fd)
    memory = caller.memory
    PRESTAT.pack_into(memory, span(memory, prestat, PRESTAT.size), 0, len(name))


def fd_prestat_dir_name(
    process: Process, caller: Caller, fd: int, path: int, path_len: int
) -> None:
    """Write a preopen's name."""
    name = _preopen(process, fd)
    if path_len & U32 < len(name):
        raise Failure(Errno.NAMETOOLONG)
    memory = caller.memory
    path = span(memory, path, len(name))
    memory[path : path + len(name)] = name


def _preopen(process: Process, fd: int) -> bytes:
    """Return the name of a preopen.

    Raises:
        Failure: BADF for all else; it ends the search of wasi-libc.
    """
    descriptor = process.get(fd)
    if not isinstance(descriptor, Directory) or descriptor.preopen is None:
        raise Failure(Errno.BADF)
    return descriptor.preopen


def fd_readdir(
    process: Process, caller: Caller, fd: int, buf: int, buf_len: int, cookie: int, bufused: int
) -> None:
    """Write entries of a directory, from a cookie on."""
    directory = rights.directory(process, fd, Right.FD_READDIR)
    memory = caller.memory
    room = buf_len & U32
    buf, bufused = span(memory, buf, room), span(memory, bufused, 4)
    cookie &= U64
    entries = directory.entries
    if entries is None or not cookie:
        directory.entries = entries = process.trees[directory.place.mount].list(directory.host)
    used = 0
    for position in range(cookie, len(entries)):
        name, inode, kind = entries[position]
        entry = DIRENT.pack(position + 1, inode & U64, len(name), kind) + name
        # The last entry may be cut: the program sees a full buffer and asks again from its cookie.
        piece = entry[: room - used]
        memory[buf + used : buf + used + len(piece)] = piece
        used += len(piece)
        if used == room:
            break
    SIZE.pack_into(memory, bufused, used)
