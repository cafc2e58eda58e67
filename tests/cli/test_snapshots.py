"""Saving and going on by the command line: when, where, with what, and always in a new process."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import PATIENCE, one_sentence, wait_for_instructions

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

Path_ = Callable[[str], str]


@pytest.mark.parametrize("at", [0, 1, 2, 777, 20_000])
def test_at_an_exact_instruction(cli: Cli, at: int) -> None:
    outcome = cli("run", "fib", "--snapshot-at", str(at), "15")
    assert (outcome.stdout, outcome.returncode) == ("", 120)
    described = json.loads(cli("inspect", "--json", "snapshot.bin").stdout)
    assert described["executed"] == at
    resumed = cli("run", "fib", "--from-snapshot", "snapshot.bin")
    assert (resumed.stdout, resumed.stderr, resumed.returncode) == ("610\n", "", 0)


def test_counts_from_the_resume(cli: Cli) -> None:
    """In legs of 7,000 instructions to the end, each from the one before."""
    whole = cli.json("fib", "--fuel", "1G", "15")["executed"]
    found = cli.json("fib", "--snapshot-at", "7000", "15")
    legs = 1
    while found["outcome"] == "stopped":
        assert found["executed"] == 7000
        found = cli.json("fib", "--from-snapshot", "snapshot.bin", "--snapshot-at", "7000")
        legs += 1
    assert (found["outcome"], found["results"]) == ("finished", [[610]])
    assert whole == 7000 * (legs - 1) + found["executed"]


def test_beyond_the_end(cli: Cli) -> None:
    outcome = cli("run", "fib", "--snapshot-at", "1G", "10")
    assert (outcome.stdout, outcome.returncode) == ("55\n", 0)
    assert not (cli.folder / "snapshot.bin").exists()


def test_after_some_time(cli: Cli) -> None:
    outcome = cli("run", "fib", "--snapshot-after", "0.3", "38")
    assert outcome.returncode == 120
    assert "stopped" in outcome.stderr
    described = cli("inspect", "snapshot.bin").stdout
    assert "Call stack" in described
    assert " fib " in described


def test_keep_running(cli: Cli) -> None:
    outcome = cli("run", "fib", "--snapshot-at", "5000", "--keep-running", "15")
    assert (outcome.stdout, outcome.returncode) == ("610\n", 0)
    assert cli("run", "fib", "--from-snapshot", "snapshot.bin").stdout == "610\n"
    outcome = cli("run", "fib", "--snapshot-after", "0.05", "--keep-running", "37")
    assert (outcome.stdout, outcome.returncode) == ("24157817\n", 0)


def test_every(cli: Cli) -> None:
    found = cli.json("fib", "--snapshot-every", "0.05", "38")
    assert (found["outcome"], found["results"]) == ("finished", [[39088169]])
    assert found["snapshots"] >= 2
    assert found["timings"]["capture"]["count"] == found["snapshots"]
    assert cli("run", "fib", "--from-snapshot", "snapshot.bin").stdout == "39088169\n"


def test_snapshot_file(cli: Cli) -> None:
    (cli.folder / "there").mkdir()
    cli("run", "fib", "--snapshot-at", "99", "--snapshot-file", "there/x.bin", "15")
    assert os.listdir(cli.folder / "there") == ["x.bin"]
    assert stat.S_IMODE((cli.folder / "there/x.bin").stat().st_mode) == 0o600
    outcome = cli("run", "fib", WASMSR_FROM_SNAPSHOT="there/x.bin")
    assert outcome.stdout == "610\n"


def test_embedded_module(cli: Cli, module: Path_) -> None:
    words = ("--snapshot-at", "10", "--embed-module", "--invoke", "outer", "0")
    cli("run", module("calc"), "--snapshot-at", "2", *words[2:])
    outcome = cli("run", "--from-snapshot", "snapshot.bin")
    assert outcome.returncode == 134
    # Names of functions are there without the file.
    assert "divide" in outcome.stderr


def test_not_embedded(cli: Cli, module: Path_) -> None:
    cli("run", "fib", "--snapshot-at", "10")
    outcome = cli("run", "--from-snapshot", "snapshot.bin")
    assert outcome.returncode == 123
    assert "fib" in one_sentence(outcome)
    assert "wasmsr run fib --from-snapshot snapshot.bin" in outcome.stderr
    cli("run", module("loop"), "--snapshot-at", "10")
    outcome = cli("run", "--from-snapshot", "snapshot.bin")
    assert outcome.returncode == 123
    assert "does not embed" in one_sentence(outcome)


def test_of_another_module(cli: Cli) -> None:
    cli("run", "fib", "--snapshot-at", "10")
    outcome = cli("run", "server", "--from-snapshot", "snapshot.bin")
    assert outcome.returncode == 123
    assert "another module" in one_sentence(outcome)


def test_a_snapshot_grants_nothing(cli: Cli, module: Path_) -> None:
    """The folder must be given again, and the error prints what to type."""
    (cli.folder / "mine.txt").write_text("".join(f"line {n}\n" for n in range(500)))
    words = ("run", "cat", "--dir", ".::here", "--snapshot-at", "5000", "mine.txt")
    begun = cli(*words)
    assert begun.returncode == 120
    from wasmsr.cli.programs import find

    named = find("cat")
    assert named is not None
    file = str(named.path)
    outcome = cli("run", file, "--from-snapshot", "snapshot.bin")
    assert outcome.returncode == 2
    assert "here" in one_sentence(outcome)
    assert "--dir HOST::here" in outcome.stderr
    wanted = (cli.folder / "mine.txt").read_text()
    resumed = cli("run", file, "--from-snapshot", "snapshot.bin", "--dir", ".::here", "--dir",
                  f"{named.path.parent}::.")  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert begun.stdout + resumed.stdout == wanted


def test_limits_anew(cli: Cli, module: Path_) -> None:
    words = ("--snapshot-at", "1", "--invoke", "grow", "15")
    cli("run", module("calc"), *words)
    resume = ("run", module("calc"), "--from-snapshot", "snapshot.bin")
    assert cli(*resume).stdout == "1\n"
    assert cli(*resume, "--max-memory", "640K").stdout == "-1\n"


def test_fuel_goes_along(cli: Cli, module: Path_) -> None:
    found = cli.json(module("loop"), "--fuel", "1000", "--snapshot-at", "400")
    assert found["executed"] == 400
    resume = (module("loop"), "--from-snapshot", "snapshot.bin")
    found = cli.json(*resume)
    assert (found["outcome"], found["executed"]) == ("out-of-fuel", 600)
    assert cli.json(*resume, "--fuel", "7")["executed"] == 7


def test_determinism_goes_along(cli: Cli, module: Path_) -> None:
    cli("run", module("loop"), "--deterministic", "--snapshot-at", "40")
    described = json.loads(cli("inspect", "--json", "snapshot.bin").stdout)
    assert described["limits"]["deterministic"] is True
    cli("run", module("loop"), "--snapshot-at", "40")
    outcome = cli(
        "run", module("loop"), "--from-snapshot", "snapshot.bin", "--deterministic", "--fuel", "9"
    )
    assert "was not deterministic" in outcome.stderr


def test_lineage(cli: Cli) -> None:
    cli("run", "fib", "--snapshot-at", "10", "--snapshot-file", "1.bin", "15")
    cli("run", "fib", "--from-snapshot", "1.bin", "--snapshot-at", "10", "--snapshot-file", "2.bin")
    first, second = (
        json.loads(cli("inspect", "--json", name).stdout)["lineage"] for name in ("1.bin", "2.bin")
    )
    assert first["parent"] is None
    assert second["parent"] == first["id"] != second["id"]


def test_handed_over(cli: Cli) -> None:
    from wasmsr.snapshot.format import mark_handed

    cli("run", "fib", "--snapshot-at", "10", "15")
    mark_handed(cli.folder / "snapshot.bin")
    outcome = cli("run", "fib", "--from-snapshot", "snapshot.bin")
    assert outcome.returncode == 123
    assert "handed over" in one_sentence(outcome)
    assert "--adopt" in outcome.stderr
    assert cli("run", "fib", "--from-snapshot", "snapshot.bin", "--adopt").stdout == "610\n"
    assert "handed over" in cli("inspect", "snapshot.bin").stdout.lower()


def test_idle_store(cli: Cli) -> None:
    """An idle store has no frames; --invoke calls an export of it."""
    assert cli("run", "server", "--env", "ROUNDS=9", stdin="s").stdout == ""
    resume = ("run", "server", "--from-snapshot", "snapshot.bin")
    assert cli(*resume).stdout == ""
    assert cli(*resume, "--invoke", "request").stdout.splitlines()[-1] == "1001001"
    outcome = cli(*resume, "--invoke", "request", "40")
    assert outcome.returncode == 2
    assert "no arguments" in one_sentence(outcome)


def test_busy_store_takes_no_invocation(cli: Cli) -> None:
    cli("run", "fib", "--snapshot-at", "10", "15")
    outcome = cli("run", "fib", "--from-snapshot", "snapshot.bin", "--invoke", "fib", "3")
    assert outcome.returncode == 2
    assert "has not returned yet" in one_sentence(outcome)


@pytest.mark.parametrize(
    "words",
    [
        ["fib", "--snapshot-after", "1", "--snapshot-at", "5"],
        ["fib", "--snapshot-every", "1", "--stop"],
        ["fib", "--keep-running", "--stop"],
        ["fib", "--adopt"],
        ["fib", "--from-snapshot", "snapshot.bin", "--env", "A=1"],
        ["fib", "--from-snapshot", "snapshot.bin", "12"],
        ["fib", "--hop", "0"],
        ["fib", "--snapshot-after", "0"],
        [],
    ],
)
def test_contradictions(cli: Cli, words: list[str]) -> None:
    outcome = cli("run", *words)
    assert outcome.returncode == 2
    one_sentence(outcome)


# -- each example, in new processes ------------------------------------------------------------


def legs(cli: Cli, words: list[str], resume: list[str], seed: int, most: int) -> tuple[str, int]:
    """Runs a program in legs of random length; all it printed, and how many legs there were."""
    chance = random.Random(seed)
    outcome = cli("run", *words)
    printed, count = outcome.stdout, 1
    while outcome.returncode == 120:
        at = chance.randrange(1, most)
        outcome = cli("run", *resume, "--from-snapshot", "snapshot.bin", "--snapshot-at", str(at))
        printed += outcome.stdout
        count += 1
    assert outcome.returncode == 0, outcome.stderr
    return printed, count


def test_fib_in_legs(cli: Cli) -> None:
    words = ["fib", "--snapshot-at", "1234", "15"]
    assert legs(cli, words, ["fib"], 1, 20_000)[0] == "610\n"


def test_cat_in_legs(cli: Cli, root: Path) -> None:
    words = ["cat", "--snapshot-at", "3000"]
    printed, count = legs(cli, words, ["cat"], 2, 3000)
    assert printed == (root / "examples/snapshot/test.txt").read_text()
    assert count > 3


def test_server_in_legs(cli: Cli) -> None:
    """Three requests, cut in pieces of 3 million instructions."""
    found = cli("run", "server", "--env", "ROUNDS=200000", "--snapshot-at", "3M", stdin="rrr")
    printed, count = found.stdout, 1
    while found.returncode == 120:
        found = cli("run", "server", "--from-snapshot", "snapshot.bin", "--snapshot-at", "3M")
        printed += found.stdout
        count += 1
    lines = [f"request {n}: memory {n}, global {n}, table {n}" for n in (1, 2, 3)]
    expected = [line for n in (1, 2, 3) for line in (lines[n - 1], str(1_001_001 * n))]
    assert printed.splitlines() == expected
    assert count > 3


def test_transcoding_in_legs(cli: Cli) -> None:
    words = ["transcoding", "--progress", "0", "--frames", "3"]
    assert cli("run", words[0], "--", *words[1:]).returncode == 0
    whole = (cli.folder / "transcoding.avi").read_bytes()
    (cli.folder / "transcoding.avi").unlink()
    millions = cli.json(words[0], "--fuel", "1000G", "--", *words[1:])["executed"] // 10**6
    (cli.folder / "transcoding.avi").unlink()
    words = [words[0], "--snapshot-at", f"{max(1, millions // 3)}M", "--", *words[1:]]
    _, count = legs(cli, words, ["transcoding"], 3, max(2, millions // 2) * 10**6)
    assert count > 2
    assert (cli.folder / "transcoding.avi").read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "hop"),
    [(["fib", "14"], 97), (["cat"], 501), (["transcoding", "--frames", "1"], 20_000_003)],
)
def test_hop_changes_nothing(cli: Cli, words: list[str], hop: int) -> None:
    def result(*options: str) -> tuple[str, int, bytes]:
        outcome = cli("run", *options, words[0], "--", *words[1:])
        film = cli.folder / "transcoding.avi"
        written = film.read_bytes() if film.exists() else b""
        film.unlink(missing_ok=True)
        return outcome.stdout, outcome.returncode, written

    whole = result()
    assert whole[1] == 0
    assert result("--hop", str(hop)) == whole


def test_hop_counts_and_times(cli: Cli) -> None:
    found = cli.json("--hop", "1000", "fib", "15")
    hops = found["executed"] // 1000
    assert hops > 20
    for step in ("capture", "encode", "decode", "restore"):
        assert found["timings"][step]["count"] == hops
    assert found["executed"] == cli.json("--fuel", "1G", "fib", "15")["executed"]


def test_timings(cli: Cli) -> None:
    outcome = cli("run", "fib", "--snapshot-at", "9", "--timings", "15")
    steps = [line.split()[0] for line in outcome.stderr.splitlines()[-3:]]
    assert steps == ["capture", "encode", "write"]
    outcome = cli("run", "fib", "--from-snapshot", "snapshot.bin", "--timings")
    steps = [line.split()[0] for line in outcome.stderr.splitlines()[-3:]]
    assert steps == ["read", "decode", "restore"]


def test_failed_save_in_passing(cli: Cli) -> None:
    """With --keep-running a snapshot that cannot be written is said, and the program goes on."""
    words = ("--keep-running", "--snapshot-at", "99", "--snapshot-file", "/dev/full")
    outcome = cli("run", "fib", *words, "15")
    assert (outcome.stdout, outcome.returncode) == ("610\n", 0)
    assert "no snapshot was saved" in one_sentence(outcome)


def test_failed_save_at_the_end(cli: Cli) -> None:
    words = ("--snapshot-at", "99", "--snapshot-file", "no/such/folder.bin")
    outcome = cli("run", "fib", *words, "15")
    assert outcome.returncode == 123
    assert "no/such/folder.bin" in one_sentence(outcome)


def test_full_disk(cli: Cli) -> None:
    outcome = cli("run", "fib", "--snapshot-at", "99", "--snapshot-file", "/dev/full", "15")
    assert outcome.returncode == 123
    assert "No space left" in one_sentence(outcome)


def test_file_size_limit_leaves_the_old_one(cli: Cli) -> None:
    """As on a full disk: nothing half-written is left, and the old snapshot stays."""
    import resource

    cli("run", "fib", "--snapshot-at", "99", "15")
    before = (cli.folder / "snapshot.bin").read_bytes()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    process = cli.begin("run", "fib", "--snapshot-at", "199", "15", preexec_fn=limit)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 123
    assert b"cannot write the snapshot" in stderr
    assert os.listdir(cli.folder) == ["snapshot.bin"]
    assert (cli.folder / "snapshot.bin").read_bytes() == before


def test_kill_while_saving(cli: Cli) -> None:
    """Killed at any moment of a stream of saves, what is under the name is whole."""
    for delay in (0.0, 0.013, 0.029):
        process = cli.begin("run", "fib", "--snapshot-every", "0.001", "40")
        deadline = time.monotonic() + PATIENCE
        while not (cli.folder / "snapshot.bin").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.wait(PATIENCE)
        described: dict[str, Any] = json.loads(cli("inspect", "--json", "snapshot.bin").stdout)
        assert described["modules"]  # the first may have been taken before the first frame
        (cli.folder / "snapshot.bin").unlink()


def test_standard_input_comes_along(cli: Cli) -> None:
    """What was read and not consumed comes first, then the new process's standard input."""
    begun = cli("run", "cat", "--snapshot-at", "1500", "-", stdin="x" * 200 + "\n")
    assert begun.returncode == 120
    resumed = cli("run", "cat", "--from-snapshot", "snapshot.bin", stdin="and more\n")
    everything = begun.stdout + resumed.stdout
    assert everything.startswith("x" * len(begun.stdout))
    assert everything.endswith("and more\n")


def test_usr1_and_stop(cli: Cli) -> None:
    """SIGUSR1 lets the program go on even where --stop was typed: that is for the others."""
    process = cli.begin("run", "fib", "--snapshot-after", "100", "--stop", "38")
    wait_for_instructions(process, 0.05)
    process.send_signal(signal.SIGUSR1)
    stdout, _ = process.communicate(timeout=PATIENCE)
    assert (stdout, process.returncode) == (b"39088169\n", 0)
