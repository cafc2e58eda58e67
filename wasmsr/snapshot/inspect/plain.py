"""Plain data of a snapshot as JSON can hold it."""

from __future__ import annotations

import math
from typing import Any

DEEPEST = 50
"""Levels of nested maps and lists that are shown."""


def plain_data(value: Any, depth: int = 0) -> Any:
    """Return a value with byte strings as text where they are text, else in hexadecimal.

    Args:
        value: Numbers, text, bytes, lists and maps of them.
        depth: The level of the value; below `DEEPEST`, an ellipsis takes the value's place.
    """
    if isinstance(value, (dict, list)) and depth == DEEPEST:
        return "\u2026"
    if isinstance(value, dict):
        below = value.items()
        return {str(plain_data(key, depth + 1)): plain_data(item, depth + 1) for key, item in below}
    if isinstance(value, list):
        return [plain_data(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return text if text.isprintable() and "\ufffd" not in text else f"hex:{value.hex()}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
