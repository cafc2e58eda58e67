"""Sizes in bytes from text: `1G`, `512 MB`, `65536`."""

from __future__ import annotations

import re

from wasmsr.errors import printable

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
"""Factors by their first letter; as in the peer's files, MB and MiB are the same."""
LARGEST = 1 << 46
"""Bytes: more than a process can address."""


def parse_size(text: str | int) -> int:
    """Return a number of bytes.

    Raises:
        ValueError: The text is no size; a sentence says so.
    """
    match = re.fullmatch(r"\s*(\d{1,15})\s*([KMGT]?)(?:i?B)?\s*", str(text), re.IGNORECASE)
    if isinstance(text, bool) or match is None:
        raise ValueError(f"{printable(text, 60)} is no size; write it as 65536, 512 MB or 1G")
    size = int(match[1]) * UNITS[match[2].upper()]
    if size > LARGEST:
        raise ValueError(f"{printable(text, 60)} is more than a process can address")
    return size
