"""Whole tasks in one call, for programs that embed wasmsr: run a command; pause a store and wait.

On top of engine, WASI and snapshot, beside `program` (which serves the command line). The third of
the kind, `wasmsr.Snapshot.of(store)`, is in the room `snapshot`.
"""

from __future__ import annotations

import contextvars
import os
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence

from wasmsr.interp.modules.module import MAGIC, Module, assemble
from wasmsr.interp.outcomes import Limits, Outcome
from wasmsr.interp.store.store import Imports, Store
from wasmsr.wasi.facade import Stdin, Stdout, Wasi
from wasmsr.wasi.filesystem.mounts import Mount


def run(
    program: Module | bytes | str | os.PathLike[str],
    *,
    args: Sequence[str | bytes] = (),
    env: Mapping[str, str] | Sequence[str] = (),
    mounts: Sequence[Mount | str] = (),
    stdin: Stdin = None,
    stdout: Stdout = 1,
    stderr: Stdout = 2,
    sockets: Sequence[socket.socket] = (),
    imports: Imports | None = None,
    limits: Limits | None = None,
    fuel: int | None = None,
    deterministic: bool = False,
    features: str | Iterable[str] | None = None,
    seed: int | bytes | str | None = None,
) -> Outcome:
    """Run a WASI command (a module that exports `_start`) to its end.

    Called on the main thread, it has another one run the program, so that Ctrl-C ends it; so host
    functions must not rely on being called on the main thread.

    Args:
        program: a module, the bytes of one (binary or text), or the path of a file.
        args: its arguments, without its own name, which goes before them.
        env: its environment; nothing of this process's is passed on by itself.
        mounts: the folders that it sees, as `Mount` or as "HOST::GUEST".
        stdin: a path, bytes or a descriptor; None is an empty input.
        stdout, stderr: a descriptor, or anything with `write(bytes)`, such as `io.BytesIO`.
        sockets: listening ones, from which it may accept connections; they follow the mounts as
            descriptors and are made non-blocking.
        imports: further imports, as for `Store.instantiate`.
        limits, deterministic: as for `Store`; `deterministic` makes clocks and random bytes virtual
            too, these from `seed`.
        features: what of WebAssembly it may need, as for `Module`; without effect on one that is
            given as a `Module`.
        fuel: at most so many instructions.

    Returns:
        Exited, with the code, if it called `proc_exit`; Finished if `_start` returned, which means
        code 0; Trapped; or Paused("fuel").

    Raises:
        OSError: the file cannot be read.
        ModuleError, WasiConfigError: what is wrong with the module, or with what it was given.
        HostError: a host function raised.
    """
    module = _module(program, features)
    wasi = Wasi(
        args=[module.name or "program", *args],
        env=env,
        mounts=[Mount.parse(m) if isinstance(m, str) else m for m in mounts],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        sockets=sockets,
        deterministic=deterministic,
        seed=seed,
    )
    with (
        wasi,
        Store(
            limits=limits, deterministic=deterministic, features=module.allowed_features
        ) as store,
    ):
        store.wasi = wasi
        given = {**wasi.imports, **(imports or {})}
        instance = store.instantiate(module, given, start=False)
        store.enqueue(instance.function("_start"))
        return _interruptible(store, fuel)


def pause(store: Store, timeout: float | None = None) -> bool:
    """Ask a store that another thread runs to pause, and wait until it stands.

    A host function of yours delays the pause until it returns, and a call-back until the host
    function that made it returns: `timeout` is for that.

    Returns:
        True when it stands: it can be captured, and goes on with `Store.run`. It may have come to
        its end instead. False if it did not stand within `timeout` seconds; the request remains.
    """
    store.pause()
    return store.wait(timeout)


def _module(
    program: Module | bytes | str | os.PathLike[str], features: str | Iterable[str] | None
) -> Module:
    if isinstance(program, Module):
        return program
    if isinstance(program, bytes):
        binary = program if program.startswith(MAGIC) else assemble(program)
        return Module(binary, features=features)
    return Module.from_file(program, features=features)


def _interruptible(store: Store, fuel: int | None) -> Outcome:
    """Run on another thread if this is the main one, which must stay free to handle signals."""
    if threading.current_thread() is not threading.main_thread():
        return store.run(fuel=fuel)
    found: list[Outcome] = []
    failed: list[BaseException] = []
    done = threading.Event()  # an interrupted `Thread.join` takes the thread for dead
    turn = threading.Lock()  # who is first: the thread that begins, or the signal that ends it
    begun = ended = False

    def work() -> None:
        nonlocal begun
        with turn:
            begun = not ended
        if not begun:
            return
        try:
            found.append(store.run(fuel=fuel))
        except BaseException as error:  # noqa: BLE001 (raised below, on the thread that called)
            failed.append(error)
        finally:
            done.set()

    surroundings = contextvars.copy_context()
    thread = threading.Thread(target=surroundings.run, args=(work,), name="wasmsr.run", daemon=True)
    try:
        thread.start()
        done.wait()
    except BaseException:
        with turn:
            ended = True
        if begun:
            store.pause()
            done.wait()
        raise
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
