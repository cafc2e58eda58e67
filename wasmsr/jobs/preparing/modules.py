"""Which modules a program of a job consists of, and which is for which import.

The rules are the peer's: an import's module name is that of a module that is loaded already, of
WASI, or of an input; ours alone finds `NAME.wasm` too. Modules are loaded depth first, so each is
there before those that import from it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wasmsr.errors import MalformedError, ModuleError, WasmsrError, listed, printable
from wasmsr.interp.modules.module import MAGIC
from wasmsr.jobs.description.job import WasmEngine
from wasmsr.jobs.description.rules import MEMORY_LIMIT
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.preparing.guest_files import SUFFIX, GuestFiles

HOST_MODULES = frozenset(("wasi_snapshot_preview1", "wasi_unstable", "wasmsr"))
"""Names of modules that the host gives."""

PAGE = 65536

DEPTH = 64
"""Modules that import from each other, one after the other, at most."""

MOST = 256
"""Modules of one program at most."""

MODULE_BYTES = 256 << 20
"""Bytes of a module that are taken at most."""

About = Mapping[str, Any]
"""What a warm parent says of its module; see `module_about`."""

Describe = Callable[[str, str], About]
"""Loads the module of a file with a digest, and returns what it is. Raises WasmsrError."""


@dataclass(frozen=True)
class LinkedModules:
    """The modules of a program.

    Attributes:
        entry: The file of the module that is called.
        digest: SHA-256 of that file in hexadecimal digits.
        preload: The others: names under which later ones import from them, with their files.
    """

    entry: str
    digest: str
    preload: tuple[tuple[str, str], ...] = ()


def memory_pages(memory: int | None) -> int | None:
    """Return the limit of each memory in pages.

    Raises:
        JobError: MemoryLimitError; a memory of 32-bit addresses cannot have so much.
    """
    if not memory:
        return None
    if memory < 0 or memory > MEMORY_LIMIT:
        gib = memory / (1 << 30)
        raise JobError(
            "MemoryLimitError",
            f"{memory} bytes of memory ({gib:.2f} GB) are asked for, and a Wasm memory has at most "
            f"{MEMORY_LIMIT} (4.00 GB)",
            hint="ask for at most 4GiB",
            details={"requested": memory, "limit": MEMORY_LIMIT},
        )
    return -(-memory // PAGE)


@dataclass
class ModuleLinker:
    """Finds the modules of one program.

    Attributes:
        files: Where modules are.
        describe: Says what a module is.
        manner: Ours, or the peer's.
        pages: The limit of each memory in pages, or None.
    """

    files: GuestFiles
    describe: Describe
    manner: Manner
    pages: int | None
    _names: dict[str, str] = field(default_factory=dict)
    """The file of each name under which others import, in the order of loading."""
    _loaded: set[str] = field(default_factory=set)
    _loading: list[str] = field(default_factory=list)

    def link(self, engine: WasmEngine) -> LinkedModules:
        """Return the modules of a program, all there and each fit to be loaded.

        Raises:
            JobError: ModuleNotFound, ModuleCompileError, ModuleLoadError, UnknownModuleError,
                EntrypointError or SpecError.
        """
        if not engine.module:
            raise JobError(
                "SpecError",
                "the engine has no EntryModule",
                hint="name the Target of the input that is the program",
            )
        for path in engine.imports:
            file = self._file(path)
            self._load(file, path)
            self._names.setdefault(path, file)
        entry = self._file(engine.module)
        about, digest = self._about(entry, engine.module)
        self._require(entry, engine.module, about)
        self._check_entrypoint(about, engine)
        preload = tuple(self._names.items())
        return LinkedModules(entry, digest, preload)

    def _file(self, path: str) -> str:
        found = self.files.find(path)
        if found is None:
            raise JobError(
                "ModuleNotFound",
                f"there is no module at {printable(path)}",
                hint="name the Target of an input that is a module, or a folder with exactly one "
                "file whose name ends in .wasm",
                details={"module": path},
            )
        return found

    def _load(self, file: str, path: str) -> None:
        """Load a module that others import from, and before it what it imports from."""
        if file in self._loaded:
            return
        about, _ = self._about(file, path)
        self._require(file, path, about)
        self._loaded.add(file)

    def _require(self, file: str, path: str, about: About) -> None:
        """Load what a module imports from."""
        if file in self._loading:
            circle = [*self._loading[self._loading.index(file) :], file]
            raise JobError(
                "ModuleLoadError",
                "modules import from each other in a circle: "
                + " from ".join(printable(os.path.basename(one)) for one in circle),
                hint="a module can import only from modules that need nothing of it",
            )
        if len(self._loading) >= DEPTH or len(self._loaded) >= MOST:
            raise JobError(
                "ModuleLoadError",
                f"{printable(path)} needs too many modules: {MOST} are the most, and {DEPTH} that "
                "import one from the other",
            )
        self._loading.append(file)
        try:
            for module, name in _one_of_each(about["imports"]):
                if module in HOST_MODULES or module in self._names:
                    self._check_export(path, module, name)
                    continue
                found = self._imported(module)
                if found is None:
                    raise JobError(
                        "UnknownModuleError",
                        f"{printable(path)} imports {printable(name, 100)} from the unknown module "
                        f"{printable(module, 100)}",
                        hint=f"add an input with the Target {printable(module, 100)}",
                        details={"importer": path, "module": module, "field": name},
                    )
                self._load(found, module)
                self._names[module] = found
        finally:
            self._loading.pop()
        for module, name in about["imports"]:
            self._check_export(path, module, name)

    def _imported(self, name: str) -> str | None:
        found = self.files.find(name)
        if found is None and not self.manner.peer:
            found = self.files.find(name + SUFFIX)
        return found

    def _check_export(self, path: str, module: str, name: str) -> None:
        file = self._names.get(module)
        if module in HOST_MODULES or file is None:
            return
        exports = self._about(file, module)[0]["exports"]
        if name not in exports:
            raise JobError(
                "ModuleLoadError",
                f"{printable(path)} imports {printable(name, 100)} from {printable(module, 100)}, "
                f"which does not export it",
                hint=f"{printable(module, 100)} exports {listed(exports) or 'nothing'}",
                details={"importer": path, "module": module, "field": name},
            )

    def _about(self, file: str, path: str) -> tuple[About, str]:
        """Return what the module of a file is, and its digest."""
        try:
            size = os.stat(file).st_size
            if size > MODULE_BYTES:
                raise ModuleError(f"{size} bytes are more than {MODULE_BYTES}")
            digest = digest_of(file)
            with open(file, "rb") as opened:
                if opened.read(len(MAGIC)) != MAGIC:
                    raise MalformedError("invalid magic number; it is no WebAssembly binary")
            about = self.describe(file, digest)
        except (ModuleError, OSError) as error:
            raise _no_module(path, error) from error
        except WasmsrError as error:
            raise JobError(
                "ModuleLoadError",
                f"the module {printable(path)} cannot be loaded: {error.message}",
                hint=error.hint,
                retryable=True,
            ) from error
        self._check_memories(path, about)
        if self.manner.peer and not about["named"]:
            raise _no_module(path, "it has no section of names")
        return about, digest

    def _check_memories(self, path: str, about: About) -> None:
        for pages in about["memories"]:
            if self.pages is not None and pages > self.pages:
                raise _no_module(
                    path,
                    f"its memory begins with {pages} pages ({pages * 64} KiB), over the limit of "
                    f"{self.pages} pages ({self.pages * 64} KiB)",
                    "ask for more memory in Resources",
                )

    def _check_entrypoint(self, about: About, engine: WasmEngine) -> None:
        functions: Mapping[str, Sequence[int]] = about["functions"]
        name = engine.entrypoint
        if name not in functions:
            raise JobError(
                "EntrypointError",
                f"the module {printable(engine.module)} exports no function "
                f"{printable(name, 100)!r}, which is the entrypoint",
                hint=f"it exports {listed(functions) or 'no functions'}",
                details={"entrypoint": name, "exports": list(functions)[:100]},
            )
        if functions[name][0]:
            raise JobError(
                "EntrypointError",
                f"the entrypoint {printable(name, 100)!r} of {printable(engine.module)} takes "
                f"{functions[name][0]} parameters, and an entrypoint takes none",
                hint=f"it exports {listed(functions)}",
                details={"entrypoint": name, "exports": list(functions)[:100]},
            )


def _no_module(path: str, why: object, hint: str | None = None) -> JobError:
    text = why.strerror or str(why) if isinstance(why, OSError) else str(why)
    more = why.hint if isinstance(why, WasmsrError) else None
    return JobError(
        "ModuleCompileError",
        f"{printable(path)} cannot be used as a module: {text}",
        hint=hint or more or "it must be a WebAssembly binary that uses supported features",
        details={"module": path},
    )


def _one_of_each(imports: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Return each module that is imported from, with the first name of its imports."""
    first: dict[str, str] = {}
    for module, name in imports:
        first.setdefault(module, name)
    return list(first.items())


_known: dict[tuple[str, int, int, int], str] = {}


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. Raises OSError."""
    found = os.stat(path)
    key = path, found.st_ino, found.st_size, found.st_mtime_ns
    digest = _known.get(key)
    if digest is None:
        with open(path, "rb") as file:
            digest = _digest(file)
        if len(_known) > 1000:
            _known.clear()
        _known[key] = digest
    return digest


def _digest(file: Any) -> str:
    found = hashlib.sha256()
    while piece := file.read(1 << 20):
        found.update(piece)
    return found.hexdigest()


__all__ = ["DEPTH", "MODULE_BYTES", "LinkedModules", "ModuleLinker", "digest_of", "memory_pages"]
