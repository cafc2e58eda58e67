"""What `wasmsr --version` says."""

from __future__ import annotations


def version() -> str:
    """Return the version, which loop was built, and by which compiler."""
    from wasmsr import __version__
    from wasmsr._ffi import ffi, lib

    loop, compiler = (ffi.string(text()).decode() for text in (lib.wsr_variant, lib.wsr_compiler))
    return f"wasmsr {__version__} ({loop} loop, {compiler})"


def details() -> str:
    """Return the version line, and what this host offers, a line for each."""
    from wasmsr.errors import SnapshotError
    from wasmsr.interp.tier import refusal as native_refusal
    from wasmsr.node.workers.confinement import host_confinement
    from wasmsr.snapshot.memory.dirty_pages import METHODS, method_of_host
    from wasmsr.snapshot.memory.page_engine import sha256_by
    from wasmsr.snapshot.memory.parts import cores

    try:
        taken = method_of_host().name
    except SnapshotError as error:
        taken = f"none: {error}"
    why = native_refusal()
    native = "can be made here" if why is None else f"none: {why}; the interpreter runs"
    lines = [version(), f"native code: {native}", f"dirty pages: {taken}"]
    for method in METHODS:
        refusal = method.refusal()
        if refusal is not None:
            lines.append(f"  this host refuses {method.name}: {refusal}")
    lines += [f"SHA-256: {sha256_by()}", f"cores: {cores()}"]
    lines += [f"workers of a node, {line}" for line in host_confinement()]
    return "\n".join(lines)
