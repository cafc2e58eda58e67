"""Builds the kernels: bench/kernels/*.c to Wasm by clang and to shared libraries by gcc.

First in the flow; `peers` runs what comes back. The flags are fixed. Results lie in .cache/bench,
and are made again when a source is newer. The Wasm is version 1 only, so that every peer takes it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "kernels"
COMMAND = HERE / "command.c"
BUILT = HERE.parent / ".cache" / "bench"

WASM = (
    *("--target=wasm32", "-mcpu=mvp", "-O2", "-nostdlib", "-ffreestanding"),
    *("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,--compress-relocations"),
)
NATIVE = ("-O2", "-shared", "-fPIC", "-ffp-contract=off")

TRAINING = HERE / "training"
TRAINED = {
    "fourier": 20,
    "grids": 20,
    "integers": 600,
    "linear": 10,
    "machines": 500,
    "packing": 10,
    "structures": 60,
    "text": 500,
}
"""run(n) of the programs from which `sequences` learns, beside real ones."""

REPEATS = {
    "recursion": 1000,
    "sieve": 120,
    "matrix": 220,
    "nbody": 500_000,
    "mandelbrot": 11_000,
    "sha256": 100_000,
    "crc": 10_000,
    "sorting": 68,
    "hashmap": 7_000_000,
    "indirect": 8_900_000,
    "interpreter": 1_400_000,
    "streaming": 680,
    "formatting": 360_000,
    "stencil": 2500,
    "large": 750_000,
    "calls": 390,
}
"""run(n) of every kernel: a few tenths of a second in this interpreter."""


class Missing(Exception):
    """A tool is not there; the message says which."""


@dataclass(frozen=True)
class Kernel:
    """A kernel as built: the Wasm module, the shared library, and the argument of `run`."""

    name: str
    wasm: Path
    native: Path
    n: int

    def library(self) -> ctypes.CDLL:
        """Load the native code and declare the type of `run`."""
        library = ctypes.CDLL(str(self.native))
        library.run.argtypes = [ctypes.c_uint32]
        library.run.restype = ctypes.c_uint32
        return library


def clang() -> str:
    """Return the newest clang on PATH.

    Raises:
        Missing: there is none.
    """
    for name in ("clang", *(f"clang-{version}" for version in range(25, 13, -1))):
        if path := shutil.which(name):
            return path
    raise Missing("the kernels need clang and wasm-ld: apt-get install clang lld")


def _make(target: Path, source: Path, command: list[str]) -> None:
    shared = (SOURCES / "kernel.h", COMMAND)
    newest = max(path.stat().st_mtime for path in (source, *shared))
    if not target.exists() or target.stat().st_mtime < newest:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(target.name + ".new")
        with tempfile.TemporaryDirectory() as folder:
            # clang runs the wasm-opt that it finds (package binaryen); it finds one that does
            # nothing, so that what is measured does not depend on what else is installed.
            (Path(folder) / "wasm-opt").symlink_to(shutil.which("true") or "/bin/true")
            path = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
            command = [*command, "-o", str(fresh), str(source)]
            subprocess.run(command, env={**os.environ, "PATH": path}, check=True)
        fresh.rename(target)


def training(name: str) -> tuple[Path, int]:
    """Return the Wasm module of one of `TRAINED`, and the argument of `run`.

    Raises:
        Missing: a compiler is not there.
    """
    target = BUILT / "training" / f"{name}.wasm"
    _make(target, TRAINING / f"{name}.c", [clang(), *WASM])
    return target, TRAINED[name]


def kernel(name: str, *, quick: bool = False) -> Kernel:
    """Build one kernel; `quick` runs a tenth of it.

    Raises:
        Missing: a compiler is not there.
    """
    source = SOURCES / f"{name}.c"
    made = Kernel(
        name,
        BUILT / f"{name}.wasm",
        BUILT / f"{name}.so",
        max(1, REPEATS[name] // (10 if quick else 1)),
    )
    _make(made.wasm, source, [clang(), *WASM])
    gcc = shutil.which("gcc")
    if gcc is None:
        raise Missing("native code needs gcc")
    _make(made.native, source, [gcc, *NATIVE])
    return made


def vectors(name: str, *, simd: bool) -> Path:
    """Build one of the kernels of `bench.simd`, with or without vector instructions.

    Raises:
        Missing: a compiler is not there.
    """
    target = BUILT / f"{name}-{'simd' if simd else 'scalar'}.wasm"
    extra = ["-msimd128"] if simd else []
    _make(target, SOURCES / "simd" / f"{name}.c", [clang(), *WASM, *extra])
    return target


def command(name: str, n: int) -> Path:
    """Build one kernel as a command for WASI that runs `run(n)` and prints the result.

    Raises:
        Missing: a compiler is not there.
    """
    target = BUILT / f"{name}-{n}.wasm"
    _make(target, SOURCES / f"{name}.c", [clang(), *WASM, f"-DREPEAT={n}", str(COMMAND)])
    return target


def nothing() -> Path:
    """Build the command that does nothing.

    Raises:
        Missing: a compiler is not there.
    """
    target = BUILT / "nothing.wasm"
    _make(target, COMMAND, [clang(), *WASM, "-DNOTHING"])
    return target
