#!/usr/bin/env python3
"""Builds the example programs of this folder: C sources in, the committed .wasm binaries out.

    build.py [NAME...]      build all programs, or only those named, in place
    build.py --check        change nothing; exit 1 if a binary is not what its sources give

The compiler is the distribution's clang (14 or later) with wasm-ld, wasi-libc and the compiler's
runtime library for wasm32; where that is missing, the `ziglang` package of this Python. The same
compiler and C library give the same bytes on every machine: no paths, times or debug data get in,
only the names of functions, which traces and snapshots show.

`binaries.json` records what the binaries were built from and with. The check compares sources and
binaries with that record everywhere, and rebuilds where the recorded tools are installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORD = HERE / "binaries.json"
INSTALL = "apt-get install clang lld wasi-libc libclang-rt-dev-wasm32   (or: pip install ziglang)"

# Wasm 1.0 and the few later features that the programs use; a compiler's default set grows with
# each release, so it is named rather than taken.
FEATURES = ("mutable-globals", "sign-ext", "bulk-memory")
COMMON = ("-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-Qunused-arguments")
FREESTANDING = ("-nostdlib", "-ffreestanding", "-Wl,--no-entry")


@dataclass(frozen=True)
class Recipe:
    """How one program is made.

    Attributes:
        sources: files that are compiled and linked, in this order.
        headers: files that those include.
        flags: compiler options besides the common ones.
        features: features besides the common ones, by LLVM's names.
    """

    sources: tuple[str, ...]
    headers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


PROGRAMS = {
    "fib": Recipe(
        ("fib.c",),
        flags=(*FREESTANDING, "-fno-optimize-sibling-calls", "-Wl,-z,stack-size=0"),
    ),
    "cat": Recipe(("cat.c", "preopened.c"), headers=("preopened.h",)),
    "server": Recipe(
        ("server.c", "server_cells.s"),
        flags=(*FREESTANDING, "-Wl,--export=rounds", "-Wl,-z,stack-size=4096"),
        features=("reference-types",),
    ),
    "transcoding": Recipe(
        ("transcoding.c", "y4m.c", "jpeg.c", "avi.c", "preopened.c"),
        headers=("y4m.h", "jpeg.h", "avi.h", "preopened.h"),
    ),
}


@dataclass(frozen=True)
class Compiler:
    """A C compiler for WASI.

    Attributes:
        command: what to run, without options.
        identity: what decides the bytes that it makes: versions, and the digest of its libraries.
        zig: whether it is zig's; that one spells targets and features its own way.
        environment: what it runs in; None for ours.
    """

    command: tuple[str, ...]
    identity: dict[str, str]
    zig: bool
    environment: Mapping[str, str] | None = None

    def build(self, recipe: Recipe, output: Path) -> None:
        """Compiles and links `recipe` into `output`; SystemExit with the compiler's words."""
        features = (*FEATURES, *recipe.features)
        if self.zig:
            cpu = "+".join(["mvp", *(feature.replace("-", "_") for feature in features)])
            target = ["-target", "wasm32-wasi", f"-mcpu={cpu}"]
        else:
            target = ["--target=wasm32-wasi", "-mcpu=mvp", *(f"-m{name}" for name in features)]
        command = [*self.command, *target, *COMMON, *recipe.flags, *recipe.sources]
        # Run where the sources are, so that they have no path that could get into the result.
        done = subprocess.run(
            [*command, "-o", str(output)],
            cwd=HERE,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"build.py: {' '.join(command)}\n{done.stderr.strip()}")
        output.write_bytes(without_debug_data(output.read_bytes()))
        output.chmod(0o644)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_u32(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number at offset `at`, and the offset after it."""
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return number, at


def without_debug_data(binary: bytes) -> bytes:
    """The module without its custom sections `.debug_...`, which a C library may bring along.

    The linkers can do that too, but zig's takes the functions' names away with it.
    """
    kept = [binary[:8]]
    at = 8
    while at < len(binary):
        size, content = read_u32(binary, at + 1)
        end = content + size
        if binary[at] == 0:  # a custom section: its content begins with its name
            length, name = read_u32(binary, content)
            is_debug = binary[name : name + length].startswith(b".debug_")
        else:
            is_debug = False
        if not is_debug:
            kept.append(binary[at:end])
        at = end
    return b"".join(kept)


def output_of(command: Sequence[str]) -> str | None:
    """What `command` prints, without the spaces around it; None if it cannot run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def library_digest(command: str, query: str) -> str | None:
    """The digest of a library that clang would link, or None where it is not installed."""
    path = output_of([command, "--target=wasm32-wasi", query])
    if path is None or not Path(path).is_file():
        return None
    return sha256(Path(path).read_bytes())


def without_wasm_opt(command: str, linker: str) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """Options and an environment in which clang does not run `wasm-opt` on what it has linked.

    clang runs it by itself where it finds one (the package binaryen has it), so the bytes would
    depend on what else the machine has. It looks beside itself and on PATH. So PATH is empty, and
    the linker is named by its own path; or the option does it that versions from 19 on have (with
    19.1 it leaves out the linking too, which is why the plan is looked at).
    """
    empty = {**os.environ, "PATH": ""}
    choices = ((f"-fuse-ld={linker}",), empty), (("--no-wasm-opt",), None)
    for options, environment in choices:
        words = [command, *options, "--target=wasm32-wasi", "-O2", "-###", "-x", "c", os.devnull]
        plan = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if Path(linker).name in plan.stderr and '/wasm-opt"' not in plan.stderr:
            return options, environment
    return (), None


def clang(command: str) -> Compiler | None:
    """The clang called `command`, if it is there with all that it needs to build for WASI."""
    command = shutil.which(command) or ""
    if not command:
        return None
    version = output_of([command, "--version"])
    linker = output_of([command, "--target=wasm32-wasi", "-print-prog-name=wasm-ld"])
    linker_version = output_of([linker, "--version"]) if linker else None
    libc = library_digest(command, "-print-file-name=libc.a")
    runtime = library_digest(command, "-print-libgcc-file-name")
    if (
        version is None
        or linker is None
        or linker_version is None
        or libc is None
        or runtime is None
    ):
        return None
    identity = {
        "compiler": version.splitlines()[0],
        "linker": linker_version,
        "libc.a": libc,
        "runtime library": runtime,
    }
    options, environment = without_wasm_opt(command, linker)
    return Compiler((command, *options), identity, False, environment)


def zig() -> Compiler | None:
    """The compiler of the `ziglang` package, if this Python has it."""
    command = (sys.executable, "-m", "ziglang")
    version = output_of([*command, "version"])
    if version is None:
        return None
    return Compiler((*command, "cc"), {"compiler": f"ziglang {version}"}, zig=True)


def compilers() -> list[Compiler]:
    """All compilers of this machine that can build the programs, the preferred ones first."""
    names = ["clang", *(f"clang-{version}" for version in range(30, 13, -1))]
    found = [*map(clang, names), zig()]
    return [compiler for compiler in found if compiler is not None]


def digests(recipe: Recipe) -> dict[str, str]:
    """The digest of every file that the program is made of."""
    return {name: sha256((HERE / name).read_bytes()) for name in recipe.sources + recipe.headers}


def build(names: Sequence[str]) -> None:
    """Builds the programs in place and records what they were made from and with."""
    found = compilers()
    if not found:
        raise SystemExit(f"build.py: no compiler for WASI here; install one:\n    {INSTALL}")
    compiler = found[0]
    print(f"with {compiler.identity['compiler']}")
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in names:
        output = HERE / f"{name}.wasm"
        compiler.build(PROGRAMS[name], output)
        binary = output.read_bytes()
        record[name] = {
            "binary": sha256(binary),
            "sources": digests(PROGRAMS[name]),
            "tools": compiler.identity,
        }
        ordered = {name: record[name] for name in PROGRAMS if name in record}
        RECORD.write_text(json.dumps(ordered, indent=2) + "\n")
        print(f"{output.name}: {len(binary)} bytes")


def check(names: Sequence[str]) -> int:
    """Compares the binaries with the record, and with a rebuild where that is possible."""
    record = json.loads(RECORD.read_text())
    found = compilers()
    wrong = 0
    for name in names:
        entry = record.get(name, {})
        binary = (HERE / f"{name}.wasm").read_bytes()
        same_tools = [compiler for compiler in found if compiler.identity == entry.get("tools")]
        if entry.get("sources") != digests(PROGRAMS[name]):
            verdict = "STALE: a source changed after the build"
        elif entry.get("binary") != sha256(binary):
            verdict = "WRONG: not the file that the record names"
        elif not same_tools:
            verdict = "as recorded (not rebuilt: its compiler or C library is not here)"
        else:
            with tempfile.TemporaryDirectory() as folder:
                # The linker writes the file's name into the module, so it must be the same.
                rebuilt = Path(folder) / f"{Path(name).name}.wasm"
                same_tools[0].build(PROGRAMS[name], rebuilt)
                same = rebuilt.read_bytes() == binary
            verdict = "rebuilt, the same bytes" if same else "WRONG: a rebuild gives other bytes"
        wrong += verdict.split(":")[0] in ("STALE", "WRONG")
        print(f"{name}.wasm: {verdict}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the example programs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    options = parser.parse_args()
    for name in options.names:
        if name not in PROGRAMS:
            parser.error(f"no program called {name!r}; there are {', '.join(PROGRAMS)}")
    names = options.names or list(PROGRAMS)
    if options.check:
        return check(names)
    build(names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
