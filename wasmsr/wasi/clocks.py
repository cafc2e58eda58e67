"""The clocks and the random bytes of one program.

The monotonic clock belongs to the program: it counts on the host that runs it, is stopped while the
program is saved, and never goes back. A deterministic program gets a clock that moves only by what
the program does, and random bytes from a seed.
"""

from __future__ import annotations

import os
import time

from wasmsr import realtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FIRST_INSTANT: Final = 1_000_000_000
"""First value of the monotonic clock, in ns. It is not 0, which Go takes for a broken clock."""
LAST_INSTANT: Final = 1 << 62
"""No clock and no deadline goes beyond this, ns: 146 years."""
VIRTUAL_EPOCH: Final = 1_577_836_800_000_000_000
"""Deterministic mode: realtime at `FIRST_INSTANT` of the monotonic clock (2020-01-01, UTC)."""
VIRTUAL_TICK: Final = 1_000
"""In deterministic mode, a read of a clock takes 1 µs, so that loops that wait for a time end."""
RESOLUTION: Final = 1
"""ns, of every clock."""


class Clocks:
    """The four clocks of one program, in ns. They run from the start.

    Between `stop` and `resume`, the monotonic clock and the CPU-time clocks are stopped.

    A stopped clock continues when the program next asks for the time, so that a restored
    program runs whether or not its owner said `resume`.
    """

    def __init__(
        self,
        *,
        deterministic: bool = False,
        monotonic: int = FIRST_INSTANT,
        cpu: int = 0,
        stopped_at: int | None = None,
        live: bool = False,
    ) -> None:
        """`monotonic`, `cpu`: what the clocks show; `stopped_at`: realtime at which they were
        stopped (None: they run); `live`: on resuming, the time since `stopped_at` counts."""
        self.deterministic = deterministic
        self._live = live
        self._stopped_at = stopped_at
        self._monotonic = monotonic
        self._cpu = cpu
        self._monotonic_origin = time.monotonic_ns() - monotonic
        self._cpu_origin = time.process_time_ns() - cpu

    def stop(self) -> None:
        """Stop the program's clocks."""
        if self._stopped_at is None:
            self._monotonic, self._cpu, self._stopped_at = self.reading()

    def resume(self, *, live: bool | None = None) -> None:
        """Continue the clocks from where they were stopped.

        Args:
            live: Whether the time since the stop counts, by the realtime clocks of the hosts
                involved; never less than nothing. None: what the constructor was told.
        """
        if self._stopped_at is None:
            return
        if (self._live if live is None else live) and not self.deterministic:
            self._monotonic += max(0, realtime.now() - self._stopped_at)
        self._live = False
        self._monotonic_origin = time.monotonic_ns() - self._monotonic
        self._cpu_origin = time.process_time_ns() - self._cpu
        self._stopped_at = None

    def reading(self) -> tuple[int, int, int]:
        """Return (monotonic, CPU time, realtime now or at the stop) without a side effect."""
        if self._stopped_at is not None:
            return self._monotonic, self._cpu, self._stopped_at
        if self.deterministic:
            return self._monotonic, self._cpu, VIRTUAL_EPOCH + self._monotonic - FIRST_INSTANT
        return (
            time.monotonic_ns() - self._monotonic_origin,
            time.process_time_ns() - self._cpu_origin,
            realtime.now(),
        )

    def monotonic(self) -> int:
        """Return the program's monotonic clock, ns."""
        if self._stopped_at is not None:
            self.resume()
        if self.deterministic:
            return self._monotonic
        return time.monotonic_ns() - self._monotonic_origin

    def realtime(self) -> int:
        """Return ns since 1970: the host's, or the virtual ones."""
        if self.deterministic:
            return VIRTUAL_EPOCH + self.monotonic() - FIRST_INSTANT
        return realtime.now()

    def cpu_time(self) -> int:
        """Return the CPU time of the program, ns."""
        if self._stopped_at is not None:
            self.resume()
        if self.deterministic:
            return self._monotonic - FIRST_INSTANT
        return time.process_time_ns() - self._cpu_origin

    def tick(self) -> None:
        """Let a reading of a clock take its time, in deterministic mode."""
        if self.deterministic:
            if self._stopped_at is not None:
                self.resume()
            self._monotonic += VIRTUAL_TICK

    def skip_to(self, monotonic: int) -> None:
        """End a sleep at once, in deterministic mode: its time has passed."""
        self._monotonic = max(self.monotonic(), min(monotonic, LAST_INSTANT))


class Random:
    """Random bytes: the host's, or, with a seed, the BLAKE2b stream of that seed.

    The stream's block number k is BLAKE2b-512 with the seed as key over k as eight little-endian
    bytes; `position` counts the bytes taken so far.
    """

    BLOCK: Final = 64
    PIECE: Final = 1 << 20

    def __init__(self, seed: bytes | None = None, position: int = 0) -> None:
        self.seed = seed
        self.position = position

    @staticmethod
    def seed_of(value: int | bytes | str) -> bytes:
        """Return 32 bytes of seed from the seed of a user."""
        from hashlib import blake2b  # only where it is used: it brings OpenSSL

        raw = value if isinstance(value, bytes) else str(value).encode()
        return blake2b(raw, digest_size=32).digest()

    def fill(self, target: memoryview) -> None:
        """Fill `target` with random bytes."""
        for start in range(0, len(target), self.PIECE):
            piece = target[start : start + self.PIECE]
            piece[:] = self._take(len(piece))

    def _take(self, size: int) -> bytes:
        if self.seed is None:
            return os.urandom(size)
        from hashlib import blake2b

        first, skip = divmod(self.position, self.BLOCK)
        last = (self.position + size + self.BLOCK - 1) // self.BLOCK
        self.position += size
        stream = b"".join(
            blake2b(number.to_bytes(8, "little"), key=self.seed).digest()
            for number in range(first, last)
        )
        return stream[skip : skip + size]
