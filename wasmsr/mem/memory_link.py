"""One connection to a memory that comes back, and does each write once."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from wasmsr.errors import printable, reason
from wasmsr.mem.failures import (
    OtherProtocolError,
    RemoteMemoryAway,
    RemoteMemoryError,
    TransportError,
)
from wasmsr.mem.wire.commands import (
    CLIENT_ID_BYTES,
    COMMAND_BYTES,
    FENCED,
    HEADER,
    HELLO,
    HELLO_VERSION,
    LONGEST_ADDRESS,
    MOVED,
    NOT_UNDERSTOOD,
    OK,
    OP_HELLO,
    OP_READ,
    OP_WRITE,
    OUT_OF_BOUNDS,
    PADDING,
    STATUS_WORDS,
    Command,
    CommandError,
    Welcome,
    read_header,
    read_welcome,
    whole,
)
from wasmsr.mem.wire.sp import (
    HELLO_BYTES,
    ID,
    LAST,
    REP,
    REQ,
    check_hello,
    hello,
    receive_exactly,
    send_parts,
    set_timeouts,
)

ANSWER_SECONDS = 30.0
"""How long a memory may be away before a command fails."""
BETWEEN_SECONDS = 0.02
"""Between the first two tries to connect; later ones are rarer."""
MOVES = 16
"""How often a memory may say that it is elsewhere while one command waits."""
PREFIX = struct.Struct(">QI")
"""Length of a message, and the request id at its beginning."""


def parse_url(url: str) -> tuple[str, int]:
    """Return (host, port) of `tcp://HOST:PORT`.

    Raises:
        TransportError: The text is none.
    """
    scheme, found, rest = url.partition("://")
    host, colon, port = rest.rpartition(":")
    if not found or scheme != "tcp" or not colon or not host or not port.isascii():
        raise TransportError(f"{printable(url)} is no address tcp://HOST:PORT")
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise TransportError(f"{printable(url)} has no port from 1 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


class MemoryLink:
    """A client of one memory. Commands of several threads go one after the other.

    The link says HELLO. A memory of ours then remembers the last write, so a write that had no
    answer is repeated and done once. Another memory is served without that: a write whose answer is
    lost fails, because nobody can tell whether it was done.

    Attributes:
        name: The name of the memory, for messages.
        url: Where it is; a memory that has moved says so.
        fenced: Whether the memory understands HELLO; None before the first connection.
        begun: Whether the memory has answered a command.
        welcome: What the memory has said last; None for another's memory.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        client: bytes = b"",
        epoch: int = 0,
        seq: int = 0,
        patience: float = ANSWER_SECONDS,
        where: Callable[[], str] | None = None,
        begun: bool = False,
        waits: Callable[[MemoryLink, int], None] | None = None,
    ) -> None:
        """Make a link; it connects at the first command.

        Args:
            name: The name of the memory.
            url: `tcp://HOST:PORT`.
            client: An id of 16 bytes, random unless given. Two links must not share one.
            epoch: The number by which the memory refuses who was replaced.
            seq: The number of the last command that was answered.
            patience: Seconds for which the memory may be away.
            where: Returns the address of the memory; asked before every connection after the first.
            begun: Whether the memory has answered a command before, and so must remember it.
            waits: Called with the link and a descriptor before an answer is received; it may raise.
        """
        parse_url(url)
        self.name = name
        self.url = url
        self.client = client or os.urandom(CLIENT_ID_BYTES)
        self.epoch = epoch
        self.seq = seq
        self.patience = patience
        self.fenced: bool | None = None
        self.welcome: Welcome | None = None
        self.heard: float | None = None
        self.begun = begun
        self._where = where
        self._waits = waits
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._request = int.from_bytes(os.urandom(4), "big") | LAST
        self._ended = False
        self._doubtful = True  # an earlier link of this client may have had no answer
        self._sent = self._unanswered = False
        self._padding = bytearray(len(PADDING))
        self._head = memoryview(bytearray(PREFIX.size + HEADER.size))

    def read(self, addr: int, into: memoryview) -> None:
        """Read bytes at an address of the memory.

        Raises:
            RemoteMemoryError: The memory refused, or is away.
        """
        self._command(OP_READ, addr, into)

    def write(self, addr: int, data: memoryview) -> None:
        """Write bytes at an address of the memory.

        Raises:
            RemoteMemoryError: The memory refused, or is away.
        """
        self._command(OP_WRITE, addr, data)

    def size(self) -> int:
        """Return the length of the memory in bytes, or 0 if it does not say it."""
        with self._lock:
            self._sent = False
            if self._sock is None:
                self._retried(lambda: None)
            return 0 if self.welcome is None else self.welcome.size

    def close(self) -> None:
        """Close the connection. A command that waits on another thread fails."""
        self._ended = True
        sock = self._sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._drop()

    # ---- one command -----------------------------------------------------------------------------

    def _command(self, op: int, addr: int, buffer: memoryview) -> None:
        size = len(buffer)
        if not 0 <= addr < 1 << 64:
            raise RemoteMemoryError(f"{addr} is no address of {self._shown}")
        with self._lock:
            self._sent = False
            if self._doubtful:
                self._settle()
            seq = (self.seq + 1) % 65_536
            command = Command(op, addr, size, seq)
            self._doubtful = self._sent = self._unanswered = True
            status = self._retried(lambda: self._exchange(command, buffer), op == OP_WRITE)
            self._doubtful = self._unanswered = False
            if status in (OK, OUT_OF_BOUNDS, NOT_UNDERSTOOD):
                self.seq = seq  # the others are not counted by the memory
                self.begun = True
        if status != OK:
            raise self._refused(command, status)

    def repeat(self) -> None:
        """Say that the next command is the one that had no answer: it gets the same number."""
        self._doubtful = False

    @property
    def sent(self) -> bool:
        """Whether the last command has its number, and may have been sent under it.

        False: it failed while the one before it was in doubt, so it has none yet.
        """
        return self._sent

    def interrupt(self) -> None:
        """Give the connection up: an answer on its way is not received."""
        self._drop()

    def _settle(self) -> None:
        """Ask whether the last command, which had no answer, was done: it has a number if so."""
        if self._unanswered:
            self._drop()
        if self._sock is None:
            self._retried(lambda: None)
        said = self.welcome
        if said is not None and said.known and said.last == (self.seq + 1) % 65_536:
            self.seq = said.last
        self._doubtful = self._unanswered = False

    @property
    def _shown(self) -> str:
        return f"memory {printable(self.name)} at {printable(self.url)}"

    def _refused(self, command: Command, status: int) -> RemoteMemoryError:
        verb = "write" if command.op == OP_WRITE else "read"
        limit = f"; it has {self.welcome.size} bytes" if self.welcome is not None else ""
        words = STATUS_WORDS.get(status, "a status that is unknown here")
        return RemoteMemoryError(
            f"{self._shown}: to {verb} {command.size} bytes at {command.addr} got status {status}, "
            f"{words}{limit}",
            status=status,
        )

    def _retried(self, work: Callable[[], int | None], writes: bool = False) -> int:
        """Do something on a connection; connect again, and repeat it, where that is safe."""
        ends = time.monotonic() + self.patience
        pause, moves = BETWEEN_SECONDS, 0
        while True:
            began = False
            try:
                if self._sock is None:
                    self._connect(ends)
                began = True
                return work() or OK
            except _MovedAway as moved:
                self._drop()
                moves += 1
                if moves > MOVES:
                    raise RemoteMemoryError(
                        f"{self._shown} has moved {moves} times while a command waited",
                        status=MOVED,
                    ) from None
                self.url = moved.url
                continue
            except RemoteMemoryError:
                self._drop()
                raise
            except (OSError, EOFError) as error:
                self._drop()
                lost = error
            if began and writes and not self.fenced:
                raise RemoteMemoryAway(
                    f"{self._shown} went away in the middle of a write ({reason(lost)}); it may "
                    "have been done",
                    since=self.heard,
                )
            if self._ended or time.monotonic() + pause > ends:
                raise self._away(lost)
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)
            if self._where is not None:
                self.url = self._where()

    def _away(self, lost: BaseException) -> RemoteMemoryAway:
        since = "it never answered" if self.heard is None else (
            f"it last answered {time.time() - self.heard:.1f} s ago"
        )  # fmt: skip
        why = "the link was closed" if self._ended else reason(lost)
        return RemoteMemoryAway(
            f"{self._shown} is away: {why}; {since}",
            since=self.heard,
            hint="start it with `wasmsr memory PORT`",
        )

    # ---- the connection --------------------------------------------------------------------------

    def _connect(self, ends: float) -> None:
        if self._ended:
            raise OSError("closed")
        host, port = parse_url(self.url)
        wait = max(0.05, min(5.0, ends - time.monotonic()))
        sock = socket.create_connection((host, port), timeout=wait)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.sendall(hello(REQ))
            said = bytearray(HELLO_BYTES)
            view, at = memoryview(said), 0
            while at < HELLO_BYTES:
                got = sock.recv_into(view[at:])
                if not got:
                    break
                at += got
            if at < HELLO_BYTES and hello(REP).startswith(said[:at]):
                raise EOFError("the other end closed the connection")
            try:
                check_hello(bytes(said[:at]), REP)
            except OtherProtocolError as error:
                raise OtherProtocolError(f"{self._shown}: {error}", hint=error.hint) from None
            set_timeouts(sock, ANSWER_SECONDS if self._waits else max(0.05, self.patience))
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        self._say_hello()

    def _say_hello(self) -> None:
        data = HELLO.pack(HELLO_VERSION, self.client, self.epoch)
        answer, said = self._round(whole(Command(OP_HELLO, seq=self.seq), data))
        if answer.op == OP_HELLO and answer.status == MOVED:
            raise _MovedAway(self._address(said))
        if answer.op == OP_HELLO and answer.status == FENCED:
            raise RemoteMemoryError(
                f"{self._shown} has a newer epoch than {self.epoch}: another has this one's place",
                status=FENCED,
            )
        if answer.op != OP_HELLO or answer.status == NOT_UNDERSTOOD:
            if self.fenced:
                raise OtherProtocolError(f"{self._shown} is no longer the memory that it was")
            self.fenced = False
            return
        try:
            welcome = read_welcome(said)
        except CommandError as error:
            raise OtherProtocolError(f"{self._shown}: {error}") from None
        before = self.welcome
        self.begun = self.begun or before is not None
        if before is not None and before.memory != welcome.memory:
            raise RemoteMemoryError(
                f"{self._shown} is another memory than before: its bytes differ"
            )
        # A memory that has forgotten an answered command was set back; it says so, once.
        if self.begun and welcome.last not in (self.seq, (self.seq + 1) % 65_536):
            raise RemoteMemoryError(f"{self._shown} was set back to an earlier state")
        self.fenced, self.welcome = True, welcome

    def _address(self, said: bytes) -> str:
        url = bytes(said).rstrip(b"\0").decode("utf-8", "replace")
        parse_url(url)
        return url

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _next_id(self) -> int:
        self._request = (self._request + 1) & 0xFFFFFFFF | LAST
        return self._request

    def _round(self, command: bytes) -> tuple[Command, bytes]:
        """Send a command of a few bytes, and return (header, data) of its short answer."""
        sock = self._sock
        assert sock is not None
        number = self._next_id()
        send_parts(sock, (PREFIX.pack(ID.size + len(command), number), command))
        length = self._answer_length(sock, number)
        if not COMMAND_BYTES <= length <= COMMAND_BYTES + LONGEST_ADDRESS:
            raise OtherProtocolError(f"{self._shown}: an answer of {length} bytes to HELLO")
        rest = bytearray(length - HEADER.size)
        receive_exactly(sock, memoryview(rest))
        return read_header(bytes(self._head[PREFIX.size :]) + PADDING), bytes(rest)

    def _answer_length(self, sock: socket.socket, number: int) -> int:
        """Receive an answer up to its data, and return the length of its command."""
        if self._waits is not None:
            self._waits(self, sock.fileno())
        receive_exactly(sock, self._head)
        length, answered = PREFIX.unpack_from(self._head)
        if answered != number:
            raise OtherProtocolError(f"{self._shown} answered another request")
        return int(length) - ID.size

    def _exchange(self, command: Command, buffer: memoryview) -> int:
        """Send a command and receive its answer; return the status."""
        sock = self._sock
        assert sock is not None
        number = self._next_id()
        writes = command.op == OP_WRITE
        carried = command.size if writes else 0
        head = PREFIX.pack(ID.size + COMMAND_BYTES + carried, number) + command.header()
        if carried:
            send_parts(sock, (head, buffer, PADDING))
        else:
            sock.sendall(head + PADDING)
        length = self._answer_length(sock, number)
        addr, size, seq, status, op = HEADER.unpack_from(self._head, PREFIX.size)
        self.heard = time.time()
        if status == MOVED and self.fenced and length <= COMMAND_BYTES + LONGEST_ADDRESS:
            address = bytearray(max(0, length - HEADER.size))
            receive_exactly(sock, memoryview(address))
            raise _MovedAway(self._address(bytes(address)))
        expected = 0 if writes or status != OK else command.size
        over = length - COMMAND_BYTES - expected
        # Other memories may send bytes after a refusal, and leave addr and seq undefined.
        if over != 0 and (self.fenced or status == OK or not 0 < over <= command.size):
            raise OtherProtocolError(
                f"{self._shown}: an answer of {length} bytes to a command that needs "
                f"{COMMAND_BYTES + expected}"
            )
        if self.fenced and (addr, size, seq, op) != (
            command.addr, command.size, command.seq, command.op
        ):  # fmt: skip
            raise OtherProtocolError(f"{self._shown} answered another command")
        self._receive_data(sock, buffer[:expected], length - HEADER.size - expected)
        return int(status)

    def _receive_data(self, sock: socket.socket, buffer: memoryview, count: int) -> None:
        """Receive data, and ignore so many bytes after them."""
        if len(buffer) and count == len(PADDING):
            got = sock.recvmsg_into([buffer, self._padding])[0]
            if got < len(buffer):
                receive_exactly(sock, buffer[got:] if got else buffer)
                got = len(buffer)
            count -= got - len(buffer)
        while count > 0:
            ignored = sock.recv(min(count, 1 << 16))
            if not ignored:
                raise EOFError("the other end closed the connection")
            count -= len(ignored)


class _MovedAway(Exception):
    """The memory has said where it is now."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url
