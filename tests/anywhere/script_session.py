"""The official scripts on the core as a module, under an engine that nobody here wrote.

Our own store performs each action of a script. Calls that return are kept. When one traps, another
module comes, or the script ends, the state before these calls goes into a runnable module, with the
calls as invocations that have not begun. The engine runs it; the results must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests.anywhere.engines import Engine
from tests.spec.engine import Value
from tests.spec.ours import WasmsrSession
from wasmsr import Function, Module, Snapshot, Store, ValType
from wasmsr.interp.outcomes import Finished
from wasmsr.snapshot.runnable.exporting import make_runnable
from wasmsr.snapshot.state import SnapshotState, ThreadState

DIGITS = {ValType.F32: 8, ValType.V128: 32}


class AnywhereSession(WasmsrSession):
    """A session whose calls are made again under another engine.

    Args:
        engine: The engine.
        folder: Where the runnable modules go.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        super().__init__()
        self.store.close()
        self.store = Store(deterministic=True)
        self.engine = engine
        self.folder = folder
        self.calls: list[tuple[int, list[int]]] = []
        self.expected: list[str] = []
        self.before: SnapshotState | None = None
        self.compared = 0
        self.differences: list[str] = []

    def instantiate(self, module: Module, registered: Mapping[str, int]) -> int:
        self.flush()
        return super().instantiate(module, registered)

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        if self.before is None:
            self.before = Snapshot.of(self.store, embed=True).state
        try:
            found = super().invoke(instance, field, args)
        except BaseException:
            self.flush()
            raise
        function = self.store.instances[instance].exports[field]
        assert isinstance(function, Function)
        slots: list[int] = []
        for type_, value in zip(function.type.params, args, strict=True):
            bits = self._slot(value)
            wide = type_ is ValType.V128
            slots += [bits & 2**64 - 1, bits >> 64] if wide else [bits]
        self.calls.append((function.address, slots))
        return found

    def drive(self, types: Sequence[ValType]) -> Finished:
        done = super().drive(types)
        for type_, bits in zip(types, done.raw, strict=True):
            if type_ in (ValType.I32, ValType.I64):
                width = 32 if type_ is ValType.I32 else 64
                self.expected.append(str(bits - (1 << width) if bits >> (width - 1) else bits))
            else:
                self.expected.append(f"0x{bits:0{DIGITS.get(type_, 16)}x}")
        return done

    def flush(self) -> None:
        """Make the calls that were kept under the engine, and compare their results."""
        before, calls, expected = self.before, self.calls, self.expected
        self.before, self.calls, self.expected = None, [], []
        if before is None or not calls:
            return
        state = replace(before, thread=ThreadState(queue=calls))
        made = make_runnable(state, [module.binary for module in state.modules])
        file = self.folder / f"{self.compared}.wasm"
        file.write_bytes(made.module)
        done = self.engine.run(file)
        file.unlink()
        found = done.stdout.decode().splitlines()
        self.compared += len(expected)
        if done.returncode or found != expected:
            wrong = [one for one in zip(found, expected, strict=False) if one[0] != one[1]]
            said = done.stderr.decode()[-500:]
            self.differences.append(f"{len(found)} of {len(expected)}, {wrong[:3]}, {said}")
