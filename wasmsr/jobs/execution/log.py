"""Reads the log of an execution: what is there, and what comes, without a gap or a repetition.

Any process that can read the folder can read the log. Where the log is cut because the program
continues from a checkpoint, the file `rewinds` says so before: it has the offset of each cut.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmsr.executor.output.frames import FRAMES_FILE, HEAD, cut_frames, frame_head, read_head
from wasmsr.jobs.failures import JobError

REWINDS: Final = "rewinds"

COMMITTED: Final = "committed"
"""The file that says how much of the log may be shown, if it is held until a checkpoint."""

ALL: Final = 1 << 62
"""What it says when all may be shown."""

READ: Final = 1 << 20
"""Bytes that are read at a time; a frame that is longer is read alone."""

LOOK_SECONDS: Final = 0.02
"""How often the growth of a log is looked for while somebody follows it."""

SHARE_SECONDS: Final = 0.0002
"""What is added to that for each follower."""

NEWS_SECONDS: Final = 0.5
"""How long a follower waits at a time before it asks again whether the execution has ended."""

_OFFSET = struct.Struct("<Q")


@dataclass(frozen=True)
class LogFrame:
    """A piece of output.

    Attributes:
        stream: 1 for stdout, 2 for stderr.
        data: The bytes.
        offset: Where the frame begins in the log.
        end: Where the next one begins: from here a reader can go on later.
    """

    stream: int
    data: bytes
    offset: int
    end: int

    def encode(self) -> bytes:
        """Return the frame as the log has it."""
        return frame_head(self.stream, len(self.data)) + self.data


@dataclass(frozen=True)
class LogRewound:
    """The program continues from a checkpoint, and what it wrote after that counts no more.

    Attributes:
        offset: Where the log was cut; what comes next begins here.
    """

    offset: int

    def __str__(self) -> str:
        return f"rewound to {self.offset}"


LogItem = LogFrame | LogRewound


class LogWatch:
    """Tells all followers of one log that it has grown: one thread looks, however many follow."""

    def __init__(self, path: Path) -> None:
        self._path = path / FRAMES_FILE
        self._lock = threading.Condition()
        self._followers = 0
        self._size = -1
        self._looks = False
        self._news = 0

    def follow(self) -> None:
        """Count a follower; the first one starts the thread."""
        with self._lock:
            self._followers += 1
            if not self._looks:
                self._looks = True
                threading.Thread(target=self._look, name="wasmsr-log", daemon=True).start()

    def leave(self) -> None:
        """Count a follower no more."""
        with self._lock:
            self._followers -= 1
            self._lock.notify_all()

    @property
    def news(self) -> int:
        """A number that is another one after the log has grown, or was cut."""
        with self._lock:
            return self._news

    def wait(self, seen: int, seconds: float = NEWS_SECONDS) -> None:
        """Wait until `news` is not `seen`, at most so many seconds."""
        with self._lock:
            self._lock.wait_for(lambda: self._news != seen, seconds)

    def tell(self) -> None:
        """Wake all followers."""
        with self._lock:
            self._news += 1
            self._lock.notify_all()

    def _look(self) -> None:
        while True:
            with self._lock:
                if not self._followers:
                    self._looks = False
                    return
                size = -1
                with suppress(OSError):
                    size = self._path.stat().st_size
                if size != self._size:
                    self._size = size
                    self._news += 1
                    self._lock.notify_all()
                # Many followers hear less often, so that to wake them takes no core for itself.
                pause = LOOK_SECONDS + self._followers * SHARE_SECONDS
                self._lock.wait_for(lambda: not self._followers, pause)


def read_log(
    folder: Path,
    *,
    offset: int = 0,
    tail: int | None = None,
    ended: Callable[[], bool] = lambda: True,
    watch: LogWatch | None = None,
) -> Iterator[LogItem]:
    """Yield what a log has, then what comes, until the execution has ended.

    Args:
        folder: The folder of the log.
        offset: Where to begin: 0, or `LogFrame.end` of a frame that was read.
        tail: Only the last lines of what is there; None for all.
        ended: Whether the program writes no more. It is asked before the log is read.
        watch: Tells that the log has grown; None looks often.

    Raises:
        JobError: LogError; there is no log, or the offset is not the beginning of a frame.
    """
    reader = _Reader(folder, offset)
    with reader:
        if tail is not None:
            first = reader.last_lines(tail)
            if first is not None and first.data:
                yield first
        if watch is not None:
            watch.follow()
        try:
            while True:
                over = ended()
                seen = 0 if watch is None else watch.news
                yield from reader.items()
                if over and not reader.was_cut:
                    return
                if watch is None:
                    threading.Event().wait(LOOK_SECONDS)
                else:
                    watch.wait(seen)
        finally:
            if watch is not None:
                watch.leave()


def commit_log(folder: Path, end: int) -> None:
    """Let readers see a log up to an offset; from the first call on they see no more.

    Raises:
        OSError: It cannot be noted.
    """
    file = os.open(folder / COMMITTED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(file, _OFFSET.pack(end), 0)
    finally:
        os.close(file)


def rewind_log(folder: Path, ends: dict[str, int]) -> None:
    """Cut a log where a checkpoint has it, durably.

    Readers hear of it before and after. Without the first, one that reads meanwhile would mix old
    frames with new ones; without the second, one that has gone back already and has read the old
    frames again, just before they were cut, would take them for new ones.

    Raises:
        OSError: It cannot be cut.
    """
    with open(folder / REWINDS, "ab", buffering=0) as file:
        for after in (False, True):
            if after:
                cut_frames(folder, ends)
            file.write(_OFFSET.pack(ends[FRAMES_FILE]))
            os.fsync(file.fileno())


class _Reader:
    """Reads whole frames from an offset on."""

    def __init__(self, folder: Path, offset: int) -> None:
        self._folder = folder
        try:
            self._file = os.open(folder / FRAMES_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise JobError("LogError", f"the log cannot be read: {error.strerror}") from error
        self.offset = offset
        self._rewinds = self._cuts()
        size = os.fstat(self._file).st_size
        if not 0 <= offset <= size:
            os.close(self._file)
            raise JobError(
                "LogError",
                f"the log has no offset {offset}: it has {size} bytes",
                hint="go on at an offset that the log gave",
                details={"size": size},
            )

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _cuts(self) -> int:
        try:
            return (self._folder / REWINDS).stat().st_size // _OFFSET.size
        except OSError:
            return 0

    def _shown(self) -> int:
        """Return how far the log may be shown."""
        try:
            return int(_OFFSET.unpack((self._folder / COMMITTED).read_bytes())[0])
        except (OSError, struct.error):
            return ALL

    @property
    def was_cut(self) -> bool:
        """Whether the log was cut since `items` looked."""
        return self._cuts() != self._rewinds

    def _rewound(self) -> Iterator[LogRewound]:
        cuts = self._cuts()
        if cuts == self._rewinds:
            return
        with open(self._folder / REWINDS, "rb") as file:
            file.seek(self._rewinds * _OFFSET.size)
            found = [one for (one,) in _OFFSET.iter_unpack(file.read((cuts - self._rewinds) * 8))]
        self._rewinds = cuts
        lowest = min(found)
        if lowest < self.offset:
            self.offset = lowest
            yield LogRewound(lowest)

    def items(self) -> Iterator[LogItem]:
        """Yield what is there from `offset` on."""
        while True:
            yield from self._rewound()
            shown = self._shown()  # before the log is read, which may be cut and grow meanwhile
            if self.offset >= shown:
                return
            data = os.pread(self._file, READ, self.offset)
            if len(data) >= HEAD:
                length = self._head(data, 0)[1]
                if len(data) < HEAD + length:
                    data = os.pread(self._file, HEAD + length, self.offset)
            if self._cuts() != self._rewinds:
                continue  # what was read may be gone
            at = 0
            view = memoryview(data)
            while len(data) - at >= HEAD:
                stream, length = self._head(data, at)
                if len(data) - at < HEAD + length or self.offset >= shown:
                    break
                begin, at = at + HEAD, at + HEAD + length
                end = self.offset + HEAD + length
                frame = LogFrame(stream, bytes(view[begin:at]), self.offset, end)
                self.offset = end
                yield frame
            if not at:
                return

    def _head(self, data: bytes, at: int) -> tuple[int, int]:
        try:
            return read_head(data[at : at + HEAD])
        except ValueError as error:
            raise JobError(
                "LogError",
                f"the log has no frame at {self.offset}: {error}",
                hint="go on at an offset that the log gave",
            ) from None

    def last_lines(self, count: int) -> LogFrame | None:
        """Go to the beginning of the last lines, and return the rest of the frame that has it.

        Both streams count, in the order in which they were written.
        """
        if count <= 0:
            self.offset = min(os.fstat(self._file).st_size, self._shown())
            return None
        begin, found, total, whole = self.offset, deque[tuple[int, int]](), 0, True
        for item in self.items():
            if not isinstance(item, LogFrame) or not item.data:
                continue
            whole = item.data.endswith(b"\n")
            lines = item.data.count(b"\n")
            if lines:
                found.append((item.offset, lines))
                total += lines
            while found and total - found[0][1] > count:
                total -= found.popleft()[1]
        skip = total - count - (1 if whole else 0)
        self.offset = begin
        if skip < 0:
            return None
        while skip >= found[0][1]:
            skip -= found.popleft()[1]
        self.offset = found[0][0]
        item = next(self.items())
        if not isinstance(item, LogFrame):
            return None
        at = 0
        for _ in range(skip + 1):
            at = item.data.index(b"\n", at) + 1
        return LogFrame(item.stream, item.data[at:], item.offset, item.end)


__all__ = [
    "ALL",
    "LogFrame",
    "LogItem",
    "LogRewound",
    "LogWatch",
    "commit_log",
    "read_log",
    "rewind_log",
]
