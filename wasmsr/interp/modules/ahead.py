"""Functions that were called, and code made before a call: for processes that fork, and for hosts
to which a program moves."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from wasmsr._ffi import ffi, lib
from wasmsr.errors import FormatError
from wasmsr.interp import tier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wasmsr.interp.modules.module import Module

Called = list[list[int]]
"""Indices of functions that have code, for each way in which code is made."""

WAYS = ((False, False), (False, True), (True, False), (True, True))
"""Whether NaN results have one form, and whether instructions are counted."""

AT_ONCE = 1024
"""Functions of which code is made before it is asked again whether that is still needed."""

MOST_BYTES = 32 << 20
"""Bytes of bodies of functions that are compiled for one arrival; later ones wait for their call.
"""


@dataclass(frozen=True, slots=True)
class CalledFunctions:
    """Functions of one module that have code of one kind where the program runs.

    Attributes:
        module: The module's digest.
        deterministic: Whether NaN results have one form.
        metered: Whether instructions are counted.
        native: Whether it is native code.
        functions: Their indices, ascending.
    """

    module: bytes
    deterministic: bool
    metered: bool
    native: bool
    functions: Sequence[int]


def called(module: Module) -> Called:
    """Return the functions that have code: those that were called in this process.

    Stores can run the module meanwhile.
    """
    return [_called(module, *way, native=False).tolist() for way in WAYS]


def called_functions(
    modules: Iterable[Module], *, deterministic: bool
) -> Iterator[CalledFunctions]:
    """Yield the functions of a program that have code, at most `AT_ONCE` at a time.

    Stores can run the modules meanwhile.

    Args:
        modules: The program's modules.
        deterministic: Whether NaN results have one form in it.
    """
    for module in modules:
        for native in (False, True):
            for metered in (False, True):
                found = _called(module, deterministic, metered, native=native)
                for at in range(0, len(found), AT_ONCE):
                    some = found[at : at + AT_ONCE]
                    yield CalledFunctions(module.digest, deterministic, metered, native, some)


def _called(module: Module, deterministic: bool, metered: bool, *, native: bool) -> array[int]:
    way = (module.c, deterministic, metered, native)
    count = lib.wsr_module_compiled(*way, ffi.NULL, 0)
    found = array("I", bytes(4 * count))
    count = min(count, lib.wsr_module_compiled(*way, ffi.from_buffer("uint32_t[]", found), count))
    return found[:count]


def compile_ahead(module: Module, functions: Iterable[Sequence[int]]) -> None:
    """Make code of functions before they are called, as the interpreter runs it.

    It is advice and changes nothing that a program can observe: what is no function of the module
    is passed over.

    Args:
        module: The module.
        functions: As `called` returns it, of this process or another one.
    """
    for way, some in zip(WAYS, functions, strict=False):
        _compile(module, *way, lib.WSR_AHEAD_LATER, ffi.new("uint32_t[]", list(some)), len(some))


def _compile(
    module: Module, deterministic: bool, metered: bool, how: int, functions: object, count: int
) -> None:
    if tier.chosen() == tier.DEFAULT:
        how = lib.WSR_AHEAD_INTERPRETED  # the kind of code that stores look for
    lib.wsr_module_compile(module.c, deterministic, metered, how, functions, count)


class AheadCompiler:
    """Makes code of the functions that a program has called elsewhere. One thread calls it.

    What it is told comes from the other end, which may lie: it takes each function once, and makes
    code of bodies of at most `MOST_BYTES` bytes.
    """

    def __init__(self) -> None:
        self._next: dict[tuple[bytes, bool, bool, bool], int] = {}
        self._left = MOST_BYTES

    def compile(self, module: Module, called: CalledFunctions) -> None:
        """Make code of functions of a module.

        Raises:
            FormatError: They are no functions of the module with a body, or were named before.
        """
        way = called.module, called.deterministic, called.metered, called.native
        at = self._next.get(way, module.imported_functions)
        for function in called.functions:
            if not at <= function < module.function_count:
                raise FormatError(
                    f"function {function} was announced as called, and comes twice or has no body"
                )
            at = function + 1
        self._next[way] = at
        chosen = tier.chosen()
        if called.native and chosen == tier.DEFAULT:
            return  # they are among the others
        native = called.native or chosen == "native"
        functions = self._affordable(module, called.functions)
        _compile(
            module,
            called.deterministic,
            called.metered,
            lib.WSR_AHEAD_NATIVE if native else lib.WSR_AHEAD_LATER,
            ffi.from_buffer("uint32_t[]", functions),
            len(functions),
        )

    def _affordable(self, module: Module, functions: Sequence[int]) -> array[int]:
        """Return the first of the functions, as far as their bodies are not too large."""
        found = array("I")
        span = ffi.new("uint32_t[2]")
        for function in functions:
            lib.wsr_module_body(module.c, function, span, span + 1)
            self._left -= span[1] - span[0]
            if self._left < 0:
                self._left = 0
                break
            found.append(function)
        return found


__all__ = [
    "AT_ONCE",
    "MOST_BYTES",
    "WAYS",
    "AheadCompiler",
    "Called",
    "CalledFunctions",
    "called",
    "called_functions",
    "compile_ahead",
]
