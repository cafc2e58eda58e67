"""Files that a run writes: none that must stay is written over, by whatever name it is called."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import PATIENCE, environment, one_sentence, wait_for_sleep
from wasmsr.cli.programs import PROGRAMS
from wasmsr.cli.running.outputs import descriptor_of

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

Path_ = Callable[[str], str]


@pytest.fixture
def app(cli: Cli) -> Path:
    """fib as a file of the folder, with a symbolic and a hard link to it."""
    path = cli.folder / "app.wasm"
    shutil.copy(PROGRAMS["fib"].path, path)
    (cli.folder / "link").symlink_to("app.wasm")
    os.link(path, cli.folder / "hard")
    (cli.folder / "sub").mkdir()
    return path


NAMES = ("app.wasm", "./sub/../app.wasm", "link", "hard", "{}/app.wasm")
WRITERS = ("--snapshot-file", "--trace-file", "--json-file", "--stdout", "--stderr")


@pytest.mark.parametrize("option", WRITERS)
@pytest.mark.parametrize("name", NAMES)
def test_the_program_stays(cli: Cli, app: Path, option: str, name: str) -> None:
    before = app.read_bytes()
    outcome = cli("run", "app.wasm", "--invoke", "fib", "--snapshot-at", "100", option,
                  name.format(cli.folder), "15")  # fmt: skip
    assert outcome.returncode == 2
    assert f"{option} " in one_sentence(outcome)
    assert app.read_bytes() == before
    assert sorted(os.listdir(cli.folder)) == ["app.wasm", "hard", "link", "sub"]


def test_a_packaged_program_stays(cli: Cli) -> None:
    before = PROGRAMS["fib"].path.read_bytes()
    words = ("--snapshot-at", "9", "--snapshot-file", PROGRAMS["fib"].location)
    assert cli("run", "fib", *words).returncode == 2
    assert PROGRAMS["fib"].path.read_bytes() == before


@pytest.mark.parametrize("content", [b"a letter", b"\0asm\1\0\0\0", b"\x89WS", b"\n"])
def test_no_snapshot_is_never_overwritten(cli: Cli, content: bytes) -> None:
    (cli.folder / "precious").write_bytes(content)
    words = ("--snapshot-at", "99", "--force", "--snapshot-file", "precious", "15")
    outcome = cli("run", "fib", *words)
    assert outcome.returncode == 2
    assert "not overwritten" in one_sentence(outcome)
    assert (cli.folder / "precious").read_bytes() == content


def test_a_file_that_appears_meanwhile(cli: Cli, module: Path_) -> None:
    """What stands there when it is saved counts; the program goes on."""
    process = cli.begin("run", module("loop"), "--snapshot-file", "x.bin")
    wait_for_handler(process)
    (cli.folder / "x.bin").write_text("mine")
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    assert b"no snapshot was saved" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert (cli.folder / "x.bin").read_text() == "mine"


def wait_for_handler(process: subprocess.Popen[bytes]) -> None:
    from tests.cli.conftest import wait_for_instructions

    wait_for_instructions(process, 0.05)


def test_an_empty_file_is_taken(cli: Cli) -> None:
    (cli.folder / "new").touch()
    assert (
        cli("run", "fib", "--snapshot-at", "99", "--snapshot-file", "new", "15").returncode == 120
    )
    assert cli("run", "fib", "--from-snapshot", "new").stdout == "610\n"


def test_snapshots_of_the_same_and_of_another_program(cli: Cli) -> None:
    save = ("--snapshot-at", "99")
    assert cli("run", "fib", *save, "15").returncode == 120
    assert cli("run", "fib", *save, "16").returncode == 120
    assert cli("run", "fib", "--from-snapshot", "snapshot.bin", *save).returncode == 120
    kept = (cli.folder / "snapshot.bin").read_bytes()
    outcome = cli("run", "cat", *save)
    assert outcome.returncode == 2
    assert "another program" in one_sentence(outcome)
    assert "--force" in outcome.stderr
    assert (cli.folder / "snapshot.bin").read_bytes() == kept
    assert cli("run", "cat", *save, "--force").returncode == 120
    assert (cli.folder / "snapshot.bin").read_bytes() != kept


def test_without_a_wish_to_save_nothing_is_looked_at(cli: Cli) -> None:
    (cli.folder / "snapshot.bin").write_text("something")
    assert cli("run", "fib").stdout == "34\n"
    outcome = cli("run", "server", "--env", "ROUNDS=10", stdin="rs")
    assert outcome.returncode == 0
    assert outcome.stderr.count("is no snapshot") == 2  # a warning at once, and when s is typed
    assert (cli.folder / "snapshot.bin").read_text() == "something"


@pytest.mark.parametrize("pattern", ["s-{n}.bin", "s-{time}.bin", "{n}-{time}"])
def test_patterns(cli: Cli, pattern: str) -> None:
    words = ("run", "fib", "--snapshot-file", pattern, "--snapshot-at", "99")
    assert cli(*words, "--keep-running", "15").stdout == "610\n"
    (first,) = os.listdir(cli.folder)
    kept = (cli.folder / first).read_bytes()
    found = cli.json(*words[1:], "16")
    assert len(os.listdir(cli.folder)) == 2
    assert (cli.folder / first).read_bytes() == kept
    assert found["snapshot"] != first
    assert cli("run", "fib", "--from-snapshot", found["snapshot"]).stdout == "987\n"


def test_a_pattern_counts_past_what_is_there(cli: Cli) -> None:
    (cli.folder / "1").write_text("mine")
    (cli.folder / "2").symlink_to("nowhere")
    assert cli.json("fib", "--snapshot-file", "{n}", "--snapshot-at", "9")["snapshot"] == "3"
    assert (cli.folder / "1").read_text() == "mine"


def test_the_folder_is_looked_at_before(cli: Cli) -> None:
    """Not when it saves, which would be the end of the program's work."""
    outcome = cli("run", "fib", "--snapshot-at", "9", "--snapshot-file", "new/")
    assert outcome.returncode == 2 and "is a folder" in one_sentence(outcome)
    for name in ("no/such/x.bin", "no/{n}.bin", "dangling"):
        (cli.folder / "dangling").unlink(missing_ok=True)
        (cli.folder / "dangling").symlink_to("no/where")
        words = ("--snapshot-after", "1000", "--snapshot-file", name)
        outcome = cli("run", "cat", *words, "--stdout", "out")
        assert outcome.returncode == 123
        assert "there is no folder" in one_sentence(outcome)
        assert not (cli.folder / "out").exists()


@pytest.mark.full
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1", "link-to-stdout"])
def test_standard_output(cli: Cli, name: str) -> None:
    (cli.folder / "link-to-stdout").symlink_to("/dev/stdout")
    words = ["run", "fib", "--snapshot-at", "99", "--snapshot-file", name, "15"]
    command = [sys.executable, "-m", "wasmsr", *words]
    with open(cli.folder / "a file", "wb") as file:  # also one that could be replaced by rename
        file.write(b"")
        done = subprocess.run(command, cwd=cli.folder, env=environment({}), stdout=file)
    assert done.returncode == 120
    assert cli("run", "fib", "--from-snapshot", "a file").stdout == "610\n"
    assert (
        b"the snapshot on that descriptor continues it"
        in subprocess.run(command, cwd=cli.folder, env=environment({}), capture_output=True).stderr
    )
    piped = subprocess.run(command, cwd=cli.folder, env=environment({}), capture_output=True)
    resumed = subprocess.run(
        [sys.executable, "-m", "wasmsr", "run", "fib", "--from-snapshot", "-"],
        input=piped.stdout, cwd=cli.folder, env=environment({}), capture_output=True,
    )  # fmt: skip
    assert resumed.stdout == b"610\n"


def test_names_of_descriptors(tmp_path: Path) -> None:
    assert descriptor_of("-") == descriptor_of("/dev/../dev/stdout") == 1
    assert descriptor_of("/dev/fd/7") == descriptor_of(f"/proc/{os.getpid()}/fd/7") == 7
    assert descriptor_of("/dev/null") is descriptor_of(str(tmp_path / "1")) is None
    (tmp_path / "loop").symlink_to("loop")
    assert descriptor_of(str(tmp_path / "loop")) is None


def test_two_outputs_in_one_file(cli: Cli, app: Path) -> None:
    (cli.folder / "a").touch()
    os.link(cli.folder / "a", cli.folder / "b")
    outcome = cli("run", "fib", "--json-file", "a", "--trace-file", "b")
    assert outcome.returncode == 2
    assert "the same file" in one_sentence(outcome)
    assert cli("run", "cat", "--stdout", "a", "--stderr", "./a").returncode == 0
    assert (cli.folder / "b").read_bytes() == (
        PROGRAMS["cat"].path.parent / "test.txt"
    ).read_bytes()


@pytest.mark.parametrize("option", ["--stdout", "--trace-file", "--json-file"])
def test_what_is_read_stays(cli: Cli, option: str) -> None:
    (cli.folder / "in").write_text("words")
    outcome = cli("run", "cat", "--stdin", "in", option, "./in")
    assert outcome.returncode == 2
    assert (cli.folder / "in").read_text() == "words"
    cli("run", "fib", "--snapshot-at", "99", "15")
    kept = (cli.folder / "snapshot.bin").read_bytes()
    outcome = cli("run", "fib", "--from-snapshot", "snapshot.bin", option, "snapshot.bin")
    assert outcome.returncode == 2
    assert (cli.folder / "snapshot.bin").read_bytes() == kept


def test_json_file(cli: Cli) -> None:
    outcome = cli("run", "fib", "--json-file", "end.json", "15")
    assert outcome.stdout == "610\n"
    assert json.loads((cli.folder / "end.json").read_text())["results"] == [[610]]
    outcome = cli("run", "fib", "--json-file", "end.json", "--fuel", "10", "15")
    assert json.loads((cli.folder / "end.json").read_text())["exit_code"] == 121
    outcome = cli("run", "--json-file", "end.json", "fib", "nine")
    found = json.loads((cli.folder / "end.json").read_text())
    assert (found["outcome"], outcome.stdout) == ("error", "")


@pytest.mark.parametrize("option", ["--snapshot-file", "--trace-file", "--json-file", "--stdout"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_pipe_that_nobody_reads(
    cli: Cli, module: Path_, option: str, number: int, code: int
) -> None:
    """The first signal ends it, although to open the FIFO would take for ever."""
    os.mkfifo(cli.folder / "fifo")
    words = ("--snapshot-after", "0.1", option, "fifo")
    process = cli.begin("run", module("loop"), *words)
    wait_for_sleep(process)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code


def test_where_snapshots_go_by_default_is_taken(cli: Cli) -> None:
    outcome = cli("run", "fib", "--json-file", "./snapshot.bin")
    assert outcome.returncode == 2
    assert "the place for snapshots" in one_sentence(outcome)
    assert (
        cli("run", "fib", "--json-file", "snapshot.bin", "--snapshot-file", "{n}").returncode == 0
    )


def test_clearing_the_cache_removes_nothing_else(cli: Cli) -> None:
    """The folder is what somebody names: a wrong name must cost no files."""
    names = ("film.part", "my.file", "a-b.valid", "2024-05.part.txt", "x-1.part", "cafe.about.md")
    for name in names:
        (cli.folder / name).write_text("mine")
    (cli.folder / "12-34.part").write_text("a note that was never finished")
    assert cli("cache", "clear", "--module-cache", ".").stdout.endswith(" 1 notes removed\n")
    assert sorted(os.listdir(cli.folder)) == sorted(names)


def test_a_typo_when_resuming_is_said(cli: Cli) -> None:
    cli("run", "fib", "--snapshot-at", "99", "15")
    outcome = cli("run", "fib", "--from-snapshot", "snapshot.bin", "--fule", "3")
    assert outcome.returncode == 2
    assert "no option --fule" in one_sentence(outcome)


def test_an_embedded_module_stays(cli: Cli) -> None:
    """Nobody else may have it: the snapshot that goes in the place of the first has it too."""
    shutil.copy(PROGRAMS["fib"].path, cli.folder / "mine.wasm")
    words = ("--embed-module", "--invoke", "fib", "--snapshot-at", "99", "15")
    assert cli("run", "mine.wasm", *words).returncode == 120
    (cli.folder / "mine.wasm").unlink()
    assert cli("run", "--from-snapshot", "snapshot.bin", "--snapshot-at", "99").returncode == 120
    assert cli("run", "--from-snapshot", "snapshot.bin").stdout == "610\n"


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Two programs that save by one pattern at the same time: both snapshots are kept."""
    from wasmsr.snapshot.format import save_pieces

    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"mine")
    names = iter([str(tmp_path / name) for name in "abc"])
    assert save_pieces([b"one ", b"two"], str(tmp_path / "{n}"), names=names) == 7
    assert (tmp_path / "c").read_bytes() == b"one two"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"mine"


def test_a_message_is_one_write(capfd: pytest.CaptureFixture[str]) -> None:
    """With unbuffered streams no line of a program comes between a message and its end."""
    code = (
        "import sys\n"
        "class Counted:\n"
        "    writes = 0\n"
        "    def write(self, text):\n"
        "        Counted.writes += 1\n"
        "        return len(text)\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return False\n"
        "from wasmsr.cli.words import messages\n"
        "sys.stderr = Counted()\n"
        "messages.say('moved')\n"
        "print(Counted.writes)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert capfd.readouterr().out == "1\n"
