"""Canonical msgpack: one sequence of bytes for each value (docs/snapshot-format.md, section 1).

`pack` refuses what a snapshot cannot hold. `unpack` refuses bytes that `pack` would not write, and
bounds what a few bytes can ask of the reader's memory.
"""

from __future__ import annotations

import threading
from typing import Any

import msgpack

from wasmsr.errors import UnportableState, reason
from wasmsr.snapshot.encoding.container import Buffer

MAX_CONTAINERS = 1 << 20
"""Maps and lists in one msgpack section."""
MAX_ITEMS = 1 << 24
"""Items of all maps and lists of one msgpack section together."""
_TOO_DEEP = (msgpack.exceptions.StackError, RecursionError)


class _Packer(threading.local):
    """A packer for each thread: to make a new one takes longer than to pack a small value."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(use_bin_type=True, strict_types=True, autoreset=True).pack


_packer = _Packer()


def pack(value: Any, what: str) -> bytes:
    """Return the msgpack bytes of a value.

    Args:
        value: Anything that msgpack can hold.
        what: The value's name in an error message.

    Raises:
        UnportableState: The value has no msgpack form, or has too many maps, lists or items.
    """
    try:
        data = _packer.pack(value)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise UnportableState(f"{what} cannot be saved: {reason(error)}") from error
    assert isinstance(data, bytes)
    if len(data) > MAX_CONTAINERS:
        try:
            msgpack.unpackb(data, strict_map_key=False, **_counting_hooks())
        except ValueError as error:
            raise UnportableState(f"{what} cannot be saved: {reason(error)}") from error
    return data


def unpack(data: Buffer, *, strict_keys: bool = True) -> Any:
    """Return the value of msgpack bytes.

    The value is packed again and compared with the bytes. So there is one way to write each value:
    no duplicate keys, no long forms of short numbers, no extension types.

    Args:
        data: The bytes of one value.
        strict_keys: Accept only strings and bytes as keys of maps.

    Raises:
        ValueError: The bytes are not the canonical form of one value.
    """
    hooks = {} if len(data) <= MAX_CONTAINERS else _counting_hooks()
    try:
        value = msgpack.unpackb(data, strict_map_key=strict_keys, max_ext_len=0, **hooks)
        again = _packer.pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, _TOO_DEEP) else reason(error)
        raise ValueError(f"it cannot be unpacked: {why}") from error
    if again != data:
        raise ValueError("it is not in canonical msgpack")
    return value


def _counting_hooks() -> dict[str, Any]:
    """Return hooks for msgpack that bound the number of maps, lists and items.

    An empty map takes one byte in msgpack and 64 bytes in memory; an item takes one and eight.
    """
    containers = items = 0

    def count(value: Any) -> Any:
        nonlocal containers, items
        containers += 1
        items += len(value)
        if containers > MAX_CONTAINERS:
            raise ValueError(f"it has more than {MAX_CONTAINERS} maps and lists")
        if items > MAX_ITEMS:
            raise ValueError(f"it has more than {MAX_ITEMS} items")
        return value

    return {
        "object_hook": count,
        "list_hook": count,
        "max_array_len": MAX_ITEMS,
        "max_map_len": MAX_CONTAINERS,
    }


__all__ = ["MAX_CONTAINERS", "MAX_ITEMS", "pack", "unpack"]
