"""Code that is made before a function is called (interp/modules/ahead.py)."""

from __future__ import annotations

import pytest

from tests.interp.test_native import exported
from wasmsr import Finished, Module, Store
from wasmsr.interp.modules.ahead import called, compile_ahead

TEXT = """(module
  (import "env" "host" (func $host))
  (func $inner (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
  (func (export "run") (param i32) (result i32) (call $inner (local.get 0)))
  (func (export "other") (result i32) (i32.const 7)))"""
HOST, INNER, RUN, OTHER = range(4)
IMPORTS = {"env": {"host": lambda: None}}


@pytest.fixture
def module() -> Module:
    """A module of its own: code is kept with the module."""
    return Module.from_text(TEXT)


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_was_called_has_code(module: Module, deterministic: bool) -> None:
    assert called(module) == [[], [], [], []]
    store = Store(deterministic=deterministic)
    exported(store.instantiate(module, IMPORTS), "run")(1)
    assert called(module)[2 * deterministic] == [INNER, RUN]
    assert called(module)[2 - 2 * deterministic] == []


def test_counted_code_is_another(module: Module) -> None:
    store = Store()
    store.enqueue(exported(store.instantiate(module, IMPORTS), "run"), 1)
    assert isinstance(store.run(fuel=1 << 30), Finished)
    assert called(module)[1] == [INNER, RUN]


def test_code_made_ahead_is_there_and_right(module: Module) -> None:
    compile_ahead(module, [[RUN, OTHER], [RUN], [INNER]])
    plain, metered, *_ = called(module)
    assert plain == [RUN, OTHER]
    assert RUN in metered
    assert called(module)[2] == [INNER]
    assert exported(Store().instantiate(module, IMPORTS), "run")(41) == 42


def test_wrong_indices_are_passed_over(module: Module) -> None:
    compile_ahead(module, [[0xFFFFFFFF, HOST, 4, 4_000_000, OTHER, OTHER], [], [], [], [RUN]])
    assert called(module)[0] == [OTHER]
    with pytest.raises((OverflowError, TypeError)):
        compile_ahead(module, [[-1]])


def test_an_invalid_body_is_left_to_its_first_call() -> None:
    binary = bytes.fromhex("0061736d01000000010401600000030201000707010372756e00000a050103006a0b")
    module = Module(binary, lazy=True)
    compile_ahead(module, [[0]])
    assert called(module)[0] == []
