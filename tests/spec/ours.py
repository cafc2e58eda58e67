"""wasmsr in the runner's terms: one `Session` over one `wasmsr.interp.store.store.Store`.

Values cross as raw slots, because a signalling NaN does not survive a Python float. What a script
calls `ref.extern n` is the Python integer n to the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import wasmtime

from wasmsr import errors
from wasmsr.errors import UnsupportedError
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Finished, Limits, Outcome, Trapped
from wasmsr.interp.store.externs import Extern as Handle
from wasmsr.interp.store.externs import Function, Global, HostFunction
from wasmsr.interp.store.instance import Imports
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import FuncType, ValType

from . import spectest
from .engine import NoSuchExport, UncaughtException, same_trap
from .values import WIDTH, Extern, Null, Number, Reference, Value

_NAMES = {ValType[name.upper()]: name for name in WIDTH}


@cache
def _spectest() -> Module:
    for table64 in (True, False):
        try:
            binary = bytes(wasmtime.wat2wasm(spectest.text(table64=table64)))
            return Module(binary, name="spectest")
        except UnsupportedError:
            continue
    raise AssertionError("the host module needs no feature")


class WasmsrSession:
    """A store of ours, run without a stop."""

    tells_malformed = True

    def __init__(self, limits: Limits | None = None) -> None:
        self.printed: list[tuple[Value, ...]] = []
        self.modules: dict[bytes, Module] = {}
        self.host = {
            spectest.HOST: {name: self._print(params) for name, params in spectest.PRINTS.items()}
        }
        self.store = Store(limits=limits)

    @cached_property
    def spectest(self) -> int:
        module = _spectest()
        self.modules[module.digest] = module
        return self._place(module, self.host)

    def _print(self, params: Sequence[str]) -> HostFunction:
        types = tuple(ValType[param.upper()] for param in params)

        def call(_caller: Any, *slots: int) -> None:
            self.printed.append(tuple(map(Number, params, slots)))

        return HostFunction(FuncType(types, ()), call, raw=True)

    def decode(self, binary: bytes) -> Module:
        module = Module(binary)
        return self.modules.setdefault(module.digest, module)

    def import_names(self, module: Module) -> list[str]:
        return [wanted.module for wanted in module.imports]

    def instantiate(self, module: Module, registered: Mapping[str, int]) -> int:
        imports = {
            name: self.store.instances[number].exports for name, number in registered.items()
        }
        return self._place(module, imports)

    def _place(self, module: Module, imports: Imports) -> int:
        return self.store.instantiate(module, imports).index

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        function = self._exports(instance).get(field)
        if not isinstance(function, Function):
            raise NoSuchExport(field)
        types = function.type.results
        self.store.enqueue_raw(function.address, [self._slot(value) for value in args])
        done = self.drive(types)
        return [self._value(*one) for one in zip(types, done.raw, done.results, strict=True)]

    def get(self, instance: int, field: str) -> Value:
        global_ = self._exports(instance).get(field)
        if not isinstance(global_, Global):
            raise NoSuchExport(field)
        return self._value(global_.type.value, global_.bits, global_.value)

    def is_trap(self, code: str, expected: str) -> bool:
        return same_trap(code, expected)

    def drive(self, types: Sequence[ValType]) -> Finished:
        """Run what is queued to its end; `types` are those of the results.

        Raises:
            Trap: as the specification says.
        """
        return finished(self.store.run())

    def _exports(self, instance: int) -> Mapping[str, Handle]:
        return self.store.instances[instance].exports

    def _slot(self, value: Value) -> int:
        if isinstance(value, Number):
            return value.bits
        if isinstance(value, Null):
            return 0
        if isinstance(value, Extern):
            return self.store.reference_bits(ValType.EXTERNREF, value.number)
        raise NoSuchExport(f"no way to pass {value}")

    def _value(self, kind: ValType, bits: int, result: Any) -> Value:
        if kind in _NAMES:
            return Number(_NAMES[kind], bits)
        heaps = {ValType.FUNCREF: "func", ValType.EXNREF: "exn"}
        heap = heaps.get(kind.code, "extern")
        if bits == 0:
            return Null(heap)
        if heap != "extern":
            return Reference(heap)
        return Extern(result) if isinstance(result, int) else Reference(heap)


def finished(outcome: Outcome) -> Finished:
    """The outcome of a run that must end by itself.

    Raises:
        Trap: it ended so.
        AssertionError: it stopped or exited, which no script makes it do.
    """
    if isinstance(outcome, Trapped):
        if isinstance(outcome.trap, errors.UncaughtException):
            raise UncaughtException(str(outcome.trap))
        raise outcome.trap
    assert isinstance(outcome, Finished), f"the run ended with {outcome}"
    return outcome
