"""Functions of the host that code in a sandbox calls by name."""

from __future__ import annotations

import base64
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wasmsr.sandbox.results import SandboxError

DEPTH = 100
"""Levels of a value that is passed on."""


class Deferred(Exception):
    """A tool raises this when somebody else will answer: the sandbox then waits for `deliver`."""


def encode_value(value: Any, depth: int = DEPTH) -> Any:
    """Return a value as JSON can hold it.

    Raises:
        TypeError: It cannot be carried.
    """
    if depth < 0:
        raise TypeError("the value is nested too deeply")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value) or "$bytes" in value:
            raise TypeError("the keys of a dictionary that is passed on must be strings")
        return {key: encode_value(one, depth - 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode_value(one, depth - 1) for one in value]
    raise TypeError(f"a {type(value).__name__} cannot be passed on")


def decode_value(value: Any, depth: int = DEPTH) -> Any:
    """Return the value that `encode_value` made of it. Raises ValueError."""
    if depth < 0:
        raise ValueError("the value is nested too deeply")
    if isinstance(value, dict):
        if value.keys() == {"$bytes"}:
            if not isinstance(value["$bytes"], str):
                raise ValueError("bytes are written in base64")
            return base64.b64decode(value["$bytes"], validate=True)
        return {key: decode_value(one, depth - 1) for key, one in value.items()}
    if isinstance(value, list):
        return [decode_value(one, depth - 1) for one in value]
    return value


class ToolBox:
    """The tools of a sandbox.

    Args:
        tools: Functions by name, or functions under their own names. Annotations of parameters
            are checked: bool, int, float, str, bytes, list, dict, None, unions of these.
    """

    def __init__(
        self, tools: Mapping[str, Callable[..., Any]] | Iterable[Callable[..., Any]] = ()
    ) -> None:
        if not isinstance(tools, Mapping):
            tools = {getattr(one, "__name__", repr(one)): one for one in tools}
        self._tools = dict(tools)
        self._hints: dict[str, dict[str, Any]] = {}
        for name, function in self._tools.items():
            if not name.isidentifier():
                raise SandboxError(f"a tool needs a name that code can write: {name!r}")
            self._hints[name] = typing.get_type_hints(function)

    def about(self) -> list[dict[str, Any]]:
        """Return what the guest must know of each tool."""
        return [
            {
                "name": name,
                "parameters": list(inspect.signature(function).parameters),
                "doc": inspect.getdoc(function) or "",
            }
            for name, function in self._tools.items()
        ]

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Call a tool, and return its result as JSON can hold it.

        Raises:
            Deferred: Somebody else will answer.
            Exception: Whatever the tool raises; TypeError for wrong arguments.
        """
        function = self._tools.get(name)
        if function is None:
            raise TypeError(f"there is no tool {name!r}")
        for parameter, value in arguments.items():
            hint = self._hints[name].get(parameter)
            if hint is not None and not _fits(value, hint):
                raise TypeError(f"{name}(): {parameter} must be {_shown(hint)}, not {value!r:.100}")
        return encode_value(function(**arguments))


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has an annotated type; annotations of other kinds admit all."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    kind = origin or hint
    if kind is type(None) or hint is None:
        return value is None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, bytes, dict):
        return isinstance(value, kind)
    if kind is list:
        (inside,) = typing.get_args(hint) or (Any,)
        return isinstance(value, list) and all(_fits(one, inside) for one in value)
    return True


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
