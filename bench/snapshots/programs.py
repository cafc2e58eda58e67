"""The programs whose snapshots are measured: each is started and brought to a moment in its run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.programs import CACHE, PROGRAMS, STONE
from tests.real.netlist import feedback_register
from wasmsr import Limits, Mount
from wasmsr.interp.modules.module import Module
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants

COUNTED = 10**16
"""Fuel that never ends: a program that is counted shows how far it came."""

GIB = """\
(module
  (memory (export "memory") 16384)
  (global $x (mut i64) (i64.const 88172645463325252))
  (func $next (result i64)
    (global.set $x (i64.xor (global.get $x) (i64.shl (global.get $x) (i64.const 13))))
    (global.set $x (i64.xor (global.get $x) (i64.shr_u (global.get $x) (i64.const 7))))
    (global.set $x (i64.xor (global.get $x) (i64.shl (global.get $x) (i64.const 17))))
    (global.get $x))
  (func (export "spin") (param $n i64)
    (loop $again
      (br_if $again (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0)))))
  (func (export "run") (param $spin i64) (local $at i32) (local $n i64)
    (loop $fill  ;; each page but every tenth: words that compress as a program's do
      (if (i32.ne (i32.rem_u (i32.shr_u (local.get $at) (i32.const 12)) (i32.const 10))
                  (i32.const 5))
        (then
          (i64.store (local.get $at) (i64.and (call $next) (i64.const 0x00ff0000ffff)))))
      (br_if $fill (i32.ne (local.tee $at (i32.add (local.get $at) (i32.const 8)))
                           (i32.const 0x40000000))))
    (loop $forever  ;; then a word in a page anywhere, and some work
      (i64.store (i32.and (i32.wrap_i64 (call $next)) (i32.const 0x3ffffff8))
        (i64.and (global.get $x) (i64.const 0xffff)))
      (local.set $n (local.get $spin))
      (loop $again
        (br_if $again (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1)))
                              (i64.const 0))))
      (br $forever))))
"""
"""A memory of 1 GiB of which about one page after the other is written, `spin` steps apart."""
PAGES_A_SECOND = 2621
"""One hundredth of 1 GiB."""
ENDLESS = STONE.replace("for i in range(60000):", "i = 0\nwhile True:\n    i += 1")
REGISTER = 5000
"""Bits of what nextpnr places: enough for minutes."""
FILM = "-nostdin -v error -f lavfi -i testsrc2=size=320x240:rate=25:duration=9999 -c:v mpeg4 -q:v 5"


@dataclass(frozen=True)
class Subject:
    """A program to measure.

    Attributes:
        name: What the table calls it.
        warm: Seconds that it runs before it is measured.
        missing: Why it cannot be had here, or None.
    """

    name: str
    warm: float
    missing: str | None = None


def subjects() -> list[Subject]:
    """Return the programs, each with the reason if it is missing."""

    def of(name: str, program: str, warm: float, how: str) -> Subject:
        there = (CACHE / PROGRAMS[program].module).exists()
        return Subject(name, warm, None if there else how)

    tests = "`make test-full` fetches it"
    return [
        Subject("1 GiB", 8),
        of("CPython", "python-print", 3, tests),
        of("FFmpeg", "ffmpeg", 3, "`make ffmpeg` builds it"),
        of("nextpnr", "nextpnr", 6, tests),
    ]


@contextmanager
def running(name: str, folder: Path, *, counted: bool = False) -> Iterator[Program]:
    """Give a program that is paused after its warm-up.

    Args:
        name: One of `subjects`.
        folder: An empty folder for its files.
        counted: Whether its instructions are counted.
    """
    program = _gib() if name == "1 GiB" else _command(name, folder)
    if counted:
        program.stop_conditions.fuel = COUNTED
    try:
        program.start()
        time.sleep(next(one.warm for one in subjects() if one.name == name))
        program.pause()
        if not program.pending:
            raise SystemExit(f"{name} ended during its warm-up")
        yield program
    finally:
        program.pause()
        program.close()
        program.store.close()


def words_of(name: str, folder: Path) -> list[str]:
    """Return how `wasmsr run` starts a program.

    Args:
        name: One of `subjects`.
        folder: A folder for its files.
    """
    if name == "1 GiB":
        (folder / "gib.wat").write_text(GIB)
        return [str(folder / "gib.wat"), "--invoke", "run", str(_spin(Module.from_text(GIB)))]
    module, args, mounts = _parts(name, folder)
    dirs = [f"--dir={mount.host}::{mount.guest}" for mount in mounts]
    return [*dirs, str(module), *args]


def _gib() -> Program:
    module = Module.from_text(GIB)
    return Program.launch(module, invoke="run", args=(_spin(module),))


def _spin(module: Module) -> int:
    """Return how many turns lie between two pages that are written."""
    store_of = Program.launch(module, invoke="spin", args=(50_000_000,))
    begin = time.perf_counter()
    store_of.start()
    store_of.wait()
    rate = 50_000_000 / (time.perf_counter() - begin)
    store_of.store.close()
    return int(rate / PAGES_A_SECOND)


def _command(name: str, folder: Path) -> Program:
    path, args, mounts = _parts(name, folder)
    null = os.open(os.devnull, os.O_WRONLY)
    grants = HostGrants(mounts=mounts, stdin=None, stdout=null, stderr=null)
    module = Module.from_file(path)
    return Program.launch(module, argv=(name, *args), grants=grants, limits=Limits())


def _parts(name: str, folder: Path) -> tuple[Path, tuple[str, ...], list[Mount]]:
    """Return a program's module, its arguments and its mounts, with its inputs in the folder."""
    listed = PROGRAMS[{"CPython": "python-stone", "FFmpeg": "ffmpeg", "nextpnr": "nextpnr"}[name]]
    args = listed.args
    mounts = [Mount(folder, listed.guest)]
    if name == "CPython":  # without files: forks share none of the host's
        args, mounts = ("-c", ENDLESS), []
    elif name == "FFmpeg":
        args = (*FILM.split(), "-bitexact", "-y", "/w/out.avi")
    inputs = listed.inputs
    if name == "nextpnr":
        inputs = (("design.json", feedback_register(REGISTER)),)
    for file, content in inputs:
        (folder / file).write_text(content)
    if listed.mount is not None:
        mounts.append(Mount((CACHE / listed.module).parent / listed.mount[0], listed.mount[1]))
    return CACHE / listed.module, args, mounts
