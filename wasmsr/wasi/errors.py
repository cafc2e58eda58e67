"""How a call of the program fails, in the host's terms.

Bottom of the room. A front (`preview1`) turns the error into the number that its ABI has for it.
"""

from __future__ import annotations


class CallError(Exception):
    """A call of the program fails with this error before it has had an effect.

    No host call failed: an `OSError` of the host is let through as it is.

    Args:
        errno: The error, as a number of the host's module `errno`.
    """

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno
