"""The host's end of tests/cross/guest/wasmtime.py: requests from standard input, answers out.

Started by a guest, ended by the end of its input. It runs by itself, without the tests' package.
"""

from __future__ import annotations

import pickle
import sys
from functools import cache
from typing import Any

import wasmtime


@cache
def engine(settings: frozenset[tuple[str, Any]]) -> wasmtime.Engine:
    """An engine with these settings."""
    config = wasmtime.Config()
    for name, value in settings:
        setattr(config, name, value)
    return wasmtime.Engine(config)


def answer(kind: str, *details: Any) -> Any:
    """What Wasmtime says.

    Raises:
        wasmtime.WasmtimeError: it objects.
    """
    if kind == "wat2wasm":
        return bytes(wasmtime.wat2wasm(*details))
    settings, binary = details
    asked = engine(frozenset(settings.items()))
    if kind == "validate":
        return wasmtime.Module.validate(asked, binary)
    assert kind == "imports", kind
    return [
        (wanted.module, type(wanted.type).__name__, getattr(wanted.type, "mutable", False))
        for wanted in wasmtime.Module(asked, binary).imports
    ]


def main() -> None:
    """Answer until the guest has no more questions."""
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = (True, answer(*request))
        except wasmtime.WasmtimeError as error:
            reply = (False, str(error))
        pickle.dump(reply, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
