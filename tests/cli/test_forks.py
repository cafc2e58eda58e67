"""`wasmsr run --forks N`: each fork with its own output, files, number and end."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli, one_sentence
from wasmsr import Module, Snapshot, Store, Wasi, fork_imports

DICE = r"""(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasmsr" "fork_number" (func $number (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\08\00\00\00") (data (i32.const 16) "number x\nrest ")
  (data (i32.const 64) "own.txt")
  (func $line (param $fd i32)
    (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") (local $i i32)
    (loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
      (i32.const 9999))))
    (i32.store8 (i32.const 23) (i32.add (i32.const 48) (i32.wrap_i64 (call $number))))
    (i32.store (i32.const 4) (i32.const 14))
    (call $line (i32.const 1))
    (i32.store (i32.const 4) (i32.const 9))
    (call $line (i32.const 1))
    ;; what standard input has, over the line
    (i32.store (i32.const 4) (i32.const 8))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $line (i32.const 1))
    ;; the same into a file of the first folder, if there is one
    (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 7) (i32.const 9)
        (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 12)))
      (then (call $line (i32.load (i32.const 12)))))
    (if (i64.eq (call $number) (i64.const 2)) (then unreachable)))
  (func (export "draw") (param i64) (result i64)
    (drop (call $random (i32.const 128) (i32.const 8)))
    (i64.or (i64.load (i32.const 128)) (local.get 0))))"""

FORKS = ("run", "dice.wat", "--from-snapshot", "snapshot.bin", "--forks")


@pytest.fixture
def saved(cli: Cli) -> Cli:
    (cli.folder / "dice.wat").write_text(DICE)
    assert cli("run", "dice.wat", "--snapshot-at", "1000").returncode == 120
    return cli


def by_fork(text: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for line in text.splitlines():
        number, _, rest = line.partition("] ")
        found.setdefault(int(number.removeprefix("[")), []).append(rest)
    return found


def test_each_line_names_its_fork(saved: Cli) -> None:
    outcome = saved(*FORKS, "3")
    lines = {n: [f"number {n}", f"rest number {n}", f"number {n}"] for n in (1, 2, 3)}
    assert by_fork(outcome.stdout) == lines
    assert outcome.returncode == 134
    assert outcome.stderr == "wasmsr: fork 2: trap: unreachable\n"
    assert saved(*FORKS, "1").returncode == 0


def test_each_can_have_files_of_its_own(saved: Cli) -> None:
    for number in (1, 2):
        (saved.folder / f"in{number}").write_text(f"input  {number}")
    outcome = saved(*FORKS, "2", "--stdin", "in{fork}", "--stdout", "out-{fork}.txt")
    assert outcome.stdout == ""
    for number in (1, 2):
        text = (saved.folder / f"out-{number}.txt").read_text()
        assert text == f"number {number}\nrest number {number}\ninput  {number}"


def test_the_object_has_one_for_each(saved: Cli) -> None:
    outcome = saved(*FORKS, "3", "--json-file", "end.json", "--fuel", "1000000")
    found = json.loads((saved.folder / "end.json").read_text())
    assert (found["outcome"], found["exit_code"]) == ("trapped", 134) == ("trapped", 134)
    assert outcome.returncode == 134
    assert [one["fork"] for one in found["forks"]] == [1, 2, 3]
    assert [one["outcome"] for one in found["forks"]] == ["finished", "trapped", "finished"]
    assert found["forks"][1]["trap"]["code"] == "unreachable"
    assert all(one["executed"] > 1000 for one in found["forks"])
    short = saved(*FORKS, "2", "--fuel", "10")
    assert short.returncode == 121
    assert short.stderr.count("out of fuel") == 2


@pytest.mark.parametrize("mode", ["overlay", "mem", "carry"])
def test_what_one_writes_the_others_do_not_see(cli: Cli, mode: str) -> None:
    (cli.folder / "dice.wat").write_text(DICE)
    (cli.folder / "d").mkdir()
    (cli.folder / "d" / "own.txt").write_text("before")
    given = ("--dir", "::/d::mem") if mode == "mem" else ("--dir", f"d::/d::{mode}")
    assert cli("run", "dice.wat", *given, "--snapshot-at", "1000").returncode == 120
    outcome = cli(*FORKS, "3", *given)
    assert len(by_fork(outcome.stdout)) == 3, outcome.stderr
    assert (cli.folder / "d" / "own.txt").read_text() == "before"


def test_a_folder_of_the_host_is_shared_only_by_name(cli: Cli) -> None:
    (cli.folder / "dice.wat").write_text(DICE)
    (cli.folder / "d").mkdir()
    assert cli("run", "dice.wat", "--dir", "d::/d", "--snapshot-at", "1000").returncode == 120
    refused = cli(*FORKS, "2", "--dir", "d::/d")
    assert refused.returncode == 2
    assert "write d::/d::host" in one_sentence(refused)
    assert not (cli.folder / "d" / "own.txt").exists()
    outcome = cli(*FORKS, "1", "--dir", "d::/d::host")
    assert outcome.returncode == 0, outcome.stderr
    assert (cli.folder / "d" / "own.txt").read_text() == "number 1"


def test_an_export_is_called_in_each(cli: Cli) -> None:
    (cli.folder / "dice.wat").write_text(DICE)
    paused = cli("run", "--snapshot-at", "3", "--invoke", "draw", "dice.wat", "0")
    assert paused.returncode == 120, paused.stderr
    early = cli(*FORKS, "2", "--invoke", "draw", "0")
    assert "has not returned yet" in one_sentence(early)
    assert len(by_fork(cli(*FORKS, "4").stdout)) == 4
    with Store() as store, Wasi() as wasi:
        store.instantiate(Module.from_text(DICE), {**wasi.imports, **fork_imports(0)})
        Snapshot.of(store, wasi=wasi).save(cli.folder / "snapshot.bin")
    outcome = cli(*FORKS, "4", "--invoke", "draw", "0")
    drawn = [value for values in by_fork(outcome.stdout).values() for value in values]
    assert len(set(drawn)) == 4, "the host's random bytes are never shared"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stdout", "one"), "put {fork} into its name"),
        (("--trace",), "--trace is for one program"),
        (("--snapshot-after", "1"), "--snapshot-after is for one program"),
        (("--hop", "10"), "--hop is for one program"),
    ],
)
def test_what_forks_cannot_share_is_refused(
    saved: Cli, options: tuple[str, ...], said: str
) -> None:
    outcome = saved(*FORKS, "2", *options)
    assert outcome.returncode == 2
    assert said in one_sentence(outcome)


def test_forks_need_a_snapshot(saved: Cli) -> None:
    outcome = saved("run", "dice.wat", "--forks", "2")
    assert outcome.returncode == 2
    assert "belongs to --from-snapshot" in one_sentence(outcome)


def test_forks_come_from_signed_snapshots_only_where_that_is_asked(saved: Cli) -> None:
    for name in ("key", "other"):
        assert saved("snapshot", "keygen", name).returncode == 0
    refused = saved(*FORKS, "1", "--require-signature", "key.pub")
    assert refused.returncode == 123
    assert refused.stdout == ""
    assert saved("snapshot", "sign", "snapshot.bin", "--sign-with", "key").returncode == 0
    assert saved(*FORKS, "1", "--require-signature", "other.pub").returncode == 123
    outcome = saved(*FORKS, "1", "--require-signature", "key.pub")
    assert outcome.stdout.startswith("[1] number 1\n"), outcome.stderr
