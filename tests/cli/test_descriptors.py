"""A program that has opened all that this process may open can still be saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wasmsr import Module, SnapshotError, reserve
from wasmsr.program.program import Program
from wasmsr.snapshot.memory.dirty_pages import METHODS, VARIABLE

MOST = 64
OPENS = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "{name}")
  (data (i32.const 16) "\\28\\00\\00\\00\\0a\\00\\00\\00")
  (data (i32.const 40) "no more!!\\0a")
  (data (i32.const 80) "\\78\\00\\00\\00\\06\\00\\00\\00") (data (i32.const 120) "right\\0a")
  (func $say (param i32) (drop (call $write (i32.const 1) (local.get 0) (i32.const 1)
    (i32.const 200))))
  (func $count (param i32) (result i32) (local i32)
    (loop $l (local.set 1 (i32.add (local.get 1) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get 1) (local.get 0)))) (local.get 1))
  (func (export "_start") (local $opened i32) (local $closed i32)
    (loop $again
      (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 1)
          (i32.const {flags}) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 100)))
        (then (local.set $opened (i32.add (local.get $opened) (i32.const 1))) (br $again))))
    (call $say (i32.const 16))
    (drop (call $count (i32.const {spin})))
    (i32.store (i32.const 316) (i32.const 1)) (i64.store (i32.const 324) (i64.const 1000000))
    (drop (call $poll (i32.const 300) (i32.const 400) (i32.const 1) (i32.const 500)))
    ;; All that it has opened are still there.
    (loop $next
      (if (i32.eqz (call $close (i32.add (i32.const 4) (local.get $closed))))
        (then (local.set $closed (i32.add (local.get $closed) (i32.const 1))) (br $next))))
    (if (i32.eq (local.get $opened) (local.get $closed)) (then (call $say (i32.const 80))))))"""
MODES = {"a folder of the host": "d", "a carried folder": "d::d::carry", "memory": "::d::mem"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("here")
    (tmp_path / "m.wat").write_text(OPENS.format(name="f", flags=1, spin=2000))
    (tmp_path / "dirs.wat").write_text(OPENS.format(name=".", flags=2, spin=2000))
    (tmp_path / "long.wat").write_text(OPENS.format(name="f", flags=1, spin=2_000_000_000))
    return tmp_path


def line(*words: str) -> list[str]:
    command = f'ulimit -n {MOST}; exec "$0" -m wasmsr run "$@"'
    return ["sh", "-c", command, sys.executable, *words]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line(*words), cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", ["m.wat", "dirs.wat"])
def test_saved_when_nothing_can_be_opened(folder: Path, program: str, mode: str) -> None:
    where = ("--dir", MODES[mode])
    done = run(folder, program, *where, "--snapshot-at", "8000")
    assert done.returncode == 120, done.stderr
    assert done.stdout == "no more!!\n"
    done = run(folder, program, *where, "--from-snapshot", "snapshot.bin", "--hop", "3000")
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_hops_and_saves_in_passing(folder: Path) -> None:
    for words in (["--hop", "700"], ["--snapshot-at", "7000", "--keep-running"]):
        done = run(folder, "m.wat", "--dir", "d", *words)
        assert (done.returncode, done.stdout) == (0, "no more!!\nright\n"), done.stderr


@pytest.mark.parametrize(
    ("number", "options", "code"),
    [
        (signal.SIGUSR1, (), None),
        (signal.SIGINT, ("--snapshot-on-interrupt",), 130),
        (signal.SIGTERM, ("--snapshot-on-interrupt",), 143),
    ],
)
def test_saved_at_a_signal(
    folder: Path, number: int, options: tuple[str, ...], code: int | None
) -> None:
    """Also one that nobody had announced, so that nothing was imported for it."""
    words = line("long.wat", "--dir", "d", *options)
    snapshot = folder / "snapshot.bin"
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "no more!!\n"
        process.send_signal(number)
        end = time.monotonic() + 60
        while not snapshot.exists() and time.monotonic() < end:
            time.sleep(0.01)
        if code is None:
            process.kill()
        else:
            assert process.wait(60) == code
    assert snapshot.stat().st_size > 1000
    done = run(folder, "long.wat", "--dir", "d", "--from-snapshot", "snapshot.bin", "--fuel", "9")
    assert done.returncode == 121, done.stderr


def test_all_is_imported_before(tmp_path: Path) -> None:
    """A program that is to be saved does not stand while Python reads its modules."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("here" * 100_000)
    (tmp_path / "m.wat").write_text(OPENS.format(name="f", flags=1, spin=2000))
    code = (
        "import sys, json\n"
        "from wasmsr.cli.running import session\n"
        "from wasmsr.cli.entry import main\n"
        "found, save = [], session.RunSession._save\n"
        "def watched(self):\n"
        "    before = set(sys.modules)\n"
        "    save(self)\n"
        "    found.append(sorted(set(sys.modules) - before))\n"
        "    print(json.dumps(found), flush=True)\n"
        "session.RunSession._save = watched\n"
        "main(['run', 'm.wat', '--dir', 'd::d::carry', '--snapshot-at', '9000',"
        " '--embed-module'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[]], done.stderr


def test_a_program_that_runs_on_is_prepared_for_a_signal(tmp_path: Path) -> None:
    """After a while all is imported and digested, though nobody has asked for a snapshot."""
    (tmp_path / "m.wat").write_text('(module (memory 1) (func (export "_start") (loop br 0)))')
    code = (
        "import json, os, signal, sys, threading\n"
        "from wasmsr.cli.running import session\n"
        "from wasmsr.cli.entry import main\n"
        "session.PREPARE_AFTER = 0.01\n"
        "save, prepare = session.RunSession._save, session.RunSession._prepare\n"
        "def prepared(self):\n"
        "    assert not self.program.is_stopped\n"
        "    prepare(self)\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "def watched(self):\n"
        "    before, digested = set(sys.modules), 'digest' in vars(self.program.module)\n"
        "    save(self)\n"
        "    print(json.dumps([sorted(set(sys.modules) - before), digested]), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "session.RunSession._save, session.RunSession._prepare = watched, prepared\n"
        "main(['run', 'm.wat'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[], True], done.stderr
    assert (tmp_path / "snapshot.bin").stat().st_size > 100


def test_a_program_that_cannot_be_prepared_for_runs_on(tmp_path: Path) -> None:
    (tmp_path / "m.wat").write_text('(module (memory 1) (func (export "_start") (loop br 0)))')
    code = (
        "import os, signal, sys\n"
        "from wasmsr.cli.running import session\n"
        "from wasmsr.cli.entry import main\n"
        "from wasmsr.snapshot import preload\n"
        "session.PREPARE_AFTER = 0.01\n"
        "def fails(module):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    raise OSError(24, 'Too many open files')\n"
        "preload.preload = fails\n"
        "sys.exit(main(['run', 'm.wat', '--timeout', '1']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 121, done.stderr
    assert (tmp_path / "snapshot.bin").stat().st_size > 100


def test_a_program_that_is_not_saved_imports_nothing_for_it(tmp_path: Path) -> None:
    (tmp_path / "m.wat").write_text('(module (func (export "_start")))')
    code = (
        "import sys\n"
        "from wasmsr.cli.running import session\n"
        "run = session.RunSession.run\n"
        "def watched(self):\n"
        "    ending = run(self)\n"
        "    print([m for m in ('zstandard', 'wasmsr.snapshot') if m in sys.modules], flush=True)\n"
        "    return ending\n"
        "session.RunSession.run = watched\n"
        "from wasmsr.cli.entry import main\n"
        "main(['run', 'm.wat'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_host_that_cannot_read_is_a_snapshot_error(monkeypatch: pytest.MonkeyPatch) -> None:
    text = OPENS.format(name="f", flags=1, spin=2000)
    program = Program.launch(Module.from_text(text))
    assert program.wasi is not None

    def fails(*_: object) -> object:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(program.wasi, "capture", fails)
    with pytest.raises(SnapshotError, match="cannot be saved: Too many open files") as caught:
        program.snapshot()
    assert caught.value.exit_code == 123
    program.close()


@pytest.mark.full
@pytest.mark.parametrize("method", [one.name for one in METHODS])
def test_checkpoints_when_nothing_can_be_opened(folder: Path, method: str) -> None:
    """They are written while the program runs, and keep what finds dirty pages."""
    if next(one for one in METHODS if one.name == method).refusal() is not None:
        pytest.skip(f"the host does not have {method}")
    options = ("--snapshot-every", "0.1", "--checkpoint-dir", "c", "--merge-after", "2")
    words = line("long.wat", "--dir", "d", *options)
    with subprocess.Popen(
        words,
        cwd=folder,
        env=os.environ | {VARIABLE: method},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "no more!!\n"
        end = time.monotonic() + 60
        last = folder / "c" / "checkpoint-00000007.bin"
        while not last.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
        assert process.stderr is not None and process.stderr.read() == ""
    assert last.exists()
    done = run(folder, "long.wat", "--dir", "d", "--from-snapshot", "c", "--fuel", "9")
    assert done.returncode == 121, done.stderr


def test_the_reserve_for_checkpoints_is_lent() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    reserve.begin_checkpoints(3)
    reserve.hold()
    assert count() == before + reserve.COUNT + 3 + reserve.WRITING
    with reserve.lent():
        assert count() == before + reserve.COUNT + 3
    reserve.let_go()
    assert count() == before + reserve.WRITING
    with reserve.lent():
        reserve.end_checkpoints()
    assert count() == before
    reserve.hold()
    assert count() == before + reserve.COUNT
    reserve.let_go()


def test_the_reserve_is_free_while_a_program_stands() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    reserve.let_go()
    program = Program.launch(Module.from_text('(module (func (export "_start") (loop br 0)))'))
    before = count()
    program.start()
    assert count() == before + reserve.COUNT
    assert program.pause(30)
    assert count() == before
    program.start()
    assert count() == before + reserve.COUNT
    program.pause(30)
    program.close()
    reserve.hold()
    reserve.hold()
    assert count() == before + reserve.COUNT
    reserve.let_go()
    assert count() == before
