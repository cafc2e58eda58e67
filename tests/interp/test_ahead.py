"""Code that is made before a function is called (interp/modules/ahead.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interp.test_native import exported
from wasmsr import Finished, Module, Store
from wasmsr.errors import FormatError
from wasmsr.interp import compiling, tier
from wasmsr.interp.modules import ahead as ahead_module
from wasmsr.interp.modules.ahead import (
    AheadCompiler,
    CalledFunctions,
    called,
    called_functions,
    compile_ahead,
)

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


# ---- for a program that comes from elsewhere -----------------------------------------------------


@pytest.fixture
def choose_tier() -> Iterator[Callable[[str], None]]:
    def choose(name: str) -> None:
        if name != "interpreter" and (why := tier.refusal()):
            pytest.skip(why)
        tier.choose(name)
        tier.enough(1)

    yield choose
    tier.choose(None)
    tier.enough()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", tier.TIERS)
def test_what_was_called_there_needs_no_translation_here(
    module: Module, name: str, deterministic: bool, choose_tier: Callable[[str], None]
) -> None:
    choose_tier(name)
    store = Store(deterministic=deterministic)
    run = exported(store.instantiate(module, IMPORTS), "run")
    assert run(1) == 2
    while name != "interpreter" and not tier.code_bytes():
        compiling.work()
    store.enqueue(run, 1)
    assert isinstance(store.run(fuel=1 << 30), Finished)
    if name == "auto":
        compiling.work()
    there = list(called_functions([module], deterministic=deterministic))
    assert [RUN in one.functions for one in there] == [True] * len(there)
    assert any(one.native for one in there) == (name != "interpreter")

    here = Module.from_text(TEXT)
    ahead = AheadCompiler()
    for one in there:
        ahead.compile(here, one)

    def coded() -> list[list[int]]:
        found = called_functions([here], deterministic=deterministic)
        return [list(one.functions) for one in found]

    before = coded()
    assert before == [list(one.functions) for one in there]
    store = Store(deterministic=deterministic)
    assert exported(store.instantiate(here, IMPORTS), "run")(1) == 2
    assert coded() == before
    assert exported(store.instantiate(here, IMPORTS), "other")() == 7
    assert coded() != before


def test_an_end_with_another_tier_makes_its_own_code(
    module: Module, choose_tier: Callable[[str], None]
) -> None:
    """Native code there is of no use to an interpreter here, and the other way round."""
    choose_tier("native")
    exported(Store().instantiate(module, IMPORTS), "run")(1)
    there = list(called_functions([module], deterministic=False))
    choose_tier("interpreter")
    here = Module.from_text(TEXT)
    ahead = AheadCompiler()
    for one in there:
        ahead.compile(here, one)
    assert [one.native for one in called_functions([here], deterministic=False)] == [False]
    choose_tier("native")
    again = Module.from_text(TEXT)
    AheadCompiler().compile(again, next(called_functions([here], deterministic=False)))
    assert [one.native for one in called_functions([again], deterministic=False)] == [False, True]


def named(*functions: int, native: bool = False) -> CalledFunctions:
    return CalledFunctions(b"", False, False, native, functions)


@pytest.mark.parametrize(
    "lie", [(HOST,), (4,), (4_000_000_000,), (RUN, RUN), (RUN, INNER), (INNER, 0xFFFFFFFF)]
)
def test_functions_that_cannot_have_been_called(module: Module, lie: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="comes twice or has no body"):
        AheadCompiler().compile(module, named(*lie))
    assert called(module)[0] == []


def test_a_function_is_named_once_of_each_kind(module: Module) -> None:
    ahead = AheadCompiler()
    ahead.compile(module, named(INNER))
    ahead.compile(module, named(INNER, native=True))
    ahead.compile(module, named(RUN))
    with pytest.raises(FormatError, match="comes twice"):
        ahead.compile(module, named(RUN))
    assert called(module)[0] == [INNER, RUN]


def test_no_more_is_compiled_than_the_limit(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond it waits for its call."""
    monkeypatch.setattr(ahead_module, "MOST_BYTES", 10)
    ahead = AheadCompiler()
    ahead.compile(module, named(INNER, RUN))
    ahead.compile(module, named(OTHER))
    assert called(module)[0] == [INNER]
    assert exported(Store().instantiate(module, IMPORTS), "run")(41) == 42
