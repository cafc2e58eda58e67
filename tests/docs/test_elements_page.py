"""docs/elements.md is true: its Python is executed, its folder is the one of the tests and runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="needs pyyaml")

from tests.elements.folders import FIRST, NUMBERS, SECOND
from tests.elements.test_runs import Runs
from tests.mem.served import served

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "elements.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CODE = [block for block in BLOCKS if "wasmsr" in block]


def test_the_folder_of_the_page_runs_as_the_page_says(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    folder = tmp_path / "steps"
    folder.mkdir()
    texts = re.findall(r"`(\w+\.o\.\w+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    for name, text in texts:
        (folder / name).write_text(text)
    assert dict(texts) == {"first.o.py": FIRST, "second.o.py": SECOND, "numbers.o.yaml": NUMBERS}
    lines = re.findall(r"^wasmsr dag (check|show|gen|run) (.*?) *(?:#(.*))?$", PAGE, re.MULTILINE)
    typed = [line for line in lines if line[1].endswith("steps")]
    assert [line[0] for line in typed] == ["check", "show", "gen", *["run"] * 3]
    for verb, words, comment in typed:
        words = re.sub(r"--input '.*?' ", "", words)
        done = runs(verb, *words.split())
        assert done.returncode == 0, done.stderr
        if verb == "run" and "{" in comment:
            assert done.stdout.strip() == comment.strip()


@pytest.mark.parametrize("at", range(3))
def test_python_of_the_page(at: int) -> None:
    assert len(CODE) == 3
    for package in ("numpy", "pyarrow"):
        if f"import {package}" in CODE[at]:
            pytest.importorskip(package, reason=f"needs {package}")
    with served(1 << 20) as memory:
        code = CODE[at].replace("tcp://127.0.0.1:2333", memory.url)
        exec(compile(code, f"docs/elements.md, block {at}", "exec"), {})
