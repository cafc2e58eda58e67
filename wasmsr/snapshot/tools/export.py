"""Writes a state as a module or as a coredump, from a snapshot and the modules it names."""

from __future__ import annotations

from collections.abc import Iterable

from wasmsr.errors import HandedOver, MalformedError, ModuleError, UnportableState, printable
from wasmsr.interp.modules.module import Module
from wasmsr.snapshot.format import save_pieces
from wasmsr.snapshot.tools.copies import STDOUT, check_output
from wasmsr.snapshot.tools.coredump import coredump
from wasmsr.snapshot.tools.export_wasm import export_wasm
from wasmsr.snapshot.tools.opened import OpenedSnapshot


def write_wasm(opened: OpenedSnapshot, modules: Iterable[Module], out: str) -> int:
    """Write a plain module that begins in the state, and return its size.

    Args:
        opened: The snapshot.
        modules: Modules that the caller has.
        out: The file, which must not be there; `-` is standard output.

    Raises:
        UnportableState: The state has something that no module can have.
        SnapshotError: The file must not or cannot be written.
    """
    state = opened.state
    found = known_modules(opened, modules)
    if not state.instances:
        raise UnportableState("the state is no plain module: the program has no instance")
    module = found[state.instances[0].module]
    if module is None:
        raise UnportableState(
            "the module of the program is not in the snapshot", hint="--program PROGRAM gives it"
        )
    made = export_wasm(state, module.binary)
    try:
        Module(made, features=module.allowed_features)
    except ModuleError as error:  # rather no module than a wrong one
        raise UnportableState(f"the state is no plain module: {error.message}") from error
    return write_new(opened, made, out)


def write_coredump(opened: OpenedSnapshot, modules: Iterable[Module], out: str) -> int:
    """Write a coredump, and return its size; arguments and errors as for `write_wasm`."""
    found = known_modules(opened, modules)
    name = next((one.name for one in opened.state.modules if one.name), "program")
    return write_new(opened, coredump(opened.state, name, found), out)


def write_runnable(
    opened: OpenedSnapshot, modules: Iterable[Module], out: str, folder: str | None
) -> tuple[int, str]:
    """Write a WASI command that goes on from the state.

    Args:
        opened: The snapshot.
        modules: Modules that the caller has.
        out: As for `write_wasm`.
        folder: A new folder for files that are in the snapshot.

    Returns:
        The size, and a command that runs it by Wasmtime.

    Raises:
        UnportableState, SnapshotError: As `make_runnable` and `write_wasm`.
        HandedOver: The program runs on another host, and would run twice.
    """
    from wasmsr.snapshot.runnable.exporting import make_runnable

    if opened.header.handed:
        raise HandedOver(
            f"the program in {printable(opened.path)} was handed over to another host, which may "
            "own it now",
            hint="if that host is gone for good, `wasmsr run --from-snapshot FILE --adopt` takes "
            "the program over, and can save it anew",
        )
    check_output(opened, out, replaces=False)
    binaries = [
        None if one is None else bytes(one.binary) for one in known_modules(opened, modules)
    ]
    made = make_runnable(opened.state, binaries, folder)
    return write_new(opened, made.module, out), made.command(out)


def known_modules(opened: OpenedSnapshot, modules: Iterable[Module]) -> list[Module | None]:
    """Return the modules of a state: embedded ones, or those that the caller has.

    None stands for one that neither has. Raises UnportableState if an embedded one is damaged.
    """
    given = {module.digest: module for module in modules}
    features = opened.state.limits.features
    found: list[Module | None] = []
    for one in opened.state.modules:
        module = given.get(one.digest)
        if module is None and one.binary is not None:
            try:
                module = Module(one.binary, features=features)
            except (MalformedError, ValueError) as error:
                raise UnportableState(f"the module in the snapshot is none: {error}") from error
        found.append(module)
    return found


def write_new(opened: OpenedSnapshot, data: bytes, out: str) -> int:
    """Write a file that must not be there, `-` for standard output, and return its size."""
    check_output(opened, out, replaces=False)
    return save_pieces([data], 1 if out == STDOUT else out, what="file")


__all__ = ["known_modules", "write_coredump", "write_new", "write_runnable", "write_wasm"]
