"""Settings that server and client share: sizes, keepalive, quiet logs."""

from __future__ import annotations

import os
import resource
from typing import Any

from wasmsr.migrate.protocol import PIECE

# gRPC's core writes lines to standard error when a port is in use or a peer ends. wasmsr says the
# same once, in its own words. gRPC reads the variable when it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

MESSAGE = PIECE + 65536
"""Most bytes of one message: a piece, or an offer with all its lists."""

KEEPALIVE = 10.0
"""Seconds of silence after which gRPC pings a peer, and seconds that the peer has to answer."""

STALL_SECONDS = 30.0
"""How long a stream, or a call's only message, may go without progress."""

LEAST_RATE = 16384
"""Bytes a second that a stream needs in the mean, after its first `STALL_SECONDS`."""

HANDSHAKE_SECONDS = 10.0
"""How long a caller may take for TLS, and for the first frame of HTTP/2."""

IDLE_SECONDS = 900.0
"""How long a connection stays without a call; a client that calls again connects anew."""

STREAMS = 200
"""Calls at once of one connection."""

CONNECTIONS = 600
"""Connections at once of one address; a silent one takes 45 KiB. An old grpcio does not know the
option, and the host limits them."""

TOKEN = "wasmsr-token-bin"
"""The metadata of a call that has the caller's token."""

CERTIFICATE = "x509_pem_cert"
"""Where gRPC has the certificate that a caller has proved to have."""

Options = list[tuple[str, int]]


def _connections() -> int:
    """Return how many connections may be open: half of the descriptors are for other things."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if soft == resource.RLIM_INFINITY else min(CONNECTIONS, soft // 2)


COMMON: Options = [
    ("grpc.max_receive_message_length", MESSAGE),
    ("grpc.max_send_message_length", MESSAGE),
    ("grpc.max_metadata_size", 8192),
    ("grpc.keepalive_time_ms", int(KEEPALIVE * 1000)),
    ("grpc.keepalive_timeout_ms", int(KEEPALIVE * 1000)),
    ("grpc.http2.max_pings_without_data", 0),
]

SERVER: Options = [
    *COMMON,
    # Otherwise a second server on the same port starts without an error.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", int(KEEPALIVE * 500)),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000)),
    ("grpc.max_connection_idle_ms", int(IDLE_SECONDS * 1000)),
    ("grpc.max_concurrent_streams", STREAMS),
    ("grpc.max_allowed_incoming_connections", _connections()),
]

CLIENT: Options = [
    *COMMON,
    # Programs go straight to the peer, not through a proxy that the environment names.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def proofs_of(wire: Any) -> tuple[bytes | None, bytes]:
    """Return what a caller has shown: the certificate that it has proved, or None; and the token.

    Args:
        wire: gRPC's context of the call.
    """
    found = wire.auth_context().get(CERTIFICATE)
    token = dict(wire.invocation_metadata() or ()).get(TOKEN, b"")
    return bytes(found[0]) if found else None, token if isinstance(token, bytes) else b""
