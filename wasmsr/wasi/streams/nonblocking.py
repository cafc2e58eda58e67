"""Reading and writing a host's stream without waiting, whatever flags its descriptor has.

`poll` may call a pipe ready, and another process takes what was there a moment later. A call that
then blocks could not be ended by a pause. The flag O_NONBLOCK belongs to all processes that share
the open file, so we do not set it. Linux has a flag for a single call (RWF_NOWAIT, preadv2(2)), for
anonymous pipes and sockets. FIFOs and terminals can be opened again without sharing flags.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)
PTMX: Final = os.makedev(5, 2)
"""Linux's device whose every open file is the other side of another terminal."""
CURRENT: Final = -1
"""The offset of preadv2 and pwritev2 that means the file's own."""


def opened_again(host: int, access: int) -> int:
    """Return a descriptor of the same pipe or terminal that does not block.

    It shares no flags with `host`. Return -1 if there can be none.
    """
    if os.fstat(host).st_rdev == PTMX:
        # Opening that makes a new terminal.
        return -1
    for name in (f"/proc/self/fd/{host}", None):
        try:
            name = name or os.ttyname(host)
            return os.open(name, access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            continue
    return -1


class NonblockingStream:
    """A stream, `host`, which stays the caller's to close; `access`: os.O_RDONLY or O_WRONLY.

    Attributes:
        sure: whether calls are known to return at once; where not, they may wait once in a while.
    """

    __slots__ = ("_access", "_again", "_flag", "host", "sure")

    def __init__(self, host: int, access: int) -> None:
        self.host = host
        self.sure = True
        self._access = access
        self._flag = NOWAIT
        self._again = -1

    def read(self, buffers: list[memoryview]) -> int:
        """Read as os.readv does.

        Raises:
            BlockingIOError: Nothing is there.
        """
        if self._flag:
            try:
                return os.preadv(self.host, buffers, CURRENT, self._flag)
            except OSError as error:
                self._do_without(error)
        return os.readv(self._other(), buffers)

    def write(self, buffers: list[memoryview]) -> int:
        """Write as os.writev does, as much as there is room for.

        Raises:
            BlockingIOError: There is no room, or the stream has just turned out not to be `sure`.
        """
        if self._flag:
            try:
                return os.pwritev(self.host, buffers, CURRENT, self._flag)
            except OSError as error:
                self._do_without(error)
        if self.sure and self._other() == self.host:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.writev(self._other(), buffers)

    def _do_without(self, error: OSError) -> None:
        # Sandboxes answer EPERM to calls that they do not know.
        lacks = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EPERM)
        if error.errno not in lacks:
            raise error
        self._flag = 0

    def _other(self) -> int:
        if self._again < 0 and self.sure:
            self._again = opened_again(self.host, self._access)
            self.sure = self._again >= 0
        return self._again if self.sure else self.host

    def close(self) -> None:
        """Close the descriptors that were opened for it."""
        if self._again >= 0:
            os.close(self._again)
            self._again = -1
            self.sure = False
