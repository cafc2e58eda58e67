"""`wasi_unstable`, the ABI before preview 1, for binaries of 2019.

It has the same calls with four differences: another order of `whence`, a `filestat` of 56 bytes
with a 32-bit link count, a clock subscription with one more field, and no `sock_accept`.

Source: WebAssembly/WASI, legacy/preview0/witx.
"""

from __future__ import annotations

from struct import Struct

from wasmsr.record import replaced
from wasmsr.wasi.engine import Caller
from wasmsr.wasi.preview1 import fd_calls, path_calls, poll_calls
from wasmsr.wasi.preview1.abi import Errno, Failure, Whence
from wasmsr.wasi.preview1.functions import FUNCTIONS, CallRow
from wasmsr.wasi.preview1.writes import At
from wasmsr.wasi.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MODULE: Final = "wasi_unstable"
FILESTAT: Final = Struct("<QQBxxxIQQQQ")
LAYOUT: Final = poll_calls.PollLayout(Struct("<QB7x40s"), Struct("<8xIxxxxQQH6x"), Struct("<I36x"))
_WHENCE: Final = (Whence.CUR, Whence.END, Whence.SET)


def fd_seek(
    process: Process, caller: Caller, fd: int, offset: int, whence: int, newoffset: int
) -> None:
    """Move the offset, by the older order of `whence`."""
    if not 0 <= whence < len(_WHENCE):
        raise Failure(Errno.INVAL)
    fd_calls.fd_seek(process, caller, fd, offset, int(_WHENCE[whence]), newoffset)


def fd_filestat_get(process: Process, caller: Caller, fd: int, stat: int) -> None:
    """Write the attributes of an open file, in the older layout."""
    fd_calls.fd_filestat_get(process, caller, fd, stat, FILESTAT)


def path_filestat_get(
    process: Process, caller: Caller, fd: int, flags: int, path: int, path_len: int, filestat: int
) -> None:
    """Write the attributes of what a path names, in the older layout."""
    path_calls.path_filestat_get(process, caller, fd, flags, path, path_len, filestat, FILESTAT)


def poll_oneoff(
    process: Process,
    caller: Caller,
    subscriptions: int,
    events: int,
    nsubscriptions: int,
    nevents: int,
) -> None:
    """Wait for subscriptions in the older layout."""
    poll_calls.poll_oneoff(process, caller, subscriptions, events, nsubscriptions, nevents, LAYOUT)


_CHANGED = {
    call.__name__: call for call in (fd_seek, fd_filestat_get, path_filestat_get, poll_oneoff)
}
_CHANGED_WRITES = {
    "fd_filestat_get": (At("stat", FILESTAT.size),),
    "path_filestat_get": (At("filestat", FILESTAT.size),),
}


def _table() -> tuple[CallRow, ...]:
    """Return the rows of preview 1 with the changed calls in their places."""
    return tuple(
        replaced(
            row,
            call=_CHANGED.get(row.name, row.call),
            writes=_CHANGED_WRITES.get(row.name, row.writes),
        )
        for row in FUNCTIONS
        if row.name != "sock_accept"
    )


UNSTABLE: Final = {row.name: row for row in _table()}
