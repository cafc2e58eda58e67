"""What a refused file is, and what to do about it.

`module` asks when the core has refused some bytes; `program` asks when a module has imports that
the host does not give. Nothing here decides what is refused. A file that is not recognised gets no
advice.

Source: component-model/design/mvp/Binary.md (sections of components), and what the toolchains
themselves write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from wasmsr.errors import LinkError, MalformedError, ModuleError, printable
from wasmsr.interp.modules.custom_sections import read_unsigned
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.modules.interface import ModuleInterface

    Decode = Callable[[bytes], ModuleInterface]
    """Decodes a module without validation of its bodies. Raises ModuleError."""

CORE = b"\0asm\1\0\0\0"
LAYER = b"\1\0"
"""Bytes 6 and 7 of a component; 0 0 of a core module."""
COMPONENT = b"\0asm\x0d\0\1\0"

SECTIONS = (
    "custom",
    "type",
    "import",
    "function",
    "table",
    "memory",
    "global",
    "export",
    "start",
    "element",
    "code",
    "data",
    "data count",
    "tag",
)
"""Sections of core modules by their id."""
CODE = SECTIONS.index("code")
PARTS = (
    "custom",
    "core module",
    "core instance",
    "core type",
    "component",
    "instance",
    "alias",
    "type",
    "canonical function",
    "start",
    "import",
    "export",
    "value",
)
"""Sections of components by their id."""

GIVEN = ("wasi_snapshot_preview1", "wasi_unstable")
"""What `wasmsr run` gives, as modules of imports."""

PREVIEW_1 = (
    "build it for WASI preview 1: Rust --target wasm32-wasip1, clang --target=wasm32-wasi, "
    "TinyGo -target=wasip1, Go GOOS=wasip1 GOARCH=wasm"
)

DEEPEST = 100
"""Components in components that are looked into."""


@record(frozen=True)
class BinarySection:
    """A section of a module or component.

    Attributes:
        id: Its number.
        begin: Where its content begins in the bytes.
        end: Where its content ends; after the end of the bytes if these are cut off.
    """

    id: int
    begin: int
    end: int


def sections(data: bytes, at: int = 8, end: int | None = None) -> Iterator[BinarySection]:
    """Yield the sections of a module or a component, as far as they can be told apart.

    Raises:
        IndexError: The head of a section is cut off.
        ValueError: The length in a head is no number.
    """
    end = len(data) if end is None else end
    while at < end:
        identity = data[at]
        size, begin = read_unsigned(data, at + 1)
        at = begin + size
        yield BinarySection(identity, begin, at)


# ---- bytes that are no module --------------------------------------------------------------------

KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89WSR\r\n\x1a\n", "a snapshot of a program", "wasmsr run --from-snapshot FILE"),
    (b"\x1f\x8b", "compressed with gzip", "gunzip it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -d it first"),
    (b"\xfd7zXZ\0", "compressed with xz", "unxz it first"),
    (b"BZh", "compressed with bzip2", "bunzip2 it first"),
    (b"PK\3\4", "a zip archive", "unzip it first"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file", "git lfs pull"),
    (b"\x7fELF", "a program or library of a CPU (ELF)",
     "give the .wasm file that it was made from: what was compiled ahead runs elsewhere"),
    (b"!<arch>\n", "an archive of object files", "link it first: wasm-ld, or the compiler"),
    (b"BC\xc0\xde", "LLVM bitcode", "compile it to WebAssembly first"),
    (b"#!", "a script", "run it with its interpreter, or that with wasmsr"),
)  # fmt: skip
"""How files begin that are taken for modules by mistake; what they are; what to do."""


def what_text_is(data: bytes) -> tuple[str, str | None]:
    """Return what bytes are that are neither a binary module nor text of one.

    Returns:
        ("it is ...", hint), or ("", None) if the bytes are not recognised.
    """
    if not data.strip():
        return "it is empty", None
    if CORE.startswith(data[:8]):
        return "the file ends in the middle of its first 8 bytes", "it was not copied to its end"
    for begin, what, hint in KINDS:
        if data.startswith(begin):
            return f"it is {what}", hint
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page", "download the file itself"
    return "", None


def explained(data: bytes, error: Exception, decode: Decode) -> Exception:
    """Return the error for bytes that the core refuses: one that says more, or `error`."""
    if not isinstance(error, MalformedError):
        return error
    if len(data) >= 8 and data[6:8] == LAYER:
        return of_component(data, decode)
    if len(data) >= 8 and data[:4] == CORE[:4] and data[4:8] != CORE[4:]:
        version = int.from_bytes(data[4:8], "little")
        return MalformedError(
            f"unknown binary version {version:#x}: modules have version 1", offset=4
        )
    where = cut_off(data)
    if where is None:
        return error
    return MalformedError(
        f"the file ends {where}", offset=len(data), hint="it was not copied to its end"
    )


def cut_off(data: bytes) -> str | None:
    """Return where a module that is cut off ends, in words; None if it is not cut off."""
    if len(data) < len(CORE):
        return "in the middle of its first 8 bytes" if CORE.startswith(data) else None
    names = PARTS if data[6:8] == LAYER else SECTIONS
    seen: set[int] = set()
    try:
        for section in sections(data):
            if section.id >= len(names):
                return None
            if section.end > len(data):
                there, size = len(data) - section.begin, section.end - section.begin
                return (
                    f"in the middle of the {names[section.id]} section: "
                    f"{there} of its {size} bytes are there"
                )
            seen.add(section.id)
    except IndexError:
        return "in the middle of the head of a section"
    except ValueError:
        return None
    if names is SECTIONS and SECTIONS.index("function") in seen and CODE not in seen:
        return "before its code section"
    return None


# ---- components ----------------------------------------------------------------------------------


def of_component(data: bytes, decode: Decode) -> ModuleError:
    """Return the error for a component.

    The error says for which WASI the component is, and whether a part of it runs here.
    """
    where = cut_off(data)
    if where is not None:
        return MalformedError(
            f"the file, a component, ends {where}",
            offset=len(data),
            hint="it was not copied to its end",
        )
    versions = wasi_versions(data)
    wanted = f" for WASI {' and '.join(versions)}" if versions else ""
    if core_of(data, decode) is not None:
        hint = "wasmsr run --core runs the core module in it, which needs WASI preview 1 only"
    else:
        hint = PREVIEW_1
    return MalformedError(
        f"the file is a component{wanted}, and this version runs core modules for WASI preview 1",
        offset=4,
        hint=hint,
    )


def wasi_versions(data: bytes) -> list[str]:
    """Return the versions of WASI that a component's imports name, in order: ["0.2.0", "0.2.3"]."""
    import re

    found = set()
    try:
        for section in sections(data):
            if PARTS[section.id : section.id + 1] == ("import",):
                text = data[section.begin : section.end]
                found.update(re.findall(rb"wasi:[a-z0-9-]+/[a-z0-9-]+@([0-9][0-9a-z.-]*)", text))
    except (IndexError, ValueError):
        pass
    # A number follows a name directly, and may look like a part of it.
    versions = {match.group() for v in found if (match := re.match(rb"\d+\.\d+(\.\d+)?", v))}
    return sorted(version.decode() for version in versions)


def core_modules(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the core modules of a component are, nested ones too: (begin, end)."""
    waiting = [(8, len(data), 0)]
    while waiting:
        begin, end, depth = waiting.pop(0)
        try:
            for section in sections(data, begin, end):
                if section.end > end:
                    break
                kind = PARTS[section.id] if section.id < len(PARTS) else ""
                if kind == "core module":
                    yield section.begin, section.end
                elif kind == "component" and depth < DEEPEST:
                    waiting.append((section.begin + 8, section.end, depth + 1))
        except (IndexError, ValueError):
            continue


def core_of(data: bytes, decode: Decode) -> bytes | None:
    """Return the core module of a component that runs here, or None.

    Such a module imports WASI preview 1 only. A command goes before other modules, then the
    largest goes first.
    """
    best: tuple[bool, int, bytes] | None = None
    for begin, end in core_modules(data):
        binary = data[begin:end]
        try:
            module = decode(binary)
        except ModuleError:
            continue
        if not module.exports or any(item.module not in GIVEN for item in module.imports):
            continue
        command = any(export.name == "_start" for export in module.exports)
        if best is None or (command, len(binary)) > best[:2]:
            best = command, len(binary), binary
    return None if best is None else best[2]


# ---- modules for another host --------------------------------------------------------------------


@record(frozen=True)
class Family:
    """Modules that need a host of their own.

    Attributes:
        name: Of the modules, with an article.
        hint: What to do with one.
        is_one: Whether an import (module, name) shows it.
    """

    name: str
    hint: str
    is_one: Callable[[str, str], bool]


def _begins(*starts: str) -> Callable[[str, str], bool]:
    return lambda module, name: module.startswith(starts)


WASI_0_2 = "a core module for WASI 0.2 or later"

FAMILIES = (
    Family(WASI_0_2, PREVIEW_1, _begins("wasi:")),
    Family(
        "a module of wasm-bindgen, which needs a JavaScript host",
        "build it without wasm-bindgen: cargo build --target wasm32-wasip1",
        lambda module, name: module.startswith(("__wbindgen_", "wbg"))
        or name.startswith(("__wbindgen_", "__wbg_")),
    ),
    Family(
        "a module of Go for js/wasm, which needs a JavaScript host",
        "GOOS=wasip1 GOARCH=wasm go build; with TinyGo: tinygo build -target=wasip1",
        lambda module, name: module in ("gojs", "go")
        or name.startswith(("syscall/js.", "runtime.wasm")),
    ),
    Family(
        "a module of Ruby with its bridge to JavaScript (ruby-js)",
        "take a ruby.wasm that was built without the js library: the archives "
        "ruby-...-wasm32-unknown-wasip1-full of the project's releases",
        _begins("rb-js-abi-host", "rb-abi-guest"),
    ),
    Family(
        "a module of Python with Emscripten (Pyodide), which needs a JavaScript host",
        "take a CPython that was built for WASI: python.wasm",
        lambda module, name: module == "sentinel" or name.startswith(("_Py", "hiwire_")),
    ),
    Family(
        "a module of Emscripten, which needs its JavaScript host",
        "emcc -sSTANDALONE_WASM -o app.wasm makes one that needs WASI only, unless it uses the "
        "browser; wasi-sdk does as well",
        lambda module, name: (
            module in ("env", "GOT.mem", "GOT.func")
            and name.startswith(
                (
                    "emscripten_", "_emscripten_", "_embind_", "_emval_", "__syscall_", "invoke_",
                    "__cxa_", "_abort_js", "abortOnCannotGrowMemory", "__asyncjs__", "_mmap_js",
                    "_munmap_js", "_tzset_js", "_localtime_js", "_setitimer_js", "getTempRet0",
                    "setTempRet0", "segfault", "alignfault", "__call_sighandler",
                )
            )
        )
        # as -O2 and above shorten them
        or (module == "a" and len(name) <= 2),
    ),
    Family(
        "a module for WASIX",
        "build it for WASI preview 1 and without threads, sockets and processes",
        _begins("wasix_"),
    ),
    Family(
        "a module with the threads of WASI",
        "build it without threads: --target wasm32-wasip1, not ...-threads",
        lambda module, name: (module, name) == ("wasi", "thread-spawn"),
    ),
    Family(
        "a module of AssemblyScript for a JavaScript host",
        "asc --use abort= leaves the import out; or add @assemblyscript/wasi-shim",
        lambda module, name: module == "env" and name in ("abort", "trace", "seed"),
    ),
    Family(
        "a module of Kotlin or Dart, which needs a JavaScript host",
        "Kotlin has the target wasmWasi; Dart has none for WASI",
        lambda module, name: module in ("js_code", "dart2wasm", "intrinsics"),
    ),
)  # fmt: skip
"""By what an import is called, the first that fits."""

COMMON = 3
"""Imports that a message names."""


def for_another_host(imports: Iterable[tuple[str, str]]) -> Family | None:
    """Return the family of a module that imports these (module, name), or None."""
    wanted = list(imports)
    for family in FAMILIES:
        if any(family.is_one(module, name) for module, name in wanted):
            return family
    return None


def _version(module: str) -> Any:
    """Return a match whose group 1 is the version in an interface's name, or None."""
    import re

    return re.search(r"^wasi:.*@(\d+\.\d+(\.\d+)?)", module, re.ASCII)


def refusal(module: ModuleInterface) -> LinkError | None:
    """Return the error for a module with imports that `wasmsr run` does not give.

    Returns:
        None if the module has no such imports, or comes from no known toolchain.
    """
    lacking = [(i.module, i.name) for i in module.imports if i.module not in GIVEN]
    if not lacking:
        return None
    family = for_another_host(lacking)
    if family is None:
        return None
    name = family.name
    if name == WASI_0_2:
        found = sorted({m[1] for a, _ in lacking if (m := _version(a))})
        name = f"a core module for WASI {' and '.join(found) or '0.2 or later'}"
    names = [f"{printable(a, 60)}.{printable(b, 60)}" for a, b in lacking[:COMMON]]
    more = f" and {len(lacking) - COMMON} more" if len(lacking) > COMMON else ""
    return LinkError(f"this is {name}: it imports {', '.join(names)}{more}", hint=family.hint)


def unlinked(module: ModuleInterface) -> str | None:
    """Return what a module is that was not linked to a program.

    Returns:
        "an object file" or the like, or None.
    """
    if module.custom_section("linking") is not None:
        return "an object file, which is not linked yet (wasm-ld, or the compiler without -c)"
    if module.custom_section("dylink.0") is not None or module.custom_section("dylink") is not None:
        return "a dynamic library, which only another module can load"
    return None
