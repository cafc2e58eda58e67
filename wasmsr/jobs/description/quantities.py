"""Amounts of CPU, memory and disk as job files write them."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgtpe", 1)
    for endings, base in ((("", "b"), 1000), (("i", "ib"), 1024))
    for ending in endings
}
_BYTES = re.compile(r"([0-9][0-9,]{0,29}(?:\.[0-9]{0,20})?)\s*([a-z]*)")
_CPU = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?)(m?)")

LARGEST = 2**64 - 1
"""Bytes that an amount can be at most."""


def read_bytes(text: str) -> int:
    """Return the number of bytes that a text gives, such as "512Mi", "64KiB", "1.5 GB" or "100".

    Units are those of github.com/dustin/go-humanize: k, kb, M, MB ... are powers of 1000, Ki, KiB,
    Mi ... powers of 1024. Upper and lower case are the same.

    Raises:
        ValueError: It is no such text; the message says what is.
    """
    found = _BYTES.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no size, such as 512MiB, 1.5GB or 65536")
    size = int(Fraction(found[1].replace(",", "").rstrip(".")) * _UNITS[found[2]])
    if size > LARGEST:
        raise ValueError(f"{text!r} is more than {LARGEST} bytes")
    return size


def read_cpu(text: str) -> float:
    """Return how many CPUs a text gives, such as "0.5", "2" or "500m" (thousandths).

    Raises:
        ValueError: It is no such text; the message says what is.
    """
    found = _CPU.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no number of CPUs, such as 2, 0.5 or 500m")
    return float(Fraction(found[1].rstrip(".")) / (1000 if found[2] else 1))


__all__ = ["read_bytes", "read_cpu"]
