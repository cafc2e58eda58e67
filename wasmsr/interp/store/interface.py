"""What externs, host calls and values need of the store to which they belong."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn, Protocol

    from wasmsr.interp.outcomes import FrameView, Limits, Outcome
    from wasmsr.interp.types import FuncType, ValType

    class StoreInterface(Protocol):
        """A store as the things in it see it; `wasmsr.Store` is one.

        Attributes:
            c: The core's store. It is absent once the store is closed.
            limits: Sizes that must not be exceeded.
            features: Names of the features of WebAssembly in force.
            deterministic: Whether NaN results have one form.
            wasi: The `Wasi` that serves the program, or None.
            bases: The `MemoryBases` of its memories, or None.
            owners: Other hosts that keep state for the program, by name.
        """

        c: Any
        limits: Limits
        features: frozenset[str]
        deterministic: bool
        wasi: Any
        bases: Any
        owners: dict[str, Any]

        @property
        def instances(self) -> list[Any]:
            """The module instances, in the order of instantiation."""

        @property
        def hosts(self) -> dict[int, Any]:
            """Host functions by address, each with the names of the import that it answers."""

        @property
        def queue(self) -> list[tuple[int, tuple[int, ...]]]:
            """The invocations to make: address and slots of the arguments."""

        @property
        def externs(self) -> list[Any]:
            """Host objects that externrefs name."""

        @property
        def executed(self) -> int | None:
            """Instructions executed in metered runs, or None."""

        @property
        def instructions(self) -> int | None:
            """Instructions executed so far in metered runs, or None."""

        @property
        def invocations(self) -> int:
            """How many invocations have begun."""

        @property
        def closed(self) -> bool:
            """Whether the store is closed."""

        @property
        def running(self) -> bool:
            """Whether some thread runs the store."""

        @property
        def nested(self) -> bool:
            """Whether a host function that called back is being performed."""

        @property
        def wake_fd(self) -> int:
            """A descriptor that is readable while a pause is requested."""

        def call(self, function: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
            """Run a function to its end."""

        def enqueue(self, function: Any, *arguments: Any) -> None:
            """Add an invocation for `run` to make."""

        def run(self, *, fuel: int | None = None) -> Outcome:
            """Run the frames and the queue to an outcome."""

        def pause(self) -> None:
            """Ask for a pause."""

        def interrupt(self) -> None:
            """Ask for an end of what runs."""

        def wait(self, timeout: float | None = None) -> bool:
            """Wait until no thread runs the store."""

        def copied(self, imports: Any = None, *, memories: bool = True) -> Any:
            """Return a new store in the same state, whose memories are all zeros."""

        def close(self) -> None:
            """Give back the memory of the store."""

        @property
        def state(self) -> Any:
            """The part that gives the state as plain data, a `StoreState`."""

        def check(self) -> None:
            """Test every invariant."""

        def frames(self, *, dead_locals: bool = True) -> list[FrameView]:
            """Return the frames, outermost first."""

        def frame(self, number: int, *, dead_locals: bool = True) -> FrameView:
            """Return one frame."""

        def function_type(self, address: int) -> FuncType:
            """Return the type of the function at an address."""

        def memory_view(self, address: int) -> memoryview:
            """Return the bytes of the memory at an address."""

        def tell(self, kind: str, **detail: Any) -> None:
            """Tell the gate of an event."""

        def reference_bits(self, type_: ValType, value: Any) -> int:
            """Return the bits of a reference to a function, exception or host object."""

        def referenced(self, type_: ValType, bits: int) -> Any:
            """Return what a reference refers to, or None for null."""

        def throw(self, tag: int, slots: Sequence[int]) -> NoReturn:
            """Throw an exception out of a host function."""

        def keep_exception(self, bits: int) -> None:
            """Keep an exception alive for a Python object."""

        def release_exception(self, bits: int) -> None:
            """Note that a Python object of an exception is gone."""
