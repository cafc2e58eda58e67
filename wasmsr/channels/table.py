"""The channels of a program, and all messages that it has received and not read, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from wasmsr.channels.grant import LONGEST, READ, WRITE, Arrived
from wasmsr.errors import FormatError
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

OWNER: Final = "channels"
"""The owner's name in the section *host state* of snapshots."""
CHANNELS: Final = 256
"""Channels of a program: their descriptors have one byte on the wire."""
LARGEST: Final = 1 << 20
"""Bytes of a message."""
WAITING: Final = 16 << 20
"""Bytes that wait in the program's table before it takes no more from its host."""
SENDERS: Final = 4096
"""Modules of which a program remembers the last message."""
MOST: Final = 1 << 19
"""Messages in a saved state."""
OVERHEAD: Final = 64
"""Bytes for which a message counts beside its own."""
KEYS: Final = frozenset(
    ("channels", "messages", "senders", "life", "written", "poll", "period", "flags")
)


@record
class Channel:
    """An open channel.

    Attributes:
        path: As the program opened it.
        flags: `READ`, `WRITE`, or both.
        waiting: What has come and was not read; the first one may be a rest.
    """

    path: str
    flags: int
    waiting: deque[bytes | memoryview]


@record(frozen=True)
class PendingWait:
    """A call that a pause ended before it had an effect; made again, it waits for the rest.

    Attributes:
        call: The arguments that tell it from other calls.
        waited: ns that it has waited.
    """

    call: tuple[int, ...]
    waited: int


class ChannelTable:
    """The state of a program's channels; what snapshots save.

    Attributes:
        open: Channels by descriptor.
        life: Names this life of the program: 16 random bytes of its start, the same after moves.
        written: Messages that it has written.
        pending: An interrupted wait.
        period: When the present period began, in ns of this host's monotonic clock; None outside of
            one. In a saved state, how long ago that was.
        flags: What the program has set.
        size: Bytes that wait, with `OVERHEAD` for each message.
    """

    def __init__(self, life: bytes) -> None:
        self.open: dict[int, Channel] = {}
        self.life = life
        self.written = 0
        self.pending: PendingWait | None = None
        self.period: int | None = None
        self.flags = 0
        self.size = 0
        self._senders: dict[bytes, tuple[int, dict[int, int]]] = {}
        """Of each life: the last epoch, and the number of the last message on each channel."""

    def find(self, path: str) -> int | None:
        """Return the descriptor of the channel with this path."""
        return next((fd for fd, one in self.open.items() if one.path == path), None)

    def add(self, path: str, flags: int) -> int | None:
        """Open a channel with the lowest free descriptor, which is returned; None if all are taken.

        The same path has the same descriptor, and then may do what any of the calls asked for.
        """
        fd = self.find(path)
        if fd is not None:
            self.open[fd].flags |= flags
            return fd
        fd = next((number for number in range(CHANNELS) if number not in self.open), None)
        if fd is not None:
            self.open[fd] = Channel(path, flags, deque())
        return fd

    def remove(self, fd: int) -> None:
        """Close a channel; what waits there is gone."""
        self.size -= sum(len(one) + OVERHEAD for one in self.open.pop(fd).waiting)
        for _, numbers in self._senders.values():
            numbers.pop(fd, None)

    def take(self, came: Iterable[Arrived]) -> None:
        """Take messages that have come; those of older epochs, or that were here, are dropped."""
        for one in came:
            channel = self.open.get(one.fd)
            if channel is None or not channel.flags & READ:
                continue  # it was closed meanwhile
            if one.number and not self._is_new(one):
                continue
            channel.waiting.append(one.data)
            self.size += len(one.data) + OVERHEAD

    def _is_new(self, one: Arrived) -> bool:
        epoch, numbers = self._senders.pop(one.life, (0, {}))
        self._senders[one.life] = max(epoch, one.epoch), numbers  # the last one is the newest
        while len(self._senders) > SENDERS:
            del self._senders[next(iter(self._senders))]
        if one.epoch < epoch or one.number <= numbers.get(one.fd, 0):
            return False
        numbers[one.fd] = one.number
        return True

    def read(self, fd: int, size: int) -> bytes:
        """Return the first message of a channel, or so many bytes of it: the rest stays."""
        waiting = self.open[fd].waiting
        if not waiting:
            return b""
        data = waiting.popleft()
        self.size -= min(len(data), size)
        if len(data) > size:
            waiting.appendleft(memoryview(data)[size:])  # a copy each time would be quadratic
        else:
            self.size -= OVERHEAD
        return bytes(data[:size])

    # -- snapshots ---------------------------------------------------------------------------------

    def capture(self) -> dict[str, Any]:
        """Return the state as plain data."""
        pending = self.pending
        return {
            "channels": [[fd, one.path, one.flags] for fd, one in sorted(self.open.items())],
            "messages": [
                [fd, bytes(data)] for fd, one in sorted(self.open.items()) for data in one.waiting
            ],
            "senders": [
                [life, epoch, [[fd, number] for fd, number in sorted(numbers.items())]]
                for life, (epoch, numbers) in self._senders.items()
            ],
            "life": self.life,
            "written": self.written,
            "poll": None if pending is None else [list(pending.call), pending.waited],
            "period": self.period,
            "flags": self.flags,
        }

    @classmethod
    def restore(cls, state: Any) -> ChannelTable:
        """Return the table of a saved state.

        Raises:
            FormatError: It is none.
        """
        if type(state) is not dict or state.keys() != KEYS:
            _refuse("its keys are others")
        table = cls(_bytes(state["life"], 16))
        table.written = _number(state["written"])
        table.flags = _number(state["flags"], 1 << 32)
        table.period = None if state["period"] is None else _number(state["period"])
        for fd, path, flags in _rows(state["channels"], 3, CHANNELS):
            if _number(fd, CHANNELS) in table.open or type(path) is not str or not path:
                _refuse("a channel is there twice, or has no path")
            if _number(flags, 4) == 0 or len(path.encode(errors="replace")) > LONGEST:
                _refuse("a channel has other flags, or too long a path")
            if table.find(path) is not None:
                _refuse("a path is there twice")
            table.open[fd] = Channel(path, flags, deque())
        for fd, data in _rows(state["messages"], 2, MOST):
            if type(fd) is not int or fd not in table.open or not table.open[fd].flags & READ:
                _refuse("a message is of no channel")
            if type(data) is not bytes or len(data) > LARGEST:
                _refuse("a message is not one")
            table.open[fd].waiting.append(data)
            table.size += len(data) + OVERHEAD
        for life, epoch, numbers in _rows(state["senders"], 3, SENDERS):
            found = {
                _number(fd, CHANNELS): _number(number) for fd, number in _rows(numbers, 2, CHANNELS)
            }
            if _bytes(life, 16) in table._senders:
                _refuse("a sender is there twice")
            table._senders[life] = _number(epoch, 1 << 32), found
        if state["poll"] is not None:
            ((call, waited),) = _rows([state["poll"]], 2, 1)
            if type(call) is not list or len(call) > CHANNELS + 4:
                _refuse("a wait is not one")
            table.pending = PendingWait(tuple(map(_number, call)), _number(waited))
        return table


def _refuse(what: str) -> NoReturn:
    raise FormatError(f"the state of the channels is not valid: {what}")


def _number(value: Any, end: int = 1 << 63) -> int:
    if type(value) is not int or not 0 <= value < end:
        _refuse("a number is out of range")
    return value


def _bytes(value: Any, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        _refuse(f"{size} bytes are expected")
    return value


def _rows(value: Any, width: int, most: int) -> list[list[Any]]:
    if type(value) is not list or len(value) > most:
        _refuse("a list is none, or is too long")
    if any(type(row) is not list or len(row) != width for row in value):
        _refuse("a row has another length")
    return value


__all__ = ["CHANNELS", "LARGEST", "READ", "WAITING", "WRITE", "ChannelTable", "PendingWait"]
