"""The five ports of a kernel, by which Jupyter clients speak to it.

Source: "Messaging in Jupyter", protocol version 5.3, with the sessions of jupyter_client.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import zmq
from jupyter_client.session import Session

from wasmsr.kernel.settings import ConnectionFile
from wasmsr.kernel.wire import KernelError
from wasmsr.sandbox.streams import well_formed

LONGEST = 64 << 20
"""Bytes of one part of a client's message; a client that sends more is cut off."""
PATIENCE = 30.0
"""Seconds for which an answer is kept for a client that is away."""
MOST_KEPT = 1000
MOST_AT_ONCE = 100
"""Heartbeats that are answered, before others have their turn."""
AGAIN = 0.1
MOST_SENT = 16
"""Messages for all that are on their way to each client that listens."""
MOST_TOLD = 8 << 20
"""Bytes of messages for all that wait here. From then on the code that shows things waits."""
CUT_OFF = 10.0
"""Seconds after which the system closes the connection of a client that takes nothing (TCP)."""
STALLED = 30.0
"""Seconds after which such a client is waited for no longer where the system does not do that."""
SOON = 0.005
_log = logging.getLogger(__name__)
_KINDS = {
    "shell": zmq.ROUTER,
    "control": zmq.ROUTER,
    "stdin": zmq.ROUTER,
    "iopub": zmq.XPUB,
    "hb": zmq.ROUTER,
}


@dataclass(frozen=True)
class ClientMessage:
    """A message of a client whose signature is right.

    Attributes:
        kind: Its `msg_type`.
        header, content: As the protocol says.
        idents: The client, for the reply.
    """

    kind: str
    header: dict[str, Any]
    content: dict[str, Any]
    idents: list[bytes]


class ClientPorts:
    """The sockets of a kernel.

    What all clients are told waits for the slowest of them, and the code that shows it waits too
    (`crowded`). So nothing is lost, and no memory fills. A client that takes nothing is cut off.

    Args:
        connection: Where they are.

    Raises:
        KernelError: One of them is in use, or the signature's scheme is not known.
    """

    def __init__(self, connection: ConnectionFile) -> None:
        try:
            self.session = Session(
                key=connection.key, signature_scheme=connection.scheme, username="kernel"
            )
        except Exception as error:
            raise KernelError(f"the scheme {connection.scheme!r} cannot be used") from error
        self._context = zmq.Context()
        self._kept: deque[tuple[float, str, str, dict[str, Any], ClientMessage]] = deque()
        self._told: deque[list[bytes]] = deque()
        self._told_bytes = 0
        self._stalled_since: float | None = None
        self._lossy = False
        """Whether some client was waited for in vain, and has taken nothing since."""
        self.subscribers = 0
        """Clients that listen to what all are told."""
        self.sockets: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            made = self.sockets[name] = self._context.socket(kind)
            made.setsockopt(zmq.LINGER, 1000)
            made.setsockopt(zmq.MAXMSGSIZE, LONGEST)
            if kind == zmq.XPUB:
                made.setsockopt(zmq.SNDHWM, MOST_SENT)
                made.setsockopt(zmq.XPUB_NODROP, 1)  # what a notebook shows is not thrown away
                made.setsockopt(zmq.TCP_MAXRT, int(1000 * CUT_OFF))
            else:
                made.setsockopt(zmq.SNDHWM, 0)
            if kind == zmq.ROUTER:
                made.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that connects again
                made.setsockopt(zmq.ROUTER_MANDATORY, 1)
            try:
                made.bind(connection.addresses[name])
            except zmq.ZMQError as error:
                self.close()
                raise KernelError(
                    f"the port {connection.addresses[name]} cannot be opened: {error}"
                ) from error

    def receive(self, name: str) -> ClientMessage | None:
        """Return the next message of a port; None if there is none, or none that is right."""
        try:
            parts = self.sockets[name].recv_multipart(zmq.NOBLOCK)
        except zmq.ZMQError:
            return None
        try:
            idents, rest = self.session.feed_identities(parts)
            if len(rest) < 5:
                raise ValueError("it has too few parts")
            message = self.session.deserialize(rest)
            header, content = map(well_formed, (message["header"], message["content"]))
            kind = message["msg_type"]
            if not isinstance(content, dict):
                raise ValueError("its content is no object")
            if not isinstance(kind, str) or not isinstance(header["msg_id"], str):
                raise ValueError("its type and its id must be strings")
        except Exception as error:  # noqa: BLE001 (strangers can send anything)
            _log.warning("a message on the %s port was dropped: %.200s", name, error)
            return None
        return ClientMessage(kind, header, content, idents)

    def echo(self) -> None:
        """Answer the heartbeats that are there."""
        for _ in range(MOST_AT_ONCE):
            try:
                self.sockets["hb"].send_multipart(self.sockets["hb"].recv_multipart(zmq.NOBLOCK))
            except zmq.ZMQError:
                return

    def publish(
        self,
        kind: str,
        content: dict[str, Any],
        parent: dict[str, Any] | None,
    ) -> None:
        """Tell all clients something.

        Args:
            kind: The type of the message.
            content: Its content.
            parent: The header of the request that it belongs to.
        """
        about = {} if parent is None else {"header": parent}
        message = self.session.msg(kind, content, parent=about)
        parts = self.session.serialize(message, ident=kind.encode())
        self._told.append(parts)
        self._told_bytes += sum(map(len, parts))
        self.tell()

    @property
    def crowded(self) -> bool:
        """Whether nobody should publish more until `tell` has told what waits."""
        return self._told_bytes > MOST_TOLD

    def tell(self) -> float | None:
        """Tell all clients what waits, as far as they take it.

        Returns:
            The seconds until the next try; None if nothing waits.
        """
        while self._told:
            try:
                self.sockets["iopub"].send_multipart(self._told[0], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno != zmq.EAGAIN:
                    raise
                self._tell_some()
                return SOON
            self._stalled_since, self._lossy = None, False
            self._told_bytes -= sum(map(len, self._told.popleft()))
        return None

    def _tell_some(self) -> None:
        """Tell something to those who have room, if another client was waited for in vain.

        It is one message each time, so that those who read keep up.
        """
        now = time.monotonic()
        if self._stalled_since is None:
            self._stalled_since = now
        if not self._lossy and now < self._stalled_since + STALLED:
            return
        if not self._lossy:
            _log.warning("a client takes nothing of what the kernel shows: it loses some")
        self._lossy = True
        socket = self.sockets["iopub"]
        socket.setsockopt(zmq.XPUB_NODROP, 0)
        try:
            socket.send_multipart(self._told[0], zmq.NOBLOCK)
        finally:
            socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._told_bytes -= sum(map(len, self._told.popleft()))

    def reply(self, name: str, kind: str, content: dict[str, Any], to: ClientMessage) -> None:
        """Answer, or ask, one client through a port; one that is away gets it when it comes."""
        self._reply(time.monotonic() + PATIENCE, name, kind, content, to)

    def retry(self) -> float | None:
        """Try again what clients did not get; return the seconds until the next try, if any."""
        for _ in range(len(self._kept)):
            until, name, kind, content, to = self._kept.popleft()
            if time.monotonic() < until:
                self._reply(until, name, kind, content, to)
        return AGAIN if self._kept else None

    def listened(self) -> None:
        """Take note of who listens, or does so no longer."""
        with suppress(zmq.ZMQError):
            while True:
                said = self.sockets["iopub"].recv(zmq.NOBLOCK)
                self.subscribers += {b"\1": 1, b"\0": -1}.get(said[:1], 0)

    def _reply(
        self, until: float, name: str, kind: str, content: dict[str, Any], to: ClientMessage
    ) -> None:
        try:
            self.session.send(
                self.sockets[name], kind, content, parent={"header": to.header}, ident=to.idents
            )
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            if len(self._kept) < MOST_KEPT:
                self._kept.append((until, name, kind, content, to))

    def close(self) -> None:
        """Close all of them, after what was said is sent."""
        end = time.monotonic() + 1.0
        while (wait := self.tell()) is not None and time.monotonic() < end:
            time.sleep(wait)
        for one in self.sockets.values():
            one.close()
        self._context.term()
