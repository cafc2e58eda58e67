"""Pandoc through the library: its module is no command, the host calls one export after the other.

    python -m tests.real.pandoc MODULE FOLDER SNAPSHOT FUEL

goes on with a conversion that was saved, as a process of its own: with FUEL instructions it stops
and saves again, without (0) it goes on to the end. Beside `fetch`; the test starts the first leg.
Pandoc reads the file `stdin` of the folder that it sees as `/` and writes `stdout`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.real.twins import level
from wasmsr import Finished, Module, Mount, Outcome, Paused, Snapshot, Store, Wasi

RUNTIME = ("pandoc.wasm", "+RTS", "-H64m", "-RTS")
"""The arguments of Haskell's run-time system, as the package gives them."""
LEG_SECONDS = 600


def begin(
    module: Module,
    folder: Path,
    markdown: str,
    options: dict[str, object],
    *,
    deterministic: bool = False,
) -> Store:
    """A store in which everything is ready and the conversion is enqueued.

    Args:
        folder: what Pandoc sees as `/`; made new.
        options: as Pandoc's defaults files have them.
        deterministic: the same every time, as `twins` are.
    """
    folder.mkdir()
    for name in ("stdin", "stdout", "stderr", "warnings"):
        (folder / name).write_text(markdown if name == "stdin" else "")
    store = Store(deterministic=deterministic)
    mounts = [Mount.parse(f"{folder}::/")]
    store.wasi = Wasi(args=RUNTIME, mounts=mounts, deterministic=deterministic)
    imports = level(store.wasi.imports) if deterministic else store.wasi.imports
    instance = store.instantiate(module, imports)
    instance.function("__wasm_call_ctors")()

    def put(data: bytes) -> int:
        address = instance.function("malloc")(len(data))
        assert isinstance(address, int)
        instance.memory().write(address, data)
        return address

    def number(value: int) -> bytes:
        return value.to_bytes(4, "little")

    words = b"".join(number(put(word.encode() + b"\0")) for word in RUNTIME)
    arguments = put(number(put(words + number(0))))
    instance.function("hs_init_with_rtsopts")(put(number(len(RUNTIME))), arguments)
    wanted = json.dumps(options).encode()
    store.enqueue(instance.function("convert"), put(wanted), len(wanted))
    return store


def go_on(module: Module, folder: Path, file: Path, fuel: int) -> Outcome:
    """One leg: from the snapshot file, and where it stops back to it."""
    mounts = [Mount.parse(f"{folder}::/")]
    with Snapshot.load(file).restore(modules=[module], mounts=mounts) as store:
        outcome = store.run(fuel=fuel or None)
        if isinstance(outcome, Paused):
            Snapshot.of(store).save(file)
    return outcome


def leg(module: Path, folder: Path, file: Path, fuel: int) -> str:
    """The same in a new process; the outcome's name."""
    words = [str(module), str(folder), str(file), str(fuel)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.pandoc", *words],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=LEG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


if __name__ == "__main__":
    outcome = go_on(
        Module.from_file(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    )
    assert isinstance(outcome, (Finished, Paused)), outcome
    print(type(outcome).__name__)
