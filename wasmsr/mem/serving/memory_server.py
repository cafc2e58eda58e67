"""Serves a memory to clients over TCP: a thread for each connection, and bounds for all of them."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from wasmsr.errors import printable, reason
from wasmsr.mem.failures import RemoteMemoryError, TransportError
from wasmsr.mem.serving.conversation import (
    LARGE_BYTES,
    SMALL,
    STALL_SECONDS,
    MemoryConversation,
    MessageBytes,
)
from wasmsr.mem.serving.memory_region import MemoryRegion
from wasmsr.mem.wire.commands import CommandError

CONNECTIONS = 1024
"""Connections at the same time; one more is closed at once."""


class MemoryServer:
    """A memory at one address, from `start` until `stop`.

    Attributes:
        region: The memory.
        port: Where it listens.
    """

    def __init__(
        self,
        region: MemoryRegion,
        host: str = "127.0.0.1",
        port: int = 0,
        note: Callable[[str, str], None] | None = None,
    ) -> None:
        """Listen.

        Args:
            region: The memory.
            host: The address on which to listen; "" is every address of this machine.
            port: The port; 0 takes a free one.
            note: Called with (peer, sentence) for each connection that ends by a fault of its peer.

        Raises:
            TransportError: The port is in use, or the address is none of this machine.
        """
        self.region = region
        self._note = note or (lambda peer, sentence: None)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopped = threading.Event()
        self._listener = _listen(host, port)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="memory", daemon=True)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._open)

    def start(self) -> None:
        """Begin to answer. The region may have been replaced until now."""
        self._held = MessageBytes(max(LARGE_BYTES, 2 * (self.region.size + SMALL)))
        self._thread.start()

    def close(self) -> None:
        """Give the port back without having started."""
        self._stopped.set()
        self._listener.close()

    def stop(self) -> None:
        """Close the port and every connection, and wait until no command is under way."""
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            still = list(self._open.items())
        for sock, _ in still:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for _, thread in still:
            thread.join(STALL_SECONDS)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._stopped.is_set():
                    return
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    time.sleep(0.1)  # descriptors come back when connections end
                    continue
                if error.errno in (errno.ECONNABORTED, errno.EINTR, errno.EPROTO):
                    continue
                self._note("", f"the port is closed: {reason(error)}")
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            with self._lock:
                full = len(self._open) >= CONNECTIONS
                if not full:
                    self._open[sock] = thread
            if full:
                sock.close()
                self._note("", f"there are {CONNECTIONS} connections; one more was closed")
                continue
            try:
                thread.start()
            except RuntimeError:  # no room for a thread
                with self._lock:
                    del self._open[sock]
                sock.close()

    def _serve(self, sock: socket.socket) -> None:
        """Answer one connection until it ends."""
        peer = "?"
        try:
            peer = _name_of(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            MemoryConversation(sock, self.region, self._held).run()
        except EOFError:
            pass
        except (RemoteMemoryError, CommandError) as error:
            self._note(peer, reason(error))
        except BlockingIOError:
            self._note(peer, "said or took nothing for too long")
        except OSError as error:
            if not self._stopped.is_set() and error.errno not in (errno.ECONNRESET, errno.EPIPE):
                self._note(peer, reason(error))
        except MemoryError:
            self._note(peer, "this machine has no memory for a message")
        finally:
            with self._lock:
                self._open.pop(sock, None)
            sock.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        where = f"{host or '*'}:{port}"
        hint = None
        if error.errno == errno.EADDRINUSE:
            hint = "another process has this port; choose another one"
        raise TransportError(f"cannot listen on {where}: {reason(error)}", hint=hint) from error


def _name_of(sock: socket.socket) -> str:
    host, port = sock.getpeername()[:2]
    return printable(f"{host}:{port}")
