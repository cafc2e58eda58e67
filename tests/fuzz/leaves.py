"""For `throwing`: the types of references, and small functions of known types to refer to.

They multiply, throw, catch, and call each other in every way; what they need of a module is said
there: tags `$e0` to `$e3`, the global `$fuel`, tables and globals of references.
"""

from __future__ import annotations

LEAVES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "k0": (
        ["i32"],
        ["i32"],
        [
            "local.get 0 i32.const 3 i32.mul",
            "local.get 0 i32.const 1 i32.and if local.get 0 throw $e1 end local.get 0",
            "local.get 0 i32.const 3 i32.and if local.get 0 i32.const 1 i32.shr_u return_call $k0_1"
            " end i32.const 7",
            "block $h (result i32) try_table (result i32) (catch $e1 $h) local.get 0 call $k0_1"
            " end return end i32.const -1 i32.xor",
            "block $h try_table (catch_all $h) local.get 0 return_call $k0_1 end unreachable end"
            " i32.const 5",
            "local.get 0 i32.eqz if i32.const 9 return end local.get 0 i32.const 1 i32.shr_u"
            " local.get 0 i32.const 3 i32.and return_call_indirect $tk (type $k0)",
        ],
    ),
    "k1": (
        ["i64", "f64"],
        ["i64", "i64"],
        [
            "local.get 0 local.get 1 i64.trunc_sat_f64_s i64.mul_wide_s",
            "local.get 0 i64.ctz i32.wrap_i64 if local.get 0 i64.const 3 i64.sub local.get 1"
            " ref.func $k1_2 return_call_ref $k1 end local.get 1 i64.reinterpret_f64 local.get 0",
            "local.get 1 f64.const 0 f64.lt if throw $e0 end local.get 0 local.get 0",
        ],
    ),
    "k2": (
        [],
        [],
        [
            "",
            "throw $e0",
            "global.get $fuel i32.const 1 i32.and if throw $e0 end",
            "block $h (result exnref) try_table (catch_all_ref $h) call $k2_1 end unreachable end"
            " global.set $gx throw $e0",
        ],
    ),
    "k3": (
        ["exnref"],
        ["exnref"],
        [
            "local.get 0",
            "block $h (result exnref) try_table (catch_all_ref $h) local.get 0 i64.const 5"
            " throw $e3 end unreachable end",
            "local.get 0 throw_ref",
            "block $h (result exnref i64 exnref) try_table (catch_ref $e3 $h) local.get 0 throw_ref"
            " end unreachable end local.set 0 drop drop local.get 0",
        ],
    ),
}
"""Small functions of known types: parameters, results, bodies. They call nothing but each other."""

NULLABLE = ("exnref", "funcref", "(ref null $k0)", "(ref null $k1)", "(ref null $k3)")
REFERENCES = (*NULLABLE, "(ref $k0)", "(ref $k2)", "(ref exn)")
GLOBALS = {"exnref": "$gx", "funcref": "$gf", "(ref null $k0)": "$gk0", "(ref null $k1)": "$gk1"}
TABLE = 5
"""Elements of the tables of references."""


def is_reference(t: str) -> bool:
    return t in REFERENCES or t.startswith("(ref")


def heap_type(t: str) -> str:
    """Of a reference type: `exn`, `func`, or `$k0` and the like."""
    return {"exnref": "exn", "funcref": "func"}.get(t) or t.strip("()").split()[-1]
