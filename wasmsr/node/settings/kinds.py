"""Kinds of values that only a node's settings have."""

from __future__ import annotations

import re

from wasmsr.runspec.address import Address
from wasmsr.runspec.kinds import NodeIds, OptionKind, RepeatedText


class ListenAddress(OptionKind):
    """An address on which the node listens: `[HOST:]PORT`."""

    name = "address"

    def read(self, text: str) -> Address:
        """Return the address that the text gives."""
        try:
            return Address.parse(text)
        except ValueError as error:
            raise ValueError(f"{error}.") from None


class NodeAddresses(RepeatedText):
    """Addresses of other nodes: `HOST:PORT`."""

    name = "address"

    def read(self, text: str) -> str:
        """Return the address that the text gives."""
        return str(ListenAddress().read(text))


class CollectorAddress(OptionKind):
    """The URL of a collector of telemetry."""

    name = "URL"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        if not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", text):
            raise ValueError(f"{text!r} is no URL such as http://127.0.0.1:4318.")
        return text


class PeerIds(NodeIds):
    """Ids of nodes, as bytes."""

    def read(self, text: str) -> bytes:  # type: ignore[override]
        """Return the id that the text gives."""
        return bytes.fromhex(super().read(text))


class Digests(RepeatedText):
    """SHA-256 of modules, as bytes."""

    name = "SHA-256"

    def read(self, text: str) -> bytes:
        """Return the digest that the text gives."""
        if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
            raise ValueError(f"{text!r} is no SHA-256 of 64 hexadecimal digits.")
        return bytes.fromhex(text.strip())


class MountRules(RepeatedText):
    """Folders of the host that programs may have: `FOLDER` or `FOLDER:ro`, absolute."""

    name = "folder"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        if not text.startswith("/") or "\0" in text:
            raise ValueError(
                f"{text!r} is not an absolute path, such as /srv/data or /srv/data:ro."
            )
        return text


class ListenRules(RepeatedText):
    """Addresses on which programs may listen: `ADDR:PORT` or `ADDR:*`."""

    name = "address"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        _, colon, port = text.rpartition(":")
        number = int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 65536
        if not colon or (port != "*" and number > 65535):
            raise ValueError(f"{text!r} is not of the form ADDR:PORT or ADDR:*.")
        return text
