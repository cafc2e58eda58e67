"""The programs and the engines of `suite`: what each is, and how it is started.

First in the flow of `suite`, after `build`. What is not ours lies in a folder outside the tree that
the environment variable WASMSR_PEERS names; nothing of it is ever committed:

    bin/     wasm3, wasm3-clang, wasmi, silverfir, iwasm: the engines' command-line programs
    wasm/    coremark.wasm, the seven kernels of PolyBench by name, lua.wasm, quickjs.wasm

What is missing there is named and left out. bench/README.md says how each was made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.build import REPEATS, Missing, command, nothing

HERE = Path(__file__).resolve().parent
VARIABLE = "WASMSR_PEERS"
LONGER = 3
"""Kernels run this much longer than in `python -m bench`: a second in an interpreter."""

POLYBENCH = ("gemm", "2mm", "jacobi-2d", "seidel-2d", "floyd-warshall", "lu", "correlation")
BESIDE = ("formatting", "stencil", "large", "calls")
"""Kernels that are reported beside the suite, the last four of sixteen."""


@dataclass(frozen=True)
class Program:
    """A WASI command that prints the same in every engine."""

    name: str
    module: Path
    args: tuple[str, ...] = ()
    kernel: bool = False
    suite: bool = True


def folder() -> Path:
    """Where what is not ours lies.

    Raises:
        Missing: WASMSR_PEERS is not set, or names no folder.
    """
    path = Path(os.environ.get(VARIABLE, "/nonexistent"))
    if not path.is_dir():
        raise Missing(f"set {VARIABLE} to a folder as bench/README.md describes it")
    return path


def programs() -> list[Program]:
    """All of them, in the order of the tables; a module may not be there.

    Raises:
        Missing: there is no compiler for the kernels, or no folder.
    """
    wasm = folder() / "wasm"
    found = [Program("coremark", wasm / "coremark.wasm")]
    found += [Program(name, wasm / f"{name}.wasm") for name in POLYBENCH]
    for name, file in (("lua", "work.lua"), ("quickjs", "work.js")):
        text = "\n" + (HERE / "scripts" / file).read_text()  # a dash would look like an option
        found.append(Program(name, wasm / f"{name}.wasm", ("-e", text)))
    for name, n in REPEATS.items():
        module = command(name, LONGER * n)
        found.append(Program(name, module, kernel=True, suite=name not in BESIDE))
    return found


def empty() -> Program:
    """Return the program that does nothing; its time is the start of an engine."""
    return Program("nothing", nothing(), kernel=True)


Start = Callable[[Program], "list[str] | None"]
"""The words of a command line, or none where the engine cannot run the program."""


def _outside(name: str, *options: str) -> Start:
    return lambda program: [
        *(str(folder() / "bin" / name), *options),
        *(str(program.module), *program.args),
    ]


def _wasmsr(*options: str) -> Start:
    words = [sys.executable, "-m", "wasmsr", "run", *options]
    return lambda program: [*words, str(program.module), *program.args]


def _pywasm3(program: Program) -> list[str] | None:
    if not program.kernel:
        return None
    return [sys.executable, "-m", "bench.foreign", "pywasm3", str(program.module)]


ENGINES: dict[str, Start] = {
    "wasmsr": _wasmsr(),
    "counted": _wasmsr(f"--fuel={10**15}"),
    "wasm3": _outside("wasm3"),
    "wasm3-clang": _outside("wasm3-clang"),
    "wasmi": _outside("wasmi", "run"),
    "silverfir": _outside("silverfir"),
    "wamr": _outside("iwasm"),
    "pywasm3": _pywasm3,
}
"""How each engine is started. wasm3, by gcc, is whose time is 1."""
