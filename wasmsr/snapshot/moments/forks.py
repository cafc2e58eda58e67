"""What tells forks apart: their numbers, the import that returns it, and the export they call.

A fork is not its twin. What a program holds in memory is equal in all forks: hash seeds, keys,
UUIDs. So a program can ask for the number of its fork, and a program that exports
`wasmsr_forked` is called first, with the number and fresh random bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wasmsr.interp.store.externs import HostFunction
from wasmsr.interp.types import FuncType, ValType

if TYPE_CHECKING:
    from wasmsr.interp.store.instance import Imports
    from wasmsr.interp.store.store import Store

MODULE: Final = "wasmsr"
"""The module name of imports about forks."""
NUMBER: Final = "fork_number"
"""The import that returns the number of the fork, an i64; 0 is a program that is no fork."""
HOOK: Final = "wasmsr_forked"
"""The export that a fork calls first: its number, and 128 random bits as two i64, low first."""
HOOK_TYPE: Final = FuncType((ValType.I64, ValType.I64, ValType.I64), ())
"""The type of that export."""

_NUMBER_TYPE = FuncType((), (ValType.I64,))


def fork_imports(number: int) -> Imports:
    """Return the import `wasmsr.fork_number`, for a program that asks which fork it is.

    Args:
        number: What it returns. Give 0 where a program starts; `Snapshot.fork` gives the others.
    """
    answer = HostFunction(_NUMBER_TYPE, lambda caller: number, identity=f"{MODULE}.{NUMBER}")
    return {MODULE: {NUMBER: answer}}


def hooks_of(store: Store) -> list[int]:
    """Return the addresses of the functions that a fork of this store calls first."""
    return [
        instance.address(export.kind, export.index)
        for instance in store.instances
        for export in instance.module.exports
        if export.name == HOOK and export.type == HOOK_TYPE
    ]


def call_hooks(store: Store, hooks: list[int], number: int, fresh: bytes) -> None:
    """Let a fork that does not run yet call its hooks before all else.

    Args:
        store: The fork.
        hooks: As `hooks_of` gives them.
        number: Its number.
        fresh: 16 random bytes.
    """
    low, high = (int.from_bytes(half, "little", signed=True) for half in (fresh[:8], fresh[8:]))
    for address in hooks:
        hook = store.function(address)
        if store.frames():
            store.push_call(hook, number, low, high)
        else:  # between two calls: the hook is the next one
            store.enqueue(hook, number, low, high)
            store.queue.insert(0, store.queue.pop())


__all__ = ["HOOK", "HOOK_TYPE", "MODULE", "NUMBER", "call_hooks", "fork_imports", "hooks_of"]
