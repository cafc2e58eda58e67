"""What a source is asked for, and within which limits."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wasmsr.jobs.failures import JobError

INPUT_LIMIT = 10 << 30
"""Bytes of all inputs of an execution together, where its job names no amount of disk."""

FETCH_SECONDS = 3600.0
"""Longest time in which one input is fetched."""

STALL_SECONDS = 60.0
"""Longest time in which a server sends nothing."""


class Budget:
    """How many bytes of inputs may still be written.

    Attributes:
        limit: Bytes at the beginning.
        left: Bytes that are left.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = self.left = INPUT_LIMIT if limit is None else limit

    def check(self, size: int, what: str) -> None:
        """See that `size` bytes more are within the limit, and write nothing.

        Raises:
            JobError: They are not.
        """
        if size > self.left:
            raise JobError(
                "InputConfigError",
                f"{what} does not fit: the inputs of an execution may have {self.limit} bytes",
                hint="Resources.Disk sets the limit",
            )

    def take(self, size: int, what: str) -> None:
        """Count `size` bytes that are about to be written; see `check`."""
        self.check(size, what)
        self.left -= size


@dataclass(frozen=True)
class AllowedPath:
    """A file or folder of this machine from which inputs may come, with all below it.

    Attributes:
        path: Where it is, without links.
        writable: Whether programs may write there, if their job asks for it.
    """

    path: Path
    writable: bool = False

    @classmethod
    def parse(cls, text: str) -> AllowedPath:
        """Return what `PATH`, `PATH:ro` or `PATH:rw` allows."""
        path, colon, mode = text.rpartition(":")
        if not colon or mode not in ("ro", "rw"):
            path, mode = text, "ro"
        return cls(Path(os.path.realpath(path)), mode == "rw")


@dataclass(frozen=True)
class Order:
    """One input that is wanted.

    Attributes:
        what: What messages call it.
        place: A path that is free; what is fetched is written there.
        base: The folder to which relative paths of this machine belong.
        allowed: What inputs may come from this machine.
        budget: How many bytes may be written.
        seconds: How long it may take.
    """

    what: str
    place: Path
    base: Path
    allowed: tuple[AllowedPath, ...] = ()
    budget: Budget = field(default_factory=Budget)
    seconds: float = FETCH_SECONDS

    def wrong(self, sentence: str, hint: str | None = None) -> JobError:
        """Return the error for an input that can never be had."""
        return JobError("InputConfigError", f"{self.what}: {sentence}", hint=hint)

    def failed(self, sentence: str, hint: str | None = None) -> JobError:
        """Return the error for an input that cannot be had now."""
        message = f"{self.what}: {sentence}"
        return JobError("FilesystemError", message, hint=hint, retryable=True)

    @contextmanager
    def written(self) -> Iterator[None]:
        """Turn an OSError of what is written into an error of jobs."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "free some space, or choose another folder with --state" if full else None
            raise self.failed(f"it cannot be written: {error.strerror or error}", hint) from error


@dataclass(frozen=True)
class Fetched:
    """What a source has brought.

    Attributes:
        path: A file or folder of this machine.
        read_only: Whether the program may only read it.
    """

    path: Path
    read_only: bool = True


__all__ = [
    "FETCH_SECONDS",
    "INPUT_LIMIT",
    "STALL_SECONDS",
    "AllowedPath",
    "Budget",
    "Fetched",
    "Order",
]
