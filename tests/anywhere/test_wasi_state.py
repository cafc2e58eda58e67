"""The state of WASI goes to another engine and comes back: listings, input, files, links."""

from __future__ import annotations

import os
from pathlib import Path

from tests.anywhere.call_script import BUFFER, OUT, Script
from tests.anywhere.engines import NODE, NOTHING, WASMTIME, Engine, needed, one_quick, wasmsr
from wasmsr.snapshot.format import content_digest, load
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, Right

READ, WRITE = Right.FD_READ, Right.FD_WRITE
ROOT = 3
CREAT, DIRECTORY = 1, 2
PAUSE = """(local.set 0 (i32.const 3000))
(loop (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))"""


class Travel:
    """A program that goes from here to an engine, and back.

    Args:
        script: The program.
        folder: Where its files go.
        mounts: `HOST::GUEST::MODE` of its mounts.
        source: Its standard input.
    """

    def __init__(self, script: Script, folder: Path, *mounts: str, source: Path = NOTHING) -> None:
        self.folder, self.source = folder, source
        self.options = [f"--dir={one}" for one in mounts]
        self.given = ["::".join(one.split("::")[:2]) for one in mounts]
        self.program, self.last = folder / "p.wat", folder / "first.bin"
        self.module, self.state = folder / "p.wasm", folder / "state.wsp"
        self.program.write_text(script.text())

    def whole(self) -> bytes:
        """What it shows undisturbed."""
        done = wasmsr("run", *self.options, str(self.program), source=self.source)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def here(self, after: int | None = None) -> bytes:
        """Go on here, to the end or so far; what it shows."""
        options = [*self.options]
        if self.last.exists():
            options.append(f"--from-snapshot={self.last}")
        if after is not None:
            self.last = self.last.with_name(f"next-{self.last.name}")
            options += [f"--snapshot-at={after}", f"--snapshot-file={self.last}"]
        done = wasmsr("run", *options, "--", str(self.program), source=self.source)
        assert done.returncode == (0 if after is None else 120), done.stderr.decode()
        return done.stdout

    def export(self) -> None:
        """Make the runnable module."""
        self.module.unlink(missing_ok=True)
        words = ["--runnable", str(self.last), "--program", str(self.program), "-o"]
        made = wasmsr("snapshot", "export", *words, str(self.module))
        assert made.returncode == 0, made.stderr.decode()

    def there(self, engine: Engine, after: int | None = None) -> bytes:
        """Go on in an engine; what it shows."""
        self.export()
        folders = [*self.given, f"{self.folder}::/work"]
        to = f"/work/{self.state.name}"
        done = engine.run(self.module, folders, source=self.source, after=after, to=to)
        assert done.returncode == (0 if after is None else 120), done.stderr.decode()[:2000]
        self.last = self.state
        return done.stdout


@one_quick(NODE)
def test_a_listing_of_a_whole_mount_goes_on(engine: Engine, tmp_path: Path) -> None:
    needed(engine)
    mount = tmp_path / "mount"
    mount.mkdir()
    for name in ("zero", "one", "two"):
        (mount / name).write_text(name)
    script = Script()
    script.call("path_open", ROOT, 0, b".", DIRECTORY, ALL_RIGHTS & ~WRITE, 0, 0, OUT)
    script.call("fd_readdir", 4, BUFFER, 50, 0, OUT, show=(OUT, 4))
    script.steps.append(PAUSE)
    script.call("fd_readdir", 4, BUFFER, 60, 2, OUT, show=(BUFFER + 24, 3))
    script.steps.append(PAUSE)
    script.call("fd_readdir", 4, BUFFER, 60, 3, OUT, show=(BUFFER + 24, 4))
    travel = Travel(script, tmp_path, f"{mount}::/m")
    expected = travel.whole()
    shown = travel.here(3000)
    assert shown.count(b"\n") == 3
    (mount / "another").write_text("it is not in a listing that was begun before")
    shown += travel.there(engine, 16_000)
    assert shown.count(b"\n") == 5
    assert shown + travel.here() == expected


@one_quick(WASMTIME)
def test_input_from_a_file_is_read_once(engine: Engine, tmp_path: Path) -> None:
    needed(engine)
    source = tmp_path / "input"
    source.write_bytes(bytes(range(200)) * 60)
    script = Script()
    for _ in range(4):
        script.call("fd_read", 0, *script.vectors((BUFFER, 900), (BUFFER + 900, 1)), OUT)
        script.call("fd_read", 0, *script.vectors((BUFFER, 4)), OUT, show=(BUFFER, 4))
        script.steps.append(PAUSE)
    travel = Travel(script, tmp_path, source=source)
    expected = travel.whole()
    shown = travel.here(3000) + travel.there(engine, 9000) + travel.there(engine, 9000)
    assert 0 < len(shown) < len(expected)
    assert shown + travel.here() == expected


@one_quick(WASMTIME)
def test_another_input_is_read_from_its_beginning(engine: Engine, tmp_path: Path) -> None:
    """As after a resume here."""
    needed(engine)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"abcdefgh" * 100)
    second.write_bytes(b"zyxwvuts" * 100)
    script = Script()
    script.call("fd_read", 0, *script.vectors((BUFFER, 500)), OUT)
    script.steps.append(PAUSE)
    script.call("fd_read", 0, *script.vectors((BUFFER, 8)), OUT, show=(BUFFER, 8))
    travel = Travel(script, tmp_path, source=first)
    travel.here(3000)
    for source, text in ((second, b"zyxwvuts".hex()), (first, b"efghabcd".hex())):
        travel.source = source
        last = travel.last
        assert travel.there(engine).decode() == f"00\n{text}\n"
        travel.last = last


@one_quick(WASMTIME)
def test_input_that_does_not_block(engine: Engine, tmp_path: Path) -> None:
    """Its flag is the program's, and the engine's input would block."""
    needed(engine)
    source = tmp_path / "pipe"
    os.mkfifo(source)
    writer = os.open(source, os.O_RDWR)
    script = Script()
    script.call("fd_fdstat_set_flags", 0, 4)
    script.steps.append(PAUSE)
    script.call("fd_read", 0, *script.vectors((BUFFER, 4)), OUT)
    script.call("fd_write", 1, *script.vectors((16, 1)), OUT)
    travel = Travel(script, tmp_path, source=source)
    assert travel.here(3000) == b"00\n"
    assert travel.there(engine) == b"06\n000\n"
    os.write(writer, b"abcd")
    found = b""
    for _ in range(9):  # Node may be so late that its clock comes first
        travel.last = tmp_path / "next-first.bin"
        found = travel.there(engine)
        if found == b"00\n000\n":
            break
    assert found == b"00\n000\n"
    os.close(writer)


@one_quick(NODE)
def test_a_file_that_is_only_written_is_compared_before_it_is_cut(
    engine: Engine, tmp_path: Path
) -> None:
    needed(engine)
    mount = tmp_path / "mount"
    mount.mkdir()
    script = Script()
    script.call("path_open", ROOT, 0, b"log", CREAT, WRITE | Right.FD_SEEK, 0, 0, OUT)
    script.call("fd_write", 4, *script.vectors((16, 16)), OUT)
    script.steps.append(PAUSE)
    script.call("fd_write", 4, *script.vectors((16, 4)), OUT)
    travel = Travel(script, tmp_path, f"{mount}::/m")
    travel.here(3000)
    assert (mount / "log").read_bytes() == b"0123456789abcdef"
    (mount / "log").write_bytes(b"of somebody else, and longer")
    travel.export()
    done = engine.run(travel.module, travel.given)
    assert done.returncode == 123 and b"is another one now" in done.stderr
    assert (mount / "log").read_bytes() == b"of somebody else, and longer"
    (mount / "log").write_bytes(b"0123456789abcdef and what was written after")
    done = engine.run(travel.module, travel.given)
    assert done.returncode == 0, done.stderr.decode()
    assert (mount / "log").read_bytes() == b"0123456789abcdef0123"


@one_quick(WASMTIME)
def test_a_file_behind_links_comes_back(engine: Engine, tmp_path: Path) -> None:
    """Also when the link has been changed since, and the file has been renamed."""
    needed(engine)
    mount = tmp_path / "mount"
    (mount / "deep" / "er").mkdir(parents=True)
    (mount / "link").symlink_to("deep/er")
    (mount / "deep" / "file").write_bytes(b"abcdefgh")
    (mount / "file").write_bytes(b"wrong")
    script = Script()
    script.steps.append(PAUSE)
    script.call("path_open", ROOT, 1, b"link/../file", 0, READ | Right.FD_SEEK, 0, 0, OUT)
    script.call("fd_read", 4, *script.vectors((BUFFER, 4)), OUT, show=(BUFFER, 4))
    script.call("path_rename", ROOT, b"link/../file", ROOT, b"link/moved")
    script.call("path_unlink_file", ROOT, b"link")
    script.call("path_symlink", b"deep", ROOT, b"link")
    script.steps.append(PAUSE)
    script.call("fd_read", 4, *script.vectors((BUFFER, 4)), OUT, show=(BUFFER, 4))
    travel = Travel(script, tmp_path, f"{mount}::/m")
    shown = travel.here(1000) + travel.there(engine, 18_000)
    assert shown.decode().split() == ["00", "00", b"abcd".hex(), "00", "00", "00"]
    assert travel.here().decode().split() == ["00", b"efgh".hex()]


@one_quick(NODE)
def test_where_the_state_goes(engine: Engine, tmp_path: Path) -> None:
    """Into the first folder, if nothing else is said; a wish that failed is not tried for ever."""
    needed(engine)
    mount = tmp_path / "mount"
    mount.mkdir()
    script = Script()
    script.call("sched_yield")
    script.steps.append(PAUSE)
    script.steps.append(PAUSE.replace("3000", "12000000"))
    script.call("sched_yield")
    travel = Travel(script, tmp_path, f"{mount}::/m")
    travel.here(1000)
    travel.export()
    done = engine.run(travel.module, travel.given, after=10)
    assert done.returncode == 120, done.stderr.decode()
    assert load(mount / "state.wsp").executed == 1010
    (mount / "now").touch()
    done = engine.run(travel.module, travel.given, when="/m/now", to="/nowhere/state")
    assert done.returncode == 0 and done.stdout == b"00\n"
    assert done.stderr.count(b"no snapshot") == 1


EVERYTHING = """(module
  (tag $t (param i32 i64)) (tag $inner (param exnref f64)) (tag $none)
  (memory 2 9) (memory $second 1 3)
  (table $functions 4 9 funcref) (table $caught 2 exnref)
  (global $v (mut v128) (v128.const i64x2 1 -2)) (global $e (mut exnref) (ref.null exn))
  (elem (table $functions) (i32.const 1) func $double) (elem $gone func $double)
  (data (i32.const 70000) "here") (data $passive "never")
  (func $double (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
  (func (export "_start") (local i32 v128 f64 exnref i64)
    (elem.drop $gone) (local.set 1 (v128.const i32x4 1 2 3 4))
    (local.set 3 (block (result exnref) (try_table (catch_all_ref 0)
      (throw $t (i32.const 5) (i64.const -6))) (unreachable)))
    (global.set $e (block (result exnref) (try_table (catch_all_ref 0)
      (throw $inner (local.get 3) (f64.const 0.25))) (unreachable)))
    (table.set $caught (i32.const 1) (local.get 3))
    (drop (memory.grow (i32.const 1))) (drop (memory.grow $second (i32.const 1)))
    (drop (table.grow $functions (ref.func $double) (i32.const 2)))
    (loop
      (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (i32.store offset=150000 (i32.const 0) (local.get 0))
      (i64.store $second offset=70000 (i32.const 0) (local.get 4))
      (local.set 4 (i64.add (local.get 4) (i64.extend_i32_u (call $double (local.get 0)))))
      (local.set 1 (i32x4.add (local.get 1) (v128.const i32x4 5 6 7 8)))
      (drop (i32x4.extract_lane 1 (local.get 1)))
      (try_table (catch_all 0) (local.get 1) (local.get 4) (br_if 1 (i32.const 0)) (drop) (drop)
        (br_if 0 (i32.gt_u (local.get 0) (i32.const 5000))) (throw $none)))))"""


@one_quick(WASMTIME)
def test_everything_of_a_program_comes_back_as_it_was(engine: Engine, tmp_path: Path) -> None:
    """Exceptions, vectors, tables and memories: the state there is the one here."""
    needed(engine)
    script = Script()
    travel = Travel(script, tmp_path)
    travel.program.write_text(EVERYTHING)
    travel.here(100)
    travel.export()
    for after in (1, 17, 5003):
        done = engine.run(travel.module, [f"{tmp_path}::/work"], after=after, to="/work/s.wsp")
        assert done.returncode == 120, done.stderr.decode()
        first = travel.last
        travel.here(after)
        here, there = load(travel.last), load(tmp_path / "s.wsp")
        travel.last = first
        assert here.executed == there.executed == 100 + after and there.exceptions
        assert content_digest(there) == content_digest(here)
        (tmp_path / f"next-{first.name}").unlink()
