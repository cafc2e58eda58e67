"""How fast pages go to a peer: what the line takes, and what this end reads and packs."""

from __future__ import annotations

from dataclasses import dataclass

LARGE = 1 << 20
"""Bytes of a round that shows more than its fixed costs."""

WEIGHT = 4 << 20
"""Bytes that count as much as all that was learnt before."""


@dataclass
class LineSpeed:
    """What moves have shown of the way to one peer.

    Attributes:
        wire: Bytes a second that the line and the peer take, as they go over the wire; 0.0 while
            nobody knows.
        work: Bytes of pages a second that this end reads, digests and packs; 0.0 likewise.
        plain: Bytes of pages a second that arrive if they go as they are; 0.0 likewise. What
            compressed rounds show says nothing of it: they can be slow by the work that they are.
    """

    wire: float = 0.0
    work: float = 0.0
    plain: float = 0.0

    def learn(self, raw: int, packed: int, busy: float, waited: float) -> None:
        """Take note of a round.

        Args:
            raw: Bytes of its pages.
            packed: Bytes that went over the wire for them.
            busy: Seconds that the round took, without round trip and sync.
            waited: How many of them this end only waited for the peer.
        """
        busy = max(busy, 1e-6)
        if raw >= LARGE:
            self.work = raw / max(busy - waited, 1e-6)
        wire = packed / busy
        if packed >= LARGE and packed > raw - raw // 16:
            self.plain = wire
        if packed >= LARGE and (waited > busy / 4 or not self.wire):
            share = packed / (packed + WEIGHT) if self.wire else 1.0
            self.wire += share * (wire - self.wire)
        else:
            # Fixed costs or this end's work have shown themselves, so the line is at least as fast.
            self.wire = max(self.wire, wire)

    def seconds(self, raw: int, packed: int) -> float:
        """Return how long pages take; this end packs while the line sends.

        Args:
            raw: Bytes of the pages.
            packed: About how many bytes go over the wire.
        """
        work = raw / self.work if self.work else 0.0
        wire = packed / self.wire if self.wire else 0.0
        return max(work, wire)


__all__ = ["LineSpeed"]
