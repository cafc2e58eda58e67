"""The numbers and memory layouts of WASI preview 1, each in one table.

Flags and rights are plain ints because every call tests them.

Source: typenames and functions of `wasi_snapshot_preview1` (WebAssembly/WASI,
legacy/preview1/witx).
"""

from __future__ import annotations

import errno as host
import stat
from enum import IntEnum
from struct import Struct

from wasmsr.wasi.errors import CallError
from wasmsr.wasi.streams.descriptor import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

U32: Final = 0xFFFFFFFF
U64: Final = 0xFFFFFFFFFFFFFFFF


class Errno(IntEnum):
    """`errno`: what every call returns."""

    SUCCESS = 0
    TOOBIG = 1
    ACCES = 2
    ADDRINUSE = 3
    ADDRNOTAVAIL = 4
    AFNOSUPPORT = 5
    AGAIN = 6
    ALREADY = 7
    BADF = 8
    BADMSG = 9
    BUSY = 10
    CANCELED = 11
    CHILD = 12
    CONNABORTED = 13
    CONNREFUSED = 14
    CONNRESET = 15
    DEADLK = 16
    DESTADDRREQ = 17
    DOM = 18
    DQUOT = 19
    EXIST = 20
    FAULT = 21
    FBIG = 22
    HOSTUNREACH = 23
    IDRM = 24
    ILSEQ = 25
    INPROGRESS = 26
    INTR = 27
    INVAL = 28
    IO = 29
    ISCONN = 30
    ISDIR = 31
    LOOP = 32
    MFILE = 33
    MLINK = 34
    MSGSIZE = 35
    MULTIHOP = 36
    NAMETOOLONG = 37
    NETDOWN = 38
    NETRESET = 39
    NETUNREACH = 40
    NFILE = 41
    NOBUFS = 42
    NODEV = 43
    NOENT = 44
    NOEXEC = 45
    NOLCK = 46
    NOLINK = 47
    NOMEM = 48
    NOMSG = 49
    NOPROTOOPT = 50
    NOSPC = 51
    NOSYS = 52
    NOTCONN = 53
    NOTDIR = 54
    NOTEMPTY = 55
    NOTRECOVERABLE = 56
    NOTSOCK = 57
    NOTSUP = 58
    NOTTY = 59
    NXIO = 60
    OVERFLOW = 61
    OWNERDEAD = 62
    PERM = 63
    PIPE = 64
    PROTO = 65
    PROTONOSUPPORT = 66
    PROTOTYPE = 67
    RANGE = 68
    ROFS = 69
    SPIPE = 70
    SRCH = 71
    STALE = 72
    TIMEDOUT = 73
    TXTBSY = 74
    XDEV = 75
    NOTCAPABLE = 76


def _host_errnos() -> dict[int, int]:
    """Return the host's errno numbers with those of WASI.

    The names agree but for the one that starts with a digit.
    """
    table = {host.E2BIG: int(Errno.TOOBIG)}
    for member in Errno:
        number = getattr(host, "E" + member.name, None)
        if number is not None:
            table[number] = int(member)
    return table


FROM_HOST: Final = _host_errnos()


def from_host(error: OSError | CallError) -> int:
    """Return the WASI errno for an error of the host; IO where WASI has no such name."""
    return FROM_HOST.get(error.errno or 0, int(Errno.IO))


class Failure(Exception):
    """A call ends with this errno of preview 1. The wrapper of the calls returns it."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno)
        self.errno = int(errno)


class Right:
    """`rights`: what may be done with a descriptor."""

    FD_DATASYNC: Final = 1 << 0
    FD_READ: Final = 1 << 1
    FD_SEEK: Final = 1 << 2
    FD_FDSTAT_SET_FLAGS: Final = 1 << 3
    FD_SYNC: Final = 1 << 4
    FD_TELL: Final = 1 << 5
    FD_WRITE: Final = 1 << 6
    FD_ADVISE: Final = 1 << 7
    FD_ALLOCATE: Final = 1 << 8
    PATH_CREATE_DIRECTORY: Final = 1 << 9
    PATH_CREATE_FILE: Final = 1 << 10
    PATH_LINK_SOURCE: Final = 1 << 11
    PATH_LINK_TARGET: Final = 1 << 12
    PATH_OPEN: Final = 1 << 13
    FD_READDIR: Final = 1 << 14
    PATH_READLINK: Final = 1 << 15
    PATH_RENAME_SOURCE: Final = 1 << 16
    PATH_RENAME_TARGET: Final = 1 << 17
    PATH_FILESTAT_GET: Final = 1 << 18
    PATH_FILESTAT_SET_SIZE: Final = 1 << 19
    PATH_FILESTAT_SET_TIMES: Final = 1 << 20
    FD_FILESTAT_GET: Final = 1 << 21
    FD_FILESTAT_SET_SIZE: Final = 1 << 22
    FD_FILESTAT_SET_TIMES: Final = 1 << 23
    PATH_SYMLINK: Final = 1 << 24
    PATH_REMOVE_DIRECTORY: Final = 1 << 25
    PATH_UNLINK_FILE: Final = 1 << 26
    POLL_FD_READWRITE: Final = 1 << 27
    SOCK_SHUTDOWN: Final = 1 << 28
    SOCK_ACCEPT: Final = 1 << 29


ALL_RIGHTS: Final = (1 << 30) - 1


class FileType(IntEnum):
    """`filetype`."""

    UNKNOWN = 0
    BLOCK_DEVICE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_DGRAM = 5
    SOCKET_STREAM = 6
    SYMBOLIC_LINK = 7


FILE_TYPES: Final = {mode: int(FileType[kind.name]) for mode, kind in KINDS.items()}


def file_type(mode: int) -> int:
    """Return the `filetype` for a host's `st_mode`; UNKNOWN for a FIFO."""
    return FILE_TYPES.get(stat.S_IFMT(mode), 0)


class FdFlag:
    """`fdflags`."""

    APPEND: Final = 1
    DSYNC: Final = 2
    NONBLOCK: Final = 4
    RSYNC: Final = 8
    SYNC: Final = 16
    ALL: Final = 31


class OFlag:
    """`oflags` of `path_open`."""

    CREAT: Final = 1
    DIRECTORY: Final = 2
    EXCL: Final = 4
    TRUNC: Final = 8
    ALL: Final = 15


SYMLINK_FOLLOW: Final = 1
"""The one `lookupflags` bit."""


class FstFlag:
    """`fstflags`: which times to set, and from what."""

    ATIM: Final = 1
    ATIM_NOW: Final = 2
    MTIM: Final = 4
    MTIM_NOW: Final = 8
    ALL: Final = 15


class Whence(IntEnum):
    """`whence` of `fd_seek`; the values are the host's too."""

    SET = 0
    CUR = 1
    END = 2


class ClockId(IntEnum):
    """`clockid`."""

    REALTIME = 0
    MONOTONIC = 1
    PROCESS_CPUTIME = 2
    THREAD_CPUTIME = 3


class EventType(IntEnum):
    """`eventtype`."""

    CLOCK = 0
    FD_READ = 1
    FD_WRITE = 2


SUBSCRIPTION_CLOCK_ABSTIME: Final = 1
EVENT_HANGUP: Final = 1


class RiFlag:
    """`riflags` of `sock_recv`."""

    PEEK: Final = 1
    WAITALL: Final = 2
    ALL: Final = 3


RECV_DATA_TRUNCATED: Final = 1


class Signal(IntEnum):
    """`signal` of `proc_raise`."""

    NONE = 0
    HUP = 1
    INT = 2
    QUIT = 3
    ILL = 4
    TRAP = 5
    ABRT = 6
    BUS = 7
    FPE = 8
    KILL = 9
    USR1 = 10
    SEGV = 11
    USR2 = 12
    PIPE = 13
    ALRM = 14
    TERM = 15
    CHLD = 16
    CONT = 17
    STOP = 18
    TSTP = 19
    TTIN = 20
    TTOU = 21
    URG = 22
    XCPU = 23
    XFSZ = 24
    VTALRM = 25
    PROF = 26
    WINCH = 27
    POLL = 28
    PWR = 29
    SYS = 30


IGNORED_SIGNALS: Final = frozenset(
    {Signal.NONE, Signal.PIPE, Signal.CHLD, Signal.CONT, Signal.URG, Signal.WINCH}
)
STOPPING_SIGNALS: Final = frozenset({Signal.STOP, Signal.TSTP, Signal.TTIN, Signal.TTOU})

# Layouts in linear memory, little-endian, padding as the witx layout rules give it.
SIZE: Final = Struct("<I")
TWO_SIZES: Final = Struct("<II")
TIMESTAMP: Final = Struct("<Q")
IOVEC: Final = Struct("<II")
FDSTAT: Final = Struct("<BxHxxxxQQ")
FILESTAT: Final = Struct("<QQB7xQQQQQ")
PRESTAT: Final = Struct("<BxxxI")
DIRENT: Final = Struct("<QQIBxxx")
EVENT: Final = Struct("<QHB5xQH6x")
SUBSCRIPTION: Final = Struct("<QB7x32s")
SUBSCRIPTION_CLOCK: Final = Struct("<IxxxxQQH6x")
SUBSCRIPTION_FD: Final = Struct("<I28x")
MAX_IOVECS: Final = 1024
"""As many buffers as the host takes in one call (Linux, IOV_MAX); a call with more is cut short,
which reading and writing may always be."""
MOST_BYTES: Final = U32 & ~0xFFF
"""Bytes of one call, in whole pages: the number that a call answers is a u32, and several buffers,
which may be the same memory, can be more together. Such a call is cut short too."""


def span(memory: memoryview, pointer: int, size: int) -> int:
    """Return a pointer as an unsigned address.

    Raises:
        Failure: FAULT, where `size` bytes from there are not within memory.
    """
    pointer &= U32
    if pointer + size > len(memory):
        raise Failure(Errno.FAULT)
    return pointer


def text(memory: memoryview, pointer: int, size: int) -> bytes:
    """Return the bytes of a string argument.

    Raises:
        Failure: FAULT, where they are not within memory.
    """
    size &= U32
    pointer = span(memory, pointer, size)
    return bytes(memory[pointer : pointer + size])


def vectors_at(memory: memoryview, pointer: int, count: int) -> list[tuple[int, int]]:
    """Return address and size of the buffers that an `iovec_array` names.

    Several buffers have at most `MOST_BYTES` together.

    Raises:
        Failure: FAULT, where the array or a buffer is not within memory.
    """
    size = len(memory)
    pointer &= U32
    count &= U32
    if pointer + 8 * count > size:
        raise Failure(Errno.FAULT)
    found = []
    left = size if count == 1 else MOST_BYTES
    array = memory[pointer : pointer + 8 * min(count, MAX_IOVECS)]
    for base, length in IOVEC.iter_unpack(array):
        if base + length > size:
            raise Failure(Errno.FAULT)
        taken = min(length, left)
        left -= taken
        found.append((base, taken))
    return found


def vectors(memory: memoryview, pointer: int, count: int) -> list[memoryview]:
    """Return the buffers that an `iovec_array` names, as slices of memory without a copy.

    Raises:
        Failure: FAULT, where the array or a buffer is not within memory.
    """
    if count & U32 != 1:
        found = vectors_at(memory, pointer, count)
        return [memory[base : base + length] for base, length in found]
    # The commonest case by far.
    pointer &= U32
    size = len(memory)
    if pointer + 8 > size:
        raise Failure(Errno.FAULT)
    base, length = IOVEC.unpack_from(memory, pointer)
    if base + length > size:
        raise Failure(Errno.FAULT)
    return [memory[base : base + length]]
