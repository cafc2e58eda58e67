"""System calls that Python lacks, with types and exceptions; `_sys.c` makes them.

Every function raises OSError, as those of `os` do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from wasmsr._ffi import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_NULL: Final = ffi.NULL
MAX_OFFSET: Final = (1 << 63) - 1
"""The largest file offset of the host (a signed 64-bit number)."""


def _answer(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Return a host descriptor for what `path` names below `directory`, following no link.

    The kernel resolves the whole path at once (Linux, openat2).

    Raises:
        OSError: ELOOP: a link is on the way. EXDEV: `..` leads out. EAGAIN: directories are being
            renamed, so the kernel cannot tell. ENOSYS: there is no such call, see
            `can_open_beneath`.
    """
    return _answer(lib.wsys_open_beneath(directory, path, flags | os.O_CLOEXEC))


def can_open_beneath() -> bool:
    """Return whether this host has `open_beneath`.

    It has not before Linux 5.6, nor where a sandbox forbids it.
    """
    root = os.open(os.sep, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_beneath(root, b".", os.O_RDONLY))
    except OSError as error:
        # Sandboxes answer EPERM to calls that they do not know.
        return error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG)
    finally:
        os.close(root)
    return True


def set_times(directory: int, name: bytes | None, atim: int | None, mtim: int | None) -> None:
    """Set access and modification time of what `name` is in `directory`, never through a link.

    Args:
        directory: Host descriptor of a directory.
        name: None sets the times of the directory itself.
        atim, mtim: ns since 1970; None leaves a time as it is.
    """
    which = (atim is not None) | (mtim is not None) << 1
    path = _NULL if name is None else name
    access, modification = divmod(atim or 0, 1_000_000_000), divmod(mtim or 0, 1_000_000_000)
    _answer(lib.wsys_set_times(directory, path, which, *access, *modification))


def wait_one(host: int, event: int, wake: int) -> int:
    """Wait for an event of `host`, or until `wake` can be read.

    Args:
        host: Host descriptor.
        event: select.POLLIN or POLLOUT.
        wake: Host descriptor that ends the waiting.

    Returns:
        What is ready of `host`; 0 for nothing.
    """
    while True:
        result: int = lib.wsys_wait_one(host, event, wake)
        if result != -errno.EINTR:
            return _answer(result)


def wait_many(waited: Sequence[tuple[int, int]], timeout: int) -> list[tuple[int, int]]:
    """Wait until a descriptor is ready or the time is over.

    Args:
        waited: (host descriptor, select events) each.
        timeout: ns; for ever if it is negative.

    Returns:
        The (descriptor, events) that are ready; none also after a signal.
    """
    array = ffi.new("wsys_waited[]", [(host, events, 0) for host, events in waited])
    result = lib.wsys_wait(array, len(waited), timeout)
    if result == -errno.EINTR or not _answer(result):
        return []
    return [(entry.fd, entry.revents & 0xFFFF) for entry in array if entry.revents]
