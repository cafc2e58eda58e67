"""Stores with more functions than the first piece of their arrays holds, in every kind of code."""

from __future__ import annotations

import pytest

from wasmsr import Finished, Module, Store

MANY = 20_000


@pytest.fixture(scope="module")
def module() -> Module:
    """Return a module of 20,000 functions; each export calls one of them."""
    functions = "".join(f"(func $f{n} (result i32) (i32.const {n}))" for n in range(MANY))
    table = f"(table {MANY} funcref) (elem (i32.const 0) " + " ".join(f"$f{n}" for n in range(MANY))
    calls = "".join(
        f'(func (export "call{n}") (result i32) (call $f{n}))' for n in range(0, MANY, 37)
    )
    indirect = (
        '(func (export "indirect") (param i32) (result i32)'
        " (call_indirect (result i32) (local.get 0)))"
    )
    return Module.from_text(f"(module {functions} {table}) {calls} {indirect})")


@pytest.mark.parametrize("fuel", [None, 1 << 40])
def test_every_function_can_be_called(module: Module, fuel: int | None) -> None:
    with Store() as store:
        instance = store.instantiate(module)
        for n in range(0, MANY, 37):
            store.enqueue(instance.function(f"call{n}"))
            outcome = store.run(fuel=fuel)
            assert isinstance(outcome, Finished)
            assert outcome.results == (n,)
        indirect = instance.function("indirect")
        for n in range(0, MANY, 41):
            store.enqueue(indirect, n)
            outcome = store.run(fuel=fuel)
            assert isinstance(outcome, Finished)
            assert outcome.results == (n,)


def test_instances_beside_each_other_grow_the_arrays(module: Module) -> None:
    with Store() as store:
        for _ in range(4):
            instance = store.instantiate(module)
            for n in range(0, MANY, 370):
                store.enqueue(instance.function(f"call{n}"))
                outcome = store.run(fuel=1 << 40)
                assert isinstance(outcome, Finished)
                assert outcome.results == (n,)
