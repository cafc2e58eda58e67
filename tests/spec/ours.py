"""wasmsr in the runner's terms: one `Session` over one `wasmsr.interp.machine.Store`.

Values cross as raw slots, because a signalling NaN does not survive a Python float. Only external
references cross as Python objects: `Extern(n)` travels as the integer n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import wasmtime
from wasmsr.interp.machine import (
    Exited,
    Finished,
    Function,
    Global,
    HostFunction,
    Limits,
    Paused,
    Store,
    Trapped,
)
from wasmsr.interp.module import Module
from wasmsr.interp.types import FuncType, ValType

from wasmsr.errors import UnsupportedError

from . import spectest
from .engine import NoSuchExport, same_trap
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
            spectest.HOST: {
                name: self._print(name, params) for name, params in spectest.PRINTS.items()
            }
        }
        self.store = self._new_store(limits)
        module = _spectest()
        self.modules[module.digest] = module
        self.spectest = self._place(module, self.host)

    def _new_store(self, limits: Limits | None) -> Store:
        return Store() if limits is None else Store(limits=limits)

    def _print(self, name: str, params: Sequence[str]) -> HostFunction:
        types = tuple(ValType[param.upper()] for param in params)

        def call(_caller: Any, *args: float) -> None:
            self.printed.append(tuple(Number(param, 0) for param in params[: len(args)]))

        return HostFunction(FuncType(types, ()), call)

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

    def _place(self, module: Module, imports: Mapping[str, Mapping[str, Any]]) -> int:
        instance = self.store.instantiate(module, imports, start=False)
        number = self.store.instances.index(instance)
        if self.store.queue:
            self.drive()
        return number

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        function = self._exports(instance).get(field)
        if not isinstance(function, Function):
            raise NoSuchExport(field)
        type_ = function.type
        self.store.enqueue(function, *map(_object, args))
        address, slots = self.store.queue[-1]
        raw = [
            value.bits if isinstance(value, Number) else slot
            for value, slot in zip(args, slots, strict=True)
        ]
        self.store.queue[-1] = (address, tuple(raw))
        finished = self.drive()
        return [
            self._value(kind, bits, result)
            for kind, bits, result in zip(
                type_.results, finished.raw, finished.results, strict=True
            )
        ]

    def get(self, instance: int, field: str) -> Value:
        global_ = self._exports(instance).get(field)
        if not isinstance(global_, Global):
            raise NoSuchExport(field)
        return self._value(global_.type.value, global_.raw, global_.value)

    def is_trap(self, code: str, expected: str) -> bool:
        return same_trap(code, expected)

    def drive(self) -> Finished:
        """Run what is queued to its end.

        Raises:
            Trap: as the specification says.
        """
        return finished(self.store.run())

    def _exports(self, instance: int) -> Mapping[str, Any]:
        exports: Mapping[str, Any] = self.store.instances[instance].exports
        return exports

    def _value(self, kind: ValType, bits: int, result: Any) -> Value:
        if kind in _NAMES:
            return Number(_NAMES[kind], bits)
        heap = "func" if kind is ValType.FUNCREF else "extern"
        if bits == 0:
            return Null(heap)
        if heap == "extern" and isinstance(result, int):
            return Extern(result)
        return Reference(heap)


def finished(outcome: Finished | Trapped | Paused | Exited) -> Finished:
    """The outcome of a run that must end by itself.

    Raises:
        Trap: it ended so.
        AssertionError: it stopped or exited, which no script makes it do.
    """
    if isinstance(outcome, Trapped):
        raise outcome.trap
    assert isinstance(outcome, Finished), f"the run ended with {outcome}"
    return outcome


def _object(value: Value) -> Any:
    if isinstance(value, Number):
        # Only the slot that this leaves matters, and `invoke` puts the true bits there.
        return 0.0 if value.type.startswith("f") else 0
    if isinstance(value, Null):
        return None
    if isinstance(value, Extern):
        return value.number
    raise NoSuchExport(f"no way to pass {value}")
