"""Where the official scripts are, and how much of each must pass."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .script import Script

ROOT = Path(__file__).resolve().parents[2]
FLOOR = Path(__file__).with_name("floor.json")
CONFORMANCE = ROOT / "docs" / "conformance.md"


def folder() -> Path:
    """Where the scripts are: the folder that WASMSR_SPEC names, else `shared/spec` beside the
    tree. It need not exist."""
    named = os.environ.get("WASMSR_SPEC")
    return Path(named) if named else ROOT.parent / "shared" / "spec"


def absence() -> str | None:
    """Why no script can be run, or None where they are there."""
    if any(folder().glob("*.wast")):
        return None
    return f"no official test scripts in {folder()} (set WASMSR_SPEC to a copy of them)"


def names() -> list[str]:
    """The names of all scripts, sorted; those in `legacy/` carry the folder's name."""
    found = (path.relative_to(folder()) for path in folder().rglob("*.wast"))
    return sorted(path.with_suffix("").as_posix() for path in found)


def size(name: str) -> int:
    """Size of a script's file in bytes: a guess at how long it takes."""
    return (folder() / f"{name}.wast").stat().st_size


def load(name: str) -> Script:
    """Read one script by name."""
    return Script.read(folder() / f"{name}.wast", name)


def floor() -> dict[str, int]:
    """How many assertions of each script must at least pass."""
    content: dict[str, int] = json.loads(FLOOR.read_text())
    return content
