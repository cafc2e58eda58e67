"""Runs a WASI command: `python -m tests.anywhere.wasmtime_engine MODULE HOST::GUEST...`

Wasmtime runs it. The command gets our standard streams, and those variables of our environment
that begin with WASMSR_SNAPSHOT. A trap ends with 134, as the command line of Wasmtime does.
"""

from __future__ import annotations

import os
import sys

import wasmtime


def main(file: str, folders: list[str]) -> int:
    """Run a command; returns its exit code."""
    wasi = wasmtime.WasiConfig()
    wasi.argv = [file]
    wasi.env = [one for one in os.environ.items() if one[0].startswith("WASMSR_SNAPSHOT")]
    wasi.inherit_stdin()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    for folder in folders:
        host, _, guest = folder.partition("::")
        wasi.preopen_dir(host, guest)
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(wasi)
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, file))
    start = instance.exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    try:
        start(store)
    except wasmtime.ExitTrap as ended:
        return ended.code
    except wasmtime.Trap:
        return 134
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
