"""Who calls: every call to a node passes here before anything of it is read.

The transport gives what it has of the caller: the address, the certificate that the caller proved,
the token that it sent. This file has no gRPC.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from wasmsr.node.security.certificates import Identity
from wasmsr.node.security.failures import AccessRefused
from wasmsr.node.security.policy import Policy
from wasmsr.node.security.tls_identity import TlsIdentity
from wasmsr.node.security.tokens import TokenCheck

UNIX = "unix:"
"""How the address of a caller on this machine's own socket begins."""


@dataclass(frozen=True)
class KnownCaller:
    """Who makes a call.

    Attributes:
        name: For logs, rates and metrics: "node ID", "client NAME", "local", or a host.
        identity: Whom its certificate names, or None if it needs no certificate.
    """

    name: str
    identity: Identity | None = None

    @property
    def node(self) -> bytes:
        """The node id that the caller has proved; b"" if it has proved none."""
        return self.identity.node if self.identity else b""


class Guard:
    """Admits callers to a node. Any thread may call it."""

    def __init__(
        self,
        policy: Policy,
        tls: TlsIdentity | None = None,
        token: TokenCheck | None = None,
        refused: Callable[[AccessRefused, str], None] = lambda error, host: None,
    ) -> None:
        """Make the guard of a node.

        Args:
            policy: The rules on callers.
            tls: The node's certificate; None where the listener has no TLS.
            token: The check of tokens; None if callers need none.
            refused: Hears of each refusal, with the caller's host.
        """
        self.policy = policy
        self.tls = tls
        self.token = token
        self._refused = refused

    def admit(self, peer: str, certificate: bytes | None, token: bytes) -> KnownCaller:
        """Return who calls.

        Args:
            peer: The caller's address as gRPC has it, such as "ipv4:192.0.2.1:5000".
            certificate: The certificate that it proved to have, PEM; None if it has shown none.
            token: The token that it sent; b"" for none.

        Raises:
            AccessRefused: It may not call.
        """
        host = host_of(peer)
        try:
            if host == UNIX:
                # Only processes of the node's user can open the socket.
                return KnownCaller("local")
            identity = None
            if self.tls is not None and certificate is not None:
                identity = self.tls.judge(certificate)
                self.policy.check_caller(identity)
            if self.token is not None:
                self.token.admit(host, token)
            elif self.tls is not None and identity is None:
                raise AccessRefused("certificate", "the caller has no certificate")
            return KnownCaller(str(identity) if identity else host, identity)
        except AccessRefused as error:
            self._refused(error, host)
            raise


def host_of(peer: str) -> str:
    """Return the host of an address as gRPC has it; `UNIX` for this machine's own socket."""
    if peer.startswith(UNIX):
        return UNIX
    match = re.fullmatch(r"ipv[46]:(?:\[([^\]]*)\]|%5B(.*)%5D|([^:]*)):\d+", peer)
    return next((one for one in match.groups() if one), peer) if match else peer
