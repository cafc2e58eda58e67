"""Programs go on under engines that nobody here wrote, in the middle of what they do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.anywhere.engines import (
    NODE,
    WASMTIME,
    Engine,
    needed,
    one_quick,
    through_engines,
    wasmsr,
)
from tests.real import fetch
from tests.real.legs import Job, whole
from tests.real.test_built import LUA, SQL, a_film
from tests.real.test_built import module as built_module
from wasmsr.snapshot.format import content_digest, load

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "snapshot"
FILM = ("film/sample.y4m", "/out.avi")


BOTH = pytest.mark.parametrize("engine", [WASMTIME, NODE], ids=lambda one: one.name)


def saved(folder: Path, *words: str) -> Path:
    """Run a program up to some instruction; its snapshot."""
    snapshot = folder / "snapshot.bin"
    done = wasmsr("run", f"--snapshot-file={snapshot}", "--force", "--deterministic", *words)
    assert done.returncode == 120, done.stderr.decode()
    return snapshot


def runnable(snapshot: Path, *words: str) -> Path:
    """The runnable module of a snapshot."""
    module = snapshot.with_name("resume.wasm")
    module.unlink(missing_ok=True)
    done = wasmsr("snapshot", "export", "--runnable", str(snapshot), "-o", str(module), *words)
    assert done.returncode == 0, done.stderr.decode()
    return module


@BOTH
def test_results_of_an_export(engine: Engine, tmp_path: Path) -> None:
    needed(engine)
    module = runnable(saved(tmp_path, "--snapshot-at=10000", "fib", "20"))
    done = engine.run(module)
    assert (done.returncode, done.stdout) == (0, b"6765\n"), done.stderr.decode()


@pytest.mark.full
@BOTH
def test_a_saved_program_is_the_one_that_is_saved_here(engine: Engine, tmp_path: Path) -> None:
    """The state taken there has the content digest of the one taken here after as much."""
    needed(engine)
    film = tmp_path / "film"
    film.mkdir()
    shutil.copy(EXAMPLES / "sample.y4m", film)
    mounts = [f"--dir={film}::film", f"--dir={tmp_path}::/"]
    program = str(EXAMPLES / "transcoding.wasm")
    first = saved(tmp_path, *mounts, "--snapshot-at=3000000", program, *FILM)
    module = runnable(first, "--program", program)
    folders = [f"{film}::film", f"{tmp_path}::/"]
    for after in (1, 777_777, 14_000_000):  # the last one has written frames
        done = engine.run(module, folders, after=after, to="/state.wsp")
        assert done.returncode == 120, done.stderr.decode()
        assert b"saved in state.wsp" in done.stderr
        there = load(tmp_path / "state.wsp")
        snapshot = tmp_path / "here.bin"
        words = [
            f"--from-snapshot={first}",
            f"--snapshot-at={after}",
            f"--snapshot-file={snapshot}",
        ]
        assert wasmsr("run", *words, "--force", *mounts, program).returncode == 120
        here = load(snapshot)
        assert there.executed == here.executed == 3_000_000 + after
        assert content_digest(there) == content_digest(here)
    shown = wasmsr("inspect", str(tmp_path / "state.wsp")).stdout
    assert b"17000000" in shown and b"film" in shown


@one_quick(NODE)
def test_to_and_fro(engine: Engine, tmp_path: Path) -> None:
    """Here, there, here, there, here: the film is the same."""
    needed(engine)
    job = Job(EXAMPLES / "transcoding.wasm", FILM, ((EXAMPLES, "film"),), "/")
    result, executed = whole(job, tmp_path / "whole")
    engines = [engine, None, engine, None]
    found = through_engines(job, tmp_path / "legs", engines, executed=executed, seed=1)
    assert found == result


def _job(name: str) -> Job:
    if name == "python":
        try:
            module = fetch.python()
        except fetch.Unavailable as reason:
            pytest.skip(str(reason))
        script = "import json\nfor n in range(9):\n  open('/w/out.txt','a').write(json.dumps(n))\n"
        script += "  print(n, sum(k * k for k in range(9000)))\n"
        env = ("PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1")
        return Job(module, ("/w/job.py",), output="/w", env=env, inputs={"job.py": script})
    if name == "lua":
        lua = built_module("lua", "lua.wasm")
        return Job(lua, ("/w/job.lua",), output="/w", inputs={"job.lua": LUA})
    if name == "sqlite":
        words = ("-bail", "/w/job.db", ".read /w/job.sql")
        sqlite = built_module("sqlite", "sqlite3.wasm")
        return Job(sqlite, words, output="/w", inputs={"job.sql": SQL})
    return a_film()


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["python", "lua", "sqlite", "ffmpeg"])
def test_real_programs_around_three_engines(name: str, tmp_path: Path) -> None:
    """Here, Wasmtime, Node, here, Wasmtime, Node: as if undisturbed."""
    needed(WASMTIME)
    needed(NODE)
    job = _job(name)
    result, executed = whole(job, tmp_path / "whole")
    engines = [WASMTIME, NODE, None, WASMTIME, NODE]
    found = through_engines(job, tmp_path / "legs", engines, executed=executed, seed=2)
    assert found == result


@pytest.mark.full
@BOTH
def test_what_is_missing_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    needed(engine)
    film = tmp_path / "film"
    film.mkdir()
    shutil.copy(EXAMPLES / "sample.y4m", film)
    mounts = [f"--dir={film}::film", f"--dir={tmp_path}::/"]
    program = str(EXAMPLES / "transcoding.wasm")
    first = saved(tmp_path, *mounts, "--snapshot-at=20000000", program, *FILM)
    module = runnable(first, "--program", program)
    done = engine.run(module, [f"{tmp_path}::/"])
    assert done.returncode == 2 and b"has the folder film, which was not given" in done.stderr
    (film / "sample.y4m").write_bytes(b"another")
    done = engine.run(module, [f"{film}::film", f"{tmp_path}::/"])
    assert done.returncode == 123 and b"sample.y4m is shorter than when" in done.stderr
    (film / "sample.y4m").write_bytes(bytes(1_000_000))
    done = engine.run(module, [f"{film}::film", f"{tmp_path}::/"])
    assert done.returncode == 123 and b"is another one now" in done.stderr
    (film / "sample.y4m").unlink()
    done = engine.run(module, [f"{film}::film", f"{tmp_path}::/"])
    assert done.returncode == 123 and b"cannot be opened" in done.stderr
    damaged = bytearray(module.read_bytes())
    damaged[-100] ^= 1
    module.write_bytes(damaged)
    done = engine.run(module, [f"{film}::film", f"{tmp_path}::/"])
    assert done.returncode == 123 and b"damaged" in done.stderr


@one_quick(NODE)
def test_a_trap_and_a_place_that_is_not_there(engine: Engine, tmp_path: Path) -> None:
    needed(engine)
    text = tmp_path / "trap.wat"
    text.write_text("""(module (func (export "_start") (local i32)
      (loop (local.set 0 (i32.add (local.get 0) (i32.const 1)))
        (br_if 0 (i32.lt_u (local.get 0) (i32.const 100000))))
      (drop (i32.div_u (i32.const 1) (i32.const 0)))))""")
    module = runnable(saved(tmp_path, "--snapshot-at=5000", str(text)), "--program", str(text))
    done = engine.run(module, after=1000, to="/nowhere/state")
    assert done.returncode == 134, "it goes on if it cannot be saved"
    assert (
        b"in no folder that was given" in done.stderr and b"integer divide by zero" in done.stderr
    )
