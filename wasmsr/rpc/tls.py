"""TLS for nodes: the credentials of servers and clients.

gRPC's core offers TLS 1.2 and 1.3 only. Servers ask their files again at each handshake, so that a
certificate is renewed while the server runs.
"""

from __future__ import annotations

from typing import Any

from wasmsr.node.security.certificates import node_name
from wasmsr.node.security.tls_identity import TlsContent, TlsIdentity
from wasmsr.rpc import channel as _quiet  # noqa: F401 - sets how loud gRPC is

import grpc  # type: ignore[import-untyped]  # isort: skip


def server_credentials(tls: TlsIdentity, *, mutual: bool) -> Any:
    """Return the credentials of a server.

    Args:
        tls: Its certificate and the authorities that it accepts.
        mutual: Whether callers must have a certificate.
    """
    used = tls.content

    def fetch() -> Any:
        nonlocal used
        content = tls.content
        if content is used:
            return None
        used = content
        return _configuration(content)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used), fetch, require_client_authentication=mutual
    )


def _configuration(content: TlsContent) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(content.key, content.certificate)], content.authority
    )


def client_channel(
    target: str,
    content: TlsContent | None,
    *,
    authority: bytes = b"",
    node: bytes = b"",
    options: list[tuple[str, Any]] | None = None,
) -> Any:
    """Return a channel with TLS.

    Args:
        target: HOST:PORT.
        content: The caller's certificate; None for a caller that has only a token.
        authority: PEM of the authorities that the server may have, without `content`.
        node: The node that the server must be by its certificate, whatever its host name is; b""
            checks the host name.
        options: Options of gRPC.
    """
    credentials = grpc.ssl_channel_credentials(
        content.authority if content else authority or None,
        content.key if content else None,
        content.certificate if content else None,
    )
    every = list(options or ())
    if node:
        every.append(("grpc.ssl_target_name_override", node_name(node)))
    return grpc.secure_channel(target, credentials, every)
