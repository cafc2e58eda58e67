"""The how-to guides are typed, each in a folder of its own that has the tutorial's program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs.console import (
    PATIENCE,
    begin,
    blocks,
    commands,
    environment,
    in_terminals,
    shown,
    with_free_ports,
)

GUIDES = ("save-and-resume", "move", "limit", "watch", "fork", "anywhere", "page")


LONG = ("save-and-resume", "move")


@pytest.mark.parametrize(
    "guide", [pytest.param(one, marks=pytest.mark.full if one in LONG else ()) for one in GUIDES]
)
def test_guide(guide: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    folder = tmp_path / "in"
    for block in blocks((root / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if block.title == "counter.wat":
            (folder / block.title).write_text(block.text, encoding="utf-8")
    variables = environment(Path(sys.executable).parent) | {"XDG_STATE_HOME": str(tmp_path / "s")}
    text = with_free_ports((root / "docs" / "how-to" / f"{guide}.md").read_text(encoding="utf-8"))
    found = [block for block in blocks(text) if block.language == "console"]
    ends = [block for block in found if block.title.startswith("terminal")]
    if ends:
        in_terminals(ends, folder, variables)
    typed = 0
    for block in found:
        if not block.title:
            for command in commands(block):
                process = begin(command.words, folder, variables)
                printed, _ = process.communicate(timeout=PATIENCE)
                assert shown(command.output, printed), f"{command.words}\n{printed}"
                typed += 1
    assert typed or ends


def test_every_guide_is_typed(root: Path) -> None:
    assert {path.stem for path in (root / "docs" / "how-to").glob("*.md")} == set(GUIDES)
