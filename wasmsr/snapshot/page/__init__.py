"""A saved program in a page: the core in a browser, which runs forwards and backwards.

`machine.js` is the machine, `machine.wasm` its core (`machine.c`, made by `make core-wasm`).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def machine_module() -> bytes:
    """Return the core of the machine, from the package."""
    return (files(__package__) / "machine.wasm").read_bytes()


@cache
def machine_script() -> str:
    """Return the machine as a JavaScript module, from the package."""
    return (files(__package__) / "machine.js").read_text(encoding="utf-8")
