"""Both sides of a connection prove to each other that they have the same key.

The file has no gRPC; `client` and `server` use it. The key never goes over the wire. The caller of
Hello proves that it has the key, and so does the answerer. Both nonces give a secret for this
session. The metadata of each later call proves that the call belongs to the session, before a byte
of the call is read. No proof is accepted twice. Each message is sealed, in both directions. All
proofs are HMAC-SHA256 (RFC 2104) and are compared in constant time. Nothing is encrypted.
docs/migration-protocol.md, "Who may speak", has the layout of each proof.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

METADATA = "wasmsr-proof-bin"
"""The metadata that carries the proof of a call."""

NONCE = 32
"""Bytes of a nonce."""
MAC = 32
"""Bytes of a proof or seal."""
COUNTER = 8
"""Bytes of a call's number."""

SESSIONS = 8
"""Sessions that a server keeps. One more replaces the session used longest ago, whose caller then
begins a new one."""
WINDOW = 1024
"""Calls of a session that may overtake a call; an older call counts as repeated."""

CALL, ASK, ANSWER = b"call", b"ask", b"answer"


class BadSeal(ValueError):
    """A message without the seal of this call and this position."""


def mac(key: bytes, *parts: bytes | memoryview) -> bytes:
    """Return HMAC-SHA256 of `parts`, each with its length, so that no two lists give one input."""
    digest = hmac.new(key, digestmod="sha256")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def hello(key: bytes, nonce: bytes) -> bytes:
    """Return the metadata of Hello: the caller's nonce and the proof of its key."""
    return nonce + mac(key, b"wasmsr hello", nonce)


def hello_in(key: bytes, metadata: bytes) -> bytes | None:
    """Return the nonce in the metadata of a Hello, or None if its sender has not this key."""
    nonce, proof = metadata[:NONCE], metadata[NONCE:]
    if not hmac.compare_digest(proof, mac(key, b"wasmsr hello", nonce)) or len(nonce) != NONCE:
        return None
    return nonce


@dataclass
class PeerSession:
    """What both sides have after Hello. One side makes calls (`call`), the other takes them
    (`admit`)."""

    nonce: bytes
    secret: bytes
    _last: int = 0
    _taken: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, key: bytes, theirs: bytes, ours: bytes, node: bytes) -> tuple[PeerSession, bytes]:
        """Return a session, and the proof that the answerer has the key.

        Args:
            key: The key.
            theirs: The caller's nonce.
            ours: The answerer's nonce.
            node: The answerer's node id.
        """
        secret = mac(key, b"wasmsr session", theirs, ours, node)
        return cls(ours, secret), mac(secret, b"wasmsr answerer")

    @classmethod
    def begun(
        cls, key: bytes, nonce: bytes, theirs: bytes, node: bytes, proof: bytes
    ) -> PeerSession | None:
        """Return the session that an answer to Hello begins; None if the answerer has no key."""
        session, expected = cls.of(key, nonce, theirs, node)
        good = hmac.compare_digest(proof, expected) and len(theirs) == NONCE
        return session if good else None

    def call(self, method: str) -> Call:
        """Return the next call; `method` is the path that gRPC has for it."""
        with self._lock:
            self._last += 1
            number = self._last.to_bytes(COUNTER, "big")
        proof = mac(self.secret, CALL, method.encode(), number)
        return Call(self, number, self.nonce + number + proof, ASK, ANSWER)

    def admit(self, method: str, metadata: bytes) -> Call | None:
        """Return a call that came; None if it is of another session, or was accepted before."""
        number, proof = metadata[NONCE : NONCE + COUNTER], metadata[NONCE + COUNTER :]
        if not hmac.compare_digest(proof, mac(self.secret, CALL, method.encode(), number)):
            return None
        value = int.from_bytes(number, "big")
        with self._lock:
            if value <= self._last - WINDOW or value in self._taken:
                return None
            self._taken.add(value)
            if value > self._last:
                self._last = value
                self._taken = {taken for taken in self._taken if taken > value - WINDOW}
        return Call(self, number, metadata, ANSWER, ASK)


class Call:
    """One call of a session. It seals messages that go out and opens those that come, in order.

    Attributes:
        session: The session.
        metadata: The call's proof.
    """

    def __init__(
        self, session: PeerSession, number: bytes, metadata: bytes, out: bytes, into: bytes
    ) -> None:
        self.session = session
        self.metadata = metadata
        self._secret = session.secret
        self._number = number
        self._out, self._in = out, into
        self._sent = self._received = 0

    def seal(self, message: bytes) -> bytes:
        """Return a message in the form that goes over the wire."""
        place = self._sent.to_bytes(8, "big")
        self._sent += 1
        return mac(self._secret, self._out, self._number, place, message) + message

    def open(self, sealed: bytes) -> bytes:
        """Return the next message that came. Raises BadSeal."""
        message = memoryview(sealed)[MAC:]
        place = self._received.to_bytes(8, "big")
        self._received += 1
        proof = mac(self._secret, self._in, self._number, place, message)
        if not hmac.compare_digest(sealed[:MAC], proof):
            raise BadSeal("a message without the seal of its call")
        return bytes(message)


class Sessions:
    """The sessions of a server. Any thread may call it."""

    def __init__(self, key: bytes, node: bytes) -> None:
        self._key = key
        self._node = node
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, PeerSession] = OrderedDict()

    def hello(self, metadata: bytes) -> tuple[bytes, bytes] | None:
        """Begin a session; return its nonce and the answerer's proof, or None without the key."""
        theirs = hello_in(self._key, metadata)
        if theirs is None:
            return None
        session, proof = PeerSession.of(self._key, theirs, secrets.token_bytes(NONCE), self._node)
        with self._lock:
            self._sessions[session.nonce] = session
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return session.nonce, proof

    def admit(self, method: str, metadata: bytes) -> Call | None:
        """Return a call that came with this metadata, or None if it is refused."""
        with self._lock:
            session = self._sessions.get(metadata[:NONCE])
            if session is None:
                return None
            self._sessions.move_to_end(session.nonce)
        return session.admit(method, metadata)
