"""What a store of snapshots saves: ten snapshots each of ten programs, beside their files.

    python -m bench.store [--count N] [--json]

Each program is saved N times, at equal distances in instructions; the module is not in the
snapshots. The table has, in MiB: the snapshots as they are in memory without zero pages, their
files, all of them compressed by zstd level 3 as whole files, and what the store grew by, with
indexes and manifests. The programs come from the package and from tests/real; what cannot be had is
named and left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tests.real import fetch
from wasmsr.snapshot.format import encode, load
from wasmsr.snapshot.store.store import SnapshotStore

COUNT = 10
"""Snapshots of each program."""

SCRIPTS = {
    "primes": "p=[n for n in range(2,60000) if all(n%d for d in range(2,int(n**.5)+1))];print(p)",
    "words": "import random,collections as c;random.seed(1);print(c.Counter("
    "''.join(random.choices('abcd',k=7)) for _ in range(400000)).most_common(3))",
    "json": "import json;t=[json.loads(json.dumps({'n':n,'s':[str(n)]*9})) for n in range(60000)]",
    "classes": "class A:\n def __init__(s,n): s.n=n;s.d={n:str(n)}\n"
    "t=[A(n) for n in range(200000)]",
    "regex": "import re;t=[re.sub('a+(b|c)','x',('aab'*50)+str(n)) for n in range(60000)]",
}
"""Programs in CPython."""

GROWING = """(module (memory 1 400)
  (func (export "_start") (local $at i32) (local $in i32)
    (loop $again
      (if (i32.ge_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))
        (then (br_if $again (i32.lt_s (memory.grow (i32.const 1)) (i32.const 0)))))
      (local.set $in (i32.const 128))
      (loop $more
        (i64.store (i32.add (local.get $at) (i32.mul (local.get $in) (i32.const 16)))
          (i64.mul (i64.extend_i32_u (i32.add (local.get $at) (local.get $in)))
            (i64.const 0x9E3779B97F4A7C15)))
        (br_if $more (local.tee $in (i32.sub (local.get $in) (i32.const 1)))))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $again (i32.lt_u (local.get $at) (i32.const 24000000))))))"""
SORTING = """(module (memory 32)
  (func (export "_start") (local $i i32) (local $j i32) (local $s i64)
    (local.set $s (i64.const 88172645463325252))
    (loop $fill
      (local.set $s (i64.xor (local.get $s) (i64.shl (local.get $s) (i64.const 13))))
      (local.set $s (i64.xor (local.get $s) (i64.shr_u (local.get $s) (i64.const 7))))
      (local.set $s (i64.xor (local.get $s) (i64.shl (local.get $s) (i64.const 17))))
      (i64.store (local.get $i) (local.get $s))
      (br_if $fill (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8)))
        (i32.const 1000000))))
    (loop $pass (local.set $j (i32.const 0))
      (loop $swap
        (if (i64.gt_u (i64.load (local.get $j)) (i64.load offset=8 (local.get $j)))
          (then (local.set $s (i64.load (local.get $j)))
            (i64.store (local.get $j) (i64.load offset=8 (local.get $j)))
            (i64.store offset=8 (local.get $j) (local.get $s))))
        (br_if $swap (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 8)))
          (i32.const 999984))))
      (br $pass))))"""


@dataclass
class Job:
    """A program: options and program for `wasmsr run`, its own arguments, and the instructions
    between two snapshots."""

    name: str
    ours: list[str]
    own: list[str]
    step: int


@dataclass
class Sizes:
    """Bytes of the snapshots of one program."""

    plain: int = 0
    files: int = 0
    zstd: int = 0
    store: int = 0

    def add(self, other: Sizes) -> None:
        """Add the sizes of another program."""
        self.plain += other.plain
        self.files += other.files
        self.zstd += other.zstd
        self.store += other.store


def jobs(folder: Path) -> Iterator[Job]:
    """Yield the programs that can be had; files that they read are made in the folder."""
    for name, text in (("growing", GROWING), ("sorting", SORTING)):
        (folder / f"{name}.wat").write_text(text)
        yield Job(
            name, [str(folder / f"{name}.wat")], [], 400_000 if name == "growing" else 9_000_000
        )
    yield Job("fib", ["fib"], ["32"], 2_000_000)
    yield Job("transcoding", ["transcoding"], [], 60_000_000)
    try:
        python = str(fetch.python())
    except fetch.Unavailable as reason:
        print(f"left out: {reason}", file=sys.stderr)
    else:
        for name, script in SCRIPTS.items():
            yield Job(f"CPython, {name}", [python], ["-c", script], 30_000_000)
    try:
        esbuild = str(fetch.esbuild())
    except fetch.Unavailable as reason:
        print(f"left out: {reason}", file=sys.stderr)
    else:
        lines = [
            f"export const v{n} = (a) => a.map(x => x * {n}).join('{n}');" for n in range(9000)
        ]
        (folder / "in.js").write_text("\n".join(lines))
        ours = ["--dir", f"{folder}::/::ro", esbuild]
        yield Job("esbuild", ours, ["--minify", "--bundle", "/in.js"], 30_000_000)


def snapshots(job: Job, folder: Path, count: int) -> Iterator[Path]:
    """Yield one snapshot file after the other, until the program ends."""
    run = [sys.executable, "-m", "wasmsr", "run", "--env", "PYTHONHASHSEED=0"]
    before = ""
    for number in range(count):
        path = folder / f"{number}.bin"
        words = [*run, "--snapshot-at", str(job.step), "--snapshot-file", str(path), "--force"]
        if number:
            words = [word for word in words if word not in ("--env", "PYTHONHASHSEED=0")]
            words += ["--from-snapshot", before, *job.ours]
        else:
            words += [*job.ours, *job.own]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 120:
            print(f"{job.name}: {number} snapshots; {done.stderr.strip()[:200]}", file=sys.stderr)
            return
        yield path
        before = str(path)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(job: Job, folder: Path, store: SnapshotStore, count: int) -> Sizes:
    """Put the snapshots of a program into the store; return their sizes."""
    found = Sizes()
    before = size_of(Path(store.folder.path))
    compressor = zstandard.ZstdCompressor(level=3)
    for number, path in enumerate(snapshots(job, folder, count)):
        plain = b"".join(encode(load(path), version=2, compress=False))
        found.plain += len(plain)
        found.files += len(b"".join(encode(load(path), version=2)))
        found.zstd += len(compressor.compress(plain))
        store.put(path, f"{job.name.replace(', ', '-')}-{number}")
    found.store = size_of(Path(store.folder.path)) - before
    return found


def row(name: str, sizes: Sizes) -> str:
    """Return a line of the table."""
    mib = [f"{part / 2**20:10.2f}" for part in (sizes.plain, sizes.files, sizes.zstd, sizes.store)]
    ratios = [f"{sizes.store / max(1, part):8.2f}" for part in (sizes.files, sizes.zstd)]
    return f"{name:18}{''.join(mib)}{''.join(ratios)}"


def main(argv: Sequence[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.store")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rows: dict[str, Sizes] = {}
    total = Sizes()
    with tempfile.TemporaryDirectory() as name:
        store = SnapshotStore(Path(name) / "store", create=True)
        folder = Path(name) / "work"
        folder.mkdir()
        if not options.json:
            heads = ("plain", "files", "zstd 3", "store")
            print(f"{'MiB':18}{''.join(f'{head:>10}' for head in heads)}  ÷files  ÷zstd")
        for job in jobs(folder):
            rows[job.name] = measure(job, folder, store, options.count)
            total.add(rows[job.name])
            if not options.json:
                print(row(job.name, rows[job.name]), flush=True)
        assert all(error is None for _, error in store.verify())
    if options.json:
        print(json.dumps({name: vars(sizes) for name, sizes in {**rows, "all": total}.items()}))
    else:
        print(row("all", total))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
