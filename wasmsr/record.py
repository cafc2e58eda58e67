"""`@record`: a class of named fields, written as a dataclass, that costs nothing to define.

Python compiles the methods of a dataclass when it imports the module. That takes 0.5 ms for each
class, and took a sixth of the time of `wasmsr run fib`. This file has the methods of all records
once; they look up the fields when they are called. Type checkers see a dataclass. Records have no
`field`, order or slots: modules that a start does not import can use dataclasses.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from typing import Any, TypeVar

    T = TypeVar("T")
else:

    def record(cls=None, /, *, frozen=False):
        """Make a record of a class with annotated fields; a `frozen` one is hashable."""
        if cls is None:
            return lambda found: record(found, frozen=frozen)
        inherited = getattr(cls, "__match_args__", ())
        own = (name for name in cls.__annotations__ if name not in inherited)
        cls.__match_args__ = (*inherited, *own)
        mine = {"__init__": _init, "__eq__": _eq, "__repr__": _repr}
        if frozen:
            mine |= {"__hash__": _hash, "__setattr__": _refuse, "__delattr__": _refuse}
        for name, method in mine.items():
            if name not in vars(cls):
                setattr(cls, name, method)
        if not frozen:
            cls.__hash__ = None
        return cls


def replaced(value: T, **changes: Any) -> T:
    """Return a copy of a record with some fields changed."""
    fields: tuple[str, ...] = type(value).__match_args__  # type: ignore[attr-defined]
    return type(value)(**{name: getattr(value, name) for name in fields} | changes)


def _init(self: Any, *values: Any, **named: Any) -> None:
    fields = self.__match_args__
    state = self.__dict__
    if len(values) > len(fields):
        raise TypeError(f"{type(self).__name__} takes {len(fields)} values, not {len(values)}")
    state.update(zip(fields, values, strict=False))
    for name in fields[len(values) :]:
        if name in named:
            state[name] = named.pop(name)
        else:
            try:
                state[name] = getattr(type(self), name)
            except AttributeError:
                raise TypeError(f"{type(self).__name__}: no value for {name}") from None
    if named:
        raise TypeError(f"{type(self).__name__} takes no {', '.join(named)}, or it is given twice")
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _eq(self: Any, other: object) -> bool:
    if type(other) is not type(self):
        return NotImplemented  # type: ignore[no-any-return]
    same: bool = self is other or _values(self) == _values(other)
    return same


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    fields = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__name__}({', '.join(fields)})"


def _refuse(self: Any, name: str, *value: object) -> None:
    raise AttributeError(f"a {type(self).__name__} is not to be changed: {name}")


__all__ = ["record", "replaced"]
