"""Names that others chose reach the terminal quoted, wherever they are shown."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from wasmsr.errors import LinkError, SnapshotError, listed, printable
from wasmsr.interp.modules.module import assemble

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

EVIL = "e\x1b[2J\x9b1m\r\n\u202egnp.\u2028\x07"
IN_TEXT = "e\\1b[2J\\c2\\9b1m\\0d\\0a\\e2\\80\\aegnp.\\e2\\80\\a8\\07"
"""`EVIL` as the text format writes it in UTF-8."""
WILD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\ud800-\udfff]")
"""What no terminal may be told by a name; a new line may end what we say, and is looked at too."""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("add", "add"),
        ("größe \\ 名", "größe \\ 名"),
        ("e\x1b[2J", "e\\x1b[2J"),
        ("é\n\\n", "é\\n\\\\n"),
        ("\u202etxt", "\\u202etxt"),
        (b"\xff\x1b", "\\xff\\x1b"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_printable(name: object, shown: str) -> None:
    assert printable(name) == shown


def test_long_names_are_cut() -> None:
    assert len(printable("x" * 10**6)) < 500
    assert len(str(LinkError("y" * 10**6, hint="z" * 10**6))) < 5000
    assert listed(["a", "b\n"]) == "a, b\\n"
    assert listed(map(str, range(100)), 3) == "0, 1, 2, ..."


def test_errors_quote_what_they_say() -> None:
    error = SnapshotError(f"the file {EVIL} is gone", hint=f"--dir {EVIL}")
    assert not WILD.search(str(error) + str(error.hint))
    assert "\n" not in str(error) + str(error.hint)


MODULES = {
    "import": f'(module (import "{IN_TEXT}" "{IN_TEXT}" (func)) (func (export "_start")))',
    "type": f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64)))
        (func (export "{IN_TEXT}")))""",
    "exports": f'(module (func (export "{IN_TEXT}") (param i32)))',
    "trap": f'''(module (func (export "_start") (call $e))
        (func $e (@name "{IN_TEXT}") unreachable))''',
    "module": f'(module (@name "{IN_TEXT}") (memory 1) (func (export "f")))',
}


def evil(cli: Cli, what: str) -> str:
    """A module with such a name, in a file with such a name."""
    text = MODULES[what]
    if "@name" in text:
        text = re.sub(r' \(@name "[^"]*"\)', "", text)
    binary = assemble(text.encode())
    if "@name" in MODULES[what]:
        name = EVIL.encode()
        if what == "trap":
            part = b"\x01" + bytes([len(name) + 3, 1, 1, len(name)]) + name
        else:
            part = b"\x00" + bytes([len(name) + 1, len(name)]) + name
        section = b"\x04name" + part
        binary = binary if what == "module" else binary.partition(b"\x04name")[0][:-2]
        binary += b"\x00" + bytes([len(section)]) + section
    (cli.folder / f"{EVIL}.wasm").write_bytes(binary)
    return f"{EVIL}.wasm"


@pytest.mark.parametrize("what", MODULES)
@pytest.mark.parametrize("how", [["-vv", "run"], ["run"], ["run", "--json"], ["run", "--trace"]])
def test_modules(cli: Cli, what: str, how: list[str]) -> None:
    outcome = cli(*how, evil(cli, what))
    assert outcome.returncode in (2, 122, 134)
    assert not WILD.search(outcome.stdout + outcome.stderr), outcome.stderr
    assert "\\x1b[2J" in outcome.stderr
    assert "gnp.\n" not in outcome.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", EVIL],
        ["run", f"./{EVIL}/x.wasm"],
        ["run", "fib", EVIL],
        ["run", "fib", "--invoke", EVIL],
        ["run", "fib", f"--{EVIL}"],
        ["run", f"--{EVIL}", "fib"],
        ["run", "cat", "--dir", EVIL],
        ["run", "cat", "--dir", f".::{EVIL}::x"],
        ["run", "fib", "--from-snapshot", EVIL],
        ["run", "fib", "--snapshot-at", "9", "--snapshot-file", f"{EVIL}/x"],
        ["run", "fib", "--features", EVIL],
        ["run", "fib", "--stdin", EVIL],
        ["run", "fib", "--tcp-listen", EVIL],
        ["inspect", EVIL],
        ["remote", "--port", "1", "--peer", EVIL],
        ["cache", EVIL],
        ["store", "put", EVIL, "x", "--store", "s"],
        ["store", "get", EVIL, "-o", EVIL, "--store", EVIL],
        ["store", "put", "x", EVIL],
        [EVIL],
        [f"{EVIL}.wasm"],
    ],
)
@pytest.mark.parametrize("verbose", [[], ["-vv"]])
def test_arguments(cli: Cli, words: list[str], verbose: list[str]) -> None:
    outcome = cli(*verbose, *words)
    assert outcome.returncode != 0
    assert not WILD.search(outcome.stdout + outcome.stderr), outcome.stderr
    assert "gnp.\n" not in outcome.stderr
    if not verbose:
        assert len(outcome.stderr.splitlines()) <= 2


def test_snapshots(cli: Cli) -> None:
    """Names in a snapshot, of its file and of a folder that it had."""
    (cli.folder / EVIL).mkdir()
    name = evil(cli, "exports")
    words = ("run", name, "--invoke", EVIL, "--snapshot-at", "0", "--snapshot-file", f"{EVIL}.bin")
    shown = [cli(*words, "5")]
    assert shown[0].returncode == 120, shown[0].stderr
    shown.append(cli("inspect", f"{EVIL}.bin"))
    shown.append(cli("inspect", f"{EVIL}.bin", "--program", name, "--values"))
    shown.append(cli("run", "--from-snapshot", f"{EVIL}.bin"))
    shown.append(cli("run", "fib", "--from-snapshot", f"{EVIL}.bin"))
    given = ("--dir", f"{EVIL}::{EVIL}", "--env", f"A={EVIL}")
    shown.append(cli("run", "cat", *given, "--snapshot-at", "9"))
    shown.append(cli("inspect", "snapshot.bin"))
    shown.append(cli("run", "cat", "--from-snapshot", "snapshot.bin"))
    assert shown[-1].returncode != 0
    for outcome in shown:
        assert not WILD.search(outcome.stdout + outcome.stderr), outcome.args
        assert "gnp.\n" not in outcome.stdout + outcome.stderr
    json.loads(cli("inspect", "snapshot.bin", "--json").stdout)


def test_a_name_that_is_no_utf8(cli: Cli) -> None:
    name = os.fsdecode(b"caf\xe9.wasm")
    (cli.folder / name).write_bytes(b"no module")
    outcome = cli("run", name)
    assert outcome.returncode == 122
    assert "caf\\xe9.wasm" in outcome.stderr
