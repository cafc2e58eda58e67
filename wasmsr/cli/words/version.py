"""The version line of `wasmsr --version`."""

from __future__ import annotations


def version() -> str:
    """Return the version, which loop was built, and by which compiler."""
    from wasmsr import __version__
    from wasmsr._ffi import ffi, lib

    loop, compiler = (ffi.string(text()).decode() for text in (lib.wsr_variant, lib.wsr_compiler))
    return f"wasmsr {__version__} ({loop} loop, {compiler})"
