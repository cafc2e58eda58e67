"""Files of other machines, by fsspec: limited in size and time, and errors in our words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from wasmsr.errors import MissingPackageError
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.sources.order import STALL_SECONDS, Order

TRIES, PAUSE = 3, 0.2
"""How often a file is asked for, and the seconds before the second try; the third waits longer."""


class Purpose(Protocol):
    """What a file is fetched or written for; it makes the errors."""

    @property
    def seconds(self) -> float:
        """How long it may take."""

    def wrong(self, sentence: str, hint: str | None = None) -> JobError:
        """Return the error for what can never succeed."""

    def failed(self, sentence: str, hint: str | None = None) -> JobError:
        """Return the error for what may succeed later."""


class LimitedFile:
    """A file that is written up to a limit of bytes and of time; what fsspec writes to."""

    def __init__(self, path: Path, order: Order) -> None:
        self._order = order
        self._deadline = time.monotonic() + order.seconds
        self.size = 0
        with order.written():
            self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        """Write a piece. Raises JobError beyond a limit, or if the disk is full."""
        if time.monotonic() > self._deadline:
            raise self._order.failed(f"it was not there after {self._order.seconds:g} s")
        self._order.budget.check(self.size + len(data), self._order.what)
        with self._order.written():
            self._file.write(data)
        self.size += len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Refuse: fsspec takes for a file only what has this method."""
        raise JobError("FilesystemError", f"{self._order.what} is being written")

    def tell(self) -> int:
        """Return how many bytes there are."""
        return self.size

    def close(self) -> None:
        """Close the file."""
        with self._order.written():
            self._file.close()


def file_system(kind: str, what: str, **settings: Any) -> Any:
    """Return fsspec's file system for "http" or "s3"; `what` needs it.

    Raises:
        MissingPackageError: A package is not installed.
    """
    try:
        import fsspec

        return fsspec.filesystem(kind, skip_instance_cache=True, **settings)
    except ImportError as error:
        name = {"http": "aiohttp", "s3": "s3fs"}[kind]
        missing = "fsspec" if "fsspec" in str(error) else name
        raise MissingPackageError(missing, what, extra="jobs") from None


@contextmanager
def explained(purpose: Purpose, verb: str, where: str) -> Iterator[None]:
    """Turn an error of a service into one of jobs."""
    try:
        yield
    except (JobError, MissingPackageError):
        raise
    except FileNotFoundError:
        raise purpose.wrong(f"there is no {where}") from None
    except PermissionError as error:
        raise purpose.wrong(
            f"{where} is refused: {error}", "the service's variables give the credentials"
        ) from None
    except TimeoutError:
        raise purpose.failed(
            f"{where} did not answer within {min(purpose.seconds, STALL_SECONDS):g} s"
        ) from None
    except Exception as error:  # each service has errors of its own
        status = getattr(error, "status", 0)  # of HTTP
        words = f"cannot {verb} {where}: {error or type(error).__name__}"
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
            raise purpose.wrong(words) from error
        raise purpose.failed(words, "is the address right, and the service there?") from error


def repeated(act: Callable[[], None]) -> None:
    """Call a function until it succeeds, `TRIES` times at most. Only retryable errors count."""
    for number in range(TRIES):
        try:
            return act()
        except JobError as error:
            if not error.retryable or number + 1 == TRIES:
                raise
        time.sleep(PAUSE * 4**number)


__all__ = ["LimitedFile", "Purpose", "explained", "file_system", "repeated"]
