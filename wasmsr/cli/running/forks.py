"""`wasmsr run --forks N`: forks of a saved program, all at once, each with its own output.

Each line that a fork writes gets the fork's number in front. A fork that fails does not end the
others. Their ends make one exit code and one object.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from wasmsr import errors
from wasmsr.cli.options import arguments
from wasmsr.cli.options.run_options import RunOptions
from wasmsr.cli.options.usage import UsageError
from wasmsr.cli.running.session import RunEnding, ending_of
from wasmsr.cli.words import report
from wasmsr.cli.words.failures import describe
from wasmsr.cli.words.messages import say
from wasmsr.interp import literals
from wasmsr.program.program import Program
from wasmsr.program.restoring import excessive, module_of
from wasmsr.program.state import ProgramState
from wasmsr.record import record, replaced
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.stop_conditions import StopConditions
from wasmsr.snapshot.moments.moment import Moment
from wasmsr.wasi.filesystem.mounts import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.modules.module import Module
    from wasmsr.interp.types import FuncType
    from wasmsr.snapshot.state import SnapshotState

PLACE = "{fork}"
"""What stands for the fork's number in the names of files."""
LONGEST = 1 << 16
"""Bytes of a line after which its beginning is printed without waiting for its end."""
SHORT_OF = {"out-of-fuel": "out of fuel", "timed-out": "out of time"}
"""What a limit has ended, in words."""
SPARE = 64
"""Descriptors that this process needs besides those of the forks."""


def check(options: RunOptions, mounts: Sequence[str]) -> None:
    """Refuse what forks cannot share.

    Args:
        options: The options of the run.
        mounts: Its folders, as `--dir` has them.

    Raises:
        UsageError: It names the option and says what to write.
    """
    for text in mounts:
        mount = Mount.parse(text)
        if mount.effective_mode == "host" and not text.endswith("::host"):
            raise UsageError(
                f"--dir {text} would be one folder that all forks write; add ::ro or ::overlay, "
                f"or write {mount.host}::{mount.guest}::host if that is meant."
            )
    for name, path in (("--stdout", options.stdout), ("--stderr", options.stderr)):
        if path is not None and path != "-" and PLACE not in path:
            raise UsageError(
                f"{name} {path} would be one file that all forks write; put {PLACE} into its name."
            )


@record
class ForkEnd:
    """How one fork ended.

    Attributes:
        number: The number of the fork.
        ending: Its end; of one that failed in the host, with the outcome "error".
        results: Results of the export that `--invoke` names, as JSON.
        executed: Instructions, if they were counted.
        error: The error of the host: kind, sentence and hint.
    """

    number: int
    ending: RunEnding
    results: list[list[object]]
    executed: int | None
    error: tuple[str, str, str | None] | None = None


class Lines:
    """One output of a fork on a stream that all forks have: whole lines with a number in front.

    Args:
        number: The number of the fork.
        descriptor: Where the lines go.
        lock: One for each descriptor.
    """

    def __init__(self, number: int, descriptor: int, lock: threading.Lock) -> None:
        self._begin = b"[%d] " % number
        self._descriptor = descriptor
        self._lock = lock
        self._kept = bytearray()

    def write(self, data: memoryview | bytes) -> None:
        """Take bytes, and print the lines that are whole. Raises OSError."""
        self._kept += data
        end = self._kept.rfind(b"\n") + 1
        if end or len(self._kept) > LONGEST:
            self._print(end or len(self._kept))

    def end(self) -> None:
        """Print what is left of the last line."""
        if self._kept:
            self._print(len(self._kept))

    def _print(self, size: int) -> None:
        text = bytes(self._kept[:size])
        del self._kept[:size]
        lines = text.removesuffix(b"\n").split(b"\n")
        whole = b"".join(self._begin + line + b"\n" for line in lines)
        with self._lock:
            while whole:
                whole = whole[os.write(self._descriptor, whole) :]


class ForkedRun:
    """One `wasmsr run --forks N`.

    Args:
        options: The options; `check` has passed them.
        grants: What all forks get, without streams.
        stop: Where each fork stops.
    """

    def __init__(self, options: RunOptions, grants: HostGrants, stop: StopConditions) -> None:
        self.options = options
        self.ends: list[ForkEnd] = []
        self._grants = grants
        self._stop = stop
        self._locks = {1: threading.Lock(), 2: threading.Lock()}
        self._lines: dict[int, list[Lines]] = {}
        self._opened: list[int] = []

    def run(self, snapshot: SnapshotState, module: Module | None, pages: int | None) -> None:
        """Run all forks to their ends, which are in `ends` then.

        Args:
            snapshot: The saved program.
            module: Its module; None takes the one that the snapshot embeds.
            pages: Limit of each memory in pages of 64 KiB; None takes the snapshot's.

        Raises:
            WasmsrError: No fork can be made.
        """
        options = self.options
        module = module_of(snapshot, module, options.features)
        if pages is not None:
            snapshot.limits.memory_pages = pages
        if (sentence := excessive(snapshot.limits)) is not None:
            raise errors.SnapshotError(f"the program was saved {sentence}")
        count = int(options.forks or 0)
        _raise_descriptors(count)
        try:
            with Moment.of_state(
                snapshot, modules=[module], features=module.allowed_features
            ) as moment:
                stores = moment.fork(
                    count,
                    own=self._streams,
                    mounts=self._grants.mounts,
                    on_changed=self._grants.on_changed,
                    carry_limit=self._grants.carry_limit,
                )
            programs = [
                self._program(number, Program(store, module, store.wasi, HostGrants(), waits=False))
                for number, store in enumerate(stores, 1)
            ]
            self._finish(programs)
        finally:
            while self._opened:
                os.close(self._opened.pop())

    def exit_code(self) -> int:
        """Return the exit code of the first fork that did not end with 0."""
        return next((end.ending.exit_code for end in self.ends if end.ending.exit_code), 0)

    def as_json(self) -> str:
        """Return the object of --json."""
        forks = [
            {"fork": end.number}
            | report.fields(end.ending, results=end.results, executed=end.executed)
            | ({} if end.error is None else {"error": report.error_fields(*end.error)})
            for end in self.ends
        ]
        worst = next((end.ending for end in self.ends if end.ending.exit_code), None)
        ending = RunEnding("finished") if worst is None else RunEnding(worst.outcome)
        ending.exit_code = self.exit_code()
        return report.dumps(report.fields(ending, results=[], executed=None) | {"forks": forks})

    def _streams(self, number: int) -> dict[str, Any]:
        options = self.options
        lines = self._lines[number] = []

        def output(path: str | None, ours: int) -> int | Lines:
            if path is None or path == "-":
                shared = ours if path is None else 1
                lines.append(Lines(number, shared, self._locks[shared]))
                return lines[-1]
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            return self._open(path.replace(PLACE, str(number)), flags)

        stdin = None
        if options.stdin is not None:
            stdin = self._open(
                options.stdin.replace(PLACE, str(number)), os.O_RDONLY | os.O_CLOEXEC
            )
        stdout = output(options.stdout, 1)
        same = options.stderr is not None and options.stderr == options.stdout
        stderr = stdout if same else output(options.stderr, 2)
        return {"stdin": stdin, "stdout": stdout, "stderr": stderr}

    def _open(self, path: str, flags: int) -> int:
        self._opened.append(os.open(path, flags, 0o666))
        return self._opened[-1]

    def _program(self, number: int, program: Program) -> tuple[ForkEnd, Program]:
        options = self.options
        end = ForkEnd(number, RunEnding("finished"), [], None)
        if options.invoke is not None:
            if program.pending:
                raise UsageError("--invoke: the saved program has not returned yet.")
            values, own = arguments.values(program.module, options.invoke, options)
            if own or options.arg:
                raise UsageError("A saved program has its arguments already.")
            program.call(options.invoke, *values)
        program.on_result = self._result(end)
        return end, program

    def _result(self, end: ForkEnd) -> Callable[[FuncType, tuple[int, ...]], None]:
        lines = Lines(end.number, 1, self._locks[1])

        def result(kind: FuncType, values: Sequence[int]) -> None:
            pairs = list(zip(kind.results, values, strict=True))
            end.results.append([literals.json_value(type_, bits) for type_, bits in pairs])
            if not self.options.json:
                for type_, bits in pairs:
                    lines.write(literals.format_literal(type_, bits).encode() + b"\n")

        return result

    def _finish(self, programs: Sequence[tuple[ForkEnd, Program]]) -> None:
        due = None if self.options.timeout is None else time.monotonic() + self.options.timeout
        for _, program in programs:
            program.stop_conditions = replaced(self._stop)
            if program.pending:
                program.start()
        for end, program in programs:
            left = None if due is None else max(0.0, due - time.monotonic())
            end.ending = self._end_of(end, program, left)
            end.executed = program.executed
            for lines in self._lines.pop(end.number):
                lines.end()
            self._tell(end)
            self.ends.append(end)
            program.close()
            program.store.wasi = None
            program.store.close()

    def _end_of(self, end: ForkEnd, program: Program, left: float | None) -> RunEnding:
        try:
            if program.wait(left) is None and program.pending and not program.is_stopped:
                program.pause()
                if program.state is ProgramState.PAUSED:
                    return RunEnding("timed-out", errors.EXIT_FUEL)
            if program.state is ProgramState.FUEL:
                return RunEnding("out-of-fuel", errors.EXIT_FUEL)
            if program.state is ProgramState.IDLE:
                return RunEnding("finished")
            return ending_of(program)
        except Exception as error:  # noqa: BLE001 (it ends this fork, and not the others)
            sentence, hint, code = describe(error)
            end.error = type(error).__name__, sentence, hint
            return RunEnding("error", code)

    def _tell(self, end: ForkEnd) -> None:
        """Say of a fork that did not end well how it ended."""
        ending = end.ending
        if end.error is not None:
            say(f"fork {end.number}: {end.error[1]}", "error")
        elif ending.trap is not None:
            say(f"fork {end.number}: trap: {ending.trap.code}", "error")
        elif ending.outcome in SHORT_OF:
            say(f"fork {end.number}: {SHORT_OF[ending.outcome]}", "error")


def _raise_descriptors(forks: int) -> None:
    """Let this process have as many descriptors as forks may need while they wait."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SPARE + 6 * forks
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
