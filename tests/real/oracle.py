"""The second opinion: runs the same job under Wasmtime, another engine (a dependency anyway).

Beside `legs`; the tests compare the two results byte for byte.
"""

from __future__ import annotations

from pathlib import Path

import wasmtime

from tests.real.legs import Job, Result, files_of, prepare


def wasmtime_run(job: Job, folder: Path) -> Result:
    """Runs `job` in `folder` (made new) under Wasmtime."""
    prepare(job, folder)
    output = folder.with_name(f"{folder.name}.stdout")
    wasi = wasmtime.WasiConfig()
    wasi.argv = [job.module.name, *job.args]
    wasi.env = [tuple(variable.split("=", 1)) for variable in job.env]
    wasi.stdout_file = str(output)
    for host, guest in job.mounts:
        wasi.preopen_dir(str(host), guest)
    if job.output is not None:
        wasi.preopen_dir(str(folder), job.output)
    config = wasmtime.Config()
    config.wasm_exceptions = config.wasm_threads = True
    engine = wasmtime.Engine(config)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(wasi)
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, str(job.module)))
    start = instance.exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    try:
        start(store)
        code = 0
    except wasmtime.ExitTrap as ended:
        code = ended.code
    del store, linker  # closes the file
    return Result(code, output.read_bytes(), files_of(folder))
