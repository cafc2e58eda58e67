"""The warm parent of workers of one module or snapshot: it has loaded it, and forks on demand.

    python -m wasmsr.node.workers.warm_parent DESCRIPTOR

The process is started by exec, so it has nothing of the supervisor's memory: no keys, no gRPC, no
threads. It has one socket, to the supervisor, and ends with it. The first message names the module,
and perhaps the snapshot in which the programs begin.
Each further one asks for a worker, and brings its descriptors by name, or names functions that
workers have called, so that later workers find their code made. A worker is the child of a
child that ends at once, so that it becomes a child of the supervisor, which learns how it ends.
"""

from __future__ import annotations

import encodings.ascii
import gc
import os
import resource
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.errors import EXIT_HOST, ModuleError, SnapshotError, WasmsrError
from wasmsr.executor import worker
from wasmsr.executor.messages import VERSION, receive, send
from wasmsr.executor.server_process import become_server
from wasmsr.interp.modules.ahead import compile_ahead
from wasmsr.interp.modules.module import Module
from wasmsr.node.workers.confinement import Confinement
from wasmsr.node.workers.module_about import module_about
from wasmsr.node.workers.moving_executor import make_with
from wasmsr.snapshot.preload import preload
from wasmsr.wasi import facade
from wasmsr.wasi.filesystem import private_folders

if TYPE_CHECKING:
    from wasmsr.snapshot.moments.moment import Moment

PRELOADED = (facade, encodings.ascii)
"""What each worker needs, imported before the forks. A worker that imports a module by itself has
half a MiB more: the importer's pages are its own then."""

FORK_DESCRIPTORS = ("supervisor", "errors")
"""The descriptors that come with a request for a worker, in this order."""


def main(end: socket.socket) -> None:
    """Load the module and serve requests until the supervisor closes the socket."""
    first = receive(end)
    if first is None:
        return
    become_server(1)  # holds for the workers too, whose threads then have no heaps of their own
    (number, method, values), _ = first
    assert method == "load"
    # The module is a stranger's: decoding it must not take the host's memory.
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, _at_most(values["memory"], before[1]))
    try:
        module = Module.from_file(values["path"], features=values["features"])
        preload(module)
        moment = None
        if module.digest.hex() != values["digest"]:
            raise WasmsrError(f"{values['path']} is not the module {values['digest'][:16]}")
        if values["snapshot"] is not None:
            from wasmsr.node.workers.warm_snapshot import WarmSnapshot, hold

            moment = hold(WarmSnapshot(*values["snapshot"]), module)
    except MemoryError:
        send(end, [number, False, worker.failure(_too_large(values))])
        return
    except (WasmsrError, OSError, ValueError) as error:
        send(end, [number, False, worker.failure(error)])
        return
    resource.setrlimit(resource.RLIMIT_DATA, before)  # each worker gets limits of its own
    gc.collect()
    gc.freeze()  # a collection in a worker does not touch, and so copy, pages of the parent
    about = module_about(module)
    send(end, [number, True, {"version": VERSION, "pid": os.getpid(), "about": about}])
    while (message := receive(end)) is not None:
        (number, method, values), descriptors = message
        if method == "compile":
            _compile(module, values["functions"])
            send(end, [number, True, None])
            continue
        named = dict(zip(FORK_DESCRIPTORS, descriptors, strict=True))
        child = os.fork()
        if child == 0:
            end.close()
            _grandchild(module, moment, values, named)
        os.waitpid(child, 0)
        for descriptor in descriptors:
            os.close(descriptor)
        send(end, [number, True, None])


def _compile(module: Module, functions: Any) -> None:
    """Make code of functions; the list came from a worker, so it can be anything."""
    with suppress(OverflowError, TypeError, ValueError):
        compile_ahead(module, functions)
    gc.freeze()


def _too_large(values: Mapping[str, Any]) -> WasmsrError:
    size, most = os.path.getsize(values["path"]), f"{values['memory'] >> 20} MiB"
    if values["snapshot"] is not None:
        return SnapshotError(f"the snapshot, with its module, needs more than {most} to load")
    return ModuleError(f"the module of {size} bytes needs more than {most} to load")


def _at_most(most: int, hard: int) -> tuple[int, int]:
    return (most if hard == resource.RLIM_INFINITY else min(most, hard)), hard


def _grandchild(
    module: Module, moment: Moment | None, values: Mapping[str, Any], named: Mapping[str, int]
) -> None:
    """Fork once more, and be a worker in the new process."""
    try:
        os.setsid()  # a signal to the supervisor's terminal is none to the worker
        if os.fork() == 0:
            _work(module, moment, values, named)
    except BaseException:  # noqa: BLE001 (this is a copy: nothing above may run in it)
        os._exit(EXIT_HOST)
    os._exit(0)


def _work(
    module: Module, moment: Moment | None, values: Mapping[str, Any], named: Mapping[str, int]
) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor, to in ((null, 0), (null, 1), (named["errors"], 2)):
        os.dup2(descriptor, to)
    os.close(null)
    os.close(named["errors"])
    folder, temporary = Path(values["folder"]), values["temporary"]
    os.makedirs(temporary, exist_ok=True, mode=0o700)
    private_folders.keep_in(temporary)
    confinement = Confinement.read(values["confinement"])
    worker.serve(
        socket.socket(fileno=named["supervisor"]),
        folder,
        values["wait"],
        module=module,
        rings=(Path(values["rings"]), values["ring_bytes"]),
        moment=moment,
        make=make_with(Path(values["carried"])),
        confine=lambda: confinement.apply(folder),
    )


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
