#!/usr/bin/env python3
"""Builds the core as a WebAssembly module: our C in, `wasmsr/snapshot/runnable/core.wasm` out.

    core_wasm.py            build it in place
    core_wasm.py --check    change nothing; exit 1 if it is not what its sources give

The tool is that of the example programs, examples/snapshot/build.py, with another recipe.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "wasmsr"
ROOM = "snapshot/runnable"
TOOL = ROOT / "examples" / "snapshot" / "build.py"
MORE_FLAGS = (
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
    "-Wno-sign-conversion",
    "-Wno-shorten-64-to-32",  # sizes are of 32 bits there, and checked before
    "-I.",
    f"-I{ROOM}/guest",
    "-Wl,-z,stack-size=131072",
    "-Wl,--strip-all",
)


def flags() -> tuple[str, ...]:
    """Return what our C is compiled with: as in setup.py, and for the linker."""
    return (*runpy.run_path(str(ROOT / "setup.py"), run_name="flags")["FLAGS"], *MORE_FLAGS)


def main() -> int:
    """Carry out the command; returns the exit code."""
    found = importlib.util.spec_from_file_location("examples_build", TOOL)
    assert found is not None and found.loader is not None
    tool = importlib.util.module_from_spec(found)
    sys.modules[found.name] = tool
    found.loader.exec_module(tool)
    folders = [HERE / "core", HERE / ROOM / "guest"]
    files = sorted(
        path.relative_to(HERE).as_posix() for folder in folders for path in folder.rglob("*.[chi]*")
    )
    sources = tuple(file for file in files if file.endswith(".c"))
    recipe = tool.Recipe(
        (*sources, "_core.c"),
        tuple(file for file in files if not file.endswith(".c")),
        flags(),
        ("nontrapping-fptoint",),
    )
    vars(tool).update(
        HERE=HERE, RECORD=HERE / ROOM / "core.json", PROGRAMS={f"{ROOM}/core": recipe}
    )
    code: int = tool.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
