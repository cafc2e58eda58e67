"""Tokens of clients: compared in constant time, and slower after a few wrong ones."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from wasmsr.node.security.failures import AccessRefused

FREE_TRIES = 5
"""Wrong tokens of one caller that cost nothing."""
FIRST_WAIT, LAST_WAIT = 1.0, 60.0
"""Seconds that a caller must wait after one wrong token more, doubled each time."""
CALLERS = 1024
"""Callers whose wrong tokens are counted. The one that was refused longest ago is forgotten."""


class TokenCheck:
    """Admits callers that have the token. Any thread may call it.

    Nothing here waits: a caller that must wait is refused, and so holds no thread of the node.
    """

    def __init__(self, token: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        """Make the check of one token; `clock` gives seconds."""
        self._digest = hashlib.sha256(token).digest()
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def admit(self, caller: str, token: bytes) -> None:
        """Return if the token is right.

        Args:
            caller: The caller's host, without its port.
            token: What it sent; b"" for none.

        Raises:
            AccessRefused: It is wrong, or the caller must wait. While it must wait, a right token
                is refused too; otherwise the answer would tell whether a guess was right.
        """
        with self._lock:
            count, until = self._wrong.get(caller, (0, 0.0))
            now = self._clock()
            if now < until:
                raise AccessRefused(
                    "token",
                    f"too many wrong tokens from {caller}",
                    hint=f"try again in {until - now:.0f} s",
                )
            # Digests are compared, so that the time tells neither content nor length.
            if hmac.compare_digest(hashlib.sha256(token).digest(), self._digest):
                self._wrong.pop(caller, None)
                return
            count += 1
            wait = 0.0
            if count >= FREE_TRIES:
                wait = min(LAST_WAIT, FIRST_WAIT * 2 ** min(count - FREE_TRIES, 16))
            self._wrong[caller] = count, now + wait
            self._wrong.move_to_end(caller)
            while len(self._wrong) > CALLERS:
                self._wrong.popitem(last=False)
        raise AccessRefused(
            "token",
            "the call has no token" if not token else "the call's token is wrong",
            hint="give the node's token: --token-file FILE",
        )
