"""Modules that cannot run here: what they are is said, and what to do about it."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import one_sentence
from wasmsr.cli.programs import PROGRAMS
from wasmsr.interp.modules.foreign_files import core_modules, core_of, cut_off, wasi_versions
from wasmsr.interp.modules.module import assemble, decode_only

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

WASI = "wasi_snapshot_preview1"
START = '(memory (export "memory") 1) (func (export "_start"))'
CORE = f"""(core module
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 7))))"""
IMPORTS = """
  (import "wasi:cli/environment@0.2.3" (instance (export "get" (func))))
  (import "wasi:io/streams@0.2.3" (instance (export "get" (func))))"""
ADAPTER = """(core module
  (import "env" "memory" (memory 1)) (import "wasi:io/streams@0.2.3" "get" (func))
  (func (export "proc_exit") (param i32)))"""


def imports(*names: tuple[str, str]) -> str:
    lines = "".join(f'(import "{module}" "{name}" (func))' for module, name in names)
    return f"(module {lines} {START})"


MODULES = {
    "a component of 0.2": (f"(component {IMPORTS})", "a component for WASI 0.2.3", "wasip1"),
    "one of 0.3": (
        '(component (import "wasi:clocks/types@0.3.0" (instance)))',
        "a component for WASI 0.3.0",
        "wasip1",
    ),
    "one without WASI": ("(component)", "is a component, and", "wasip1"),
    "one with a core": (f"(component {IMPORTS} {ADAPTER} {CORE})", "WASI 0.2.3", "--core"),
    "one in one": (f"(component (component {CORE}))", "a component", "--core"),
    "a core for 0.2": (
        imports(("wasi:cli/stdout@0.2.0", "get-stdout"), (WASI, "x")),
        "a core module for WASI 0.2.0:",
        "wasip1",
    ),
    "Emscripten": (
        imports(("env", "__syscall_openat"), (WASI, "fd_write")),
        "Emscripten",
        "-sSTANDALONE_WASM",
    ),
    "Emscripten, shortened": (imports(("a", "a"), ("a", "b")), "Emscripten", "STANDALONE"),
    "Emscripten, exceptions": (imports(("env", "invoke_vi")), "Emscripten", "STANDALONE"),
    "wasm-bindgen": (
        imports(("__wbindgen_placeholder__", "__wbindgen_throw")),
        "wasm-bindgen",
        "wasm32-wasip1",
    ),
    "wasm-bindgen, linked": (
        imports(("./app_bg.js", "__wbg_log_1d990106d99dacb7")),
        "wasm-bindgen",
        "wasm32-wasip1",
    ),
    "Go": (imports(("gojs", "runtime.scheduleTimeoutEvent")), "Go for js", "GOOS=wasip1"),
    "Go before 1.21": (imports(("go", "runtime.wasmExit")), "Go for js", "GOOS=wasip1"),
    "TinyGo": (imports(("env", "syscall/js.valueGet")), "Go for js", "tinygo"),
    "Ruby": (imports(("rb-js-abi-host", "eval-js: func"), (WASI, "x")), "ruby-js", "wasip1-full"),
    "WASIX": (imports(("wasix_32v1", "thread_spawn")), "WASIX", "preview 1"),
    "threads": (imports(("wasi", "thread-spawn")), "threads of WASI", "wasip1"),
    "AssemblyScript": (imports(("env", "abort")), "AssemblyScript", "--use abort="),
    "unknown": (imports(("mine", "magic")), "mine.magic", "docs/library.md"),
    "wide arithmetic": (
        f"(module {START} (func (result i64 i64) (i64.mul_wide_s (i64.const 1) (i64.const 2))))",
        '"wide-arithmetic", which is switched off',
        "--features +wide-arithmetic",
    ),
    "gc": (f"(module (type (struct)) {START})", '"gc"', "linear memory"),
    "shared memory": (f"(module (memory 1 1 shared) {START})", '"shared-memory"', "threads"),
}
BINARY = {
    "stack switching, a type": (
        b"\0asm\1\0\0\0\1\6\2\x60\0\0\x5d\0",
        '"stack-switching"',
        "Asyncify",
    ),
    "stack switching, an instruction": (
        b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\x0a\6\1\4\0\xe2\0\x0b",
        '"stack-switching"',
        "Asyncify",
    ),
    "an object file": (
        b"\0asm\1\0\0\0\1\4\1\x60\0\0\0\x09\7linking\2",
        "an object file",
        None,
    ),
    "an empty file": (b"", "it is empty", None),
    "gzip": (gzip.compress(b"\0asm\1\0\0\0"), "compressed with gzip", "gunzip"),
    "a snapshot": (b"\x89WSR\r\n\x1a\n\1\0", "a snapshot", "--from-snapshot"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid x\n", "Git LFS", "git lfs pull"),
    "a web page": (b"\n<!DOCTYPE html><title>404</title>", "a web page", "download"),
    "ELF": (b"\x7fELF\2\1\1\0\xff", "ELF", ".wasm"),
    "the first bytes": (b"\0asm\1\0", "ends in the middle of its first 8 bytes", "copied"),
    "the very first": (b"\0as", "ends in the middle of its first 8 bytes", "copied"),
    "another version": (b"\0asm\2\0\0\0", "unknown binary version 0x2", None),
    "a component, cut": (
        assemble(f"(component {IMPORTS} {CORE})".encode())[:-9],
        "ends in the middle of the core module section",
        "copied",
    ),
}


CASES = {
    what: (assemble(text.encode()), said, hint) for what, (text, said, hint) in MODULES.items()
} | BINARY


@pytest.mark.parametrize("what", CASES)
def test_what_it_is(cli: Cli, what: str) -> None:
    data, said, hint = CASES[what]
    (cli.folder / "app.wasm").write_bytes(data)
    outcome = cli("run", "app.wasm")
    assert outcome.returncode == 122, outcome.stderr
    assert said in one_sentence(outcome)
    if hint is not None:
        assert hint in outcome.stderr.splitlines()[1]


def test_also_as_text(cli: Cli) -> None:
    (cli.folder / "app.wat").write_text(f"(component {IMPORTS})")
    assert "a component for WASI 0.2.3" in one_sentence(cli("run", "app.wat"))


def test_wide_arithmetic_as_told(cli: Cli) -> None:
    (cli.folder / "app.wasm").write_bytes(assemble(MODULES["wide arithmetic"][0].encode()))
    assert cli("run", "app.wasm", "--features", "+wide-arithmetic").returncode == 0
    (cli.folder / "simd.wat").write_text(f"(module {START} (func (param v128)))")
    outcome = cli("run", "simd.wat", "--features", "-simd")
    assert "--features +simd" in outcome.stderr


def test_a_file_that_is_cut_off(cli: Cli) -> None:
    """At every length: it says so, or something else that is true."""
    whole = PROGRAMS["server"].path.read_bytes()
    assert cut_off(whole) is None
    (cli.folder / "app.wasm").write_bytes(whole[: len(whole) // 2])
    said = one_sentence(cli("run", "app.wasm", "--invoke", "request"))
    assert "the file ends in the middle of the code section: " in said
    names = set()
    for length in range(1, len(whole)):
        where = cut_off(whole[:length])
        if where is not None:
            names.add(where.partition(" section")[0])
    assert "in the middle of the import" in names
    assert "before its code" in names


def test_core(cli: Cli) -> None:
    """The core module in a component runs, is saved, and goes on."""
    text = f"(component {IMPORTS} {ADAPTER} {CORE})"
    (cli.folder / "app.wasm").write_bytes(assemble(text.encode()))
    assert cli("run", "app.wasm", "--core").returncode == 7
    save = ("--core", "--snapshot-at", "1")
    assert cli("run", "app.wasm", *save).returncode == 120
    assert cli("run", "app.wasm", "--core", "--from-snapshot", "snapshot.bin").returncode == 7
    assert cli("run", "app.wasm", "--from-snapshot", "snapshot.bin").returncode == 122
    (cli.folder / "none.wat").write_text(f"(component {ADAPTER})")
    assert "no core module" in one_sentence(cli("run", "none.wat", "--core"))
    (cli.folder / "plain.wat").write_text(f"(module {START})")
    assert "is no component" in one_sentence(cli("run", "plain.wat", "--core"))


def test_components_that_lie() -> None:
    """Whatever bytes say of their sections, looking at them ends, and raises nothing."""
    whole = assemble(f"(component {IMPORTS} {ADAPTER} {CORE} (component {CORE}))".encode())
    assert len(list(core_modules(whole))) == 3
    for position in range(8, len(whole)):
        for value in (0, 1, 4, 0x7F, 0x80, 0xFF):
            data = whole[:position] + bytes([value]) + whole[position + 1 :]
            wasi_versions(data)
            cut_off(data)
            list(core_modules(data))
            if position < 40:
                core_of(data, decode_only)
    nested = b""
    for _ in range(300):  # deeper than is looked
        nested = b"\0asm\x0d\0\1\0" + (b"\4" + leb(len(nested)) + nested if nested else b"")
    assert list(core_modules(nested)) == []


def leb(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
