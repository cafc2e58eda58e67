#!/usr/bin/env python3
"""Builds the core as WebAssembly modules: our C in, two modules of the package out.

`wasmsr/snapshot/runnable/core.wasm` is a WASI command; `wasmsr/snapshot/page/machine.wasm` has no
imports, for a page.

    core_wasm.py            build them in place
    core_wasm.py --check    change nothing; exit 1 if one is not what its sources give

The tool is that of the example programs, examples/snapshot/build.py, with another recipe.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "wasmsr"
RUNNABLE, PAGE = "snapshot/runnable", "snapshot/page"
TOOL = ROOT / "examples" / "snapshot" / "build.py"
SHARED = ("plain.c", "plain.h", "program.c", "program.h")
"""Files of the guest that a page has too."""
MORE_FLAGS = (
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
    "-Wno-sign-conversion",
    "-Wno-shorten-64-to-32",  # sizes are of 32 bits there, and checked before
    "-I.",
    f"-I{RUNNABLE}/guest",
    "-Wl,-z,stack-size=131072",
    "-Wl,--strip-all",
)


def flags() -> tuple[str, ...]:
    """Return what our C is compiled with: as in setup.py, and for the linker."""
    return (*runpy.run_path(str(ROOT / "setup.py"), run_name="flags")["FLAGS"], *MORE_FLAGS)


def _files(folder: Path) -> list[str]:
    """Return the C files of a folder, relative to the package."""
    return sorted(path.relative_to(HERE).as_posix() for path in folder.rglob("*.[chi]*"))


def _sources(files: Sequence[str]) -> list[str]:
    return [file for file in files if file.endswith(".c")]


def _headers(files: Sequence[str]) -> list[str]:
    return [file for file in files if not file.endswith(".c")]


def main() -> int:
    """Carry out the command; returns the exit code."""
    found = importlib.util.spec_from_file_location("examples_build", TOOL)
    assert found is not None and found.loader is not None
    tool = importlib.util.module_from_spec(found)
    sys.modules[found.name] = tool
    found.loader.exec_module(tool)
    core = _files(HERE / "core")
    guest = _files(HERE / RUNNABLE / "guest")
    shared = [f"{RUNNABLE}/guest/{name}" for name in SHARED]
    recipes = {
        f"{RUNNABLE}/core": tool.Recipe(
            (*_sources([*core, *guest]), "_core.c"),
            tuple(_headers([*core, *guest])),
            flags(),
            ("nontrapping-fptoint",),
        ),
        f"{PAGE}/machine": tool.Recipe(
            (*_sources([*core, *shared]), "_core.c", f"{PAGE}/machine.c"),
            tuple(_headers([*core, *shared])),
            (*flags(), "-DWSR_WATCH=1", "-mexec-model=reactor"),
            ("nontrapping-fptoint",),
        ),
    }
    vars(tool).update(HERE=HERE, RECORD=HERE / RUNNABLE / "core.json", PROGRAMS=recipes)
    code: int = tool.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
