"""Wasmtime, from PyPI, in the engine's place: it shows that the runner itself is right.
Test code only; wasmsr runs nothing through it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasmsr.errors import InvalidError, LinkError, Trap

from . import spectest
from .engine import NoSuchExport, UncaughtException, same_trap
from .oracle import _engine
from .values import Extern, Null, Number, Reference, Value

# WASMTIME_ANYREF and WASMTIME_EXNREF of wasmtime/val.h; the package has no names for them.
_ANYREF, _EXNREF = ctypes.c_uint8(7), ctypes.c_uint8(8)
_KINDS = {
    "i32": ffi.WASMTIME_I32,
    "i64": ffi.WASMTIME_I64,
    "f32": ffi.WASMTIME_F32,
    "f64": ffi.WASMTIME_F64,
    "v128": ffi.WASMTIME_V128,
    "func": ffi.WASMTIME_FUNCREF,
    "extern": ffi.WASMTIME_EXTERNREF,
    "exn": _EXNREF,
}
_SIZES = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}
_TYPES = {kind.value: name for name, kind in _KINDS.items()}
_REFERENCE = ctypes.sizeof(ffi.wasmtime_anyref_t)
_FAMILY = {"nofunc": "func", "noextern": "extern", "noexn": "exn"}


class WasmtimeSession:
    """A store of Wasmtime. Values cross as raw bits: through Python floats a signalling NaN would
    not survive."""

    tells_malformed = False

    def __init__(self) -> None:
        self.store = wasmtime.Store(_engine())
        self.instances: list[wasmtime.Instance] = []
        self.printed: list[tuple[Value, ...]] = []

    @cached_property
    def spectest(self) -> int:
        binary = wasmtime.wat2wasm(spectest.text(table64=True))
        module = wasmtime.Module(self.store.engine, bytes(binary))
        return self._new(module, [self._print(params) for params in spectest.PRINTS.values()])

    def _print(self, params: Sequence[str]) -> wasmtime.Func:
        types = [getattr(wasmtime.ValType, name)() for name in params]

        def call(*args: float) -> None:
            # Only the number of calls and of arguments is ever compared across engines.
            self.printed.append(tuple(Number(name, 0) for name in params[: len(args)]))

        return wasmtime.Func(self.store, wasmtime.FuncType(types, []), call)

    def decode(self, binary: bytes) -> wasmtime.Module:
        try:
            return wasmtime.Module(self.store.engine, binary)
        except wasmtime.WasmtimeError as error:
            raise InvalidError(str(error)) from error

    def import_names(self, module: wasmtime.Module) -> list[str]:
        return [wanted.module for wanted in module.imports]

    def instantiate(self, module: wasmtime.Module, registered: Mapping[str, int]) -> int:
        externs: list[Any] = []
        for wanted in module.imports:
            number = registered.get(wanted.module)
            exports = {} if number is None else self.instances[number].exports(self.store)
            if wanted.name not in exports:
                raise LinkError(f"unknown import {wanted.module}.{wanted.name}")
            externs.append(exports[wanted.name or ""])
        return self._new(module, externs)

    def _new(self, module: wasmtime.Module, externs: Sequence[Any]) -> int:
        try:
            instance = wasmtime.Instance(self.store, module, externs)
        except wasmtime.Trap as trap:
            raise _failure(trap) from trap
        except wasmtime.WasmtimeError as error:
            raise LinkError(str(error)) from error
        self.instances.append(instance)
        return len(self.instances) - 1

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        function = self.instances[instance].exports(self.store).get(field)
        if not isinstance(function, wasmtime.Func):
            raise NoSuchExport(field)
        results = len(function.type(self.store).results)
        given = (ffi.wasmtime_val_t * len(args))(*map(self._raw, args))
        returned = (ffi.wasmtime_val_t * results)()
        trap = ctypes.POINTER(ffi.wasm_trap_t)()
        error = ffi.wasmtime_func_call(
            self.store._context(),
            ctypes.byref(function._func),
            given,
            len(args),
            returned,
            results,
            ctypes.byref(trap),
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)
        if trap:
            raise _failure(wasmtime.Trap._from_ptr(trap))
        return [self._value(raw) for raw in returned]

    def get(self, instance: int, field: str) -> Value:
        global_ = self.instances[instance].exports(self.store).get(field)
        if not isinstance(global_, wasmtime.Global):
            raise NoSuchExport(field)
        raw = ffi.wasmtime_val_t()
        ffi.wasmtime_global_get(
            self.store._context(), ctypes.byref(global_._global), ctypes.byref(raw)
        )
        return self._value(raw)

    def is_trap(self, code: str, expected: str) -> bool:
        if expected == "unreachable" or expected.startswith("null "):
            return expected.split()[0] in code
        return expected in code or same_trap(code, expected)

    def _raw(self, value: Value) -> ffi.wasmtime_val_t:
        if isinstance(value, Extern):
            raw: ffi.wasmtime_val_t = wasmtime.Val.externref(value)._new_raw(self.store)
            return raw
        raw = ffi.wasmtime_val_t()
        if isinstance(value, Number):
            raw.kind = _KINDS[value.type]
            size = _SIZES[value.type]
            ctypes.memmove(ctypes.addressof(raw.of), value.bits.to_bytes(size, "little"), size)
        elif isinstance(value, Null):
            heap = value.heap or "any"
            raw.kind = _KINDS.get(_FAMILY.get(heap, heap), _ANYREF)
        elif value.heap == "host":
            extern = wasmtime.Val.externref(value)._new_raw(self.store)
            raw.kind = _ANYREF
            # The reference of an external value, seen as `any`, is the same object.
            ctypes.memmove(ctypes.addressof(raw.of), ctypes.addressof(extern.of), _REFERENCE)
        else:
            raise NoSuchExport(f"no way to pass {value}")
        return raw

    def _value(self, raw: ffi.wasmtime_val_t) -> Value:
        kind: Any = raw.kind
        name = _TYPES.get(int(kind), "any")
        if name in _SIZES:
            content = ctypes.string_at(ctypes.addressof(raw.of), _SIZES[name])
            return Number(name, int.from_bytes(content, "little"))
        if raw.of.funcref.store_id == 0:
            return Null(name)
        if name == "extern":
            value = wasmtime.Val._from_raw(self.store, raw, owned=False).value
            return value if isinstance(value, Extern) else Reference("extern")
        if name != "any":
            return Reference(name)
        reference = ctypes.byref(raw.of.anyref)
        # In this order: version 50 says "i31" of whatever it is asked about.
        for heap in ("struct", "array", "i31"):
            if getattr(ffi, f"wasmtime_anyref_is_{heap}")(self.store._context(), reference):
                return Reference(heap)
        return Reference("host")


def _failure(trap: wasmtime.Trap) -> Exception:
    message = trap.message.strip()
    if message.endswith("thrown Wasm exception"):
        return UncaughtException(message)
    return Trap(message.rpartition("wasm trap: ")[2])
