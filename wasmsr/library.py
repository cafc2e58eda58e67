"""Whole tasks in one call, for programs that embed wasmsr: run, open, pause.

`run` runs a command to its end. `open_program` makes a `Program` from a `RunSpec`. `pause` pauses a
store that another thread runs.
"""

from __future__ import annotations

import contextvars
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from wasmsr.interp.literals import parse_literal
from wasmsr.interp.modules.module import MAGIC, Module, assemble
from wasmsr.interp.outcomes import Limits, Outcome, Paused
from wasmsr.interp.store.instance import Imports
from wasmsr.interp.store.store import Store
from wasmsr.program.exports import COMMAND, exported_function
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants, open_streams
from wasmsr.runspec.run_spec import RunSpec, SpecError
from wasmsr.runspec.stop_conditions import StopConditions
from wasmsr.wasi.facade import Stdin, Stdout, Wasi
from wasmsr.wasi.filesystem.mounts import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.store.interface import StoreInterface
    from wasmsr.snapshot.state import SnapshotState


def run(
    program: Module | bytes | str | os.PathLike[str] | RunSpec,
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
        program: A module, the bytes of one (binary or text), or the path of a file. A `RunSpec`
            says all that the other arguments say, so they are left out then.
        args: Its arguments, without its own name, which goes before them.
        env: Its environment; nothing of this process's is passed on by itself.
        mounts: The folders that it sees, as `Mount` or as "HOST::GUEST".
        stdin: A path, bytes or a descriptor; None is an empty input.
        stdout, stderr: A descriptor, or anything with `write(bytes)`, such as `io.BytesIO`.
        sockets: Listening ones, from which it may accept connections; they follow the mounts as
            descriptors and are made non-blocking.
        imports: Further imports, as for `Store.instantiate`.
        limits, deterministic: As for `Store`; `deterministic` makes clocks and random bytes virtual
            too, these from `seed`.
        features: What of WebAssembly it may need, as for `Module`; without effect on one that is
            given as a `Module`.
        fuel: At most so many instructions.

    Returns:
        Exited, with the code, if it called `proc_exit`; Finished if `_start` returned, which means
        code 0; Trapped; or Paused("fuel").

    Raises:
        OSError: The file cannot be read.
        ModuleError, WasiConfigError: What is wrong with the module, or with what it was given.
        HostError: A host function raised.
    """
    if isinstance(program, RunSpec):
        return _run_spec(program)
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
        return _interruptible(lambda: store.run(fuel=fuel), store.pause)


def _run_spec(spec: RunSpec) -> Outcome:
    """Run what a description gives to its end."""
    policy = spec.snapshots
    if policy.saves or spec.limits.timeout is not None:
        raise SpecError(
            "snapshots, limits.timeout: run() has no timers and saves nothing",
            hint="open_program gives a Program, which can be paused and saved at any time",
        )
    program = open_program(spec)

    def work() -> Outcome:
        program.start()
        outcome = program.wait()
        return Paused("fuel") if outcome is None else outcome

    try:
        return _interruptible(work, program.pause)
    finally:
        program.close()
        program.store.close()


def open_program(
    spec: RunSpec,
    *,
    module: Module | None = None,
    grants: HostGrants | None = None,
    snapshot: SnapshotState | None = None,
) -> Program:
    """Return the program that a description gives, before it runs.

    Args:
        spec: The run. `spec.program` is the name of a file.
        module: The module, where the caller has it already.
        grants: What the host gives; None opens what `spec` names.
        snapshot: The state that the run continues, in place of `spec.from_snapshot`.

    Raises:
        SpecError: The description names no program, or gives wrong arguments.
        OSError: A file cannot be read.
        WasmsrError: As for `Program.launch` and `Program.resume`.
    """
    owned: list[int] = []
    given = grants
    program: Program | None = None
    try:
        if grants is None:
            stdin, stdout, stderr = open_streams(spec, owned)
            grants = HostGrants.of(spec, stdin=stdin, stdout=stdout, stderr=stderr)
        if module is None and spec.program is not None:
            module = Module.from_file(spec.program, features=spec.features)
        if snapshot is None and spec.from_snapshot is not None:
            snapshot = _snapshot_of(spec)
        if snapshot is not None:
            program = Program.resume(
                snapshot,
                module=module,
                others=list(preloaded(spec).values()),
                grants=grants,
                max_pages=spec.max_pages,
                features=spec.features,
            )
        elif module is not None:
            program = _launched(spec, module, grants)
        else:
            raise SpecError("program: a run needs a program or from_snapshot")
        program.stop_conditions = StopConditions.of(spec, program.stop_conditions.fuel)
    except BaseException:
        if program is not None:
            program.close()
            program.store.close()
        elif grants is not None and grants is not given:
            grants.close()
        for descriptor in owned:
            os.close(descriptor)
        raise
    program.owned = owned
    return program


def _launched(spec: RunSpec, module: Module, grants: HostGrants) -> Program:
    """Return a program before its first instruction; arguments of an export are typed."""
    name = spec.own_name
    if name is None:
        name = module.name or os.path.basename(spec.program or "program")
    words, bits, invoke = [*spec.own_args], [], spec.invoke or COMMAND
    if invoke == COMMAND:
        words += spec.args
    else:
        params = exported_function(module, invoke).params
        if len(params) != len(spec.args):
            raise SpecError(f"args: {invoke} takes {len(params)}, and {len(spec.args)} were given")
        try:
            bits = [parse_literal(kind, text) for kind, text in zip(params, spec.args, strict=True)]
        except ValueError as error:
            raise SpecError(f"args: an argument of {invoke} {error}") from None
    return Program.launch(
        module,
        argv=[name, *words],
        env=spec.environment(os.environ),
        grants=grants,
        limits=spec.machine_limits,
        deterministic=spec.deterministic,
        invoke=invoke,
        args=bits,
        preload=preloaded(spec),
    )


def preloaded(spec: RunSpec) -> dict[str, Module]:
    """Return the modules that a description names besides the program's own, by name.

    Raises:
        SpecError: A name is there twice.
        OSError: A file cannot be read.
        ModuleError: A module cannot be used.
    """
    found: dict[str, Module] = {}
    for text in spec.preload:
        name, _, path = text.partition("=")
        if name in found:
            raise SpecError(f"preload: the name {name} is there twice")
        found[name] = Module.from_file(path, name=name, features=spec.features)
    return found


def _snapshot_of(spec: RunSpec) -> SnapshotState:
    """Return the snapshot that a run continues; `spec.adopt` takes one that was handed over."""
    assert spec.from_snapshot is not None
    from wasmsr.snapshot.format import FILES_LIMIT, load

    most = spec.limits.carried
    return load(
        spec.from_snapshot,
        adopt=spec.adopt,
        limits=spec.machine_limits,
        files=FILES_LIMIT if most is None else most,
        trust=spec.read_trust,
    )


def pause(store: StoreInterface, timeout: float | None = None) -> bool:
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


def _interruptible(run_it: Callable[[], Outcome], pause_it: Callable[[], object]) -> Outcome:
    """Run on another thread if this is the main one, which must stay free to handle signals."""
    if threading.current_thread() is not threading.main_thread():
        return run_it()
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
            found.append(run_it())
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
            pause_it()
            done.wait()
        raise
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
