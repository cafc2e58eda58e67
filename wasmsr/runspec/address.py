"""From the text of --listen and --peer to an address, and whether it stays on this machine."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """A host (name or IP address, without brackets) and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, host: str = LOOPBACK) -> Address:
        """Read `PORT`, `HOST:PORT` or `[IPV6]:PORT`; `host` replaces a missing HOST.

        Raises ValueError with a sentence.
        """
        match = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.%\w]+)\]|([\w.-]+)):)?([0-9]{1,5})", text)
        if not match:
            raise ValueError(f"{text!r} is not of the form [HOST:]PORT")
        port = int(match[3])
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is not a port; ports go from 1 to 65535")
        return cls(match[1] or match[2] or host, port)

    @property
    def is_loopback(self) -> bool:
        """Whether messages to this address stay on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
