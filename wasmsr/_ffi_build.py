"""Makes the glue between Python and the C core: the extension `wasmsr._ffi`, cffi API mode, abi3.

The declarations are read from core/wsr.h, between its two marks, so that they stand in one place.
Every call releases the GIL. setup.py runs this; it is not imported at run time.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

CORE = Path(__file__).resolve().parent / "core"
SOURCES = ("_core.c", *(f"core/{path.name}" for path in sorted(CORE.glob("*.c"))))


def declarations() -> str:
    """The part of core/wsr.h that cffi reads."""
    text = (CORE / "wsr.h").read_text(encoding="utf-8")
    _, _, rest = text.partition("/* cffi: begin */")
    body, _, _ = rest.partition("/* cffi: end */")
    return body


builder = FFI()
builder.cdef(declarations())
builder.set_source(
    "wasmsr._ffi",
    '#include "core/wsr.h"',
    sources=[f"wasmsr/{name}" for name in SOURCES],
    include_dirs=["wasmsr"],
    libraries=["m"],
    py_limited_api=True,
)

if __name__ == "__main__":
    builder.compile(verbose=True)
