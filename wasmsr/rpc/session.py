"""Who is at the other end: both sides of a connection prove that they have the same key.

Under `client` and `server`; knows no gRPC. The key itself never goes over the wire. The caller of
Hello proves that it has the key, the answerer proves it too, and from both nonces follows a secret
for this session. Each later call proves in its metadata that it belongs to the session, before a
byte of it is read, and no proof is taken twice. Each message is sealed, both ways. All proofs are
HMAC-SHA256 (RFC 2104) and are compared in constant time. Nothing is encrypted.
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
"""Sessions that a server keeps; one more takes the place of the one used longest ago, whose owner
then begins a new one."""
WINDOW = 1024
"""How far a call may lag behind the newest one of its session; older ones count as repeated."""

CALL, ASK, ANSWER = b"call", b"ask", b"answer"


class BadSeal(ValueError):
    """A message that was not sealed in this call, at this place."""


def mac(key: bytes, *parts: bytes | memoryview) -> bytes:
    """HMAC-SHA256 of `parts`, each after its length, so that no two lists give the same input."""
    digest = hmac.new(key, digestmod="sha256")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def hello(key: bytes, nonce: bytes) -> bytes:
    """Return the metadata of Hello: the caller's nonce, and the proof that the caller has the
    key."""
    return nonce + mac(key, b"wasmsr hello", nonce)


def hello_in(key: bytes, metadata: bytes) -> bytes | None:
    """Return the nonce in the metadata of a Hello, or None if its sender has not this key."""
    nonce, proof = metadata[:NONCE], metadata[NONCE:]
    if not hmac.compare_digest(proof, mac(key, b"wasmsr hello", nonce)) or len(nonce) != NONCE:
        return None
    return nonce


@dataclass
class PeerSession:
    """What both sides know after Hello. One side makes calls (`call`), the other takes them
    (`admit`)."""

    nonce: bytes
    secret: bytes
    _last: int = 0
    _taken: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, key: bytes, theirs: bytes, ours: bytes, node: bytes) -> tuple[PeerSession, bytes]:
        """Return the session of two nonces, `theirs` the caller's and `ours` the answerer's, and
        the proof that the answerer, `node`, has the key."""
        secret = mac(key, b"wasmsr session", theirs, ours, node)
        return cls(ours, secret), mac(secret, b"wasmsr answerer")

    @classmethod
    def begun(
        cls, key: bytes, nonce: bytes, theirs: bytes, node: bytes, proof: bytes
    ) -> PeerSession | None:
        """Return the session that an answer to Hello begins, or None if the answerer has not the
        key."""
        session, expected = cls.of(key, nonce, theirs, node)
        good = hmac.compare_digest(proof, expected) and len(theirs) == NONCE
        return session if good else None

    def call(self, method: str) -> Call:
        """Return the next call; `method` is the path of gRPC."""
        with self._lock:
            self._last += 1
            number = self._last.to_bytes(COUNTER, "big")
        proof = mac(self.secret, CALL, method.encode(), number)
        return Call(self, number, self.nonce + number + proof, ASK, ANSWER)

    def admit(self, method: str, metadata: bytes) -> Call | None:
        """Return a call that came, or None if it is not one of this session, or was taken
        before."""
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
                self._taken = {one for one in self._taken if one > value - WINDOW}
        return Call(self, number, metadata, ANSWER, ASK)


class Call:
    """One call of a session: seals what goes out and opens what comes in, each in order.

    Attributes:
        metadata: the proof that goes along with the call.
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
        """`message` as it goes over the wire."""
        place = self._sent.to_bytes(8, "big")
        self._sent += 1
        return mac(self._secret, self._out, self._number, place, message) + message

    def open(self, sealed: bytes) -> bytes:
        """Return the message that comes next. Raises BadSeal."""
        message = memoryview(sealed)[MAC:]
        place = self._received.to_bytes(8, "big")
        self._received += 1
        proof = mac(self._secret, self._in, self._number, place, message)
        if not hmac.compare_digest(sealed[:MAC], proof):
            raise BadSeal("a message without the seal of its call")
        return bytes(message)


class Sessions:
    """The sessions of a server; from several threads."""

    def __init__(self, key: bytes, node: bytes) -> None:
        self._key = key
        self._node = node
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, PeerSession] = OrderedDict()

    def hello(self, metadata: bytes) -> tuple[bytes, bytes] | None:
        """Begin a session: its nonce and the answerer's proof; None if the caller has not the
        key."""
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
