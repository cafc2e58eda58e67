"""Makes a program twice, for its two codes to be compared: tests/lockstep.py runs the pair.

Each of the two has its own folder and output; what the host tells them of files that cannot be
equal (device, inode, times) is set to zero, so that equal programs have equal memories.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.lockstep import Pair
from tests.real.legs import Job, prepare
from wasmsr.interp.modules.module import Module
from wasmsr.interp.store.externs import Caller, HostFunction
from wasmsr.interp.store.store import Store
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount

MASK = 0xFFFFFFFF


def _level_stat(memory: memoryview, at: int) -> None:
    """A `filestat`: device and inode come first, three times last."""
    memory[at : at + 16] = bytes(16)
    memory[at + 40 : at + 64] = bytes(24)


def _level_entries(memory: memoryview, at: int, used: int) -> None:
    """The entries of fd_readdir: next cookie, inode, length of the name, type, name."""
    end = at + used
    while at + 24 <= end:
        memory[at + 8 : at + 16] = bytes(8)
        at += 24 + int(struct.unpack_from("<I", memory, at + 16)[0])


def _levelled(name: str, function: HostFunction) -> HostFunction:
    """The function, with what it writes about a file made the same everywhere."""
    call: Callable[..., Any] = function.call

    def wrapped(caller: Caller, *args: Any) -> Any:
        result = call(caller, *args)
        if result == 0 and name == "fd_readdir":
            used = struct.unpack_from("<I", caller.memory, args[4] & MASK)[0]
            _level_entries(caller.memory, args[1] & MASK, min(used, args[2] & MASK))
        elif result == 0:
            _level_stat(caller.memory, args[-1] & MASK)
        return result

    return HostFunction(function.type, wrapped, raw=function.raw)


def level(imports: Mapping[str, Mapping[str, HostFunction]]) -> dict[str, dict[str, HostFunction]]:
    """WASI's functions, those that describe files levelled."""
    wanted = ("fd_filestat_get", "path_filestat_get", "fd_readdir")
    return {
        module: {n: _levelled(n, f) if n in wanted else f for n, f in functions.items()}
        for module, functions in imports.items()
    }


def one(module: Module, job: Job, folder: Path) -> Store:
    """The program before its first instruction; its folder is `folder`, made new, and its output
    goes to `folder` with the suffix `.stdout`."""
    prepare(job, folder)
    output = os.open(folder.with_suffix(".stdout"), os.O_WRONLY | os.O_CREAT)
    mounts = [Mount.parse(f"{host}::{guest}") for host, guest in job.mounts]
    if job.output is not None:
        mounts.append(Mount.parse(f"{folder}::{job.output}"))
    wasi = Wasi(
        args=[job.module.name, *job.args],
        env=list(job.env),
        mounts=mounts,
        stdout=output,
        stderr=output,
        deterministic=True,
    )
    store = Store(deterministic=True)
    instance = store.instantiate(module, level(wasi.imports), start=False)
    store.wasi = wasi
    store.enqueue(instance.function("_start"))
    return store


def twins(job: Job, folder: Path, *, counted: bool = False, memories: int = 1) -> Pair:
    """The program twice, in `fast` and `precise` below `folder`; the rest as for a Pair."""
    module = Module.from_file(job.module)
    stores = [one(module, job, folder / name) for name in ("fast", "precise")]
    return Pair(*stores, counted=counted, memories=memories)
