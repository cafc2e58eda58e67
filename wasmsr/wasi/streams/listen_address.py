"""Addresses of a program's listening sockets: the command line's `--tcp-listen`.

The text becomes sockets, which a program gets as descriptors after its mounts. A program of preview
1 cannot make sockets: it accepts from those that it was started with.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from wasmsr.errors import WasiConfigError


@dataclass(frozen=True)
class TcpListen:
    """One address: `host` is a name or number, `port` 0 lets the host choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> TcpListen:
        """Read `ADDR:PORT`, or `[ADDR]:PORT` for IPv6.

        Raises:
            WasiConfigError: It has another form.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise WasiConfigError(
                f"not an address to listen on: {text!r}",
                hint="write --tcp-listen ADDR:PORT, such as 127.0.0.1:8080 or [::1]:8080",
            )
        return cls(host, int(port))

    def open(self) -> socket.socket:
        """Return a listening socket.

        Raises:
            WasiConfigError: It cannot listen there; the message names the address.
        """
        try:
            found = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            return socket.create_server(address[:2], family=family)
        except OSError as error:
            reason = error.strerror or error
            raise WasiConfigError(f"cannot listen on {self}: {reason}") from error

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(listening: socket.socket) -> str:
    """Return where a socket listens, as `--tcp-listen` takes it."""
    name = listening.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    return str(TcpListen(name[0], name[1]))
