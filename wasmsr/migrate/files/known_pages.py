"""Pages that need not be sent to an end where the program was before.

When a program leaves, this end keeps the image in which it had come, and the digests of what it has
sent. When the program comes back, the source names the pages that this end still has. An image is
the one of an epoch: what came by the move that began it. Nothing is kept for a later process.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from wasmsr.errors import SnapshotError
from wasmsr.snapshot.live.known import KnownImage
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.space_tree import SpaceTree

IMAGES, IMAGE_BYTES = 4, 4 << 30
"""How many images are kept, and how many bytes they have together at most."""

SENT = 8
"""Of how many programs the digests are kept that were sent: 32 bytes a page of 4 KiB."""

Trees = Mapping[SpaceName, SpaceTree]


class KnownPages:
    """What this end has of programs that are elsewhere. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: OrderedDict[bytes, tuple[int, Trees]] = OrderedDict()
        self._images: OrderedDict[bytes, tuple[int, KnownImage]] = OrderedDict()

    def left(self, program: bytes, epoch: int, trees: Trees, received: Path | None) -> None:
        """Take note that a program has left.

        Args:
            program: Its id.
            epoch: The epoch in which it is elsewhere now.
            trees: The digests of its memories, as they were sent.
            received: The image in which it came here in the epoch before; None if it began here.
                The file is kept open: whoever removes its name does not remove it.
        """
        image = None
        if received is not None:
            with suppress(OSError, SnapshotError):  # it is sent whole then
                image = KnownImage(os.open(received, os.O_RDONLY | os.O_CLOEXEC))
        with self._lock:
            self._sent[program] = epoch, trees
            self._sent.move_to_end(program)
            self._images.pop(program, None)
            if image is not None and image.size <= IMAGE_BYTES:
                self._images[program] = epoch - 1, image
            while len(self._sent) > SENT:
                self._sent.popitem(last=False)
            while len(self._images) > IMAGES or self._bytes() > IMAGE_BYTES:
                self._images.popitem(last=False)

    def _bytes(self) -> int:
        return sum(image.size for _, image in self._images.values())

    def epoch(self, program: bytes) -> int:
        """Return the epoch of the image that is kept of a program, or 0."""
        with self._lock:
            return self._images[program][0] if program in self._images else 0

    def image(self, program: bytes) -> KnownImage | None:
        """Return that image, which its user keeps open, or None."""
        with self._lock:
            return self._images[program][1] if program in self._images else None

    def sent(self, program: bytes, epoch: int) -> Trees | None:
        """Return the digests of what this end has sent by the move into an epoch, or None."""
        with self._lock:
            known, trees = self._sent.get(program, (0, {}))
            return trees if known and known == epoch else None

    def forget(self, program: bytes) -> None:
        """Forget a program that has ended."""
        with self._lock:
            self._sent.pop(program, None)
            self._images.pop(program, None)

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._sent.clear()
            self._images.clear()


__all__ = ["KnownPages"]
