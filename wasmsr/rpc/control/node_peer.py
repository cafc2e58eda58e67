"""Another node as a peer: with the certificates of nodes, or with a token."""

from __future__ import annotations

from typing import Any

from wasmsr.migrate.protocol import PeerUnknown
from wasmsr.node.security.tls_identity import TlsContent, TlsIdentity
from wasmsr.rpc import channel
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.session import PeerSession
from wasmsr.runspec.address import Address

NO_KEY = b""
"""Nodes prove who they are by certificates or tokens; the sessions of the protocol stay."""


class NodePeer(RemotePeer):
    """A node at one address, which is one node by its certificate.

    A client of gRPC cannot see the certificate of its server. So the first connection checks the
    host's name, and is asked for the node's id; all later ones check that the certificate names
    that node.
    """

    def __init__(
        self,
        address: Address,
        ours: bytes,
        *,
        node: bytes = b"",
        tls: TlsIdentity | None = None,
        token: bytes = b"",
        key: bytes = NO_KEY,
    ) -> None:
        """Connect at the first call.

        Args:
            address: The node's address.
            ours: The node id of this node.
            node: The node that must answer; b"" for whichever does.
            tls: Our certificate; None for plain text.
            token: The token that nodes share, or b"".
            key: The key that the other one must have besides, or b"".
        """
        self._tls, self._expected = tls, node
        self._content: TlsContent | None = None
        self._address = address
        super().__init__(address, ours, key, wire=self._wire(), token=token)

    def _wire(self) -> Any:
        if self._tls is None:
            return None
        from wasmsr.rpc.tls import client_channel  # only here: it needs `cryptography`

        self._content = self._tls.content
        return client_channel(
            str(self._address), self._content, node=self._expected, options=channel.CLIENT
        )

    def _meet(self) -> PeerSession:
        """Return the session with the node, which its certificate names."""
        session = self._session
        if session is not None:
            return session
        if self._tls is not None and self._tls.content is not self._content:
            self.connect(self._wire())  # the certificate was renewed
        session = super()._meet()
        if self._tls is not None and not self._expected:
            self._expected = self.met
            self.forget(session)
            self.connect(self._wire())
            session = super()._meet()
        if self._expected and self.met != self._expected:
            self.forget(session)
            raise PeerUnknown(
                f"{self.address} is node {self.met.hex()}, and node {self._expected.hex()} was "
                "expected",
                hint="name the address at which that node is now",
            )
        return session


__all__ = ["NodePeer"]
