"""Who runs a store, and requests to pause or end what runs."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from wasmsr._ffi import lib
from wasmsr.errors import Interrupted, WasmsrError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.store.interface import StoreInterface

_entering = threading.Lock()


class PauseControl:
    """The part of a store that other threads and signal handlers use.

    Args:
        store: The store.

    Attributes:
        running: Whether some thread runs the store.
        thread: Identifier of the thread that runs it, or ran it last.
    """

    def __init__(self, store: StoreInterface) -> None:
        self._wake: tuple[int, int] | None = None
        self._for_this_run = False
        self._using_wake = threading.RLock()  # a signal handler may interrupt who holds it
        self._store = store
        self.running = self._interrupted = False
        self.thread = 0
        self._idle = threading.Event()
        self._idle.set()

    def __del__(self) -> None:
        self.close()

    def enter(self) -> None:
        """Begin to run the store on this thread.

        Raises:
            WasmsrError: Another thread runs it.
        """
        with _entering:
            if self.running:
                raise WasmsrError("the store is running; one thread at a time may use it")
            self.running = True
            self.thread = threading.get_ident()
            self._idle.clear()

    def leave(self) -> None:
        """End the run; descriptors that a host call opened to wait are closed."""
        if self._for_this_run:
            self.close()
        self.running = False
        self._idle.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no thread runs the store; False if one still does after `timeout` seconds."""
        return self._idle.wait(timeout)

    def pause(self) -> None:
        """Ask for a pause, from any thread or signal handler."""
        lib.wsr_pause(self._store.c)
        if self._wake is not None:
            self._write_wake()

    def _write_wake(self) -> None:
        with self._using_wake, suppress(BlockingIOError):  # full: enough to wake everybody
            if self._wake is not None:
                os.write(self._wake[1], b"\0")

    def interrupt(self) -> None:
        """Ask for an end of what runs, from any thread or signal handler."""
        self._interrupted = True
        self.pause()

    def end_if_interrupted(self) -> None:
        """Raise Interrupted if `interrupt` was called."""
        if self._interrupted:
            raise Interrupted("the program was interrupted")

    def forget_interrupt(self) -> None:
        """Withdraw an interrupt, after the run that it ended."""
        if self._interrupted:
            self._interrupted = False
            self.clear()

    @property
    def requested(self) -> bool:
        """Whether a pause is requested."""
        return bool(lib.wsr_pause_requested(self._store.c))

    def clear(self) -> None:
        """Withdraw the request for a pause."""
        lib.wsr_clear_pause(self._store.c)
        if self._wake is not None:
            try:
                while len(os.read(self._wake[0], 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass
            if self.requested:  # a request came meanwhile: its byte may be gone
                self.pause()

    @property
    def wake_fd(self) -> int:
        """A descriptor that is readable while a pause is requested.

        One that is first asked for by a host call, during a run, is closed at the end of the run:
        a thousand forks that do not run have none. Otherwise it stays until `close`.
        """
        with self._using_wake:
            if self._wake is None:
                read, write = os.pipe()
                os.set_blocking(read, False)
                os.set_blocking(write, False)
                self._wake = (read, write)
                self._for_this_run = self.running
                if self.requested:
                    self.pause()
            return self._wake[0]

    def close(self) -> None:
        """Close the descriptors."""
        with self._using_wake:
            wake, self._wake = self._wake, None
            self._for_this_run = False
            for fd in wake or ():
                os.close(fd)
