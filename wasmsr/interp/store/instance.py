"""A module instance: its exports by name; and which extern may be given for which import.

Between the module, which says what it asks for and offers, and the store, where the things are.

Source: WebAssembly specification, sections 4.2.5 (Module Instances) and 4.5.1 (External Typing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from wasmsr._ffi import lib
from wasmsr.errors import LinkError, listed, printable
from wasmsr.interp.modules.module import Import, Module
from wasmsr.interp.store.externs import Extern, Function, Global, HostFunction, Memory, Table, Tag
from wasmsr.interp.types import MemoryType, TableType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from wasmsr.interp.store.interface import StoreInterface

    _E = TypeVar("_E", Function, Table, Memory, Global, Tag)

Imports = Mapping[str, Mapping[str, "Extern | HostFunction | Callable[..., Any]"]]

HANDLES = (Function, Table, Memory, Global, Tag)
"""The classes of externs, by their kinds in the binary format."""


class Instance:
    """A module instance: exports by name.

    Attributes:
        store: The store that it is in.
        index: Its index in the store.
        module: The module of which it is an instance.
        name: Its name in messages, or None.
    """

    def __init__(self, store: StoreInterface, index: int, module: Module, name: str | None) -> None:
        self.store = store
        self.index = index
        self.module = module
        self.name = name
        self.dropped: dict[int, tuple[bytearray, list[int]]] = {}
        """Which segments of a kind were dropped when somebody asked last: flags, and indices."""

    @cached_property
    def exports(self) -> Mapping[str, Extern]:
        """Functions, tables, memories, globals and tags by name."""
        return {
            item.name: HANDLES[item.kind](self.store, self.address(item.kind, item.index))
            for item in self.module.exports
        }

    @cached_property
    def memory_address(self) -> int | None:
        """Address of the memory that host functions work on, or None.

        That is the memory that the module exports as `memory`, as WASI requires. Without such an
        export it is the memory with index 0.
        """
        for item in self.module.exports:
            if item.kind == lib.WSR_MEMORY_KIND and item.name == "memory":
                return self.address(item.kind, item.index)
        return self.address(lib.WSR_MEMORY_KIND, 0) if self.module.counts.memories else None

    def address(self, kind: int, index: int) -> int:
        """Return the address of the thing of that kind and index."""
        return int(lib.wsr_instance_address(self.store.c, self.index, kind, index))

    def function(self, name: str) -> Function:
        """Return the exported function of that name. Raises LinkError if there is none."""
        return self._export(Function, name)

    def memory(self, name: str = "memory") -> Memory:
        """Return the exported memory of that name. Raises LinkError if there is none."""
        return self._export(Memory, name)

    def table(self, name: str) -> Table:
        """Return the exported table of that name. Raises LinkError if there is none."""
        return self._export(Table, name)

    def global_(self, name: str) -> Global:
        """Return the exported global of that name. Raises LinkError if there is none."""
        return self._export(Global, name)

    def tag(self, name: str) -> Tag:
        """Return the exported tag of that name. Raises LinkError if there is none."""
        return self._export(Tag, name)

    def _export(self, kind: type[_E], name: str) -> _E:
        found = self.exports.get(name)
        if not isinstance(found, kind):
            offered = [n for n, e in self.exports.items() if isinstance(e, kind)]
            raise LinkError(
                f"the module exports no {kind.__name__.lower()} '{printable(name, 100)}'",
                hint=f"it exports {listed(offered)}" if offered else None,
            )
        return found

    def __repr__(self) -> str:
        from wasmsr.interp import one_line  # only here: few ask

        return one_line.instance(self)


def incompatible_import(wanted: str, type_: object, given: object) -> LinkError:
    """Return the error for an import, `wanted`, for which something else was given."""
    return LinkError(f"incompatible import type: {wanted} must be {type_}, and {given} is given")


def import_matches(store: StoreInterface, module: Module, item: Import, found: Extern) -> bool:
    """Return whether an extern has the type that an import asks for (section 3.3)."""
    if type(found) is not HANDLES[item.kind]:
        return False
    wanted = item.type
    if isinstance(wanted, (MemoryType, TableType)) and isinstance(found, (Memory, Table)):
        bounds = found.type.bounds
        if not wanted.bounds.admits(bounds.minimum, bounds.maximum):
            return False
    return bool(lib.wsr_import_matches(store.c, module.c, item.number, found.address))
