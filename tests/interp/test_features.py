"""Features: what is off is refused by name, wherever a module comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wasmsr import FormatError, Module, Snapshot, Store, UnsupportedError
from wasmsr.interp.instruction_set.features import (
    BY_NAME,
    DEFAULT,
    FEATURES,
    SWITCHABLE,
    State,
    bits,
    chosen,
    names,
)
from wasmsr.interp.instruction_set.instructions import INSTRUCTIONS, UNSUPPORTED

TAIL = (
    '(module (func (export "f") (result i32) (return_call $g)) (func $g (result i32) i32.const 7))'
)
SUM = '(module (global (export "g") i32 (i32.add (i32.const 1) (i32.const 2))))'
PLAIN = '(module (func (export "f") (result i32) i32.const 7))'


def test_switches_change_the_default() -> None:
    assert chosen(None) == DEFAULT
    assert chosen("-tail-calls") == DEFAULT - {"tail-calls"}
    assert chosen("-tail-calls, -extended-constants,") == DEFAULT - {
        "tail-calls",
        "extended-constants",
    }
    assert chosen("-tail-calls,+tail-calls") == DEFAULT
    assert chosen(DEFAULT) == DEFAULT
    assert chosen(sorted(DEFAULT - {"tail-calls"})) == DEFAULT - {"tail-calls"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("tail-calls", "neither"),
        ("-tails", "there is no feature 'tails'"),
        ("+gc", "does not have"),
        ("+shared-memory", "does not have"),
        ("-multi-value", "cannot be switched off"),
        (["tail-calls"], "cannot be switched off"),
        ([*DEFAULT, "gc"], "does not have"),
    ],
)
def test_what_cannot_be_chosen(wanted: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(wanted)
    with pytest.raises(ValueError, match=message):
        Module(b"", features=wanted)


def test_what_builds_on_a_feature_goes_with_it() -> None:
    for feature in FEATURES:
        for other in feature.builds_on:
            if other in SWITCHABLE and feature.name in SWITCHABLE:
                assert feature.name not in chosen(f"-{other}")
                assert other in chosen(f"-{other},+{feature.name}")


def test_the_numbers_in_c_are_one_for_each() -> None:
    every = {feature.name for feature in FEATURES}
    assert names(bits(every)) == every
    assert names(bits(["no such feature"])) == frozenset()
    assert all(i.feature in every for i in INSTRUCTIONS if i.feature)
    assert all(name in every for _, _, name in UNSUPPORTED)


@pytest.mark.parametrize(("text", "feature"), [(TAIL, "tail-calls"), (SUM, "extended-constants")])
def test_a_module_says_what_it_needs_and_is_refused_without(text: str, feature: str) -> None:
    module = Module.from_text(text)
    assert module.needed_features == {feature}
    assert Module.from_text(text, features=DEFAULT).allowed_features == DEFAULT
    with pytest.raises(UnsupportedError, match=f'"{feature}", which is switched off') as caught:
        Module.from_text(text, features=f"-{feature}")
    assert caught.value.feature == feature
    assert caught.value.offset is not None
    with pytest.raises(UnsupportedError, match=f'"{feature}", which is switched off'):
        Store(features=f"-{feature}").instantiate(module)
    Store(features=f"-{feature}").instantiate(Module.from_text(PLAIN))


def test_a_module_that_needs_nothing() -> None:
    assert Module.from_text(PLAIN, features="-tail-calls").needed_features == frozenset()


def test_a_snapshot_holds_the_features_in_force() -> None:
    store = Store(features="-extended-constants")
    module = Module.from_text(TAIL)
    store.instantiate(module)
    taken = Snapshot.of(store).state
    assert taken.limits.features == sorted(DEFAULT - {"extended-constants"})
    again = Snapshot(taken).restore(modules=[module])
    assert Snapshot.of(again).state.limits.features == taken.limits.features
    with pytest.raises(UnsupportedError, match="extended-constants"):
        again.instantiate(Module.from_text(SUM))
    # names of a later engine's features are kept
    later = replace(taken, limits=replace(taken.limits, features=["tail-calls", "zeta"]))
    again = Snapshot(later).restore(modules=[module])
    assert Snapshot.of(again).state.limits.features == ["tail-calls", "zeta"]
    less = replace(taken, limits=replace(taken.limits, features=["multi-value"]))
    with pytest.raises(FormatError, match="tail-calls, which was not in force"):
        Snapshot(less).restore(modules=[module])


def test_states_are_what_the_core_has() -> None:
    for name, feature in BY_NAME.items():
        assert (name in DEFAULT) == (feature.state in (State.ALWAYS, State.ON))
