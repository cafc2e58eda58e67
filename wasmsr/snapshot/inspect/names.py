"""Names of the things in a snapshot, from its modules.

A snapshot has indices and addresses only. Names are in the modules; without a module there are
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from wasmsr.errors import ModuleError
from wasmsr.interp.literals import json_value
from wasmsr.interp.types import ValType
from wasmsr.snapshot.rules import FUNCREF, TYPE_NAMES
from wasmsr.snapshot.state import InstanceState, ModuleRef, SnapshotState

if TYPE_CHECKING:
    from wasmsr.interp.modules.custom_sections import Names


class NamedModule(Protocol):
    """What is needed of a module; `wasmsr.interp.modules.module.Module` has it."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the binary, 32 bytes."""

    @property
    def names(self) -> Names:
        """The names in its name section."""

    def function_name(self, index: int) -> str:
        """Return the name of a function."""

    def live_locals(self, function: int, offset: int, *, waiting: bool) -> bytes | None:
        """Return which locals a frame can still read, a byte each; None if that is not known."""


class SnapshotNames:
    """The names of a snapshot's things, looked up in `modules` and in those that it embeds."""

    def __init__(self, snapshot: SnapshotState, modules: Iterable[NamedModule]) -> None:
        self._snapshot = snapshot
        self._modules: dict[bytes, NamedModule | None] = {m.digest: m for m in modules}
        self.tables: dict[int, str] = {}
        self.memories: dict[int, str] = {}
        self.globals: dict[int, str] = {}
        self.tags: dict[int, str] = {}
        for instance, names in self._named_instances():
            for found, addresses, given in (
                (self.tables, instance.tables, names.tables),
                (self.memories, instance.memories, names.memories),
                (self.globals, instance.globals, names.globals),
                (self.tags, instance.tags, names.tags),
            ):
                for index, address in enumerate(addresses):
                    if index in given:
                        found.setdefault(address, given[index])

    def _named_instances(self) -> Iterator[tuple[InstanceState, Names]]:
        for instance in self._snapshot.instances:
            module = self._module(self._snapshot.modules[instance.module])
            if module is not None:
                yield instance, module.names

    def of_index(self, instance: int, index: int) -> str:
        """Return the name of a function, by its index in an instance."""
        state = self._snapshot.instances[instance]
        module = self._module(self._snapshot.modules[state.module])
        if module is not None:
            return module.function_name(index)
        if index < len(state.functions):
            return self.of_address(state.functions[index])
        return f"func[{index}]"

    def of_address(self, address: int) -> str:
        """Return the name of a function, by its address in the store."""
        for function in self._snapshot.host_functions:
            if function.address == address:
                return f"{function.module}.{function.name}"
        for number, instance in enumerate(self._snapshot.instances):
            index = address - instance.function_base
            if 0 <= index < instance.defined:
                return self.of_index(number, len(instance.functions) + index)
        return f"function {address}"

    def of_locals(self, instance: int, index: int) -> dict[int, str]:
        """Return the locals of a function that have a name."""
        module = self._module(self._snapshot.modules[self._snapshot.instances[instance].module])
        return {} if module is None else module.names.locals.get(index, {})

    def live_locals(self, number: int) -> bytes | None:
        """Return which locals of a frame are live, a byte each; None without the module."""
        thread = self._snapshot.thread
        frame = thread.frames[number]
        state = self._snapshot.instances[frame.instance]
        module = self._module(self._snapshot.modules[state.module])
        if module is None:
            return None
        waiting = number + 1 < len(thread.frames) and number + 1 not in thread.pushed
        live = module.live_locals(frame.function, frame.offset, waiting=waiting)
        return live if live is not None and len(live) == frame.locals else None

    def value(self, code: int, bits: int) -> dict[str, Any]:
        """Return type and value: signed numbers, floats, functions by name."""
        named = code == FUNCREF and bits
        value = self.of_address(bits - 1) if named else json_value(ValType(code), bits)
        return {"type": TYPE_NAMES[code], "value": value}

    def _module(self, reference: ModuleRef) -> NamedModule | None:
        if reference.digest not in self._modules:
            self._modules[reference.digest] = _load(reference)
        return self._modules[reference.digest]


def _load(reference: ModuleRef) -> NamedModule | None:
    """Return the embedded module, unless this engine cannot read it."""
    if reference.binary is None:
        return None
    from wasmsr.interp.modules.module import Module

    try:
        return Module(reference.binary)
    except ModuleError:
        return None
