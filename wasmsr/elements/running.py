"""Runs the program of one element in this process."""

from __future__ import annotations

import inspect
import json
import linecache
import os
import sys
import types
from typing import TYPE_CHECKING, Any

from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.element import Element
from wasmsr.errors import printable, reason
from wasmsr.mem.action import ElementAction, provide_disagg

if TYPE_CHECKING:
    from wasmsr.elements.wasm_step import StepPlace

LARGEST_RESULT = 1 << 26
"""Bytes of a result as JSON."""


def run_element(
    element: Element,
    params: Any,
    action: ElementAction,
    where: str = "",
    place: StepPlace | None = None,
) -> str:
    """Run an element and return its result as JSON.

    Args:
        element: The element.
        params: Its parameters.
        action: What it can ask for.
        where: Its file, for tracebacks; its name if there is none.
        place: Where a step in WebAssembly is saved, and who steers it.

    Raises:
        ElementError: `main` is missing or of the wrong shape, or the result is no JSON.
        Exception: What `main` raised.
    """
    os.environ["__OW_PAR"] = str(action.index)
    if element.is_memory:
        action.get_transport("memory", "rdma_server").serve()
        return "{}"
    if isinstance(element.code, bytes):
        from wasmsr.elements.wasm_step import run_wasm

        text = run_wasm(element, params, action, place, LARGEST_RESULT)
        return checked_text(element.name, text)
    return result_text(element.name, _main_of(element, where)(params, action))


def _main_of(element: Element, where: str) -> Any:
    """Return `main` of a Python element, whose module it makes."""
    assert isinstance(element.code, str)
    provide_disagg()
    name = printable(element.name)
    file = where or f"{element.name}.o.py"
    module = types.ModuleType("element")
    module.__file__ = file
    sys.modules["element"] = module
    linecache.cache[file] = (len(element.code), None, element.code.splitlines(True), file)
    try:
        code = compile(element.code, file, "exec")
    except (SyntaxError, ValueError) as error:
        raise ElementError(f"{name}: {printable(reason(error))}") from error
    exec(code, module.__dict__)
    main = getattr(module, "main", None)
    if not callable(main):
        raise ElementError(f"{name} has no main", hint="def main(params, action): return {}")
    if not _takes_two(main):
        raise ElementError(
            f"{name}: main does not take two values", hint="def main(params, action): return {}"
        )
    return main


def _takes_two(main: Any) -> bool:
    """Return whether a callable can be called with two values."""
    if isinstance(main, types.FunctionType) and not hasattr(main, "__wrapped__"):
        code = main.__code__
        if code.co_argcount == 2 and not code.co_kwonlyargcount:
            return True  # a copy takes half a millisecond to ask `inspect`
    try:
        inspect.signature(main).bind({}, None)
    except (TypeError, ValueError):
        return False
    return True


def result_text(name: str, result: Any) -> str:
    """Return a result as JSON.

    Raises:
        ElementError: It is no JSON, or too long.
    """
    try:
        text = json.dumps(result, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ElementError(
            f"{printable(name)}: the result is no JSON: {printable(reason(error))}"
        ) from None
    if len(text) > LARGEST_RESULT:
        raise ElementError(f"{printable(name)}: the result has more than {LARGEST_RESULT} bytes",
                           hint="leave large results in memory")  # fmt: skip
    return text


def checked_text(name: str, text: bytes) -> str:
    """Return the JSON that an element has written.

    Raises:
        ElementError: It is no JSON, or too long.
    """
    if len(text) > LARGEST_RESULT:
        raise ElementError(f"{printable(name)}: the result has more than {LARGEST_RESULT} bytes",
                           hint="leave large results in memory")  # fmt: skip
    try:
        result = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        start = printable(text[:60])
        raise ElementError(
            f"{printable(name)}: its standard output is no JSON: {start}: {reason(error)}"
        ) from None
    return result_text(name, result)
