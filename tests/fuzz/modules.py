"""Damaged modules: every result is a module or one of the typed errors, soon and in little memory.

`python -m tests.fuzz.modules --seconds N [--seed S]` runs it for longer; `test_modules` for a
moment. What is taken as valid is compiled, run for a while, saved, restored and run on.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import suppress
from pathlib import Path

from tests.fuzz.generate import Generator
from tests.interp.machines import hop, uncompilable
from wasmsr import (
    FuncType,
    GlobalType,
    HostError,
    HostFunction,
    Limits,
    Memory,
    MemoryType,
    Module,
    ModuleError,
    Paused,
    Store,
    Table,
    TableType,
    Trap,
    UnportableState,
    ValType,
)
from wasmsr.interp.store.externs import Global
from wasmsr.interp.store.instance import Instance

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "snapshot"
SLOW = 5.0
"""Seconds that no module of this size may take."""
INTERESTING = (0, 1, 2, 0x40, 0x60, 0x6F, 0x70, 0x7C, 0x7F, 0x80, 0xFC, 0xFF)


class Mutator:
    """Makes damaged modules of good ones; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seeds = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.wasm"))]
        self.seeds = [seed for seed in self.seeds if len(seed) < 100_000]
        generated = (Generator(random.Random(n).randrange).module() for n in range(20))
        self.seeds += [Module.from_text(source).binary for source in generated]

    def next(self) -> bytes:
        source = self.random
        data = bytearray(source.choice(self.seeds))
        if source.random() < 0.05:
            return bytes(data[: source.randrange(len(data))])
        for _ in range(source.choice((1, 1, 1, 2, 4, 10))):
            at = source.randrange(8, len(data))
            kind = source.randrange(7)
            if kind == 0:
                data[at] ^= 1 << source.randrange(8)
            elif kind == 1:
                data[at] = source.choice(INTERESTING)
            elif kind == 2:
                data[at] = source.randrange(256)
            elif kind == 3:
                data[at : at + 5] = b"\xff\xff\xff\xff\x0f"
            elif kind == 4:
                del data[at : at + source.choice((1, 2, 8))]
            elif kind == 5:
                data[at:at] = source.randbytes(source.choice((1, 2, 8)))
            else:
                other = source.choice(self.seeds)
                begin = source.randrange(len(other))
                piece = other[begin : begin + source.choice((4, 16, 64))]
                data[at : at + len(piece)] = piece
            if len(data) <= 9:
                break
        return bytes(data)


def trial(data: bytes) -> bool:
    """Load damaged bytes, and run what is valid; whether it was."""
    began = time.perf_counter()
    try:
        module = Module(data)
    except ModuleError as error:
        assert 5 < len(error.message) < 300, error.message
        assert error.offset is None or 0 <= error.offset <= len(data)
        valid = False
        _invalid_late(data, error)
    else:
        valid = True
        for export in module.exports:
            assert isinstance(export.name, str)
        module.function_name(0)
        _run(module)
    assert time.perf_counter() - began < SLOW
    return valid


def _invalid_late(data: bytes, error: ModuleError) -> None:
    """What is wrong with a body is found when it is compiled, if it was not looked for before: the
    same is said, and what else the module holds does no harm."""
    try:
        module = Module(data, lazy=True)
    except ModuleError as same:
        assert (type(same), same.message) == (type(error), error.message)
        return
    _, instance, _ = _instance(module)
    if instance is None:
        return
    found = uncompilable(instance)
    assert (type(found), found.offset) == (type(error), error.offset)  # type: ignore[union-attr]
    assert found.message.endswith(error.message)  # type: ignore[union-attr]
    with suppress(ModuleError):
        _run(module)


def _run(module: Module) -> None:
    """Run the start function and each export for a while, with a journey in between."""
    store, instance, nested = _instance(module)
    if instance is None:
        return
    for export in module.exports:
        if isinstance(export.type, FuncType):
            arguments = [
                None if t in (ValType.FUNCREF, ValType.EXTERNREF) else 1 for t in export.type.params
            ]
            store.enqueue(instance.function(export.name), *arguments)
    for _ in range(4):
        try:
            outcome = store.run(fuel=500)
            store.check()
        except HostError:
            return
        if not isinstance(outcome, Paused):
            return
        try:
            store = hop(store, nested)  # type: ignore[arg-type]
        except UnportableState:
            return


def _instance(module: Module) -> tuple[Store, Instance | None, dict[str, dict[str, object]]]:
    """A store, an instance with whatever it imports, if it can be had, and what that is."""
    store = Store(limits=Limits(256, 100_000, 100_000, 1000))
    imports = {(i.module, i.name): _given(store, i.type) for i in module.imports}
    nested: dict[str, dict[str, object]] = {}
    for (outer, name), item in imports.items():
        nested.setdefault(outer, {})[name] = item
    try:
        return store, store.instantiate(module, nested, start=False), nested  # type: ignore[arg-type]
    except (ModuleError, Trap):
        return store, None, nested


def _given(store: Store, type_: object) -> object:
    if isinstance(type_, FuncType):
        none = (ValType.FUNCREF, ValType.EXTERNREF)
        results = tuple(None if t in none else 0 for t in type_.results)
        single = results[0] if len(results) == 1 else results or None
        return HostFunction(type_, lambda *_: single)
    try:
        if isinstance(type_, MemoryType):
            return Memory.new(store, type_)
        if isinstance(type_, TableType):
            return Table.new(store, type_)
    except ModuleError:
        return None
    assert isinstance(type_, GlobalType)
    none = (ValType.FUNCREF, ValType.EXTERNREF)
    return Global.new(store, type_, None if type_.value in none else 0)


def main() -> None:
    """Run for as many seconds as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    mutator = Mutator(options.seed)
    print(f"seed {options.seed}", flush=True)
    end = time.monotonic() + options.seconds
    count = valid = 0
    while time.monotonic() < end:
        data = mutator.next()
        Path("module-last.wasm").write_bytes(data)  # a crash leaves it behind
        try:
            valid += trial(data)
        except BaseException:
            print(f"after {count} modules; the bytes are in module-last.wasm")
            raise
        count += 1
    Path("module-last.wasm").unlink(missing_ok=True)
    print(f"{count} damaged modules, {valid} valid, none caused harm")


if __name__ == "__main__":
    main()
