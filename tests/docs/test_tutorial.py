"""docs/tutorial.md is typed, word for word: its files are written and its commands run.

One test leaves out the set-up and uses the wasmsr of this tree. Another one does the set-up too, in
an empty folder. On a bare container, with WASMSR_BARE=1, it also installs the packages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.console import (
    PATIENCE,
    Block,
    begin,
    blocks,
    commands,
    environment,
    in_terminals,
    shown,
    shown_by_both,
    with_free_ports,
)

SOURCE = "git clone … wasmsr"
"""How the tutorial gets the source; the test takes the tree that it is in."""


def walk(text: str, folder: Path, variables: dict[str, str]) -> None:
    """Do all that the tutorial says after the set-up."""
    terminals: list[Block] = []
    moved = False
    for block in blocks(text):
        if block.title.startswith("terminal"):
            terminals.append(block)
            if len(terminals) == 2:
                printed = in_terminals(terminals, folder, variables)
                counts = sorted(re.findall(r"^count (\d\d)$", "".join(printed), re.MULTILINE))
                assert counts == [f"{n:02}" for n in range(1, 21)]  # each one once
                assert all("count" in one for one in printed)
                moved = True
        elif block.title in ("as root", "set-up"):
            continue
        elif block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        else:
            assert block.language == "console", block
            for command in commands(block):
                process = begin(command.words, folder, variables)
                printed_here, _ = process.communicate(timeout=PATIENCE)
                assert shown(command.output, printed_here), f"{command.words}\n{printed_here}"
    assert moved


@pytest.mark.full
def test_tutorial(root: Path, tmp_path: Path) -> None:
    text = with_free_ports((root / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    variables = environment(Path(sys.executable).parent) | {"XDG_STATE_HOME": str(tmp_path / "s")}
    folder = tmp_path / "first-move"
    folder.mkdir()
    walk(text, folder, variables)


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_tutorial_from_the_set_up_on(root: Path, tmp_path: Path) -> None:
    text = with_free_ports((root / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    titles = ("as root", "set-up") if os.environ.get("WASMSR_BARE") == "1" else ("set-up",)
    words = [c.words for block in blocks(text) if block.title in titles for c in commands(block)]
    assert SOURCE in words
    take = f"mkdir wasmsr && git -C '{root}' ls-files -z | tar -C '{root}' -c --null -T - | "
    words[words.index(SOURCE)] = take + "tar -C wasmsr -x"
    script = "\n".join(["set -e", *words, "pwd"])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    if "No matching distribution" in done.stderr:
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert folder == tmp_path / "first-move"
    variables = environment(tmp_path / "wasmsr" / ".venv" / "bin")
    walk(text, folder, variables | {"XDG_STATE_HOME": str(tmp_path / "s")})


def test_what_is_shown() -> None:
    assert shown("a\n…\nb …\n", "a\nx\ny\nb 5 \n") and shown("a\n…\n", "a\n")
    assert not shown("a\nb\n", "a\nc\n") and not shown("a\n", "a\nb\n")


def test_a_program_and_wasmsr_are_not_in_step() -> None:
    expected = "wasmsr: moved to X\nwasmsr: moved here\n…\ncount 9\nwasmsr: ended\n"
    early = "wasmsr: waiting for X\nwasmsr: moved to X\ncount 8\nwasmsr: moved here\ncount 9\n"
    assert shown_by_both(expected, early + "wasmsr: ended\n")
    assert not shown_by_both(expected, early)  # it does not say that it ended
    assert not shown_by_both(expected, early.replace("count 9", "count 7") + "wasmsr: ended\n")
    assert not shown_by_both(expected, "wasmsr: ended\nwasmsr: moved to X\ncount 9\n")
