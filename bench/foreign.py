"""Runs a WASI program under Wasmtime, for `programs`, or a kernel under pywasm3, for `suite`.

python -m bench.foreign HOST::GUEST,… MODULE [ARGS…]
python -m bench.foreign pywasm3 KERNEL
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path


def pywasm3(path: str) -> int:
    """Run a kernel that was built as a command (`bench.build.command`), with all it imports."""
    import wasm3  # type: ignore[import-not-found, unused-ignore]

    environment = wasm3.Environment()
    runtime = environment.new_runtime(1 << 20)
    module = environment.parse_module(Path(path).read_bytes())
    runtime.load(module)

    def fd_write(descriptor: int, parts: int, count: int, written: int) -> int:
        memory = runtime.get_memory(0)
        at, length = struct.unpack_from("<II", memory, parts)
        os.write(descriptor, bytes(memory[at : at + length]))
        return 0

    with contextlib.suppress(RuntimeError):  # the command that does nothing does not import it
        module.link_function("wasi_snapshot_preview1", "fd_write", "i(iiii)", fd_write)
    runtime.find_function("_start")()
    return 0


def main(argv: Sequence[str]) -> int:
    """Run it; returns its exit code."""
    if argv[0] == "pywasm3":
        return pywasm3(argv[1])
    import wasmtime

    mounts, module, *args = argv
    wasi = wasmtime.WasiConfig()
    wasi.argv = [Path(module).name, *args]
    for mount in mounts.split(","):
        host, _, guest = mount.partition("::")
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
