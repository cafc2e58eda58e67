"""Serves the tools over standard input and output, and over HTTP (Streamable HTTP)."""

from __future__ import annotations

import hashlib
import hmac
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, BinaryIO

import anyio
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.stdio import stdio_server
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from wasmsr.errors import HostError
from wasmsr.mcp.policy import McpPolicy, PolicyError
from wasmsr.mcp.shelf import SandboxShelf
from wasmsr.mcp.tools import OWNER
from wasmsr.runspec.address import Address

SWEEP_SECONDS = 5.0
"""Seconds between two looks for sandboxes that nobody uses."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def serve_stdio(server: MCPServer, shelf: SandboxShelf, policy: McpPolicy) -> None:
    """Serve one client on standard input and output until it closes the input."""
    lines = BoundedLines(sys.stdin.buffer, policy.service.message)
    lowlevel = server._lowlevel_server
    async with anyio.create_task_group() as group:
        group.start_soon(_sweep, shelf)
        async with stdio_server(stdin=lines) as (reads, writes):
            await lowlevel.run(reads, writes, lowlevel.create_initialization_options())
        group.cancel_scope.cancel()


class BoundedLines:
    """The lines of a stream, none of which is longer than a limit.

    A longer line is read to its end without being kept. In its place is one that is no message, so
    that the client gets an error and the next line counts.
    """

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        """Read a stream in lines of at most `limit` bytes."""
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield each line, with its end."""
        while line := await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True):
            yield line.decode("utf-8", "replace")

    def _read(self) -> bytes:
        line = self._stream.readline(self._limit + 1)
        if len(line) <= self._limit or line.endswith(b"\n"):
            return line
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(self._limit)
        return b"a message that is too large\n"


async def serve_http(
    server: MCPServer,
    shelf: SandboxShelf,
    policy: McpPolicy,
    address: Address,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve clients over HTTP, at the path /mcp, until a signal ends the process.

    Args:
        server: The tools.
        shelf: Their sandboxes.
        policy: What clients may have.
        address: Where to listen.
        ready: Called once the server listens.

    Raises:
        PolicyError: Other machines can reach the address, and the policy names no clients.
        HostError: The address cannot be used.
    """
    check_address(policy, address)
    listener = _listen(address)
    limits = policy.service
    app = server.streamable_http_app(
        json_response=True, max_request_body_size=limits.message, host=address.host
    )
    config = Config(
        Door(app, policy),
        http=timed_protocol(limits.stall),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=max(5, round(limits.stall)),
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    service = Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(_sweep, shelf)
        group.start_soon(_tell, service, ready)
        await service.serve(sockets=[listener])
        group.cancel_scope.cancel()


def check_address(policy: McpPolicy, address: Address) -> None:
    """Return if the server may listen there. Raises PolicyError."""
    if not policy.clients and not address.is_loopback:
        raise PolicyError(
            [f"{address} can be reached from other machines: the policy must name [clients]"]
        )


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise HostError(
            f"cannot listen on {address} for --listen: {error.strerror or error}",
            hint="choose another --listen",
        ) from error


async def _tell(service: Server, ready: Callable[[], None]) -> None:
    while not service.started:
        await anyio.sleep(0.01)
    ready()


async def _sweep(shelf: SandboxShelf) -> None:
    while True:
        await anyio.sleep(SWEEP_SECONDS)
        await anyio.to_thread.run_sync(shelf.sweep, abandon_on_cancel=True)


class Door:
    """Lets clients in by their tokens, and lets none of them hold a request for long.

    It is an ASGI application in front of another one. A client that stops sending its message, or
    stops reading its answer, loses the connection.
    """

    def __init__(self, app: Any, policy: McpPolicy) -> None:
        """Stand in front of `app`."""
        self._app = app
        self._clients = dict(policy.clients)
        self._stall = policy.service.stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        owner = self._owner(scope)
        if owner is None:
            await _refuse(send, 401, b"the token is missing or wrong", _CHALLENGE)
            return
        scope[OWNER] = owner
        complete = refused = False

        async def receive_soon() -> MutableMapping[str, Any]:
            nonlocal complete, refused
            if complete or refused:
                return {"type": "http.disconnect"} if refused else await receive()
            try:
                with anyio.fail_after(self._stall):
                    message = await receive()
            except TimeoutError:
                # Answered here: what is behind would make an error of the server out of it.
                refused = True
                await _refuse(send, 408, b"the message did not come in time", ())
                return {"type": "http.disconnect"}
            complete = not message.get("more_body", False)
            return message

        async def send_soon(message: MutableMapping[str, Any]) -> None:
            if not refused:
                with anyio.fail_after(self._stall):
                    await send(message)

        await self._app(scope, receive_soon, send_soon)

    def _owner(self, scope: Scope) -> str | None:
        """Return the client's name, "" where clients have none, None for a wrong token."""
        if not self._clients:
            return ""
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
        digest = hashlib.sha256(given).digest()
        found = None
        # All are compared, so that the time does not tell which client a token resembles.
        for client, expected in self._clients.items():
            if hmac.compare_digest(digest, expected):
                found = client
        return found


_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


async def _refuse(send: Send, status: int, text: bytes, headers: Any) -> None:
    kind = (b"content-type", b"text/plain; charset=utf-8")
    size = (b"content-length", str(len(text)).encode())
    close = (b"connection", b"close")
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [kind, size, close, *headers],
        }
    )
    await send({"type": "http.response.body", "body": text})


def timed_protocol(stall: float) -> type:
    """Return uvicorn's protocol, which ends a connection whose request does not begin.

    Uvicorn waits for the head of a request as long as a client likes; `stall` is in seconds.

    Args:
        stall: Seconds for the head of a request.
    """

    class TimedProtocol(H11Protocol):  # type: ignore[misc]
        """A connection with a time for the head of each request."""

        _timer: Any = None

        def connection_made(self, transport: Any) -> None:
            """Begin the time of the first request."""
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            """Take bytes; the time ends where they complete a request's head."""
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            """End."""
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _is_quiet(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _watch(self) -> None:
            if not self._is_quiet():
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            elif self._timer is None:
                self._timer = self.loop.call_later(stall, self._end)

        def _end(self) -> None:
            self._timer = None
            if self._is_quiet() and not self.transport.is_closing():
                self.transport.close()

    return TimedProtocol
