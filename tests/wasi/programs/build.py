#!/usr/bin/env python3
"""Builds the programs of this folder: C sources in, the committed .wasm binaries out.

    build.py [NAME...]      build all programs, or only those named, in place
    build.py --check        change nothing; exit 1 if a binary is not what its sources give

The tool is that of the example programs, examples/snapshot/build.py, with other recipes.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOL = HERE.parents[2] / "examples" / "snapshot" / "build.py"
FIRST = ["process", "clocks", "files", "descriptors", "paths", "listing", "polling"]
NAMES = [*FIRST, "ending", "serving", "library"]


def main() -> int:
    found = importlib.util.spec_from_file_location("examples_build", TOOL)
    assert found is not None and found.loader is not None
    tool = importlib.util.module_from_spec(found)
    sys.modules[found.name] = tool
    found.loader.exec_module(tool)
    tool.HERE, tool.RECORD = HERE, HERE / "binaries.json"
    tool.PROGRAMS = {
        name: tool.Recipe((f"{name}.c",), () if name == "library" else ("check.h",), ("-Os",))
        for name in NAMES
    }
    code: int = tool.main()
    return code


if __name__ == "__main__":
    sys.exit(main())
