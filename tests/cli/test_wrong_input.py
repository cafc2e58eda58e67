"""Wrong input: one clear sentence, the documented exit code, no traceback, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.cli.conftest import PATIENCE, one_sentence

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

Path_ = Callable[[str], str]


def write(cli: Cli, name: str, data: bytes) -> str:
    """A file in the folder."""
    (cli.folder / name).write_bytes(data)
    return name


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["run", "nothing.wasm"], 2, "nothing.wasm"),
        (["run", "."], 2, "."),
        (["run"], 2, "PROGRAM is missing"),
        (["run", "--nonsense", "fib"], 2, "No such option"),
        (["run", "-c", "fib"], 2, "No such option"),
        (["run", "fib", "--fuel"], 2, "requires an argument"),
        (["run", "fib", "--fuel", "-1"], 2, "--fuel"),
        (["run", "fib", "--max-memory", "much"], 2, "--max-memory"),
        (["run", "fib", "--features", "-tails"], 2, "there is no feature 'tails'"),
        (["run", "fib", "--features", "+gc"], 2, "does not have the feature 'gc'"),
        (["run", "fib", "--snapshot-after", "soon"], 2, "--snapshot-after"),
        (["run", "fib", "--env", "NAME"], 2, "NAME=VALUE"),
        (["run", "fib", "nine"], 2, "must be an i32"),
        (["run", "fib", "--nonsense"], 2, "There is no option --nonsense"),
        (["run", "fib", "4294967296"], 2, "must fit an i32"),
        (["run", "fib", "1", "2"], 2, "fib takes 1 argument (i32), and 2 were given"),
        (["run", "fib", "9", "--trace"], 2, "--trace go before"),
        (["run", "fib", "--invoke", "fob"], 2, "exports no function 'fob'"),
        (["run", "cat", "--dir", "not-there"], 2, "not-there"),
        (["run", "cat", "--dir", "a::b::c::d"], 2, "a::b::c::d"),
        (["run", "cat", "--dir", ".::x::nowhere"], 2, "nowhere"),
        (["run", "cat", "--stdin", "not-there"], 2, "not-there"),
        (["run", "fib", "--trace-file", "no/folder"], 2, "no/folder"),
        (["run", "fib", "--from-snapshot", "not-there"], 123, "not-there"),
        (["inspect", "not-there"], 123, "not-there"),
        (["inspect"], 2, "FILE"),
        (["go"], 2, "No such command"),
        (["fib.wasm"], 2, "wasmsr run fib.wasm"),
        (["--log-level", "loud", "run", "fib"], 2, "--log-level"),
    ],
)
def test_usage(cli: Cli, words: list[str], code: int, part: str) -> None:
    outcome = cli(*words)
    assert outcome.returncode == code
    assert part in one_sentence(outcome)
    assert outcome.stdout == ""
    assert os.listdir(cli.folder) == []


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "neither"),
        (b"This is a letter, not a program.\n", "neither"),
        (b"\x7fELF\x02\x01\x01\x00", "neither"),
        (b"\xff\xfe\x00", "neither"),
        (b"(module (func (i32.const 1)))", "wrong.wasm: type mismatch"),
        (b"(module", "text format"),
        (b"\0asm", "wrong.wasm: "),
        (b"\0asm\x02\0\0\0", "wrong.wasm: "),
        (b"\0asm\x01\0\0\0\x01\xff", "wrong.wasm: "),
    ],
)
def test_no_module(cli: Cli, data: bytes, part: str) -> None:
    outcome = cli("run", write(cli, "wrong.wasm", data))
    assert outcome.returncode == 122
    assert part in one_sentence(outcome)


def test_no_start(cli: Cli, module: Path_) -> None:
    outcome = cli("run", module("calc"))
    assert outcome.returncode == 2
    assert "exports no function '_start'" in one_sentence(outcome)
    assert "it exports add, half" in outcome.stderr


def test_unknown_import(cli: Cli) -> None:
    text = b'(module (import "env" "magic" (func (param i32))) (func (export "_start")))'
    outcome = cli("run", write(cli, "magic.wat", text))
    assert outcome.returncode == 122
    assert "env.magic" in one_sentence(outcome)


def test_import_of_another_type(cli: Cli) -> None:
    text = b"""(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64)))
        (memory (export "memory") 1) (func (export "_start")))"""
    outcome = cli("run", write(cli, "odd.wat", text))
    assert outcome.returncode == 122
    assert "proc_exit" in one_sentence(outcome)


def test_segment_that_does_not_fit(cli: Cli) -> None:
    text = b'(module (memory 0) (data (i32.const 0) "x") (func (export "_start")))'
    outcome = cli("run", write(cli, "data.wat", text))
    assert outcome.returncode == 134
    assert "out of bounds memory access" in one_sentence(outcome)


@pytest.fixture(scope="module")
def fib() -> bytes:
    """The binary of fib."""
    from wasmsr.cli.programs import PROGRAMS

    return PROGRAMS["fib"].path.read_bytes()


def in_process(path: str, *words: str) -> tuple[int, str]:
    """Runs a command line in this process, many times faster: (exit code, standard error)."""
    from wasmsr.cli.app import wasmsr
    from wasmsr.cli.entry import explain

    runner = CliRunner()
    with runner.isolation() as streams:
        try:
            code = wasmsr.main(["run", path, *words], prog_name="wasmsr", standalone_mode=False)
        except BaseException as error:  # noqa: BLE001 (as the command line's own last word)
            code = explain(error)
        return int(code or 0), streams[1].getvalue().decode()


def well_refused(code: int, said: str, codes: set[int]) -> None:
    """One sentence and a documented code."""
    assert code in codes, said
    assert said.startswith("wasmsr: "), said
    assert "fault of wasmsr" not in said
    assert len(said.splitlines()) <= 2


def test_truncated_module(cli: Cli, fib: bytes) -> None:
    """At every length; where sections happen to end, a module may be left that lacks an export."""
    path = cli.folder / "cut.wasm"
    for length in range(len(fib)):
        path.write_bytes(fib[:length])
        code, said = in_process(str(path), "--invoke", "fib", "3")
        if code != 0:  # the name section is custom: without its end, or all of it, fib still runs
            well_refused(code, said, {122, 2})


@pytest.mark.full
def test_flipped_module(cli: Cli, fib: bytes) -> None:
    """Every bit: it is refused, or it is another program, which ends somehow."""
    path = cli.folder / "flipped.wasm"
    for position in range(len(fib)):
        for bit in range(8):
            data = bytearray(fib)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            code, said = in_process(str(path), "--fuel", "10000", "--invoke", "fib", "3")
            if code not in (0, 121):
                if code == 134:
                    assert said.startswith("wasmsr: trap: ")
                else:
                    well_refused(code, said, {122, 2})


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A snapshot of fib in the middle."""
    path = tmp_path_factory.mktemp("snapshot") / "snapshot.bin"
    code, _ = in_process("fib", "--snapshot-at", "100", "--snapshot-file", str(path))
    assert code == 120
    return path.read_bytes()


def test_truncated_snapshot(cli: Cli, snapshot: bytes) -> None:
    path = cli.folder / "cut.bin"
    for length in range(len(snapshot)):
        path.write_bytes(snapshot[:length])
        code, said = in_process("fib", "--from-snapshot", str(path))
        well_refused(code, said, {123})


def test_flipped_snapshot(cli: Cli, snapshot: bytes) -> None:
    """Every bit of the header and of every 97th byte."""
    path = cli.folder / "flipped.bin"
    for position in [*range(64), *range(64, len(snapshot), 97)]:
        for bit in range(8):
            data = bytearray(snapshot)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            code, said = in_process("fib", "--from-snapshot", str(path))
            well_refused(code, said, {123})


def test_not_a_snapshot(cli: Cli, module: Path_) -> None:
    outcome = cli("run", "fib", "--from-snapshot", module("calc"))
    assert outcome.returncode == 123
    one_sentence(outcome)
    outcome = cli("inspect", write(cli, "letter", b"Dear reader"))
    assert outcome.returncode == 123
    assert "neither a snapshot nor a module" in one_sentence(outcome)


@pytest.mark.parametrize("words", [["run", "fib"], ["run", "fib", "--trace-file", "/dev/full"]])
def test_full_disk(cli: Cli, words: list[str]) -> None:
    """It is the host that failed, and the sentence says what it failed at."""
    with open("/dev/full" if len(words) == 2 else os.devnull, "wb") as output:
        process = cli.begin(*words, stdout=output)
        assert process.wait(PATIENCE) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b"wasmsr: cannot write: no space left on device.\n"


def test_errors_as_json(cli: Cli) -> None:
    found = cli.json("nothing.wasm")
    assert (found["outcome"], found["exit_code"]) == ("error", 2)
    assert "nothing.wasm" in found["error"]["message"]
