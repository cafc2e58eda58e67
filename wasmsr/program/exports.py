"""The exports by which a program begins, and how a caller finds an export."""

from __future__ import annotations

from wasmsr.errors import EXIT_USAGE, LinkError, WasmsrError, listed, printable
from wasmsr.interp.modules.module import Module
from wasmsr.interp.types import FuncType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wasmsr.channels.functions import Channels
    from wasmsr.interp.store.instance import Imports
    from wasmsr.mem.guest_memory import MemoryFunctions
    from wasmsr.runspec.grants import HostGrants

COMMAND, REACTOR = "_start", "_initialize"
"""Exports by which WASI programs begin: a command's is its whole run, a reactor's comes first."""


class ExportError(WasmsrError):
    """The module has no function export of that name."""

    exit_code = EXIT_USAGE


def exported_function(module: Module, name: str) -> FuncType:
    """Return the type of a function that the module exports.

    Raises:
        ExportError: The module has no function export of that name; the hint lists those it has.
        LinkError: The module was never linked to a program.
    """
    for export in module.exports:
        if export.name == name and isinstance(export.type, FuncType):
            return export.type
    from wasmsr.interp.modules.foreign_files import unlinked

    what = unlinked(module)
    if what is not None:
        raise LinkError(f"this is {what}")
    functions = [e.name for e in module.exports if isinstance(e.type, FuncType)]
    hint = f"it exports {listed(functions)}; `wasmsr run --invoke NAME` calls one"
    raise ExportError(
        f"the module {printable(module.name or '', 100)} exports no function "
        f"'{printable(name, 100)}'".replace("  ", " "),
        hint=hint if functions else None,
    )


def own_imports(*modules: Module) -> Imports:
    """Return the imports about forks, for modules that ask for them; a program is fork 0."""
    if all(item.module != "wasmsr" for module in modules for item in module.imports):
        return {}
    from wasmsr.snapshot.moments.forks import fork_imports

    return fork_imports(0)


def channels_of(modules: Sequence[Module], grants: HostGrants) -> Channels | None:
    """Return the channels of a program, with its functions of `env`; None if it uses none.

    Raises:
        ChannelsNotGranted: It uses them, and this host gives it none.
    """
    if all(item.module != "env" for module in modules for item in module.imports):
        return None
    from wasmsr.channels.functions import Channels, check_granted, wanted

    check_granted(modules, grants.channels)
    return Channels(grants.channels) if wanted(modules) else None


def remote_memory_of(modules: Sequence[Module], grants: HostGrants) -> MemoryFunctions | None:
    """Return the remote memories of a program, with its functions of `env`; None if it uses none.

    Raises:
        MemoryNotGranted: It uses them, and this host gives it none.
    """
    if all(item.module != "env" for module in modules for item in module.imports):
        return None
    from wasmsr.mem.guest_memory import MemoryFunctions, check_memory_granted, wanted_memory

    check_memory_granted(modules, grants.memories)
    return MemoryFunctions(grants.memories) if wanted_memory(modules) else None


def hosts_of(
    modules: Sequence[Module], grants: HostGrants
) -> dict[str, Channels | MemoryFunctions]:
    """Return the hosts of a program that answer from `env` and keep state, by their owner's name.

    Raises:
        ChannelsNotGranted: It uses channels, and this host gives it none.
        MemoryNotGranted: It uses remote memory, and this host gives it none.
    """
    found = {
        "channels": channels_of(modules, grants), "memories": remote_memory_of(modules, grants)
    }  # fmt: skip
    return {name: host for name, host in found.items() if host is not None}


def is_reactor(module: Module) -> bool:
    """Return whether the module is a WASI reactor: its `_initialize` runs before any other call."""
    return any(export.name == REACTOR and export.type == FuncType() for export in module.exports)
