"""Mapped snapshots on the command line: made, run, refused, and read by all tools."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, one_sentence
from tests.snapshot.mapped.samples import PAGES, saved
from wasmsr import Module, RunSpec, Snapshot, Store, run
from wasmsr.library import open_program

COUNT = Module.from_text(f"""(module (memory (export "memory") {PAGES})
  (func (export "_start") (drop (call $run)))
  (func $run (export "run") (result i32) (local $i i32)
    (loop $more
      (i32.store (i32.mul (local.get $i) (i32.const 4096)) (i32.const 7))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 1000))))
    (i32.load (i32.const 4096))))""")


@pytest.fixture
def tool(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A folder with a snapshot, `full.bin`, and the mapped file that convert made of it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(cli.folder / "state"))
    with Store() as store:
        instance = store.instantiate(COUNT)
        store.enqueue(instance.function("run"))
        store.run(fuel=3000)
        Snapshot.of(store, embed=True).save(cli.folder / "full.bin")
    made = cli("snapshot", "convert", "--mapped", "full.bin", "-o", "mapped.bin")
    assert made.returncode == 0, made.stderr
    assert "version 2, mapped, root digest" in made.stderr
    return cli


def test_run_maps_it(tool: Cli) -> None:
    path = tool.folder / "mapped.bin"
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o400
    done = tool("-v", "run", "--json", "--from-snapshot", "mapped.bin")
    assert (done.returncode, done.stderr.count("read and not mapped")) == (0, 0), done.stderr
    copy = tool.folder / "copy.bin"
    copy.write_bytes(before)
    done = tool("-v", "run", "--from-snapshot", "copy.bin")
    assert done.returncode == 0
    assert "wasmsr snapshot convert --mapped copy.bin -o FILE" in done.stderr
    assert path.read_bytes() == before
    # Saved again, and with checkpoints beside it.
    words = ("--snapshot-at", "1000", "--snapshot-file", "next.bin")
    done = tool("run", "--from-snapshot", "mapped.bin", *words)
    assert done.returncode == 120, done.stderr
    assert tool("run", "--from-snapshot", "next.bin").returncode == 0
    # Over itself: the old file stays for the program that maps it.
    done = tool("run", "--from-snapshot", "mapped.bin", "--snapshot-at", "1000",
                "--snapshot-file", "mapped.bin")  # fmt: skip
    assert done.returncode == 120, done.stderr
    assert tool("run", "--from-snapshot", "mapped.bin").returncode == 0


def test_what_others_may_write_is_refused(tool: Cli) -> None:
    (tool.folder / "mapped.bin").chmod(0o664)
    done = tool("run", "--from-snapshot", "mapped.bin")
    assert done.returncode == 123
    assert "others may write mapped.bin (mode 664)" in one_sentence(done)
    assert done.stderr.splitlines()[1] == "hint: chmod a-w mapped.bin"
    assert tool("snapshot", "verify", "mapped.bin").returncode == 0, "tools read it"
    os.system(f"cd {tool.folder} && chmod a-w mapped.bin")
    assert tool("run", "--from-snapshot", "mapped.bin").returncode == 0


@pytest.mark.full
def test_damaged_ones_are_refused(tool: Cli) -> None:
    data = (tool.folder / "mapped.bin").read_bytes()
    for name, broken in (
        ("cut", data[:-1]),
        ("longer", data + bytes(65536)),
        ("changed", data[:-100] + b"x" + data[-99:]),
        ("places", data.replace(b"\0\0\1\0\0\0\0\0\0\0\x40", b"\0\0\2\0\0\0\0\0\0\0\x40")),
        ("head", data[:300]),
    ):
        assert broken != data, name
        (tool.folder / name).write_bytes(broken)
        for words in (("run", "--from-snapshot"), ("snapshot", "verify"), ("inspect",)):
            done = tool(*words, name)
            assert done.returncode == 123, (name, words, done.stderr)
            one_sentence(done)


@pytest.mark.full
def test_the_tools_read_it(tool: Cli) -> None:
    both = []
    for name in ("full.bin", "mapped.bin"):
        verdict = json.loads(tool("snapshot", "verify", "--json", name).stdout)
        both.append(json.loads(tool("inspect", "--json", name).stdout))
        assert verdict["complete"], verdict
        if name == "mapped.bin":
            assert (verdict["form"], verdict["version"]) == ("mapped", 2)
            assert verdict["bytes"] == (tool.folder / name).stat().st_size
    for one in both:
        del one["file"]
    assert both[0] == both[1]
    found = json.loads(tool("snapshot", "diff", "--json", "full.bin", "mapped.bin").stdout)
    assert found["same"] is True
    for name in ("full.bin", "mapped.bin"):
        assert tool("snapshot", "dump-memory", name, "-o", f"{name}.raw").returncode == 0
    raw = (tool.folder / "mapped.bin.raw").read_bytes()
    assert raw == (tool.folder / "full.bin.raw").read_bytes() and len(raw) == PAGES * 65536
    roots = set()
    for words in (("merge",), ("convert", "--format", "2"), ("convert", "--mapped")):
        done = tool("snapshot", *words, "mapped.bin", "-o", "again.bin")
        assert done.returncode == 0, done.stderr
        roots.add(done.stderr.split()[-1])
    assert roots == {
        json.loads(tool("snapshot", "verify", "--json", "again.bin").stdout)["root_digest"]
    }
    for version in ("1", "2"):
        for name in ("full.bin", "mapped.bin"):
            out = f"{name}.{version}"
            done = tool("snapshot", "convert", "--format", version, name, "-o", out)
            assert done.returncode == 0, done.stderr
        one, other = (tool.folder / f"{name}.{version}" for name in ("full.bin", "mapped.bin"))
        assert one.read_bytes() == other.read_bytes()


def test_wrong_uses(tool: Cli) -> None:
    for words in (
        ("convert", "full.bin", "-o", "x.bin"),
        ("convert", "--mapped", "--format", "1", "full.bin", "-o", "x.bin"),
    ):
        done = tool("snapshot", *words)
        assert done.returncode == 2, done.stderr
    (tool.folder / "file").write_text("mine")
    for out in ("-", "full.bin", "file", "/dev/null", "none/x.bin"):
        done = tool("snapshot", "convert", "--mapped", "full.bin", "-o", out)
        assert done.returncode == 123, (out, done.stderr)
        one_sentence(done)
    assert (tool.folder / "file").read_text() == "mine"


def test_without_a_state_folder(tool: Cli) -> None:
    words = ("snapshot", "convert", "--mapped", "full.bin", "-o", "other.bin")
    done = tool(*words, XDG_STATE_HOME="/dev/null/none")
    assert done.returncode == 0
    assert "the file will be read and not mapped" in done.stderr
    assert tool("run", "--from-snapshot", "other.bin").returncode == 0


def test_those_who_may_read_the_source_may_read_it(tool: Cli) -> None:
    (tool.folder / "full.bin").chmod(0o644)
    assert tool("snapshot", "convert", "--mapped", "full.bin", "-o", "o.bin").returncode == 0
    assert Path(tool.folder / "o.bin").stat().st_mode & 0o777 == 0o444


def test_the_library_runs_it(tool: Cli) -> None:
    spec = RunSpec(from_snapshot=str(tool.folder / "mapped.bin"))
    program = open_program(spec)
    assert program.store.state.memory_place(0).base == PAGES * 65536
    program.close()
    program.store.close()
    assert saved().restore().state.memory_place(0).base == 0
    assert type(run(spec)).__name__ == "Finished"
