"""The first contact with a peer, which may start a little later than this end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from wasmsr.errors import MigrationError
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.ports import Peer
from wasmsr.migrate.protocol import PeerLost, PeerRefused, PeerUnknown, Reason

T = TypeVar("T")

CONTACT_SECONDS = 10.0
"""How long a peer may be absent or busy at the start."""


def contact(
    peer: Peer, ask: Callable[[], T], stop: threading.Event, announce: Announce
) -> T | None:
    """Repeat a question until the peer answers it.

    Args:
        peer: The peer.
        ask: Asks the peer.
        stop: Is set when the user interrupts.
        announce: Gets a line each second while the peer does not answer.

    Returns:
        The answer, or None if the user interrupted first.

    Raises:
        MigrationError: The peer has not answered for `CONTACT_SECONDS`.
        PeerRefused: The peer says no.
        PeerUnknown: Somebody else answers.
    """
    deadline = time.monotonic() + CONTACT_SECONDS
    told = 0.0
    while not stop.is_set():
        try:
            return ask()
        except PeerUnknown:
            raise
        except PeerLost as error:
            trouble: MigrationError = error
        except PeerRefused as error:
            if error.reason is not Reason.BUSY:
                raise
            trouble = error
        left = deadline - time.monotonic()
        if left <= 0:
            raise MigrationError(
                f"gave up after {CONTACT_SECONDS:.0f} s: {trouble}",
                phase="prepare",
                owner="source",
                hint="start `wasmsr remote` at the other end too, and check --peer",
            )
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            text = f"waiting for the other end, {left:.0f} s more: {trouble}"
            announce(Event("retry", text, {"peer": peer.address, "left": left}))
        stop.wait(0.2)
    return None
