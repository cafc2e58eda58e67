"""How fast sandboxes are, median and 99th percentile beside their limits.

    python -m bench.sandbox [--rounds 1000] [--packages base] [--alone] [--json FILE]

Beside them is a fresh process of the same guest under Wasmtime, whose code was compiled before.
Prepare the set before: `wasmsr sandbox warm`. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmsr
from wasmsr.sandbox.guests import python_guest
from wasmsr.snapshot.memory.page_engine import gather

ROW = "{:<44} {:>9} {:>9} {:>9} {:>6}"
FRESH = """
import sys, wasmtime
engine = wasmtime.Engine(settings())
store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
module = wasmtime.Module.deserialize_file(engine, sys.argv[1])
linker.define_wasi()
i32 = wasmtime.ValType.i32()
linker.define_func("host", "call", wasmtime.FuncType([i32] * 4, [i32]), lambda *given: -1)
wasi = wasmtime.WasiConfig()
wasi.argv = ["python.wasm", "-c", "print(1)"]
wasi.preopen_dir(sys.argv[2], "/usr/local/lib")
wasi.inherit_stdout()
wasi.inherit_stderr()
store.set_wasi(wasi)
found = linker.instantiate(store, module).exports(store)
found["_initialize"](store)
found["run"](store)
"""
SETTINGS = """
def settings():
    import wasmtime
    found = wasmtime.Config()
    for name in ("wasm_exceptions", "wasm_reference_types", "wasm_simd"):
        setattr(found, name, True)
    return found
"""


def timed(action: Callable[[], object]) -> float:
    """Return the milliseconds that an action takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def started(packages: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the times of new sandboxes, and of `print(1)` in each."""
    new, calls = [], []
    wasmsr.Sandbox.python(packages).close()
    for _ in range(rounds):
        made: list[wasmsr.Sandbox] = []
        new.append(timed(lambda: made.append(wasmsr.Sandbox.python(packages))))  # noqa: B023
        with made[0] as sandbox:
            sandbox.run("1")
            calls.append(timed(lambda: sandbox.run("print(1)")))
    return new, calls


def forked(packages: str, rounds: int, megabytes: int) -> tuple[list[float], list[float]]:
    """Return the time of the first fork after large writes, and those of further ones."""
    first: list[float] = []
    further: list[float] = []
    for _ in range(max(1, rounds // 100)):
        with wasmsr.Sandbox.python(packages) as sandbox:
            sandbox.run(f"x = bytearray(b'x') * ({megabytes} << 20)")
            for number in range(11):
                made: list[wasmsr.Sandbox] = []
                took = timed(lambda: made.extend(sandbox.fork(1)))  # noqa: B023
                (further if number else first).append(took)
                made[0].close()
    return first, further


def rewound(packages: str, rounds: int) -> list[float]:
    """Return the times of ways back over a call that has written little."""
    found = []
    with wasmsr.Sandbox.python(packages) as sandbox:
        name = sandbox.snapshot()
        for _ in range(rounds):
            sandbox.run("print(1)")
            found.append(timed(lambda: sandbox.rewind(name)))
    return found


def parked(packages: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the times to park sandboxes, and to wake them."""
    away, back = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        for number in range(max(2, rounds // 50)):
            sandbox = wasmsr.Sandbox.python(packages)
            sandbox.run("print(1)")
            away.append(timed(lambda: sandbox.park(store, f"n{number}")))  # noqa: B023
            made: list[wasmsr.Sandbox] = []
            back.append(
                timed(lambda: made.append(wasmsr.Sandbox.wake(store, f"n{number}")))  # noqa: B023
            )
            made[0].close()
    return away[1:], back[1:]


DIRTY = (
    "print(1)",
    "x = list(range(100_000))",
    "import json; x = json.loads(json.dumps([{'a': i, 'b': str(i)} for i in range(20_000)]))",
)


def stored(packages: str) -> list[tuple[str, float, float]]:
    """Return for pieces of code the KiB on disk of a sandbox that was parked after them, and the
    most that it may take: 1.2 of what it has written, compressed, and 64 KiB."""
    import zstandard

    found = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        for number, code in enumerate(DIRTY):
            sandbox = wasmsr.Sandbox.python(packages)
            sandbox.run(code)
            machine = sandbox._machine
            data = b"".join(
                gather(machine.store.memory_view(address), runs)
                for address, runs in enumerate(machine.changed() or ())
            )
            most = 1.2 * len(zstandard.ZstdCompressor(level=1).compress(data)) / 1024 + 64
            sandbox.park(store, f"n{number}")
            place = store / "increments" / f"n{number}.bin"
            taken = place.stat().st_blocks / 2 if place.exists() else float("nan")
            found.append((code, taken, most))
    return found


def fresh(rounds: int) -> list[float] | str:
    """Return the times of new processes under Wasmtime, or why there are none."""
    try:
        import wasmtime
    except ImportError:
        return "wasmtime is not installed"
    guest = python_guest()
    space: dict[str, Any] = {}
    exec(SETTINGS, space)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "python.cwasm"
        try:
            engine = wasmtime.Engine(space["settings"]())
            compiled.write_bytes(wasmtime.Module(engine, guest.module.binary).serialize())
        except wasmtime.WasmtimeError as error:
            return f"wasmtime refuses the guest: {str(error).splitlines()[0]}"
        library = str(guest.mounts[0].host)
        command = [sys.executable, "-c", SETTINGS + FRESH, str(compiled), library]
        found = []
        for _ in range(max(2, rounds // 100)):
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            found.append((time.perf_counter() - began) * 1e3)
            if "1\n" not in done.stdout:
                return f"wasmtime does not run the guest: {done.stderr.strip()[-200:]}"
    return found


def at(times: list[float], part: float) -> float:
    """Return the time that a part of all times does not exceed."""
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--packages", default="base")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--alone", action="store_true", help="without Wasmtime, which compiles long"
    )
    given = parser.parse_args()
    new, calls = started(given.packages, given.rounds)
    first, further = forked(given.packages, given.rounds, given.megabytes)
    away, back = parked(given.packages, given.rounds)
    copied = bytearray(given.megabytes << 20)
    copy = [timed(lambda: bytes(copied)) for _ in range(5)]
    others = "left out" if given.alone else fresh(given.rounds)
    rows: list[tuple[str, list[float] | str, float | None, float | None]] = [
        ("a new sandbox, from the pool", new, 1.0, 5.0),
        ("print(1) in an open sandbox", calls, 2.0, None),
        (f"first fork after {given.megabytes} MB were written", first, None, None),
        (f"  a copy of {given.megabytes} MB", copy, None, None),
        ("  further forks", further, 2.0, None),
        ("rewind over print(1)", rewound(given.packages, given.rounds), 2.0, None),
        ("park", away, 50.0, None),
        ("wake", back, 5.0, None),
        ("a process under Wasmtime, compiled before", others, None, None),
    ]
    print(f"{given.packages}, {given.rounds} rounds, ms")
    print(ROW.format("", "median", "p99", "limit", "n"))
    for name, times, median, most in rows:
        if isinstance(times, str):
            print(f"{name}: {times}")
            continue
        limit = "" if median is None else f"{median:g}" + ("" if most is None else f"/{most:g}")
        shown = f"{at(times, 0.5):.2f}", f"{at(times, 0.99):.2f}"
        print(ROW.format(name, *shown, limit, len(times)))
    for code, taken, most in stored(given.packages):
        print(f"parked after {code[:40]!r}: {taken:.0f} KiB on disk; limit {most:.0f}")
    if given.json is not None:
        found = {name: times for name, times, *_ in rows}
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
