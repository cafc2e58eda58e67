"""docs/library.md is true: every block of Python in it is executed, section by section."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "snapshot"
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"^```python( process)?\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    for title, _, body in (s.partition("\n") for s in PAGE.split("\n## ")[1:])
}
WITH_CODE = [title for title, blocks in SECTIONS.items() if blocks]


def test_there_are_examples() -> None:
    assert len(WITH_CODE) >= 10
    fences = re.findall(r"^```.*$", PAGE, re.MULTILINE)
    assert len(fences) == 2 * sum(map(len, SECTIONS.values())), "a block that is not executed"


@pytest.mark.parametrize("title", WITH_CODE)
def test_example(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section's blocks share their names; one marked `process` runs in a process of its own."""
    for name in ("fib.wasm", "cat.wasm", "test.txt"):
        shutil.copy(EXAMPLES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for process, code in SECTIONS[title]:
        assert "assert" in code or "import" not in code
        if process:
            subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
        else:
            exec(compile(code, f"docs/library.md: {title}", "exec"), names)
