"""The host module `spectest` that the official scripts import from.

It is an ordinary module in text form that passes on the host's print functions, so that its
table, memory and globals belong to the store like any other and travel with its snapshots.
"""

from __future__ import annotations

HOST = "host"
"""The name under which the module itself imports the print functions."""

PRINTS: dict[str, tuple[str, ...]] = {
    "print": (),
    "print_i32": ("i32",),
    "print_i64": ("i64",),
    "print_f32": ("f32",),
    "print_f64": ("f64",),
    "print_i32_f32": ("i32", "f32"),
    "print_f64_f64": ("f64", "f64"),
}
"""The host's functions and the types of their parameters; none has a result."""

_FIXED = """
  (global (export "global_i32") i32 (i32.const 666))
  (global (export "global_i64") i64 (i64.const 666))
  (global (export "global_f32") f32 (f32.const 666.6))
  (global (export "global_f64") f64 (f64.const 666.6))
  (table (export "table") 10 20 funcref)
  (memory (export "memory") 1 2)
"""
TABLE64 = """  (table (export "table64") i64 10 20 funcref)
"""


def text(*, table64: bool) -> bytes:
    """The module in the text format; `table64` is for engines that have 64-bit tables."""
    imports = "".join(
        f'  (import "{HOST}" "{name}" (func ${name} (param {" ".join(params)})))\n'
        for name, params in PRINTS.items()
    )
    exports = "".join(f'  (export "{name}" (func ${name}))\n' for name in PRINTS)
    return f"(module\n{imports}{exports}{_FIXED}{TABLE64 if table64 else ''})".encode()
