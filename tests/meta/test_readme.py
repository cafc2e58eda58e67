"""README.md is true: its Python is executed, and its first command says what it says there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs import console


def blocks(root: Path, kind: str) -> list[str]:
    text = (root / "README.md").read_text(encoding="utf-8")
    return [block.text for block in console.blocks(text) if block.language == kind]


def test_python(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(root / "examples" / "snapshot" / "fib.wasm", tmp_path)
    monkeypatch.chdir(tmp_path)
    found = blocks(root, "python")
    assert found and all("assert" in code for code in found)
    for code in found:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_first_command(root: Path, tmp_path: Path) -> None:
    shown = re.findall(r"^\$ wasmsr (run fib)\b.*\n(.*)$", "".join(blocks(root, "")), re.MULTILINE)
    assert shown
    for words, output in shown:
        done = subprocess.run(
            [sys.executable, "-m", "wasmsr", *words.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"{output}\n", done.stderr


def test_exit_codes(root: Path) -> None:
    from wasmsr import errors

    text = (root / "README.md").read_text(encoding="utf-8")
    table = "".join(line for line in text.splitlines(True) if line.startswith("|"))
    for name, code in vars(errors).items():
        if name.startswith("EXIT_"):
            assert re.search(rf"^\|[^|]*\b{code}\b", table, re.MULTILINE), f"{name} = {code}"


def test_figure_of_the_suite(root: Path) -> None:
    """What README.md says of speed is what docs/performance.md measured."""
    measured = re.search(
        r"^\| \*\*mean of the suite \(22\)\*\* \| \*\*([0-9.]+)\*\*",
        (root / "docs" / "performance.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    said = re.search(
        r"mean of 22 programs it takes ([0-9.]+) of",
        (root / "README.md").read_text(encoding="utf-8"),
    )
    assert measured and said
    assert said[1] == f"{float(measured[1]):.2f}"
