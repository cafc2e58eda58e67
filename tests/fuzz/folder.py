"""Modules that another generator made, here and under Wasmtime: all that can be seen must be equal.

`python -m tests.fuzz.folder FOLDER [--seconds N]` takes each .wasm file that imports nothing, calls
each exported function whose types Python has, with arguments that its name decides, and compares
results, traps, and what is exported of memories, tables and globals after each call. Here a module
runs straight, counted, and with journeys through bytes. So a campaign with wasm-smith, which is
part of the Rust tool wasm-tools, is a loop that writes modules and this.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

from tests.fuzz import differential
from tests.fuzz.throwing import FEATURES
from tests.interp.machines import hop
from wasmsr import (
    FuncType,
    Limits,
    Memory,
    Module,
    Outcome,
    Paused,
    Store,
    Table,
    Trap,
    Trapped,
    UncaughtException,
    ValType,
)

ELEMENTS, PAGES = 10_000, 64
"""Limits of tables and memories, the same in both."""
NUMBERS = (ValType.I32, ValType.I64, ValType.F32, ValType.F64)
TOO_LONG = 20_000_000
"""Instructions after which a module is left alone."""

Call = tuple[str, tuple[int | float, ...]]
Step = tuple[str | None, tuple[Any, ...], dict[str, Any]]
"""What can be seen after a call: trap, results, exports."""


class Unfit(Exception):
    """The module cannot be compared: it imports something, or takes very long."""


def plan(module: Module) -> list[Call]:
    """The calls to make.

    Raises:
        Unfit: it imports something.
    """
    if module.imports:
        raise Unfit
    calls = []
    for export in module.exports:
        type_ = export.type
        if isinstance(type_, FuncType) and all(t in NUMBERS for t in type_.params + type_.results):
            draw = random.Random(export.name)
            arguments = [
                draw.choice((0, 1, -1, 7, 65535, draw.getrandbits(31)))
                if t in (ValType.I32, ValType.I64)
                else draw.choice((0.0, -1.5, 1e9, math.inf))
                for t in type_.params
            ]
            calls.append((export.name, tuple(arguments)))
    return calls


def _plain(value: Any) -> Any:
    """A number so that equal ones are equal: all NaNs are one."""
    return "nan" if isinstance(value, float) and math.isnan(value) else value


# ---- here


def _seen(store: Store, trap: str | None, results: tuple[Any, ...]) -> Step:
    store.check()
    instance = store.instances[0]
    exports: dict[str, Any] = {}
    for name, item in instance.exports.items():
        if isinstance(item, Memory):
            exports[name] = hashlib.sha256(item.data).digest()
        elif isinstance(item, Table):
            exports[name] = len(item)
    for export in instance.module.exports:
        type_ = export.type
        if getattr(type_, "value", None) in NUMBERS:
            exports[export.name] = _plain(instance.global_(export.name).value)
    return trap, tuple(map(_plain, results)), exports


def _trap(trap: Trap) -> str:
    if isinstance(trap, UncaughtException):
        return "exception"
    return differential.SAME.get(str(trap.code), str(trap.code))


def here(
    module: Module, calls: list[Call], advance: Callable[[Store], tuple[Outcome, Store]]
) -> list[Step]:
    """What is seen after each call, run by `advance`; one step alone if it cannot be begun."""
    store = Store(
        deterministic=True, features=FEATURES, limits=Limits(PAGES, ELEMENTS, 1 << 20, 1 << 14)
    )
    try:
        store.instantiate(module, start=False)
    except Trap as trap:
        return [(_trap(trap), (), {})]
    steps = []
    for call in [None, *calls]:  # at first the start function
        if call:
            store.enqueue(store.instances[0].function(call[0]), *call[1])
        outcome, store = advance(store)
        if isinstance(outcome, Paused):
            raise Unfit
        trap = _trap(outcome.trap) if isinstance(outcome, Trapped) else None
        if trap and not call:
            return [(trap, (), {})]
        steps.append(_seen(store, trap, outcome.results if call and not trap else ()))
    return steps


# ---- under Wasmtime


def there(module: Module, calls: list[Call]) -> list[Step]:
    """The same under Wasmtime."""
    engine = differential.engine()
    store = wasmtime.Store(engine)
    store.set_limits(table_elements=ELEMENTS, memory_size=PAGES << 16)
    try:
        instance = wasmtime.Instance(store, wasmtime.Module(engine, module.binary), [])
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        return [(_message(error), (), {})]
    exports: Any = instance.exports(store)

    def seen(trap: str | None, results: tuple[Any, ...]) -> Step:
        values: dict[str, Any] = {}
        for export in module.exports:
            item = exports[export.name]
            if isinstance(item, wasmtime.Memory):
                data = bytes(item.read(store, 0, item.data_len(store)))
                values[export.name] = hashlib.sha256(data).digest()
            elif isinstance(item, wasmtime.Table):
                values[export.name] = item.size(store)
            elif getattr(export.type, "value", None) in NUMBERS:
                values[export.name] = _plain(item.value(store))
        return trap, tuple(map(_plain, results)), values

    steps = [seen(None, ())]
    for name, arguments in calls:
        try:
            found = exports[name](store, *arguments)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            steps.append(seen(_message(error), ()))
            continue
        several = found if isinstance(found, list) else [] if found is None else [found]
        steps.append(seen(None, tuple(several)))
    return steps


def _message(error: Exception) -> str:
    text = str(error)
    if "exception" in text and "trap" not in text:
        return "exception"
    return differential.trap_of(text)


# ---- together


def compare(module: Module, seed: int) -> tuple[int, int, int]:
    """Run one module in all ways; how many calls, instructions and journeys that took.

    Raises:
        AssertionError: two ways differ.
        Unfit: it cannot be compared.
    """
    calls = plan(module)
    counts = [0, 0]

    def counted(store: Store) -> tuple[Outcome, Store]:
        before = store.executed or 0
        outcome = store.run(fuel=TOO_LONG)
        counts[0] += (store.executed or 0) - before
        return outcome, store

    plain = here(module, calls, counted)
    draw, mean = random.Random(seed), max(1, counts[0] // 20)

    def travelling(store: Store) -> tuple[Outcome, Store]:
        while isinstance(outcome := store.run(fuel=draw.randint(1, 2 * mean)), Paused):
            store = hop(store)
            counts[1] += 1
        return outcome, store

    assert here(module, calls, lambda store: (store.run(), store)) == plain, "uncounted"
    assert here(module, calls, travelling) == plain, "with journeys"
    assert there(module, calls) == plain, "Wasmtime"
    return len(calls), counts[0], counts[1]


def main() -> None:
    """Compare the modules of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=math.inf)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    totals, modules, unfit, wrong = [0, 0, 0], 0, 0, 0
    for number, path in enumerate(sorted(options.folder.glob("*.wasm"))):
        if time.monotonic() > end:
            break
        try:
            found = compare(Module.from_file(path, features=FEATURES), number)
            modules += 1
            totals = [a + b for a, b in zip(totals, found, strict=True)]
        except Unfit:
            unfit += 1
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            wrong += 1
            print(f"{path.name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    calls, instructions, journeys = totals
    print(
        f"{modules} modules, {unfit} unfit, {wrong} differ; {calls} calls, "
        f"{instructions} instructions, {journeys} journeys"
    )
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
