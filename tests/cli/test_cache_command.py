"""The module cache on the command line: `--module-cache`, `wasmsr cache`, what -v says of it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from wasmsr import Module
from wasmsr.interp.modules.module_cache import RACY, SMALLEST

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.fixture
def large(cli: Cli) -> str:
    """A module that is large enough, and old enough, to be noted."""
    bodies = "(func (result i32) (i32.const 7))" * (SMALLEST // 5)
    text = f'(module {bodies} (func (export "f") (result i32) (i32.const 7)))'
    path = cli.folder / "large.wasm"
    path.write_bytes(Module.from_text(text).binary)
    time.sleep(RACY / 1e9 + 0.1)
    return str(path)


def test_a_second_start_finds_it_known(cli: Cli, large: str) -> None:
    def said(*words: str, **variables: str) -> str:
        outcome = cli("-v", "run", *words, large, "--invoke", "f", **variables)
        assert outcome.stdout == "7\n", outcome.stderr
        return outcome.stderr

    assert "module cache: validated" in said("--module-cache", "notes")
    assert "module cache: known" in said("--module-cache", "notes")
    assert "module cache: known" in said(WASMSR_MODULE_CACHE="notes")
    assert "module cache" not in said("--module-cache", "off")
    assert "module cache: validated" in said("--module-cache", "elsewhere")
    assert "module cache: validated" in said(WASMSR_MODULE_CACHE="large.wasm/notes")
    listed = json.loads(cli("cache", "--json", WASMSR_MODULE_CACHE="notes").stdout)
    assert {note["kind"] for note in listed["notes"]} >= {"valid"}
    assert listed["folder"] == "notes" and listed["most"] >= len(listed["notes"])
    shown = cli("cache", "list", "--module-cache", "notes").stdout
    assert listed["notes"][0]["digest"][:16] in shown and "is valid" in shown
    assert "removed" in cli("cache", "clear", "--module-cache", "notes").stdout
    assert json.loads(cli("cache", "--json", "--module-cache", "notes").stdout)["notes"] == []
    assert "module cache: validated" in said("--module-cache", "notes")


def test_wrong_action(cli: Cli) -> None:
    outcome = cli("cache", "destroy")
    assert outcome.returncode == 2 and "destroy" in outcome.stderr
