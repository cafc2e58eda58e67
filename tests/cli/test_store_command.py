"""`wasmsr store`: what it says, its exit codes and its folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import one_sentence
from tests.snapshot.store.filled import random_memory, saved

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


@pytest.fixture
def filled(cli: Cli) -> Cli:
    """A folder with a snapshot of each version, and a store `s` that has both."""
    saved(cli.folder / "one.bin", random_memory(1), version=1)
    saved(cli.folder / "two.bin", random_memory(2))
    for name in ("one", "two"):
        outcome = cli("store", "put", f"{name}.bin", name, "--store", "s")
        assert outcome.returncode == 0, outcome.stderr
        assert "pieces are new" in outcome.stderr
    return cli


def test_put_get_ls(filled: Cli) -> None:
    converted = filled("snapshot", "convert", "one.bin", "-o", "wanted.bin", "--format", "2")
    got = filled("store", "get", "one", "-o", "got.bin", WASMSR_STORE="s")
    assert got.returncode == 0
    assert got.stderr.rpartition(" ")[2] == converted.stderr.rpartition(" ")[2]
    assert (filled.folder / "got.bin").read_bytes() == (filled.folder / "wanted.bin").read_bytes()
    listed = json.loads(filled("store", "ls", "--json", "--store", "s").stdout)
    rows = {row.pop("name"): row for row in listed["names"]}
    assert set(rows) == {"one", "two"}
    assert rows["one"]["root"] in got.stderr
    assert 0 < rows["one"]["shared"] < rows["one"]["stored"]
    assert rows["one"]["error"] is None
    shown = filled("store", "ls", "--store", "s").stdout
    assert rows["one"]["root"] in shown and rows["two"]["root"] in shown


def test_replace_rm_gc_verify(filled: Cli) -> None:
    taken = filled("store", "put", "two.bin", "one", "--store", "s")
    assert taken.returncode == 123
    assert "has a snapshot with the name one" in one_sentence(taken)
    replaced = filled("store", "put", "two.bin", "one", "--store", "s", "--replace")
    assert replaced.returncode == 0 and "0 of " in replaced.stderr
    assert filled("store", "gc", "--store", "s").stderr.count("pieces removed") == 1
    verified = json.loads(filled("store", "verify", "--json", "--store", "s").stdout)
    assert (verified["complete"], verified["checked"], verified["damaged"]) == (True, 3, [])
    for name in ("one", "two"):
        assert filled("store", "rm", name, "--store", "s").returncode == 0
    assert filled("store", "gc", "--store", "s").returncode == 0
    assert list((filled.folder / "s" / "packs").iterdir()) == []
    gone = filled("store", "get", "one", "-o", "x", "--store", "s")
    assert gone.returncode == 123 and "no snapshot with the name one" in one_sentence(gone)


def test_verify_says_what_is_damaged(filled: Cli) -> None:
    (pack,) = (filled.folder / "s" / "packs").glob("*.pack")
    data = bytearray(pack.read_bytes())
    data[len(data) // 4] ^= 1
    pack.write_bytes(data)
    outcome = filled("store", "verify", "--store", "s")
    assert outcome.returncode == 123
    assert pack.stem in outcome.stdout and "is damaged at byte" in outcome.stdout
    assert "2 of 3 packs and snapshots in s are damaged" in one_sentence(outcome)
    found = filled("store", "verify", "--store", "s", "--json")
    assert found.returncode == 123
    assert json.loads(found.stdout)["damaged"][0]["what"] == f"pack {pack.stem}"


def test_folder_of_the_store(cli: Cli) -> None:
    saved(cli.folder / "one.bin", random_memory(1))
    data = str(cli.folder / "data")
    none = cli("store", "ls", XDG_DATA_HOME=data)
    assert none.returncode == 123 and "is no store" in one_sentence(none)
    assert cli("store", "put", "one.bin", "a", XDG_DATA_HOME=data).returncode == 0
    assert (cli.folder / "data" / "wasmsr" / "store" / "names" / "a.manifest").exists()


@pytest.mark.parametrize("name", ["../a", "", "a/b"])
def test_names_are_checked(name: str, cli: Cli) -> None:
    outcome = cli("store", "put", "one.bin", name, "--store", "s")
    assert outcome.returncode == 123
    assert "cannot be a name" in one_sentence(outcome)
    assert not (cli.folder / "s").exists()


def test_help(cli: Cli) -> None:
    outcome = cli("store")
    assert outcome.returncode == 2
    assert all(f"\n  {word} " in outcome.stderr for word in ("put", "get", "ls", "gc", "verify"))
