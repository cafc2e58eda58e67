"""What snapshots cost: each figure next to its limit, which is measured in the same run.

    python -m bench.snapshots [--rounds N] [--interval SECONDS] [--json] [PROGRAM…]

Programs: "1 GiB" (dirties 1 % a second), CPython, FFmpeg in the middle of a film, nextpnr. Each is
measured in a process of its own. A line has the median and the worst of the rounds and the limit;
`!` marks a median that is beyond it. What is missing is named and left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.programs import CACHE, PROGRAMS
from bench.snapshots import criu
from bench.snapshots.measures import (
    MIB,
    Row,
    as_json,
    checkpoints,
    forks,
    full_save,
    peak,
    restores,
    show,
    throughput,
)
from bench.snapshots.programs import running, subjects, words_of
from wasmsr import Snapshot
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.memory.dirty_pages import METHODS
from wasmsr.snapshot.memory.parts import cores

NEXTPNR = PROGRAMS["nextpnr"]


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.snapshots", description=__doc__)
    names = [one.name for one in subjects()]
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between checkpoints")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.programs) - set(names)):
        parser.error(f"no such program: {', '.join(unknown)}")
    if options.child:
        print(as_json(_measure(options.programs[0], options.rounds, options.interval)))
        return 0
    found = {}
    if not options.json:
        print(f"{_cpu()}, {cores()} cores, Linux {platform.release()}")
        print(f"  {'':42} {'median':>10} {'worst':>10} {'limit':>10}")
    for one in subjects():
        if options.programs and one.name not in options.programs:
            continue
        if one.missing:
            print(f"without {one.name}: {one.missing}", file=sys.stderr)
            continue
        words = [f"--rounds={options.rounds}", f"--interval={options.interval}", one.name]
        command = [sys.executable, "-m", "bench.snapshots", "--child", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[one.name] = json.loads(done.stdout)
        if not options.json:
            fields = ("what", "unit", "values", "limit", "least", "note")
            print(one.name)
            print(show([Row(**{key: row[key] for key in fields}) for row in found[one.name]]))
    if options.json:
        print(json.dumps({"cpu": _cpu(), "cores": cores(), "programs": found}))
    return 0


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _measure(name: str, rounds: int, interval: float) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for part in ("files", "counted files", "speed"):
            (folder / part).mkdir()
        with running(name, folder / "files") as program:
            memory = len(program.store.memory_view(0)) / MIB
            rows += full_save(program, rounds)
            save = rows[0].median
            for method in METHODS[:2]:
                if (refusal := method.refusal()) is not None:
                    print(f"without {method.name}: {refusal}", file=sys.stderr)
                    continue
                (folder / method.name).mkdir()
                rows += checkpoints(
                    program, folder / method.name, method.name, rounds, save, interval
                )
            if name == "CPython":
                rows += forks(program, rounds)
            Snapshot(program.snapshot()).save(folder / "saved.bin")
            save_mapped(program.snapshot(), folder / "mapped.bin")
            module, grants = program.module, program._grants
        rows += restores(folder, module, grants, rounds)
        rows.append(_peak(folder, memory, bytes(module.binary)))
        (folder / "criu").mkdir()
        if (missing := criu.refusal()) is not None:
            print(f"without CRIU: {missing}", file=sys.stderr)
        else:
            (folder / "criu files").mkdir()
            warm = next(one.warm for one in subjects() if one.name == name)
            rows += criu.saved(words_of(name, folder / "criu files"), warm, folder / "criu")
        with running(name, folder / "counted files", counted=True) as program:
            rows += throughput(program, folder / "speed", 3, max(3 * interval, 1))
    return rows


def _peak(folder: Path, memory: float, binary: bytes) -> Row:
    """Compare with the peak of the same module before it has its memory."""
    module = folder / "module.wasm"
    module.write_bytes(binary)
    files = [f"--dir={folder / 'files'}::/w"]
    share = CACHE / NEXTPNR.module
    if NEXTPNR.mount is not None:
        files.append(f"--dir={share.parent / NEXTPNR.mount[0]}::{NEXTPNR.mount[1]}")
    checked = peak(["inspect", str(module)])
    words = ["run", *files, str(module), "--from-snapshot", str(folder / "saved.bin"), "--fuel=9"]
    what = "peak of a compact restore ÷ memory"
    return Row(what, "ratio", [(peak(words) - checked) / memory], 1.2, note="beside the module")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
