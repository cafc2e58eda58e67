"""Who runs the kernels: this engine and its peers, each behind one small class.

Between `build` and `__main__`. A peer prepares a kernel and gives back a function of no arguments
that runs it whole; preparing (decoding, compiling) is not timed. A peer that is not installed says
why, and is left out of the whole run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.build import Kernel

Run = Callable[[], int]
MASK = 0xFFFFFFFF


class Absent(Exception):
    """The peer is not installed here."""


class Peer:
    """One engine. `name` is what tables call it."""

    name = ""

    def prepare(self, kernel: Kernel) -> Run:
        """Return a function that runs the kernel once and returns its result.

        Raises:
            Absent: the engine is not here.
        """
        raise NotImplementedError


class Wasmsr(Peer):
    """This engine: fast code, or where it was not built the portable loop."""

    name = "wasmsr"

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        from wasmsr import Module, Store

        function = Store().instantiate(Module.from_file(kernel.wasm)).function("run")
        return lambda: int(function(kernel.n)) & MASK


class Counted(Peer):
    """This engine, counting instructions (`--fuel`)."""

    name = "wasmsr, counted"

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        from wasmsr import Finished, Module, Store

        store = Store()
        function = store.instantiate(Module.from_file(kernel.wasm)).function("run")

        def run() -> int:
            """Run both hosts to the end of the program."""
            store.enqueue(function, kernel.n)
            outcome = store.run(fuel=1 << 60)
            assert isinstance(outcome, Finished)
            return outcome.raw[0]

        return run


class Wasm3(Peer):
    """pywasm3 0.5.0: wasm3 of 2021, an interpreter."""

    name = "pywasm3"

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        try:
            import wasm3  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise Absent("pip install pywasm3") from None
        environment = wasm3.Environment()
        runtime = environment.new_runtime(1 << 20)
        runtime.load(environment.parse_module(kernel.wasm.read_bytes()))
        function = runtime.find_function("run")
        held = (environment, runtime)
        return lambda: int(function(kernel.n)) & MASK if held else 0


class Wasmtime(Peer):
    """Wasmtime's compiler Cranelift, or with `target` "pulley64" its interpreter."""

    name = "wasmtime"
    target: str | None = None

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        try:
            import wasmtime
        except ImportError:
            raise Absent("pip install wasmtime") from None
        config = wasmtime.Config()
        if self.target is not None:
            try:
                config.target = self.target
            except (AttributeError, wasmtime.WasmtimeError) as error:
                raise Absent(f"this wasmtime has no {self.target}: {error}") from None
        engine = wasmtime.Engine(config)
        store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, kernel.wasm.read_bytes())
        function: Any = wasmtime.Instance(store, module, []).exports(store)["run"]
        return lambda: int(function(store, kernel.n)) & MASK


class Pulley(Wasmtime):
    """See Wasmtime."""

    name = "pulley64"
    target = "pulley64"


class Native(Peer):
    """The same source by gcc -O2: the limit."""

    name = "native"

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        library = kernel.library()
        return lambda: int(library.run(kernel.n))


PEERS: tuple[type[Peer], ...] = (Wasmsr, Counted, Wasm3, Pulley, Wasmtime, Native)
