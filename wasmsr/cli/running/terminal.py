"""Signals and keys as events of one loop; the terminal is always restored.

The main thread never runs the program. It sleeps in `select` on the keyboard and on a pipe. A
signal writes one byte to the pipe (`signal.set_wakeup_fd`), and so does a worker thread. So the
main thread sees a signal within microseconds while the program computes, and nothing polls.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

from wasmsr import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any, NoReturn, TypeVar

    T = TypeVar("T")

WAKE = 0
"""The byte that a worker thread writes to the pipe; signals write their numbers."""

END_CODES: dict[int, int] = {
    signal.SIGINT: errors.EXIT_INTERRUPTED,
    signal.SIGTERM: errors.EXIT_TERMINATED,
    signal.SIGHUP: 128 + signal.SIGHUP,
    signal.SIGQUIT: 128 + signal.SIGQUIT,
}
"""Signals that end this process, with the exit code of each."""


class Ended(Exception):
    """A signal asked for the end while nothing ran that could be paused."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Events:
    """The one place where the main thread waits.

    As a context manager it sets the signal handlers of the process, and restores them at the end.
    The main thread enters it; there is one at a time. The first SIGINT or SIGTERM is an event, the
    second ends the process at once. SIGQUIT and SIGHUP end the process at once. SIGUSR1 is an
    event. SIGTSTP restores the terminal while the process is stopped.
    """

    def __init__(self) -> None:
        self.keyboard: Keyboard | None = None
        self._ends = 0
        self._before: dict[int, Any] = {}
        self._read = self._write = -1
        self._wakeup_before = -1

    def __enter__(self) -> Events:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*END_CODES, signal.SIGUSR1, signal.SIGTSTP):
            before = signal.getsignal(number)
            # SIGINT gets our handler even if it was ignored: a shell without job control ignores it
            # for background commands, and `kill -INT` must end those too. An ignored SIGHUP stays
            # ignored, because nohup asks for that.
            if number == signal.SIGHUP and before == signal.SIG_IGN:
                continue
            self._before[number] = before
            signal.signal(number, self._arrived)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.keyboard is not None:
            self.keyboard.close()
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        write, self._write = self._write, -1
        os.close(write)

    def wake(self) -> None:
        """Make `wait` return. Any thread may call this."""
        # A full pipe wakes the main thread too; if the pipe is closed, nobody waits.
        with contextlib.suppress(OSError):
            os.write(self._write, bytes([WAKE]))

    def wait(self, timeout: float | None = None) -> tuple[set[int], bytes]:
        """Sleep until something happens or `timeout` seconds have passed.

        Returns:
            The signals that arrived, and the keys that were typed. `Keyboard.ended` is then set if
            the input has ended.
        """
        watched: list[int] = [self._read]
        keyboard = self.keyboard
        if keyboard is not None and not keyboard.ended:
            watched.append(keyboard.descriptor)
        ready, _, _ = select.select(watched, [], [], timeout)
        arrived: set[int] = set()
        if self._read in ready:
            arrived = set(os.read(self._read, 4096)) - {WAKE}
        keys = b""
        if keyboard is not None and keyboard.descriptor in ready:
            keys = keyboard.read()
        return arrived & {*END_CODES, signal.SIGUSR1}, keys

    def call(self, task: Callable[[], T], *, keep: bool = False) -> T:
        """Run `task` on a worker thread and wait for it; signals do not wait.

        Args:
            task: The task. What it raises, this raises.
            keep: Whether the first signal of `END_CODES` waits until the task is done. The next
                `wait` then returns it. Otherwise the signal ends the wait at once.

        Raises:
            Ended: A signal came. The worker thread still runs; the process should end.
        """
        result: list[T] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                result.append(task())
            except BaseException as error:  # noqa: BLE001 (raised again in the main thread)
                failure.append(error)
            finally:
                self.wake()

        thread = threading.Thread(target=work, name="wasmsr-task", daemon=True)
        thread.start()
        late: set[int] = set()
        while not (result or failure):
            select.select([self._read], [], [])
            arrived = set(os.read(self._read, 4096)) - {WAKE}
            late |= arrived
            if not keep and (ending := arrived & END_CODES.keys()):
                raise Ended(ending.pop())
        thread.join()
        if late:
            with contextlib.suppress(OSError):
                os.write(self._write, bytes(late))
        if failure:
            raise failure[0]
        return result[0]

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in Python; the pipe already has its byte."""
        if number == signal.SIGTSTP:
            self._suspend()
        elif number in END_CODES:
            self._ends += 1
            if self._ends > 1 or number in (signal.SIGQUIT, signal.SIGHUP):
                end_now(END_CODES[number])

    def _suspend(self) -> None:
        """Stop at Ctrl-Z: the shell gets its terminal as it was; this process takes it later."""
        if self.keyboard is not None:
            self.keyboard.put_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self.keyboard is not None:
            self.keyboard.take()


class Keyboard:
    """Single keys from a terminal, a pipe or a file.

    A terminal is set to give each key at once, without echo; Ctrl-C stays Ctrl-C. `close` and the
    end of the process restore the terminal.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self.descriptor = descriptor
        self.ended = False
        self._saved: list[Any] | None = None
        self.is_terminal = os.isatty(descriptor)
        self.take()
        atexit.register(self.put_back)
        at_end_now(self.put_back)

    def take(self) -> None:
        """Set a terminal to single keys; a pipe needs nothing."""
        if not self.is_terminal:
            return
        import termios

        with contextlib.suppress(termios.error):
            self._saved = termios.tcgetattr(self.descriptor)
            changed = termios.tcgetattr(self.descriptor)
            changed[3] &= ~(termios.ICANON | termios.ECHO)
            changed[6][termios.VMIN] = 1
            changed[6][termios.VTIME] = 0
            termios.tcsetattr(self.descriptor, termios.TCSADRAIN, changed)

    def put_back(self) -> None:
        """Restore the terminal. A second call does nothing."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        import termios

        with contextlib.suppress(termios.error):
            termios.tcsetattr(self.descriptor, termios.TCSANOW, saved)

    def read(self) -> bytes:
        """Return the keys that are there; set `ended` at the end of the input."""
        try:
            keys = os.read(self.descriptor, 1024)
        except BlockingIOError:
            return b""
        except OSError:  # the terminal is gone
            keys = b""
        # A terminal in this mode has no end-of-file key: Ctrl-D arrives as a byte.
        if not keys or (self.is_terminal and b"\x04" in keys):
            self.ended = True
            keys = keys.partition(b"\x04")[0]
        return keys

    def close(self) -> None:
        """Restore the terminal, and forget it."""
        self.put_back()
        atexit.unregister(self.put_back)
        forget_at_end_now(self.put_back)


_LAST_ACTS: list[Callable[[], object]] = []


def at_end_now(act: Callable[[], object]) -> None:
    """Make `end_now` call `act`, which restores the terminal in some way."""
    _LAST_ACTS.append(act)


def forget_at_end_now(act: Callable[[], object]) -> None:
    """Undo `at_end_now`, if it was called."""
    with contextlib.suppress(ValueError):
        _LAST_ACTS.remove(act)


LAST_WORDS = 0.03
"""Most seconds that a reader who does not read delays the end of the process. It counts twice."""


def last_words(say: Callable[[], object]) -> bool:
    """Write something to the standard streams before the process ends.

    Returns False if the streams take nothing, for example after Ctrl-S or because a pipe is full: a
    user who interrupts does not wait for a reader.
    """
    thread = threading.Thread(target=say, name="wasmsr-last-words", daemon=True)
    # A stream that takes bytes now is slow but not stopped, unless it has room for a few only.
    takes = len(select.select([], [1, 2], [], LAST_WORDS)[1]) == 2
    thread.start()
    thread.join(1.0 if takes else LAST_WORDS)
    return not thread.is_alive()


def end_now(code: int, *, flush: bool = True) -> NoReturn:
    """Restore the terminal and end the process, without waiting for any thread."""
    for act in list(_LAST_ACTS):
        act()
    for stream in (sys.stdout, sys.stderr) if flush else ():
        # Neither a closed pipe nor a thread that ended within a write may keep the process.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)
