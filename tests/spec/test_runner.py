"""The runner itself is right: a good engine passes, and every kind of wrong answer is noticed.

The good engine is Wasmtime; the wrong ones are Wasmtime with one answer altered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from wasmsr.errors import (
    InvalidError,
    LinkError,
    MalformedError,
    Trap,
    UnsupportedError,
)

from . import report, suite
from .convert import has_wabt
from .engine import Session, UncaughtException, same_trap
from .execute import Runner, Tally
from .oracle import needs
from .runner import run_script
from .script import Script
from .values import Extern, Null, Number, Value
from .wasmtime_session import WasmtimeSession

pytestmark = pytest.mark.skipif(
    "WASMSR_SANITIZED" in os.environ,
    reason="Wasmtime's compiled code and signal handlers do not go together with a sanitizer",
)

SCRIPT = r"""
(module $m
  (import "spectest" "print_i32" (func $print (param i32)))
  (global (export "g") i64 (i64.const -2))
  (memory 1)
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "nan") (result f32) (f32.div (f32.const 0) (f32.const 0)))
  (func (export "same") (param f32) (result f32) (local.get 0))
  (func (export "two") (result i32 f64) (i32.const 1) (f64.const -0.0))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "null") (result funcref) (ref.null func))
  (func (export "extern") (param externref) (result externref) (local.get 0))
  (func $loop (export "loop") (call $loop))
  (func (export "say") (call $print (i32.const 5))))
(register "M" $m)
(invoke "say")
(assert_return (invoke "add" (i32.const 2) (i32.const -3)) (i32.const -1))
(assert_return (invoke $m "nan") (f32.const nan:canonical))
(assert_return (invoke "same" (f32.const -nan:0x200001)) (f32.const -nan:0x200001))
(assert_return (invoke "two") (i32.const 1) (f64.const -0.0))
(assert_return (get "g") (i64.const -2))
(assert_return (invoke "null") (ref.null func))
(assert_return (invoke "extern" (ref.extern 7)) (ref.extern 7))
(assert_trap (invoke "load" (i32.const 65536)) "out of bounds memory access")
(assert_trap (module (func $f unreachable) (start $f)) "unreachable")
(assert_exhaustion (invoke "loop") "call stack exhausted")
(assert_unlinkable (module (import "M" "none" (func))) "unknown import")
(assert_unlinkable (module (import "M" "add" (func))) "incompatible import type")
(assert_invalid (module (func (result i32))) "type mismatch")
(assert_malformed (module binary "\00asm\02\00\00\00") "unknown binary version")
(assert_malformed (module quote "(func") "unexpected token")
(module definition $d (global (export "x") (mut i32) (i32.const 0))
  (func (export "up") (result i32)
    (global.set 0 (i32.add (global.get 0) (i32.const 1))) (global.get 0)))
(module instance $a $d)
(module instance $b $d)
(assert_return (invoke $a "up") (i32.const 1))
(assert_return (invoke $a "up") (i32.const 2))
(assert_return (invoke $b "up") (i32.const 1))
"""
ASSERTIONS = SCRIPT.count("(assert_")


def run(session: Session, text: str = SCRIPT) -> Tally:
    return Runner(Script("test", text), session).run()


def failed(session: Session) -> list[str]:
    """The lines of the script at which a session is told that it is wrong, from `(` on."""
    lines = SCRIPT.splitlines()
    return [lines[failure.line - 1] for failure in run(session).failures]


def test_a_right_engine_passes() -> None:
    tally = run(WasmtimeSession())
    assert tally.failures == []
    assert tally.assertions == {"passed": ASSERTIONS - 1, "converter": 1}
    assert tally.commands == {"passed": 6}
    assert tally.printed == 1


class Altered(WasmtimeSession):
    """Wasmtime with answers changed: every result by `alter`, every trap's code, and so on."""

    def __init__(
        self,
        alter: Callable[[Value], Value] = lambda value: value,
        *,
        drop_result: bool = False,
        trap_code: str | None = None,
        no_traps: bool = False,
        no_validation: bool = False,
        refusal: type[Exception] = InvalidError,
        link_refusal: type[Exception] = LinkError,
    ) -> None:
        super().__init__()
        self._alter = alter
        self._drop_result = drop_result
        self._trap_code = trap_code
        self._no_traps = no_traps
        self._no_validation = no_validation
        self._refusal = refusal
        self._link_refusal = link_refusal

    def decode(self, binary: bytes) -> Any:
        try:
            return super().decode(binary)
        except InvalidError:
            if self._no_validation:
                return super().decode(b"\0asm\1\0\0\0")
            raise self._refusal("as you like it") from None

    def instantiate(self, module: Any, registered: Mapping[str, int]) -> int:
        try:
            return super().instantiate(module, registered)
        except LinkError:
            raise self._link_refusal("as you like it") from None

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        try:
            results = super().invoke(instance, field, args)
        except Trap as trap:
            if self._no_traps:
                return []
            raise Trap(self._trap_code or trap.code) from None
        return [self._alter(value) for value in results][: -1 if self._drop_result else None]

    def get(self, instance: int, field: str) -> Value:
        return self._alter(super().get(instance, field))


def flip(value: Value) -> Value:
    return Number(value.type, value.bits ^ 1) if isinstance(value, Number) else value


def test_one_wrong_bit_in_any_number_is_noticed() -> None:
    with_numbers = [line for line in SCRIPT.splitlines() if line.startswith("(assert_return")]
    with_numbers = [line for line in with_numbers if "(ref." not in line]
    assert failed(Altered(flip)) == with_numbers
    assert len(with_numbers) == 8


def test_a_wrong_type_is_noticed() -> None:
    wrong = failed(Altered(lambda v: Number("i64", v.bits) if isinstance(v, Number) else v))
    assert len(wrong) == 7  # all but the global, which is an i64


def test_wrong_references_are_noticed() -> None:
    assert failed(Altered(lambda v: Null("extern") if isinstance(v, Extern) else v)) == [
        '(assert_return (invoke "extern" (ref.extern 7)) (ref.extern 7))'
    ]
    assert failed(Altered(lambda v: Extern(0) if isinstance(v, Null) else v)) == [
        '(assert_return (invoke "null") (ref.null func))'
    ]


def test_a_missing_result_is_noticed() -> None:
    wrong = failed(Altered(drop_result=True))
    assert len(wrong) == 9  # the global is read, not returned


def test_a_missing_trap_is_noticed() -> None:
    assert [line.split()[0] for line in failed(Altered(no_traps=True))] == [
        "(assert_trap",
        "(assert_exhaustion",
    ]


def test_a_trap_under_another_name_is_noticed() -> None:
    assert [line.split()[0] for line in failed(Altered(trap_code="integer overflow"))] == [
        "(assert_trap",
        "(assert_exhaustion",
    ]


def test_an_engine_that_accepts_everything_is_noticed() -> None:
    assert [line.split()[0] for line in failed(Altered(no_validation=True))] == [
        "(assert_invalid",
        "(assert_malformed",
    ]


@pytest.mark.parametrize(
    ("refusal", "wrong"),
    [
        (InvalidError, ["(assert_malformed"]),
        (MalformedError, ["(assert_invalid"]),
        (LinkError, ["(assert_invalid", "(assert_malformed"]),
        (RuntimeError, ["(assert_invalid", "(assert_malformed"]),
    ],
)
def test_malformed_and_invalid_are_told_apart(refusal: type[Exception], wrong: list[str]) -> None:
    session = Altered(refusal=refusal)
    session.tells_malformed = True
    assert [line.split()[0] for line in failed(session)] == wrong


def test_a_link_error_of_another_kind_is_noticed() -> None:
    assert [line.split()[0] for line in failed(Altered(link_refusal=InvalidError))] == [
        "(assert_unlinkable",
        "(assert_unlinkable",
    ]


class Crashing(WasmtimeSession):
    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        raise ZeroDivisionError("a fault of the engine itself")


def test_a_crash_of_the_engine_is_a_failure_of_that_assertion() -> None:
    tally = run(Crashing())
    # The global is read, three modules do not link, one traps and three are refused or converted.
    assert tally.assertions["passed"] + tally.assertions["converter"] == 7
    assert tally.assertions["failed"] == ASSERTIONS - 7
    assert all("ZeroDivisionError" in failure.message for failure in tally.failures)


def test_what_depends_on_a_failed_module_fails() -> None:
    text = """(module $m (import "M" "none" (func)) (func (export "f")))
    (register "M" $m)
    (module (import "M" "f" (func)))
    (assert_return (invoke "f"))
    (assert_trap (invoke $m "f") "unreachable")
    (assert_unlinkable (module (import "M" "x" (func))) "unknown import")"""
    tally = run(WasmtimeSession(), text)
    assert tally.assertions == {"failed": 3}
    assert tally.commands == {"failed": 3}


# Skips.

NEEDY = """
(module $v (memory 1) (func (export "f") (result i32) (i32.const 1))
  (func (drop (v128.const i32x4 0 0 0 0))))
(assert_return (invoke "f") (i32.const 1))
(register "V" $v)
(module $w (import "V" "f" (func $f (result i32))) (export "g" (func $f)))
(assert_return (invoke "g") (i32.const 1))
(assert_invalid (module (func (result i32) (v128.const i32x4 0 0 0 0))) "type mismatch")
(assert_unlinkable (module (import "V" "x" (func))) "unknown import")
(module (func (export "h")))
(assert_return (invoke "h"))
(assert_return (invoke $v "f") (i32.const 1))
"""


class Lacking(WasmtimeSession):
    """Says that it lacks a feature whenever a module's bytes hold some byte string."""

    def __init__(self, feature: str, mark: bytes) -> None:
        super().__init__()
        self._feature, self._mark = feature, mark

    def decode(self, binary: bytes) -> Any:
        if self._mark in binary:
            raise UnsupportedError("not here", feature=self._feature)
        return super().decode(binary)


V128_CONST = b"\xfd\x0c"


def test_what_depends_on_a_feature_is_skipped_and_counted() -> None:
    tally = run(Lacking("simd", V128_CONST), NEEDY)
    assert tally.failures == []
    assert tally.assertions == {"skipped": 5, "passed": 1}
    assert tally.skipped == {"simd": 5}
    assert tally.commands == {"skipped": 3, "passed": 1}


def test_a_skip_for_a_feature_that_the_bytes_do_not_show_is_a_failure() -> None:
    tally = run(Lacking("simd", b"\0asm"), NEEDY)
    assert [failure.line for failure in tally.failures if "does not need" in failure.message] == [
        6,  # $w imports from a module that needs it, but has none of it itself
        7,
        9,
        10,
        11,
    ]


def test_a_skip_for_another_feature_is_a_failure() -> None:
    assert run(Lacking("threads", V128_CONST), NEEDY).assertions["failed"] == 5
    assert run(Lacking("magic", V128_CONST), NEEDY).assertions["failed"] == 5


@pytest.mark.parametrize(
    ("feature", "text"),
    [
        ("simd", "(module (func (drop (v128.const i32x4 0 0 0 0))))"),
        (
            "relaxed-simd",
            "(module (func (param v128) (result v128) local.get 0 local.get 0"
            " i8x16.relaxed_swizzle))",
        ),
        ("multi-memory", "(module (memory 1) (memory 1))"),
        ("memory64", "(module (memory i64 1))"),
        ("exceptions", "(module (tag))"),
        ("function-references", "(module (type $t (func)) (func (param (ref $t))))"),
        ("gc", "(module (type (struct)))"),
        ("threads", "(module (memory 1 1 shared))"),
    ],
)
def test_the_oracle_knows_which_feature_a_module_needs(feature: str, text: str) -> None:
    import wasmtime

    binary = bytes(wasmtime.wat2wasm(text))
    assert needs(binary, feature)
    assert not needs(binary, "memory64" if feature != "memory64" else "simd")


# Traps by name.


@pytest.mark.parametrize(
    ("code", "expected", "same"),
    [
        ("unreachable", "unreachable", True),
        ("unreachable executed", "unreachable", True),
        ("uninitialized element", "uninitialized element 2", True),
        ("undefined element", "uninitialized element", False),
        ("integer", "integer overflow", False),
        ("out of bounds memory access", "out of bounds table access", False),
    ],
)
def test_trap_names(code: str, expected: str, same: bool) -> None:
    assert same_trap(code, expected) is same


def test_exceptions() -> None:
    text = """(module (tag $e) (func (export "throw") (throw $e)) (func (export "not")))
    (assert_exception (invoke "throw"))
    (assert_exception (invoke "not"))
    (assert_trap (invoke "throw") "unreachable")"""
    tally = run(WasmtimeSession(), text)
    assert [failure.line for failure in tally.failures] == [3, 4]
    assert UncaughtException.__name__ in tally.failures[1].message


# Reports.


def test_the_report_adds_up() -> None:
    tallies = [run(Lacking("simd", V128_CONST), NEEDY), run(WasmtimeSession())]
    whole = report.total(tallies)
    assert sum(whole.assertions.values()) == ASSERTIONS + 6
    assert [tally.assertions for tally in report.complete(tallies)] == [tallies[1].assertions]
    assert f"{ASSERTIONS:,} of {ASSERTIONS + 6:,} assertions" in report.summary(tallies)
    assert "simd 5" in report.table(tallies)
    assert "| simd | 5 |" in report.markdown(tallies)
    assert report.as_json(tallies[0])["skipped"] == {"simd": 5}


# The scripts themselves.

absence = suite.absence()
KNOWN_DIFFERENCES = {
    # Wasmtime's C interface hides what `any.convert_extern` was made of.
    "extern": 3,
    # The old exception instructions, which Wasmtime does not have.
    "legacy/rethrow": 13,
    "legacy/throw": 8,
    "legacy/try_catch": 33,
    "legacy/try_delegate": 21,
}


def check_against_oracle(name: str) -> None:
    if name.startswith("legacy/") and not has_wabt():
        pytest.skip("wabt's wat2wasm, which takes the old exception instructions, is not installed")
    tally, _ = run_script(name, "oracle")
    assert len(tally.failures) == KNOWN_DIFFERENCES.get(name, 0), tally.failures[:3]
    assert tally.assertions["skipped"] == 0


@pytest.mark.skipif(absence is not None, reason=absence or "")
@pytest.mark.parametrize(
    "name",
    [
        "linking",
        "imports",
        "instance",
        "const",
        "float_misc",
        "names",
        "annotations",
        "elem",
        "binary",
        "exports",
        "try_table",
        "call_indirect64",
        "simd_f32x4",
        "relaxed_min_max",
    ],
)
def test_wasmtime_passes(name: str) -> None:
    check_against_oracle(name)


@pytest.mark.full
@pytest.mark.skipif(absence is not None, reason=absence or "")
@pytest.mark.parametrize("name", suite.names())
def test_wasmtime_passes_all(name: str) -> None:
    check_against_oracle(name)
