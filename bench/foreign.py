"""Runs a WASI program under Wasmtime, for `programs`.

python -m bench.foreign HOST::GUEST MODULE [ARGS…]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import wasmtime


def main(argv: Sequence[str]) -> int:
    """Run it; returns its exit code."""
    mount, module, *args = argv
    host, _, guest = mount.partition("::")
    wasi = wasmtime.WasiConfig()
    wasi.argv = [Path(module).name, *args]
    wasi.preopen_dir(host, guest)
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(wasi)
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, module))
    start = instance.exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    try:
        start(store)
    except wasmtime.ExitTrap as ended:
        return ended.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
