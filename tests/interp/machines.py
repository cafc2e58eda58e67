"""What the tests of the engine share: modules from text, hops through bytes, requests mid-run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from wasmsr import Module, Outcome, Paused, Store
from wasmsr._ffi import ffi, lib
from wasmsr.interp.instruction_set.instructions import disassemble
from wasmsr.interp.instruction_set.traps import MESSAGES, NO_CODE
from wasmsr.interp.store.instance import Imports, Instance
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.restore import restore
from wasmsr.snapshot.state import Lineage

_LINEAGE = Lineage(bytes(16), None, 0, "host", "engine")


def text(source: str, *, name: str | None = None) -> Module:
    """A module in the text format."""
    return Module.from_text(source, name=name)


def uncompilable(instance: Instance) -> Exception | None:
    """Compile all functions that its module defines, as their first calls do: the error of the
    first whose body is invalid, or None."""
    store, module = instance.store, instance.module
    zeros = ffi.new("uint64_t[]", 1 << 16)
    first: Exception | None = None
    for function in range(module.imported_functions, module.function_count):
        outer = ffi.new("wsr_activation *")
        address = instance.address(lib.WSR_FUNCTION, function)
        trap = lib.wsr_begin(store.c, address, zeros, outer)
        if trap == 0:
            lib.wsr_end(store.c, outer)
        elif MESSAGES[trap] == NO_CODE and first is None:
            first = module.invalid()
    return first


def encoded(store: Store) -> bytes:
    """The store's state as bytes that are equal if the states are."""
    return b"".join(encode(replace(capture(store), lineage=_LINEAGE), compress=False))


def hop(store: Store, imports: Imports | None = None, modules: Iterable[Module] = ()) -> Store:
    """The store after a journey through bytes: checked, and capturing to the same bytes again."""
    data = encoded(store)
    given = list(modules) or [instance.module for instance in store.instances]
    restored = restore(decode(data), modules=given, imports=imports)
    restored.check()
    assert encoded(restored) == data
    return restored


def run_with_request(store: Store) -> Outcome:
    """Run with a pause requested from the first instruction on: `run` itself would not begin."""
    lib.wsr_pause(store.c)
    outcome = store.invoker.run_queue(None)
    if not isinstance(outcome, Paused):
        store.pauses.clear()
    return outcome


def run_by_steps(
    store: Store, every: int, imports: Imports | None = None, *, most: int = 100_000
) -> tuple[Outcome, Store]:
    """Run to the end, hopping after every so many instructions; the outcome and the last store."""
    for _ in range(most):
        outcome = store.run(fuel=every)
        if not isinstance(outcome, Paused):
            return outcome, store
        store = hop(store, imports)
    raise AssertionError("no end in sight")


def next_instruction(store: Store) -> str:
    """Mnemonic of the instruction that the innermost frame executes next."""
    frame = store.frame(-1)
    return disassemble(store.instances[frame.instance].module.binary, frame.offset)[0]
