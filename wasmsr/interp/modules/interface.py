"""What custom sections and advice on foreign files need of a module."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    class ImportedItem(Protocol):
        """An import, by the names of module and item."""

        @property
        def module(self) -> str:
            """The name of the module."""

        @property
        def name(self) -> str:
            """The name of the item."""

    class ModuleInterface(Protocol):
        """A decoded module; `wasmsr.interp.modules.module.Module` is one."""

        @property
        def binary(self) -> bytes:
            """The module's bytes."""

        @property
        def imports(self) -> Sequence[ImportedItem]:
            """What it imports."""

        @property
        def exports(self) -> Sequence[Any]:
            """What it exports."""

        def validate(self) -> bool:
            """Validate all bodies. Raises ModuleError."""

        def custom_section(self, name: str) -> bytes | None:
            """Return the contents of the first custom section of a name, or None."""

        def body_range(self, index: int) -> tuple[int, int]:
            """Return the byte range of a function's body. Raises IndexError."""
