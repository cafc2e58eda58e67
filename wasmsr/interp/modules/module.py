"""A module: bytes decoded and validated by the C core, described for Python.

A module is immutable. It can be instantiated in any number of stores, on any threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import cached_property

from wasmsr._ffi import ffi, lib
from wasmsr.errors import (
    InvalidError,
    MalformedError,
    MissingPackageError,
    ModuleError,
    UnsupportedError,
    printable,
)
from wasmsr.interp.instruction_set import features as table
from wasmsr.interp.types import (
    Bounds,
    ExternType,
    FuncType,
    GlobalType,
    MemoryType,
    TableType,
    TagType,
    ValType,
    val_types,
)
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.modules.custom_sections import Names

SMALL_MODULE = 1 << 18
"""Bytes of a module from which on a cache keeps notes; smaller ones are validated in less than a
millisecond."""

MAGIC = b"\0asm"
_NO_OFFSET = 2**64 - 1


@record(frozen=True)
class Import:
    """One import.

    Attributes:
        module: Name of the module.
        name: Name of the item.
        type: The type that the item must have.
        kind: Its kind in the binary format.
        index: Its index in the index space of its kind.
        number: Its number among the imports.
    """

    module: str
    name: str
    type: ExternType
    kind: int
    index: int
    number: int


@record(frozen=True)
class Export:
    """One export.

    Attributes:
        name: Its name.
        type: Its type.
        kind: Its kind in the binary format.
        index: Its index in the index space of its kind.
    """

    name: str
    type: ExternType
    kind: int
    index: int


def core_error(error: Any) -> Exception:
    """Return the exception for an error that the core reports while reading a module."""
    message = ffi.string(error.message).decode("utf-8", "replace")
    offset = None if error.offset == _NO_OFFSET else int(error.offset)
    if error.kind == lib.WSR_MALFORMED:
        return MalformedError(message, offset=offset)
    if error.kind == lib.WSR_UNSUPPORTED:
        feature = ffi.string(error.feature).decode()
        return UnsupportedError(message, feature=feature, offset=offset, hint=table.advice(feature))
    if error.kind == lib.WSR_MEMORY:
        return MemoryError(message)
    if error.kind == lib.WSR_INVALID:
        return InvalidError(message, offset=offset)
    return ModuleError(message, offset=offset)


def _text(pointer: Any, length: int) -> str:
    return bytes(ffi.buffer(pointer, length)).decode("utf-8")


def function_type(view: Any) -> FuncType:
    """Return a FuncType from the core's view of one."""
    return FuncType(
        val_types(ffi.unpack(view.params, view.n_params) if view.n_params else ()),
        val_types(ffi.unpack(view.results, view.n_results) if view.n_results else ()),
    )


def _bounds(view: Any) -> Bounds:
    return Bounds(view.minimum, view.maximum if view.has_maximum else None)


def address_type(view: Any) -> ValType:
    """Return the type of addresses, from the core's `wsr_bounds`."""
    return ValType.I64 if view.address64 else ValType.I32


class Module:
    """A decoded and validated module.

    Args:
        binary: The module in the binary format.
        name: What to call it in messages and backtraces; default is the name in its name section.
        features: What it may need of WebAssembly. None stands for all that this engine has by
        default;
            text has switches such as "-simd"; otherwise these are the names of all that are on.
        lazy: Validate the body of a function when it is compiled, at its first call. An invalid
        body is
            an InvalidError then, which ends the program.

    Attributes:
        binary: The bytes.
        c: The core's module.
        validated: Whether all bodies have been validated; always so unless `lazy`.
        on_invalid: Called when a body turned out to be invalid, or None.
        allowed_features: Names of the features that its bytes may use; `needed_features` are those
        that
            they use.
        imports: What it imports, in the binary's order.
        exports: What it exports, in the binary's order.
        counts: The sizes of its index spaces (`wsr_counts` of the core).

    Raises:
        MalformedError: The bytes are no module.
        InvalidError: The module does not validate.
        UnsupportedError: It needs a feature that this engine lacks, or that is off; `feature`
        names it. ModuleError: It exceeds a limit of this implementation.
        ValueError: `features` names an unknown feature, or one that cannot be switched so.
    """

    def __init__(
        self,
        binary: bytes,
        *,
        name: str | None = None,
        features: str | Iterable[str] | None = None,
        lazy: bool = False,
    ) -> None:
        self.binary = bytes(binary)
        self.allowed_features = table.chosen(features)
        error = ffi.new("wsr_error *")
        self._bytes = ffi.from_buffer("uint8_t[]", self.binary)
        pointer = lib.wsr_module_new(
            self._bytes, len(self.binary), table.bits(self.allowed_features), error
        )
        if pointer == ffi.NULL:
            from wasmsr.interp.modules.foreign_files import (
                explained,  # only here: most modules are good
            )

            raise explained(self.binary, core_error(error), decode_only)
        self.c = ffi.gc(pointer, lib.wsr_module_free, size=len(self.binary))
        self._validating = threading.Lock()
        self.validated = False
        self.counts = ffi.new("wsr_counts *")
        lib.wsr_module_counts(self.c, self.counts)
        if not lazy:
            self.validate()
        self._given_name = name
        self.on_invalid: Callable[[], object] | None = None
        self.imports: tuple[Import, ...] = tuple(
            self._import(i) for i in range(self.counts.imports)
        )
        self.exports: tuple[Export, ...] = tuple(
            self._export(i) for i in range(self.counts.exports)
        )

    def __repr__(self) -> str:
        from wasmsr.interp import one_line  # only here: few ask

        return one_line.module(self)

    def validate(self, size: int | None = None) -> bool:
        """Validate the bodies of functions that have not been validated yet.

        Args:
            size: About how many bytes of bodies to validate; None validates all.

        Returns:
            Whether all bodies have been validated.

        Raises:
            MalformedError, InvalidError, UnsupportedError: As the class says.
        """
        with self._validating:
            if not self.validated:
                error = ffi.new("wsr_error *")
                most = 2**64 - 1 if size is None else size
                state = lib.wsr_module_validate(self.c, most, error)
                if state < 0:
                    raise core_error(error)
                self.validated = state == 1
                lib.wsr_module_counts(self.c, self.counts)
        return self.validated

    def invalid(self) -> Exception | None:
        """Return the error of a called function that could not be compiled, or None."""
        error = ffi.new("wsr_error *")
        function = lib.wsr_module_invalid(self.c, error)
        if function == 2**32 - 1:
            return None
        if self.on_invalid is not None:
            self.on_invalid()
        found = core_error(error)
        if isinstance(found, ModuleError):
            name = printable(self.function_name(function), 100)
            found.message = f"{name} is invalid: {found.message}"
        return found

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        features: str | Iterable[str] | None = None,
    ) -> Module:
        """Read a module from a file in the binary or the text format, told apart by content.

        Raises:
            OSError: The file cannot be read.
            ModuleError: As the class says; text that is no module is a MalformedError.
        """
        with open(path, "rb", buffering=0) as file:
            data = file.read()
        if name is None:
            name = os.path.splitext(os.path.basename(os.fspath(path)))[0]
        if not data.startswith(MAGIC):
            data = assemble(data, os.fspath(path))
        return cls(data, name=name, features=features)

    @classmethod
    def from_text(
        cls, text: str, *, name: str | None = None, features: str | Iterable[str] | None = None
    ) -> Module:
        """Return a module written in the text format.

        Raises:
            ModuleError: As the class says; text that is no module is a MalformedError.
        """
        return cls(assemble(text.encode()), name=name, features=features)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the binary, 32 bytes: the module's identity in snapshots and on the wire."""
        import hashlib  # only here: it brings OpenSSL

        return hashlib.sha256(self.binary).digest()

    @cached_property
    def needed_features(self) -> frozenset[str]:
        """Names of the features that can be off and that its bytes use."""
        self.validate()  # what bodies use is known then
        return table.names(self.counts.features)

    def lacking(self, features: frozenset[str]) -> frozenset[str]:
        """Return the names of the features that its bytes use and that `features` lacks."""
        if self.allowed_features <= features:  # most often, and then no body need be validated
            return frozenset()
        return self.needed_features - features

    @property
    def name(self) -> str | None:
        """The given name, else the one in the name section, else None."""
        return self._given_name or self.names.module

    @cached_property
    def names(self) -> Names:
        """What its name section calls its functions, locals, globals and so on."""
        from wasmsr.interp.modules.custom_sections import Names  # only here: few ask

        return Names(self.custom_section("name"))

    @cached_property
    def branch_hints(self) -> dict[int, bool]:
        """Whether a condition is likely true, by byte offset of its `if` or `br_if`.

        This engine makes no use of them.
        """
        from wasmsr.interp.modules.custom_sections import branch_hints  # only here: few ask

        return branch_hints(self)

    @property
    def function_count(self) -> int:
        """Functions in the index space, imports included."""
        return int(self.counts.functions)

    @property
    def imported_functions(self) -> int:
        """How many functions are imports; they come first in the index space."""
        return int(self.counts.imported_functions)

    @property
    def start(self) -> int | None:
        """Index of the start function, or None."""
        return None if self.counts.start == 2**32 - 1 else int(self.counts.start)

    @property
    def memory_types(self) -> tuple[MemoryType, ...]:
        """Types of the memories, imported ones first."""
        found = (self._extern_type(lib.WSR_MEMORY_KIND, i) for i in range(self.counts.memories))
        return tuple(type_ for type_ in found if isinstance(type_, MemoryType))

    def function_type(self, index: int) -> FuncType:
        """Return the type of the function with that index."""
        if not 0 <= index < self.counts.functions:
            raise IndexError(f"the module has no function {index}")
        view = ffi.new("wsr_function_type *")
        lib.wsr_module_function_type(self.c, index, view)
        return function_type(view)

    def body_range(self, index: int) -> tuple[int, int]:
        """Return the byte range of a defined function's body, locals included."""
        begin, end = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        if not self.counts.imported_functions <= index < self.counts.functions:
            raise IndexError(f"the module defines no function {index}")
        lib.wsr_module_body(self.c, index, begin, end)
        return begin[0], end[0]

    def live_locals(self, function: int, offset: int, *, waiting: bool) -> bytes | None:
        """Return which locals a frame can still read: 1 for each that it can, 0 for a dead one.

        Args:
            function: Index of the frame's function.
            offset: The frame's position.
            waiting: Whether the frame waits for a callee.

        Returns:
            None if no frame can be there.
        """
        room = 1 << 16  # a function has at most 50,000 locals
        live = bytearray(room)
        count = lib.wsr_module_live(
            self.c, function, offset, waiting, ffi.from_buffer("uint8_t[]", live), room
        )
        return bytes(live[:count]) if count <= room else None

    def function_name(self, index: int) -> str:
        """Return a name for messages: of the name section, an export or import, or func[i]."""
        name = self.names.functions.get(index)
        if name is not None:
            return name
        for export in self.exports:
            if export.kind == lib.WSR_FUNCTION and export.index == index:
                return export.name
        for item in self.imports:
            if item.kind == lib.WSR_FUNCTION and item.index == index:
                return f"{item.module}.{item.name}"
        return f"func[{index}]"

    def custom_section(self, name: str) -> bytes | None:
        """Return the contents of the first custom section of that name, or None (section 5.5.3)."""
        for found, start, end in self._custom_sections:
            if found == name:
                return self.binary[start:end]
        return None

    def _extern_type(self, kind: int, index: int) -> ExternType:
        if kind == lib.WSR_FUNCTION:
            return self.function_type(index)
        if kind == lib.WSR_TAG:
            view = ffi.new("wsr_function_type *")
            lib.wsr_module_tag(self.c, index, view)
            return TagType(function_type(view).params)
        if kind == lib.WSR_GLOBAL:
            view = ffi.new("wsr_global_type *")
            lib.wsr_module_global(self.c, index, view)
            return GlobalType(ValType(view.type), bool(view.mutability))
        bounds = ffi.new("wsr_bounds *")
        if kind == lib.WSR_TABLE:
            lib.wsr_module_table(self.c, index, bounds)
            return TableType(ValType(bounds.type), _bounds(bounds), address_type(bounds))
        lib.wsr_module_memory(self.c, index, bounds)
        return MemoryType(_bounds(bounds), address_type(bounds))

    def _import(self, index: int) -> Import:
        view = ffi.new("wsr_extern *")
        lib.wsr_module_import(self.c, index, view)
        return Import(
            _text(view.module, view.module_length),
            _text(view.name, view.name_length),
            self._extern_type(view.kind, view.index),
            view.kind,
            view.index,
            index,
        )

    def _export(self, index: int) -> Export:
        view = ffi.new("wsr_extern *")
        lib.wsr_module_export(self.c, index, view)
        return Export(
            _text(view.name, view.name_length),
            self._extern_type(view.kind, view.index),
            view.kind,
            view.index,
        )

    @cached_property
    def _custom_sections(self) -> list[tuple[str, int, int]]:
        from wasmsr.interp.modules.custom_sections import read_unsigned  # only here: few ask

        found = []
        at = 8
        while at < len(self.binary):
            identity = self.binary[at]
            size, at = read_unsigned(self.binary, at + 1)
            end = at + size
            if identity == 0:
                length, start = read_unsigned(self.binary, at)
                name = self.binary[start : start + length].decode("utf-8")
                found.append((name, start + length, end))
            at = end
        return found


def decode_only(binary: bytes) -> Module:
    """Return a module whose bodies are validated when they are compiled. Raises ModuleError."""
    return Module(binary, lazy=True)


def assemble(text: bytes, what: str = "the text") -> bytes:
    """Turn a module in the text format into the binary format.

    Raises:
        MalformedError: The text is no module.
        MissingPackageError: There is no wasmtime, which does the work.
    """
    source = text.decode("utf-8", "replace")
    if not source.lstrip().startswith(("(", ";;")) or "\ufffd" in source:
        from wasmsr.interp.modules.foreign_files import what_text_is

        said, hint = what_text_is(text)
        raise MalformedError(
            f"{what} is neither a Wasm binary nor a module in the text format"
            + (f": {said}" if said else ""),
            hint=hint or "a binary begins with the bytes 00 61 73 6d, a text with (module",
        )
    try:  # only here: it is large, and the text format is for trying things out
        import wasmtime
    except (ImportError, OSError, RuntimeError):  # on a CPU without a build: RuntimeError, OSError
        raise MissingPackageError(
            "wasmtime",
            "the text format of WebAssembly",
            instead="make a binary of it with `wat2wasm` of the package wabt",
        ) from None
    try:
        return bytes(wasmtime.wat2wasm(source))
    except wasmtime.WasmtimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise MalformedError(f"{what} is no module in the text format: {reason}") from None
