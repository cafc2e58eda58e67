"""Composite types in the core: where parameters end counts, and every type has its top."""

from __future__ import annotations

import pytest

from tests.interp.machines import text
from wasmsr import FuncType, HostFunction, InvalidError, LinkError, Store, Trap, ValType
from wasmsr._ffi import lib

I32, I64 = ValType.I32, ValType.I64
NOT_NULL = 0x100


def _host(params: tuple[ValType, ...], results: tuple[ValType, ...]) -> HostFunction:
    return HostFunction(FuncType(params, results), lambda *_: 0 if results else None)


def test_types_with_the_same_fields_differ_where_their_parameters_end() -> None:
    module = text('(module (import "m" "f" (func (param i32) (result i32))))')
    for params, results, links in (
        ((I32,), (I32,), True),
        ((I32, I32), (), False),
        ((), (I32, I32), False),
        ((I32,), (), False),
        ((I32,), (I64,), False),
    ):
        with Store() as store:
            imports = {"m": {"f": _host(params, results)}}
            if links:
                store.instantiate(module, imports)
                continue
            with pytest.raises(LinkError):
                store.instantiate(module, imports)


def test_an_indirect_call_tells_parameters_from_results() -> None:
    source = """(module
      (type $both (func (param i32 i32))) (type $one (func (param i32) (result i32)))
      (type $none (func (result i32 i32))) (type $same (func (param i32) (result i32)))
      (table funcref (elem $f))
      (func $f (type $one) (local.get 0))
      (func (export "one") (result i32) (call_indirect (type $one) (i32.const 7) (i32.const 0)))
      (func (export "same") (result i32) (call_indirect (type $same) (i32.const 8) (i32.const 0)))
      (func (export "both")
        (call_indirect (type $both) (i32.const 7) (i32.const 7) (i32.const 0)))
      (func (export "none") (result i32 i32) (call_indirect (type $none) (i32.const 0))))"""
    with Store() as store:
        instance = store.instantiate(text(source))
        assert instance.function("one")() == 7
        assert instance.function("same")() == 8
        for name in ("both", "none"):
            with pytest.raises(Trap, match="indirect call type mismatch"):
                instance.function(name)()


@pytest.mark.parametrize("sub", ["(param i32) (result i32)", "(result i32 i32)", "(param i32)"])
def test_a_type_must_fit_its_supertype_on_both_sides(sub: str) -> None:
    source = f"(module (type $a (sub (func (param i32 i32)))) (type (sub $a (func {sub}))))"
    with pytest.raises(InvalidError, match="sub type 1 does not match super type"):
        text(source)


@pytest.mark.parametrize(
    ("top", "below"),
    [
        (0x70, [0x73]),  # func: nofunc
        (0x6F, [0x72]),  # extern: noextern
        (0x69, [0x74]),  # exn: noexn
        (0x6E, [0x6D, 0x6C, 0x6B, 0x6A, 0x71]),  # any: eq, i31, struct, array, none
        *[(number, []) for number in (0x7F, 0x7E, 0x7D, 0x7C, 0x7B)],
    ],
)
def test_each_type_has_its_top(top: int, below: list[int]) -> None:
    for code in (top, *below):
        assert lib.wsr_top_type(code) == top
        assert lib.wsr_top_type(code | NOT_NULL) == top
    assert lib.wsr_top_type(5 << 10 | 0x200 | 0x70) == 0x70  # a reference to function type 5
