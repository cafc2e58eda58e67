"""`wasmsr run` under a lease, and `wasmsr ownership`: real processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import PATIENCE, Cli, one_sentence
from tests.ownership.campaign import COUNT
from wasmsr.executor.old_workers import living
from wasmsr.interp.modules.module import assemble
from wasmsr.ownership.fencing import UNFENCED

ENDS = COUNT.replace("(br $line)", "(br_if $line (i32.lt_u (local.get $n) (i32.const 20)))")


class Leased:
    """A folder with a program, and two nodes that use the same register."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.folder = cli.folder
        for name, text in (("count", COUNT), ("ends", ENDS)):
            (self.folder / f"{name}.wasm").write_bytes(assemble(text.encode()))

    def words(self, *words: str, node: str = "a") -> list[str]:
        return [*words, "--register", "r.db", "--state-dir", node]

    def run(self, *words: str, node: str = "a") -> subprocess.CompletedProcess[str]:
        return self.cli("run", *self.words(*words, node=node))

    def begin(self, *words: str, node: str = "a") -> subprocess.Popen[bytes]:
        every = () if "--snapshot-every" in words else ("--snapshot-every", "0.3")
        return self.cli.begin(
            "run", *self.words(*words, *every, node=node),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        outcome = self.cli("ownership", "ls", "--json", *self.words())
        assert outcome.returncode == 0, outcome.stderr
        found: list[dict[str, Any]] = json.loads(outcome.stdout)["programs"]
        return found

    def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The record of the one program, as soon as it is so."""
        end = time.monotonic() + PATIENCE
        while True:
            found = self.records()
            if found and condition(found[0]):
                return found[0]
            assert time.monotonic() < end, found
            time.sleep(0.1)

    def node(self, name: str) -> str:
        return self.cli("ownership", "node", "--state-dir", name).stdout.strip()

    def kill_workers(self, node: str) -> None:
        for place in (self.folder / node / "ownership").glob("*/*/"):
            for _, process in living(place):
                os.kill(process, signal.SIGKILL)


@pytest.fixture
def leased(cli: Cli) -> Any:
    made = Leased(cli)
    yield made
    for node in "ab":
        made.kill_workers(node)


def lines(data: str | bytes) -> list[int]:
    text = data if isinstance(data, str) else data.decode()
    return [int(line[:9]) for line in text.splitlines() if line[:9].isdigit()]


def saved(record: dict[str, Any]) -> bool:
    last = record["checkpoint"]
    return last is not None and last["stdout"] > 0


def test_a_leased_program_ends(leased: Leased) -> None:
    outcome = leased.run("ends.wasm", "--lease", "3", "--checkpoint-dir", "d", "--json")
    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout.splitlines()[-1])
    assert found["outcome"] == "finished" and found["epoch"] == 1 and found["error"] is None
    assert lines(outcome.stdout) == list(range(20))
    (record,) = leased.records()
    assert record["standing"] == "ended" and record["program"] == found["program"]
    shown = leased.cli("ownership", "show", record["program"][:6], *leased.words())
    assert "ending finished" in shown.stdout and "restore" in shown.stdout
    log = leased.cli("ownership", "log", record["program"], "--follow", *leased.words())
    assert lines(log.stdout) == list(range(20)) and not log.stderr
    again = leased.run("--take-over", record["program"][:8])
    assert again.returncode == 124 and "nobody may run it again" in one_sentence(again)
    assert "ended" in leased.cli("ownership", "ls", *leased.words()).stdout


@pytest.mark.full
def test_another_node_takes_a_lost_program_over(leased: Leased) -> None:
    """The host of the owner is lost: supervisor and worker are killed together."""
    other = leased.node("b")
    first = leased.begin("count.wasm", "--lease", "1", "--failover", other, "--checkpoint-dir", "d")
    record = leased.until(saved)
    name = record["program"][:8]
    follower = leased.cli.begin(
        "ownership", "log", name, "--follow", *leased.words(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    second = leased.begin("--take-over", name, node="b")
    time.sleep(1.5)
    first.kill()
    leased.kill_workers("a")
    shown, _ = first.communicate(timeout=PATIENCE)
    record = leased.until(lambda one: one["epoch"] == 2 and one["checkpoint"]["epoch"] == 2)
    assert record["owner"] == other
    second.send_signal(signal.SIGTERM)
    output, said = second.communicate(timeout=PATIENCE)
    assert second.returncode == 143 and b"is given back" in said
    # What both showed, with the part that came again, is one program's output.
    start = lines(output)[0]
    assert start <= len(lines(shown))
    assert lines(output) == list(range(start, start + len(lines(output))))
    time.sleep(0.5)
    follower.kill()
    followed, told = follower.communicate(timeout=PATIENCE)
    assert (b"rewound to" in told) == (lines(followed) != list(range(len(lines(followed)))))
    log = leased.cli("ownership", "log", name, *leased.words())
    assert lines(log.stdout) == list(range(start + len(lines(output))))


@pytest.mark.full
def test_a_host_without_the_folder_takes_over_from_a_store(leased: Leased) -> None:
    other = leased.node("b")
    first = leased.begin(
        "count.wasm", "--lease", "1", "--failover", other, "--checkpoint-dir", "d",
        "--checkpoint-store", "s",
    )  # fmt: skip
    record = leased.until(saved)
    assert record["checkpoint"]["folder"] == f"store:{leased.folder / 's'}"
    name = record["program"]
    first.kill()
    leased.kill_workers("a")
    first.communicate()
    assert "give --checkpoint-dir" in leased.run("--take-over", name, node="b").stderr
    second = leased.begin("--take-over", name, "--checkpoint-dir", "e", node="b")
    record = leased.until(lambda one: one["epoch"] == 2 and one["checkpoint"]["epoch"] == 2)
    second.send_signal(signal.SIGTERM)
    output, _ = second.communicate(timeout=PATIENCE)
    start = lines(output)[0]
    assert start > 0 and lines(output) == list(range(start, start + len(lines(output))))
    log = leased.cli("ownership", "log", name, "--checkpoint-dir", "e", *leased.words())
    assert lines(log.stdout) == lines(output) and "begins at byte" in log.stderr
    # Only the checkpoint that counts has a name.
    stored = json.loads(leased.cli("store", "ls", "--json", "--store", "s").stdout)["names"]
    (record,) = leased.records()
    root = record["checkpoint"]["root"]
    assert [one["name"] for one in stored] == [f"{name}@2.{root[:16]}"]
    assert stored[0]["root"] == root


def test_a_killed_supervisor_is_followed_by_the_next_one(leased: Leased) -> None:
    first = leased.begin("count.wasm", "--lease", "3", "--checkpoint-dir", "d")
    name = leased.until(saved)["program"][:8]
    held = leased.run("--take-over", name)
    assert held.returncode == 124 and f"held by process {first.pid}" in one_sentence(held)
    first.kill()
    first.communicate()
    second = leased.begin("--take-over", name, "--json-file", "end.json")
    size = leased.until(lambda one: True)["checkpoint"]["stdout"]
    leased.until(lambda one: one["checkpoint"]["stdout"] > size + 200)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=PATIENCE)
    assert b"worker is adopted in epoch 1" in said and second.returncode == 130
    assert json.loads((leased.folder / "end.json").read_text())["signal"] == "SIGINT"
    (record,) = leased.records()
    assert record["epoch"] == 1 and record["standing"] == "released"


@pytest.mark.full
def test_a_lost_worker_rewinds_what_is_shown(leased: Leased) -> None:
    running = leased.begin(
        "count.wasm", "--lease", "2", "--checkpoint-dir", "d", "--snapshot-every", "60"
    )
    leased.until(lambda one: one["checkpoint"] is not None)
    time.sleep(0.5)
    leased.kill_workers("a")
    leased.until(lambda one: one["epoch"] == 2)
    time.sleep(1.5)
    running.send_signal(signal.SIGTERM)
    output, said = running.communicate(timeout=PATIENCE)
    assert b"stdout is rewound to " in said
    found = lines(output)
    (jump,) = (at for at in range(1, len(found)) if found[at] <= found[at - 1])
    assert found == [*range(jump), *range(found[jump], found[-1] + 1)]
    assert int(said.split(b"rewound to ")[1].split()[0]) == 20 * found[jump]


@pytest.mark.full
def test_a_register_that_goes_away_pauses_the_program(leased: Leased) -> None:
    from tests.ownership.services import SqliteHost

    running = leased.begin("count.wasm", "--lease", "1", "--checkpoint-dir", "d")
    leased.until(saved)
    host = SqliteHost(leased.folder)
    host.path = leased.folder / "r.db"
    host.freeze()
    time.sleep(2.5)
    host.thaw()
    leased.until(lambda one: one["serial"] > 0)
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    output, said = running.communicate(timeout=PATIENCE)
    assert b"is paused: the register has not renewed its lease" in said
    assert b"the register answers again" in said
    assert lines(output) == list(range(len(lines(output))))


REFUSED = (
    (("--dir", "."), "must not write to the host", "--unfenced host"),
    (("--tcp-listen", "127.0.0.1:0"), "must not answer strangers", "--unfenced listen"),
    (("--stdout", "out"), "must not be a file of the host", "--unfenced streams"),
)


@pytest.mark.parametrize("words,says,hint", REFUSED)
def test_effects_that_cannot_be_fenced_are_refused(
    leased: Leased, words: tuple[str, str], says: str, hint: str
) -> None:
    base = ("ends.wasm", "--lease", "5", "--checkpoint-dir", "d", *words)
    outcome = leased.run(*base)
    assert outcome.returncode == 124 and says in outcome.stderr and hint in outcome.stderr
    assert leased.records() == [], "nothing was begun"
    assert leased.run(*base, *hint.split()).returncode == 0


@pytest.mark.parametrize(
    "words,says",
    [
        (("ends.wasm", "--lease", "5"), "needs --checkpoint-dir"),
        (("ends.wasm", "--lease", "0.1", "--checkpoint-dir", "d"), "between 0.5 and 86,400"),
        (("ends.wasm", "--lease", "5", "--checkpoint-dir", "d", "--trace"), "--trace cannot"),
        (("fib", "--lease", "5", "--checkpoint-dir", "d"), "is no command"),
        (("--take-over", "beef"), "no program beef"),
        (("--take-over", "x"), "no id of a program"),
        (("--take-over", "beef", "--policy", "fail"), "--policy cannot be used with --take-over"),
        (("ends.wasm", "--lease", "5", "--checkpoint-dir", "d", "--failover", "b"), "no node id"),
    ],
)
def test_wrong_lines_are_refused(leased: Leased, words: tuple[str, ...], says: str) -> None:
    outcome = leased.run(*words)
    assert outcome.returncode in (2, 124) and says in outcome.stderr


def test_options_without_a_lease(leased: Leased) -> None:
    for words in (("--policy", "fail"), ("--output", "commit"), ("--unfenced", "host")):
        outcome = leased.cli("run", "ends.wasm", *words)
        assert outcome.returncode == 2 and "add --lease" in outcome.stderr
    # The variable names a register, and asks for no lease.
    assert leased.cli("run", "ends.wasm", WASMSR_REGISTER="r.db").returncode == 0
    assert not (leased.folder / "r.db").exists()


def test_who_may_not_take_over(leased: Leased) -> None:
    running = leased.begin("count.wasm", "--lease", "5", "--checkpoint-dir", "d")
    name = leased.until(saved)["program"][:8]
    outcome = leased.run("--take-over", name, node="b")
    assert outcome.returncode == 124
    assert "may not take it over" in outcome.stderr and "--failover" in outcome.stderr
    running.kill()


def test_a_program_that_cannot_begin_is_ended(leased: Leased) -> None:
    (leased.folder / "bad.wasm").write_bytes(b"\0asm\x01\0\0\0\x63")
    outcome = leased.run("bad.wasm", "--lease", "5", "--checkpoint-dir", "d")
    assert outcome.returncode == 122 and "worker is lost" not in outcome.stderr
    missing = leased.run("missing.wasm", "--lease", "5", "--checkpoint-dir", "d")
    assert missing.returncode == 2 and "missing.wasm: no such file" in missing.stderr
    assert [one["standing"] for one in leased.records()] == ["ended"]


def test_registers_that_are_none(leased: Leased) -> None:
    (leased.folder / "r.db").write_bytes(b"no database at all" * 100)
    outcome = leased.run("ends.wasm", "--lease", "5", "--checkpoint-dir", "d")
    assert outcome.returncode == 124 and "damaged" in one_sentence(outcome)
    away = leased.cli("ownership", "ls", "--register", "http://127.0.0.1:1")
    assert away.returncode in (2, 124) and "etcd" in away.stderr


def test_the_names_of_effects_are_those_of_the_option() -> None:
    from wasmsr.cli.options.run_options import ROWS

    row = next(one for one in ROWS if one.name == "--unfenced")
    assert row.type.words == UNFENCED  # type: ignore[attr-defined]


def test_a_plain_run_imports_nothing_of_this(cli: Cli) -> None:
    import sys

    code = (
        "import sys\nfrom wasmsr.cli import main\nmain(['run', 'fib'])\n"
        "print([n for n in sys.modules if n.startswith('wasmsr.ownership') or n in "
        "('sqlite3', 'requests', 'etcd3gw', 'wasmsr.executor')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    assert Path(cli.folder).exists()
