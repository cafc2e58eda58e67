"""Make the glue between Python and the C core: the extension `wasmsr._ffi`, cffi API mode, abi3.

The declarations come from core/wsr.h and _sys.h, between their marks, so each is written once.
Every call releases the GIL. setup.py runs this file; nothing imports it at run time.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
CORE = HERE / "core"
HEADERS = ("core/wsr.h", "_sys.h")
SOURCES = (
    *("_core.c", "_sys.c", "_sandbox.c"),
    *sorted(str(path.relative_to(HERE)) for path in CORE.glob("*/**/*.c")),
)


def declarations() -> str:
    """Return the parts of the headers that cffi reads."""
    bodies = []
    for name in HEADERS:
        text = (HERE / name).read_text(encoding="utf-8")
        _, _, rest = text.partition("/* cffi: begin */")
        bodies.append(rest.partition("/* cffi: end */")[0])
    return "".join(bodies)


builder = FFI()
builder.cdef(declarations())
builder.set_source(
    "wasmsr._ffi",
    "".join(f'#include "{name}"\n' for name in HEADERS),
    sources=[f"wasmsr/{name}" for name in SOURCES],
    include_dirs=["wasmsr"],
    libraries=["m"],
    py_limited_api=True,
)

if __name__ == "__main__":
    builder.compile(verbose=True)
