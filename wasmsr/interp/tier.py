"""How stores run code: in the interpreter, or also in native code.

The choice is one of this process and not of a program: it changes nothing that a program can
observe, and a snapshot does not have it. A store keeps the tier with which it was made.
"""

from __future__ import annotations

import os

from wasmsr._ffi import ffi, lib
from wasmsr.errors import WasmsrError

TIERS = ("interpreter", "native", "auto")
"""`native` makes native code of a function at its first call, `auto` of those that run often, in
the background (`wasmsr/interp/compiling.py`). Where this machine allows none, the interpreter runs.
"""
DEFAULT = "interpreter"
"""docs/performance.md says which figures of native code are not yet what they should be."""
VARIABLE = "WASMSR_TIER"

_chosen: str | None = None


def choose(tier: str | None) -> None:
    """Set the tier of stores that are made from now on; None leaves it to the variable."""
    global _chosen
    _chosen = None if tier is None else _checked(tier, "the tier")


def chosen() -> str:
    """Return the tier of stores that are made now.

    Raises:
        WasmsrError: The variable has another value.
    """
    return _chosen or _checked(os.environ.get(VARIABLE) or DEFAULT, VARIABLE)


def refusal() -> str | None:
    """Return why there is no native code on this machine, or None if there is."""
    why = ffi.new("const char **")
    return None if lib.wsr_native_available(why) else ffi.string(why[0]).decode()


def limit(size: int) -> None:
    """Limit the bytes of native code in this process. Later functions run in the interpreter."""
    lib.wsr_native_budget(size)


def enough(turns: int = lib.WSR_ENOUGH_TURNS) -> None:
    """Set how often a function runs before `auto` makes native code of it.

    Args:
        turns: Turns of its loops; a call counts 16 of them.
    """
    lib.wsr_native_enough(turns)


def code_bytes() -> int:
    """Return how many bytes of native code this process has."""
    return int(lib.wsr_native_used())


def _checked(tier: str, what: str) -> str:
    if tier not in TIERS:
        raise WasmsrError(f"{what} is {tier!r}; it is one of {', '.join(TIERS)}")
    return tier
