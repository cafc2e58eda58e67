"""Carries out `wasmsr run`: from options to a program, the session, and an exit code.

The worker thread imports what is heavy, so that Ctrl-C does not wait for it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from wasmsr import errors
from wasmsr.cli import programs
from wasmsr.cli.options import arguments
from wasmsr.cli.options.run_options import RunOptions
from wasmsr.cli.options.usage import UsageError
from wasmsr.cli.running.terminal import END_CODES, Ended, Events, Keyboard, end_now, last_words
from wasmsr.cli.words import report
from wasmsr.cli.words.failures import describe
from wasmsr.cli.words.messages import say
from wasmsr.record import replaced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from wasmsr.cli.running.outputs import SnapshotFile
    from wasmsr.cli.running.session import Plan, RunEnding
    from wasmsr.cli.words.progress import Advance
    from wasmsr.interp.modules.module import Module
    from wasmsr.interp.modules.module_cache import ModuleCache
    from wasmsr.interp.types import FuncType
    from wasmsr.program.program import Program
    from wasmsr.program.timings import Timings
    from wasmsr.runspec.grants import HostGrants
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust


def module_cache(folder: str | None) -> ModuleCache | None:
    """Return the cache that --module-cache names: None for the user's own, "off" for none."""
    if folder == "off":
        return None
    from wasmsr.interp.modules.module_cache import ModuleCache, default_folder

    return ModuleCache(folder or default_folder())


def _digest(snapshot: SnapshotState) -> bytes:
    """Return SHA-256 of a saved program's module; b"" if it has none."""
    if not snapshot.instances:
        return b""
    from wasmsr.program.restoring import reference_of

    return reference_of(snapshot).digest


def _is_small(path: str) -> bool:
    """Return whether a file is validated sooner than the cache is imported."""
    from wasmsr.interp.modules.module import SMALL_MODULE

    try:
        return os.stat(path).st_size < SMALL_MODULE
    except OSError:
        return False


class Launch:
    """One `wasmsr run`."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.spec = options.spec()
        self.named = programs.find(options.program) if options.program is not None else None
        self.results: list[list[object]] = []
        self.executed: int | None = None
        self._has_streams = False
        self._again: Sequence[int] = ()
        self.timings: dict[str, list[float]] = {}
        self._outputs: dict[str, int] = {}
        self._file: SnapshotFile | None = None
        self._reads: ReadTrust | None = None
        self._writes: WriteTrust | None = None
        self._trace: TextIO | None = None
        self._json: TextIO | None = None

    @property
    def interactive(self) -> bool:
        """Whether keys are read: the user asks for that, or the packaged program does."""
        return self.options.interactive or (self.named is not None and self.named.interactive)

    def run(self) -> int:
        """Run the program to its end and return the exit code. Raises any other end."""
        try:
            self._choose_tier()
            with Events() as events:
                if self.options.leased:
                    return self._run_leased(events)
                if self.options.forks is not None:
                    return events.call(self._run_forks)
                ending = self._session(events)
                if ending.abandoned or ending.outcome in ("interrupted", "timed-out"):
                    said = last_words(lambda: self._tell(ending))
                    if ending.abandoned or not said:
                        end_now(ending.exit_code, flush=said)
                    return ending.exit_code
        except Ended as signal:
            code = END_CODES[signal.number]
            text = report.interrupted_as_json(str(signal), code)
            end_now(code, flush=last_words(lambda: self._print_json(text)))
        except BrokenPipeError:
            raise
        except (errors.WasmsrError, OSError, MemoryError) as error:
            sentence, hint, code = describe(error)
            kind = type(error).__name__
            self._print_json(report.error_as_json(kind, sentence, hint, code))
            raise
        self._tell(ending)
        return ending.exit_code

    # -- before ------------------------------------------------------------------------------------

    def _choose_tier(self) -> None:
        """Set how the stores of this process run code."""
        from wasmsr.interp import tier

        tier.choose(self.options.tier)
        if self.options.code_budget is not None:
            tier.limit(self.options.code_budget)
        if self.options.tier == "native" and (why := tier.refusal()) is not None:
            say(f"--tier native has no effect: {why}; the interpreter runs", "warning")

    def _write_perf_map(self, program: Program) -> None:
        from wasmsr.interp.perf_map import write_perf_map

        try:
            write_perf_map(program.store)
        except OSError as error:
            say(f"--perf-map has no effect: {error}", "warning")

    def _session(self, events: Events) -> RunEnding:
        """Make the program and run it."""
        program = events.call(self._make_program)
        from wasmsr.cli.running.session import Plan, RunSession

        self.timings = program.timings.spans
        self._has_streams = program.wasi is not None
        program.on_result = self._result
        plan = Plan(
            save=lambda: self._save(program),
            waits=lambda: self._snapshot_file.may_block,
            after=self.spec.snapshots.after,
            every=self.spec.snapshots.every,
            timeout=self.spec.limits.timeout,
            keep_running=self.spec.snapshots.keep_running,
            on_interrupt=self.spec.snapshots.on_interrupt,
            keyboard=Keyboard if self.interactive else None,
            export=self._export,
            again=lambda: program.call(self._export, *self._again),
        )
        gc.enable()  # `quick` turned the collector off
        with self._traced(program), self._checkpoints(program, plan):
            try:
                return RunSession(program, plan, events).run()
            finally:
                self.executed = program.executed
                if self.options.perf_map and program.is_stopped:
                    self._write_perf_map(program)
                if program.is_stopped:
                    program.close()

    def _run_leased(self, events: Events) -> int:
        """Run the program under a lease, and return the exit code."""
        from wasmsr.cli.running.leased import LeasedCommand
        from wasmsr.cli.running.outputs import open_text

        if self.options.json_file is not None:
            self._json = open_text(self.options.json_file)
        gc.enable()
        command = LeasedCommand(self.options, self.spec, self.named)
        code = command.run(events)
        self._has_streams = True
        if self.options.json or self._json is not None:
            self._print_json(command.as_json())
        return code

    def _run_forks(self) -> int:
        """Run forks of a saved program, and return the exit code."""
        from wasmsr.cli.running.forks import ForkedRun, check
        from wasmsr.program.timings import Timings
        from wasmsr.runspec.stop_conditions import StopConditions

        options = self.options
        self._read_keys()
        self._look_at_files()
        module = None if options.program is None else self._load(options.program)
        snapshot = self._read_snapshot(Timings())
        texts = list(options.dirs)
        if self.named is not None:
            texts = self.named.mounts(options.dirs, self._own_folder(snapshot))
        check(options, texts)
        self._name_the_program(module, snapshot)
        from wasmsr.runspec.grants import HostGrants

        grants = HostGrants.of(replaced(self.spec, mounts=tuple(texts)))
        forks = ForkedRun(options, grants, StopConditions.of(self.spec, snapshot.limits.fuel))
        gc.enable()
        forks.run(snapshot, module, self.spec.max_pages)
        self._has_streams = True
        if options.json or self._json is not None:
            self._print_json(forks.as_json())
        return forks.exit_code()

    @property
    def _export(self) -> str:
        """The export to call: the user's, the packaged program's, or the start of a command."""
        if self.options.invoke is not None:
            return self.options.invoke
        return self.named.invoke if self.named is not None else "_start"

    def _make_program(self) -> Program:
        """Make a program, which does not run yet, from files."""
        from wasmsr.runspec.stop_conditions import StopConditions

        options = self.options
        self._read_keys()
        self._look_at_files()
        module = None if options.program is None else self._load(options.program)
        if options.from_snapshot is not None:
            program = self._resume(module)
        else:
            assert module is not None
            program = self._start(module)
        program.stop_conditions = StopConditions.of(self.spec, program.stop_conditions.fuel)
        for address in program.listens:
            say(f"the program listens on {address}")
        return program

    def _read_keys(self) -> None:
        """Read the keys that the options name, before the program gets its variables."""
        options = self.options
        if options.sign_with or options.encrypt_with:
            self._writes = self.spec.write_trust
        if options.encrypt_with or options.decrypt_with or options.require_signature:
            self._reads = self.spec.read_trust

    def _look_at_files(self) -> None:
        """Refuse to overwrite files that are read, and open the outputs.

        Opening a FIFO may take for ever. A signal ends the wait here.
        """
        options = self.options
        asked = self.spec.snapshots.saves or options.snapshot_file != "snapshot.bin"
        if asked or options.stdout or options.stderr or options.trace_file or options.json_file:
            from wasmsr.cli.running.outputs import check, files_of, open_text

            module = options.program if self.named is None else self.named.location
            check(*files_of(options, module, saves=asked))
            if options.trace_file is not None:
                self._trace = open_text(options.trace_file)
            if options.json_file is not None:
                self._json = open_text(options.json_file)

    def _look_at_snapshot_file(self, digest: Callable[[], bytes]) -> None:
        """Check the place for snapshots, if the options ask for some.

        Args:
            digest: Returns SHA-256 of the module, which takes a while.
        """
        options = self.options
        if self.spec.snapshots.saves or options.snapshot_file != "snapshot.bin":
            self._snapshot_file.check(digest())
        elif self.interactive and os.path.exists(options.snapshot_file):
            from wasmsr.cli.running.outputs import OutputError

            try:
                self._snapshot_file.check(digest())
            except (OutputError, errors.SnapshotError) as error:
                more = f"; {error.hint}" if error.hint else ""
                say(f"the key s will save nothing: {str(error).rstrip('.')}{more}", "warning")

    @property
    def _snapshot_file(self) -> SnapshotFile:
        """The place for snapshots."""
        if self._file is None:
            from wasmsr.cli.running.outputs import SnapshotFile

            self._file = SnapshotFile(
                self.options.snapshot_file, force=self.options.force, trust=self._reads
            )
        return self._file

    def _load(self, program: str) -> Module:
        """Return the module, through the cache."""
        options = self.options
        location = program if self.named is None else self.named.location
        small = location.endswith(".wasm") and _is_small(location)
        cache = None if small else module_cache(options.module_cache)
        if small and options.module_cache != "off":
            say("module cache: small", "info")
        module = programs.load(program, options.features, cache, core=options.core)
        if cache is not None:
            say(f"module cache: {cache.found}", "info")
            if cache.trouble is not None:
                say(f"module cache: {cache.trouble}", "debug")
        return module

    def _host_grants(self, snapshot: SnapshotState | None = None) -> HostGrants:
        """Return folders and standard input as the options give them.

        For a resumed program, what it had counts too.
        """
        from wasmsr.runspec.grants import HostGrants

        options = self.options
        texts = list(options.dirs)
        if self.named is not None:
            texts = self.named.mounts(options.dirs, self._own_folder(snapshot))
        stdin = None if self.interactive else 0
        if options.stdin is not None:
            stdin = os.open(options.stdin, os.O_RDONLY | os.O_CLOEXEC)
        return HostGrants.of(
            replaced(self.spec, mounts=tuple(texts)),
            stdin=stdin,
            stdout=self._output(options.stdout, 1),
            stderr=self._output(options.stderr, 2),
        )

    def _own_folder(self, snapshot: SnapshotState | None) -> str | None:
        """Return the current folder for a packaged program whose files are in the snapshot.

        `remote` makes such snapshots; see `NamedProgram.mounts`.
        """
        for mount in (snapshot.wasi or {}).get("mounts", ()) if snapshot is not None else ():
            assert self.named is not None
            if mount["mode"] == "carry" and os.fsdecode(mount["guest"]) == self.named.here:
                return os.getcwd() + "::{}::carry"
        return None

    def _output(self, path: str | None, ours: int) -> int:
        """Return a descriptor to write to: of the file that an option names, or the stream's own.

        A program that begins empties the file; a resumed program appends to it.
        """
        if path is None or path == "-":
            return ours if path is None else 1
        file = os.path.realpath(path)
        if file not in self._outputs:
            how = os.O_TRUNC if self.options.from_snapshot is None else 0
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | how
            self._outputs[file] = os.open(path, flags, 0o666)
        return self._outputs[file]

    def _start(self, module: Module) -> Program:
        """Return a program before its first instruction."""
        from wasmsr.program.exports import COMMAND
        from wasmsr.program.program import Program

        options, named, export = self.options, self.named, self._export
        self._look_at_snapshot_file(lambda: module.digest)
        argv = [named.name if named is not None else os.path.basename(str(options.program))]
        argv += options.arg
        values: Sequence[int] = ()
        if export == COMMAND:
            arguments.warn(options)
            argv += options.args if named is None else named.words(options.args)
        else:
            if named is not None and not options.args:
                options.args = tuple(named.words(()))
            values, own = arguments.values(module, export, options)
            self._again = values
            argv += own
        idle = named is not None and named.idle and options.invoke is None
        return Program.launch(
            module,
            argv=argv,
            env=self.spec.environment(os.environ),
            grants=self._host_grants(),
            limits=self.spec.machine_limits,
            deterministic=self.spec.deterministic,
            invoke=None if idle else export,
            args=values,
            preload=self._preloaded(),
        )

    def _preloaded(self) -> dict[str, Module]:
        """Return the modules of --preload by name."""
        if not self.options.preload:
            return {}
        from wasmsr.library import preloaded

        return preloaded(self.spec)

    def _resume(self, module: Module | None) -> Program:
        """Return a program where it was saved; with --invoke, an idle one calls an export."""
        from wasmsr.program.program import Program
        from wasmsr.program.timings import Timings

        options, timings = self.options, Timings()
        assert options.from_snapshot is not None
        snapshot = self._read_snapshot(timings)
        if options.deterministic and not snapshot.limits.deterministic:
            say("--deterministic has no effect: the saved run was not deterministic", "warning")
        self._look_at_snapshot_file(lambda: _digest(snapshot))
        self._name_the_program(module, snapshot)
        program = Program.resume(
            snapshot,
            adopted=True,
            module=module,
            grants=self._host_grants(snapshot),
            max_pages=self.spec.max_pages,
            features=options.features,
            others=list(self._preloaded().values()),
            timings=timings,
        )
        if options.invoke is not None:
            if program.pending:
                raise UsageError("--invoke: the saved program has not returned yet.")
            values, own = arguments.values(program.module, options.invoke, options)
            if own or options.arg:
                raise UsageError("A saved program has its arguments already.")
            self._again = values
            program.call(options.invoke, *values)
        return program

    def _read_snapshot(self, timings: Timings) -> SnapshotState:
        """Return the saved program that --from-snapshot names, if its signature suffices."""
        from wasmsr.cli.running.snapshots import read_snapshot

        options = self.options
        assert options.from_snapshot is not None
        return read_snapshot(
            options.from_snapshot,
            adopt=options.adopt,
            timings=timings,
            limits=self.spec.machine_limits,
            carry_limit=options.carry_limit,
            trust=self._reads,
        )

    def _name_the_program(self, module: Module | None, snapshot: SnapshotState) -> None:
        """Raise an error with the name of PROGRAM if the user left out a packaged program."""
        if module is not None or not snapshot.modules or not snapshot.instances:
            return
        from wasmsr.program.restoring import reference_of

        reference = reference_of(snapshot)
        name = programs.known_digest(reference.digest)
        if name is not None and reference.binary is None:
            raise errors.ModuleMismatch(
                f"{self.options.from_snapshot} does not embed its module, which is {name}'s",
                hint=f"wasmsr run {name} --from-snapshot {self.options.from_snapshot}",
            )

    # -- meanwhile ---------------------------------------------------------------------------------

    def _result(self, kind: FuncType, values: Sequence[int]) -> None:
        """Print or keep the results of an invocation of an export, given as bits."""
        from wasmsr.interp import literals

        pairs = list(zip(kind.results, values, strict=True))
        if self.options.json or self._json is not None:
            self.results.append([literals.json_value(type_, bits) for type_, bits in pairs])
        if self.options.json:
            return
        for type_, bits in pairs:
            print(literals.format_literal(type_, bits))
        sys.stdout.flush()

    def _save(self, program: Program) -> tuple[str, int]:
        """Write a snapshot of the paused program; return the name of the file and its size."""
        from wasmsr.snapshot.encoding.container import VERSION
        from wasmsr.snapshot.format import encode
        from wasmsr.snapshot.trust.policy import WRITE_PLAIN

        trust = self._writes or WRITE_PLAIN
        version = max(VERSION, 2) if trust.adds else VERSION
        file, encoding, written = self._snapshot_file, 0.0, 0

        def timed(pieces: Iterator[bytes], advance: Advance) -> Iterator[bytes]:
            nonlocal encoding, written
            while True:
                began = time.perf_counter()
                piece = next(pieces, None)
                encoding += time.perf_counter() - began
                if piece is None:
                    return
                yield piece
                written += len(piece)
                advance(written, None)

        if file.descriptor is not None:
            sys.stdout.flush()
        from wasmsr.cli.words.progress import shown

        with shown(f"saving {file.name}") as advance:
            # If the module came in the snapshot, there may be no other copy of it.
            embed = self.options.embed_module or self.options.program is None
            snapshot = program.snapshot(embed=embed)
            began = time.perf_counter()
            try:
                pieces = encode(snapshot, version=version, trust=trust)
                encoding += time.perf_counter() - began
                size = file.save(timed(pieces, advance), program.module.digest)
            except BrokenPipeError:
                raise
            except OSError as error:  # a file can no longer be read
                sentence = f"the program cannot be saved: {error.strerror or error}"
                raise errors.SnapshotError(sentence) from error
        program.timings.add("encode", encoding)
        program.timings.add("write", time.perf_counter() - began - encoding)
        return file.last, size

    def _checkpoints(self, program: Program, plan: Plan) -> contextlib.AbstractContextManager[None]:
        """Let the plan take checkpoints, if the options name a folder for them."""
        if self.spec.snapshots.checkpoints is None:
            return contextlib.nullcontext()
        from wasmsr.cli.running.checkpoints import checkpoints

        return checkpoints(
            self.spec.snapshots,
            program,
            plan,
            embed=self.options.embed_module or self.options.program is None,
            reads=self._reads,
            writes=self._writes,
        )

    @contextlib.contextmanager
    def _traced(self, program: Program) -> Iterator[None]:
        """Give the program its tracer, if the options ask for one."""
        options = self.options
        if not options.trace:
            yield
            return
        from wasmsr.interp.tracer import Tracer

        if self._trace is None:
            program.tracer = Tracer(sys.stderr.write, state=options.trace_state)
            yield
            return
        with self._trace as file:
            program.tracer = Tracer(file.write, state=options.trace_state)
            yield

    # -- after -------------------------------------------------------------------------------------

    def _tell(self, ending: RunEnding) -> None:
        """Say how the program ended, in the form that the options ask for."""
        options = self.options
        snapshot = self._snapshot_file.last if ending.snapshots else None
        said = snapshot
        if snapshot is not None and self._snapshot_file.descriptor is not None:
            said = "the snapshot on that descriptor"
        report.tell(ending, executed=self.executed, snapshot=said)
        if options.timings and not options.json:
            report.print_timings(self.timings)
        if options.json or self._json is not None:
            text = report.as_json(
                ending,
                results=self.results,
                executed=self.executed,
                snapshot=snapshot,
                timings=self.timings,
            )
            self._print_json(text)

    def _print_json(self, text: str) -> None:
        """Print the object on a new line, even if the program's output did not end its line."""
        if self._json is not None:
            self._json.write(text + "\n")
            self._json.flush()
        if self.options.json:
            print(f"\n{text}" if self._has_streams else text, flush=True)
