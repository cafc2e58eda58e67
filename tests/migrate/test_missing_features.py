"""A destination that lacks a feature refuses the program before it moves."""

from __future__ import annotations

from pathlib import Path

from wasmsr import Module
from wasmsr.interp.instruction_set.features import DEFAULT
from wasmsr.migrate.hosting.host import Hosting
from wasmsr.migrate.protocol import Description, ModuleName, Reason
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants

TEXT = """(module (memory (export "memory") 1)
  (func (export "_start") (return_call $end)) (func $end))"""


def described(features: str | None = None) -> Description:
    """What a host says of a program that needs tail calls."""
    source = Hosting(lambda: HostGrants(stdin=None), known={}, files=Path(), features=features)
    module = Module.from_text(TEXT, features=features)
    return source.launch(lambda grants: Program.launch(module, grants=grants)).describe()


def test_what_a_program_needs_is_told() -> None:
    assert described().features == ("tail-calls",)
    assert described("-extended-constants").features == ("tail-calls",)


def test_a_destination_with_the_feature_takes_it() -> None:
    there = Hosting(
        lambda: HostGrants(stdin=None), known={}, files=Path(), features="-extended-constants"
    )
    assert there.refuse(described()) is None


def test_a_destination_without_the_feature_refuses() -> None:
    there = Hosting(lambda: HostGrants(stdin=None), known={}, files=Path(), features="-tail-calls")
    refusal = there.refuse(described())
    assert refusal is not None
    assert refusal.reason is Reason.FEATURE
    assert "needs the feature tail-calls, which is switched off" in refusal.sentence
    assert "--features +tail-calls" in refusal.hint


def test_a_feature_that_nobody_here_knows() -> None:
    module = ModuleName(b"d" * 32, 8)
    for name in ("gc", "zeta"):
        refusal = Hosting(lambda: HostGrants(stdin=None), known={}, files=Path()).refuse(
            Description((module,), features=(name,))
        )
        assert refusal is not None
        assert f"needs the feature {name}, which it does not have" in refusal.sentence
    assert "zeta" not in DEFAULT
