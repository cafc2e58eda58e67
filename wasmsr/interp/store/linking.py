"""What a store is linked with: externs for imports, and functions of the host by address.

The part of a store that has its host functions.

Source: WebAssembly specification, section 4.5.4 (Instantiation).
"""

from __future__ import annotations

from collections.abc import Callable

from wasmsr._ffi import ffi, lib
from wasmsr.errors import LinkError, printable
from wasmsr.interp.modules.module import Import, Module, core_error
from wasmsr.interp.store.externs import Caller, Callers, Function, HostFunction
from wasmsr.interp.store.instance import HANDLES, Imports, import_matches, incompatible_import
from wasmsr.interp.types import FuncType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.gate import HostCall, HostGate, Perform
    from wasmsr.interp.store.interface import StoreInterface

_NONE = 2**32 - 1


class Linker:
    """The part of a store that answers imports.

    Args:
        store: The store.

    Attributes:
        hosts: Host functions by address, each with the names of the import that it answers.
    """

    def __init__(self, store: StoreInterface) -> None:
        self._store = store
        self.hosts: dict[int, tuple[HostFunction, str, str]] = {}
        self._host_address: dict[tuple[object, ...], int] = {}
        self._given: list[HostFunction] = []
        """Host functions as they were given: what `_host_address` knows them by."""
        self._wrapped: dict[tuple[object, FuncType], HostFunction] = {}
        """Plain callables as host functions: the same callable is the same function."""
        self.perform_at: dict[int, Callable[[Caller, Any], None]] = {}
        """What calls the host function at an address, through the gate if there is one."""
        self._gate: HostGate | None = None
        self._refused = 0

    @property
    def gate(self) -> HostGate | None:
        """The gate that all host calls pass, or None. It can be set at any time."""
        return self._gate

    @gate.setter
    def gate(self, gate: HostGate | None) -> None:
        self._gate = gate
        self._refused = int(lib.wsr_refused_growths(self._store.c))
        for address in self.hosts:
            self._connect(address)

    def _connect(self, address: int) -> None:
        """Let calls of a host function pass the gate."""
        known = self.hosts[address]
        perform = known[0].perform
        if self._gate is not None:
            from wasmsr.interp.gate import gated_call  # only here: few set a gate

            perform = gated_call(self, known)
        bound = known[0].memory, known[0].realloc
        self.perform_at[address] = perform if bound == (None, None) else self._bound(perform, bound)

    def _bound(self, perform: Perform, bound: tuple[int | None, int | None]) -> Perform:
        """Return what performs calls with a caller that has the bound memory and realloc."""
        callers = Callers(self._store, bound)
        return lambda caller, slots: perform(callers[caller.instance], slots)

    def host_call(self, call: HostCall) -> None:
        """Let a host call pass the gate, after what has happened before it."""
        gate = self._gate
        if gate is None:  # it was taken away by this very call
            call.perform()
            return
        self.tell_growths()
        gate.host_call(call)

    def tell_growths(self) -> None:
        """Tell the gate if the host has refused the program a growth since the last time."""
        if self._gate is not None:
            count = int(lib.wsr_refused_growths(self._store.c))
            if count != self._refused:
                self._refused = count
                self.tell("growth failed", refused=count)

    def tell(self, kind: str, **detail: Any) -> None:
        """Tell the gate of an event, if there is a gate."""
        if self._gate is not None:
            from wasmsr.interp.gate import HostEvent

            self._gate.event(HostEvent(kind, self._store.instructions, detail))

    def copy(self, source: Linker, imports: Imports | None) -> None:
        """Link a copy of a store: its host functions have the same addresses and types.

        Args:
            source: The part of the store that was copied.
            imports: The host functions; None takes those of that store.

        Raises:
            LinkError: One is missing, or has another type.
        """
        named: dict[str | None, HostFunction] = {}
        if imports is not None and any(one.identity is not None for one in source._given):
            every = (one for items in imports.values() for one in items.values())
            named = {one.identity: one for one in every if isinstance(one, HostFunction)}
        for (address, (known, module, name)), given in zip(
            source.hosts.items(), source._given, strict=True
        ):
            found: Any = given
            if imports is not None:
                if known.identity is not None:
                    found = named.get(known.identity)
                else:
                    found = imports.get(module, {}).get(name)
                shown = f"{printable(module, 100)}.{printable(name, 100)}"
                if callable(found) and not isinstance(found, (HostFunction, Function)):
                    found = self.wrap(given.type, found, shown)
                if not isinstance(found, HostFunction) or found.type != given.type:
                    have = found.type if isinstance(found, HostFunction) else type(found)
                    raise incompatible_import(shown, given.type, have)
            identity = found.identity
            key = (id(found), module, name) if identity is None else (id(found), identity)
            self._given.append(found)
            self._host_address[key] = address
            if found.type.concrete:
                found = _with_type(found, known.type)
            self.hosts[address] = (found, module, name)
            self._connect(address)

    def clear(self) -> None:
        """Let go of all functions of the host: the store is closed."""
        for held in (self.hosts, self._host_address, self.perform_at, self._wrapped):
            held.clear()
        self._given.clear()

    def resolve(self, module: Module, item: Import, imports: Imports) -> int:
        """Return the address of what is given for an import. Raises LinkError."""
        wanted = f"{printable(item.module, 100)}.{printable(item.name, 100)}"
        try:
            found = imports[item.module][item.name]
        except KeyError:
            raise LinkError(
                f"unknown import: the module needs {wanted} of type {item.type}, "
                "and it is not given",
                hint="wasmsr run gives WASI preview 1; a Python program can give functions of its "
                "own: docs/library.md",
            ) from None
        if isinstance(item.type, FuncType):
            if isinstance(found, (Function, HostFunction)):
                if isinstance(found, HostFunction):
                    if found.type != item.type:
                        raise incompatible_import(wanted, item.type, found.type)
                    return self.add(found, item.module, item.name, (module, item))
            elif callable(found):
                function = self.wrap(item.type, found, wanted)
                return self.add(function, item.module, item.name, (module, item))
        if isinstance(found, HANDLES) and found.store is not self._store:
            raise LinkError(f"{wanted} belongs to another store")
        if not isinstance(found, HANDLES) or not import_matches(self._store, module, item, found):
            kind = found.type if isinstance(found, (*HANDLES, HostFunction)) else type(found)
            raise incompatible_import(wanted, item.type, kind)
        return found.address

    def wrap(self, type_: FuncType, call: Callable[..., Any], name: str) -> HostFunction:
        """Return a plain callable as a host function; the same callable gives the same function.

        Raises:
            LinkError: The callable does not take as many arguments as the type has.
        """
        if type_.concrete:  # means something else in another module
            return HostFunction.of(type_, call, name)
        try:
            known = self._wrapped.get((call, type_))
            if known is None:
                known = self._wrapped[call, type_] = HostFunction.of(type_, call, name)
        except TypeError:  # it has no hash
            known = HostFunction.of(type_, call, name)
        return known

    def add(
        self,
        function: HostFunction,
        module: str,
        name: str,
        importer: tuple[Module, Import] | None = None,
    ) -> int:
        """Give a host function an address; the same function always gets the same address.

        Args:
            function: The host function.
            module: Name of the import's module.
            name: Name of the import's item.
            importer: The module and its import. A type that refers to other types is that of the
                import.

        Raises:
            LinkError: Another function of the store has the same identity.
        """
        shown = f"{printable(module, 100)}.{printable(name, 100)}"
        key: tuple[object, ...] = (id(function), module, name)
        if function.identity is not None:
            key = (id(function), function.identity)
            if any(f.identity == function.identity for f in self._given if f is not function):
                raise LinkError(
                    f"two host functions have the identity {function.identity!r}",
                    hint="an identity is unique in a store",
                )
        if key not in self._host_address:
            type_ = function.type
            error = ffi.new("wsr_error *")
            if type_.concrete and importer is not None:
                address = lib.wsr_add_host_import(
                    self._store.c, importer[0].c, importer[1].index, error
                )
            elif type_.concrete:
                raise LinkError(f"the type of the host function {shown} is of no module")
            else:
                params, results = list(type_.params), list(type_.results)
                address = lib.wsr_add_host_function(
                    self._store.c, params, len(params), results, len(results), error
                )
            if address == _NONE:
                raise core_error(error)
            self._given.append(function)
            self._host_address[key] = address
            if type_.concrete:  # from here on in the store's numbers
                type_ = self._store.function_type(address)
                function = _with_type(function, type_)
            self.hosts[address] = (function, module, name)
            self._connect(address)
        elif function.type.concrete and importer is not None:
            number, known = importer[1].number, self._host_address[key]
            if not lib.wsr_import_matches(self._store.c, importer[0].c, number, known):
                raise LinkError(
                    f"the host function {shown} was given for an import of another type",
                    hint="give each module a HostFunction of its own",
                )
        return self._host_address[key]


def _with_type(function: HostFunction, type_: FuncType) -> HostFunction:
    """Return a host function with its type in the numbers of a store."""
    return HostFunction(
        type_,
        function.call,
        raw=function.raw,
        identity=function.identity,
        writes=function.writes,
        memory=function.memory,
        realloc=function.realloc,
    )
