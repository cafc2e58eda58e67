"""TLS between the two ends of `wasmsr remote`: each is the node that its certificate names."""

from __future__ import annotations

from typing import Any

from wasmsr.node.security.failures import AccessRefused, CredentialsError
from wasmsr.node.security.tls_identity import TlsFiles, TlsIdentity
from wasmsr.rpc.channel import proofs_of
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.control.node_peer import NodePeer
from wasmsr.rpc.server import Sender
from wasmsr.rpc.tls import server_credentials
from wasmsr.runspec.address import Address


class TlsEnd:
    """The certificate of an end, and whom it accepts: nodes of the same authorities."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            CredentialsError: They cannot be used, or the certificate is not that of a node.
        """
        self._tls = TlsIdentity(files)
        if not self._tls.identity.node:
            raise CredentialsError(
                f"the certificate {files.certificate} names {self._tls.identity} and no node",
                hint="`wasmsr keys issue node HOST` makes one for a node",
            )

    @property
    def node(self) -> bytes:
        """The node id of this end."""
        return self._tls.identity.node

    def credentials(self) -> Any:
        """Return the credentials of the end's server; callers must have a certificate."""
        return server_credentials(self._tls, mutual=True)

    def admit(self, wire: Any) -> Sender:
        """Return the node that makes a call.

        Raises:
            AccessRefused: Its certificate was revoked, has expired, or names no node.
        """
        certificate, _ = proofs_of(wire)
        if certificate is None:
            raise AccessRefused("certificate", "the caller has no certificate")
        identity = self._tls.judge(certificate)
        if not identity.node:
            raise AccessRefused("peers", f"{identity} is no node, and sends no programs")
        return Sender(identity.node)

    def peer(self, address: Address, ours: bytes, key: bytes) -> RemotePeer:
        """Return the other end; its certificate must have its host's name.

        Args:
            address: Where it listens.
            ours: The node id of this end.
            key: The key that it must have besides, or b"".
        """
        return NodePeer(address, ours, tls=self._tls, key=key)


__all__ = ["TlsEnd"]
