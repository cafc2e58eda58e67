"""A small web server for a few people and scrapers: bounded in clients, time and words.

It is the one of Python's library (`wsgiref`), with threads. Everything behind it is a WSGI
application (PEP 3333).
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from wasmsr.errors import HostError
from wasmsr.runspec.address import Address

STALL_SECONDS = 5.0
"""Seconds that a silent client keeps a connection."""
CLIENTS = 8
"""Clients that are answered at the same time; others wait."""


class _Request(WSGIRequestHandler):
    """A request: one that is silent ends, and none is logged."""

    timeout = STALL_SECONDS

    def address_string(self) -> str:
        """Return the client's address; its name is not looked up."""
        return str(self.client_address[0])

    def log_message(self, format: str, *values: Any) -> None:
        """Log nothing."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers a few clients at the same time, each on a thread."""

    daemon_threads = True

    def __init__(self, address: Address) -> None:
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        self._places = threading.Semaphore(CLIENTS)
        super().__init__((address.host, address.port), _Request)

    def server_bind(self) -> None:
        """Bind without a question to the name service."""
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client on a thread, when there is a place for it."""
        self._places.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a client, and leave its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that go away."""


class BoundedServer:
    """Serves an application at one address until `stop`.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, application: Callable[..., Any], address: Address, option: str) -> None:
        """Bind and start.

        Args:
            application: A WSGI application.
            address: Where to listen.
            option: What the user asked for, as "--metrics", for errors.

        Raises:
            HostError: The address cannot be used.
        """
        try:
            self._server = _Server(address)
        except OSError as error:
            raise HostError(
                f"cannot listen on {address} for {option}: {error.strerror or error}",
                hint=f"choose another {option}",
            ) from error
        self._server.set_app(application)
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=f"wasmsr{option}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
