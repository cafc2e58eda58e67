"""One module on a device: its program in the node, its streams, and how it ended."""

from __future__ import annotations

import os
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from wasmsr.errors import WasmsrError
from wasmsr.fleet.device.module_run import ModuleRun, readable_module
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.output_pieces import program_output
from wasmsr.node.supervision.program_record import ProgramStanding

INPUT_WAITING: Final = 16 << 20
"""Bytes of standard input that wait for a module; what comes beyond is dropped."""
CALM_SECONDS: Final = 60.0
LONGEST_PAUSE: Final = 30.0
"""Seconds between the crash of a module and its next start: 0, 1, 2, 4 ... 30, and from the
beginning again if it has run for `CALM_SECONDS`."""
REPORT: Final = struct.Struct("<3Q")
DEPLOYED: Final = struct.Struct("<Q6I")
TIMES: Final = struct.Struct("<3I")
MOST_RUNS: Final = 80_000
"""Runs whose times are kept: they go in one message, as `hub.REPORTS`."""
MOST: Final = (1 << 32) - 1
LONGEST_MESSAGE: Final = 4096
"""Characters of what people are told of an end; an orchestrator takes no more."""
KILLED: Final = 137
"""Exit code of a module that was ended: 128 and SIGKILL."""


@dataclass(frozen=True)
class ModuleEnd:
    """How a module has ended.

    Attributes:
        code: Its exit code.
        reason: `exit`, `trap`, `killed` or `error`.
        message: More for people, or "".
    """

    code: int
    reason: str
    message: str = ""

    def wire(self) -> dict[str, Any]:
        """Return it as a part of the message `exited`."""
        return {
            "status": "exited", "exit_code": self.code, "reason": self.reason,
            "message": self.message[:LONGEST_MESSAGE],
        }  # fmt: skip


class ModuleHost(Protocol):
    """What a module needs of its device; any thread may call it."""

    def saved(self, module: DeviceModule) -> NodeProgram | None:
        """Return a program of the module that can go on from a save point, or None."""

    def launch(self, module: DeviceModule, code: bytes) -> NodeProgram:
        """Begin a program of the module. Raises WasmsrError."""

    def output(self, module: DeviceModule, data: bytes) -> None:
        """Publish output of a module."""

    def profile(self, module: DeviceModule, kind: str, records: bytes) -> None:
        """Publish records of a module."""

    def ended(self, module: DeviceModule, end: ModuleEnd) -> None:
        """Hear that the module has ended; its output and records were published before."""


@dataclass
class ModuleInput:
    """Standard input of a module: a pipe that is filled as the module reads it."""

    read_end: int
    write_end: int
    waiting: bytearray = field(default_factory=bytearray)

    @classmethod
    def make(cls) -> ModuleInput:
        """Return a new pipe."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(theirs, False)
        return cls(ours, theirs)

    def put(self, data: bytes) -> None:
        """Take input; what is too much is dropped."""
        if self.write_end >= 0 and len(self.waiting) + len(data) <= INPUT_WAITING:
            self.waiting += data
            self.pump()

    def pump(self) -> None:
        """Write what waits, as far as the pipe has room."""
        try:
            while self.waiting and self.write_end >= 0:
                del self.waiting[: os.write(self.write_end, self.waiting)]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self.waiting.clear()

    def close(self) -> None:
        """Close both ends."""
        for one in (self.read_end, self.write_end):
            if one >= 0:
                os.close(one)
        self.read_end = self.write_end = -1


class DeviceModule:
    """One module. `start` begins a thread that goes with it to its end.

    Attributes:
        run: What runs.
        index: Its number on this device, below 128 for a worker of a manager.
        program: Its program in the node, or None.
    """

    def __init__(self, run: ModuleRun, host: ModuleHost, index: int = 0) -> None:
        self.run, self.index = run, index
        self._host = host
        self.program: NodeProgram | None = None
        self.input: ModuleInput | None = ModuleInput.make()
        self._conduit: socket.socket | None = None
        self._had: dict[str, tuple[int, int]] = {}
        self._lock = threading.RLock()
        self._killed = ""
        self._wanted = threading.Event()
        """Whether somebody wants it to end."""
        self._thread = threading.Thread(target=self._live, name="wasmsr-module", daemon=True)

    def start(self) -> None:
        """Begin. What cannot begin has ended."""
        try:
            self._thread.start()
        except RuntimeError as error:  # there is no room for a thread
            self._close_input()
            self._host.ended(self, ModuleEnd(1, "error", str(error)))

    def kill(self, why: str) -> None:
        """End the module; what follows is told to the host."""
        with self._lock:
            self._killed = self._killed or why
            self._wanted.set()
            program = self.program
        if program is not None:
            with suppress(WasmsrError):
                program.kill(why)

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended, after so many seconds at most."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def read_input(self, data: bytes) -> None:
        """Take standard input."""
        with self._lock:
            if self.input is not None:
                self.input.put(data)

    # -- the thread --------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            end = self._once() if self.run.repeat is None else self._measure(self.run.repeat)
            if end is None:  # it goes on elsewhere
                self._close_all()
                self._left()
                return
        except WasmsrError as error:
            end = ModuleEnd(error.exit_code, "error", _without_copies(error.message, self.run.file))
            if self._killed:  # what was about to go on could not
                end = ModuleEnd(KILLED, "killed", self._killed)
        except Exception as error:  # noqa: BLE001  whatever it is, somebody waits for the end
            end = ModuleEnd(1, "error", str(error) or type(error).__name__)
        if self._killed and end.reason != "error":
            end = ModuleEnd(end.code, "killed", self._killed)
        self._close_all()
        self._host.ended(self, end)

    def _close_all(self) -> None:
        """Close all that programs of the module have used."""
        self._release()
        with self._lock:
            self._close_input()

    def _left(self) -> None:
        """Hear that the module goes on elsewhere, which only one with a lease does."""

    def _once(self) -> ModuleEnd | None:
        """Run the module to its end; after a crash again, as it asks for.

        Returns:
            How it has ended; None if it goes on elsewhere.
        """
        code = readable_module(self.run.file)
        deadline = None if self.run.limit is None else time.monotonic() + self.run.limit
        program = self._host.saved(self)
        pause = 0.0
        while True:
            began = time.monotonic()
            program = self._launch(code) if program is None else self._go_on(program)
            end = self._follow(program, deadline)
            program = None
            if time.monotonic() - began > CALM_SECONDS:
                pause = 0.0
            if end is not None and not (self.run.on_crash == "restart" and crashed(end)):
                return end
            if self._wanted.wait(pause):
                return end or ModuleEnd(KILLED, "killed", self._killed)
            pause = min(2 * pause or 1.0, LONGEST_PAUSE)

    def _launch(self, code: bytes) -> NodeProgram:
        try:
            program = self._host.launch(self, code)
        finally:
            self._release()
        self._has(program)
        return program

    def _has(self, program: NodeProgram) -> None:
        """Note the program that runs; end it if somebody has asked for that meanwhile."""
        with self._lock:
            self.program = program
            killed = self._killed
        if killed:
            with suppress(WasmsrError):
                program.kill(killed)

    def _go_on(self, program: NodeProgram) -> NodeProgram:
        """Let a program go on from its save point; its output up to there was published."""
        with self._lock:
            self.program = program
            saved = program.record.saved
        try:
            program.resume()
        finally:
            self._release()
        if saved is not None:
            life = program.record.life
            self._had = {stream: (at, life) for stream, at in saved.offsets.items()}
        self._has(program)
        return program

    def _follow(self, program: NodeProgram, deadline: float | None) -> ModuleEnd | None:
        """Publish output until the program has ended; None: it is to run again."""
        had, self._had = self._had, {}
        while True:
            stands = self._stands(program, deadline)
            for piece in program_output(program, follow=True, had=had, gone=stands):
                had[piece.stream] = piece.offset + len(piece.data), piece.life
                if piece.data:
                    self._host.output(self, piece.data)
            standing = program.standing
            if standing is ProgramStanding.RESUMABLE:
                if self.run.on_crash != "restore" or self._killed:
                    if self.run.on_crash == "restart" and not self._killed:
                        return None
                    return ModuleEnd(1, "error", program.record.reason)
                self._go_on(program)
                self._had = {}
                continue
            if standing is ProgramStanding.LOST and self.run.on_crash != "ignore":
                return None  # there was no snapshot yet
            if standing.is_final:
                return self._named(program, end_of(program))
            if deadline is not None and time.monotonic() >= deadline:
                self.kill(f"its limit of {self.run.limit:g} s is over")
                deadline = None

    def _named(self, program: NodeProgram, end: ModuleEnd) -> ModuleEnd:
        """Return an end whose words have the module's name, and not that of the node's copy."""
        return ModuleEnd(
            end.code, end.reason, end.message.replace(program.record.digest, self.run.name)
        )

    def _stands(self, program: NodeProgram, deadline: float | None) -> Callable[[], bool]:
        """Return what tells that the thread has to look at the program."""

        def stands() -> bool:
            with self._lock:
                if self.input is not None:
                    self.input.pump()
            over = deadline is not None and time.monotonic() >= deadline
            return over or program.standing is ProgramStanding.RESUMABLE

        return stands

    def _measure(self, repeat: int) -> ModuleEnd:
        """Run the module so often, and publish how long each run took."""
        code = readable_module(self.run.file)
        limit, records = self.run.limit, bytearray()
        begun = time.monotonic()
        end = ModuleEnd(0, "exit")
        for _ in range(repeat):
            if self._killed or (limit is not None and time.monotonic() - begun >= limit):
                break
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            at = time.monotonic()
            each = self.run.each_limit
            end = self._follow(self._launch(code), None if each is None else at + each) or end
            wall = time.monotonic() - at
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = (wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)
            if len(records) < MOST_RUNS * TIMES.size:
                records += TIMES.pack(*(min(MOST, max(0, round(one * 1e6))) for one in spent))
            if crashed(end):
                break
        self._host.profile(self, "benchmarking", bytes(records))
        return end

    def new_streams(self, conduit: socket.socket) -> tuple[int, int]:
        """Return descriptors of a new standard input and of a conduit, for a program that begins.

        They are closed when the program has them.
        """
        with self._lock:
            if self.input is None or self.input.read_end < 0:  # an earlier program has had it
                waiting = b"" if self.input is None else bytes(self.input.waiting)
                self._close_input()
                self.input = ModuleInput.make()
                self.input.put(waiting)
            if self._conduit is not None:
                self._conduit.close()
            self._conduit = conduit
            return self.input.read_end, conduit.fileno()

    def _release(self) -> None:
        """Close what a worker has by now."""
        with self._lock:
            if self.input is not None and self.input.read_end >= 0:
                os.close(self.input.read_end)
                self.input.read_end = -1
            if self._conduit is not None:
                self._conduit.close()
                self._conduit = None

    def _close_input(self) -> None:
        if self.input is not None:
            self.input.close()
            self.input = None


_COPY = re.compile(r"\S*/modules/[0-9a-f]{64}\.wasm")
"""The node's copy of a module."""


def _without_copies(text: str, file: Path) -> str:
    return _COPY.sub(lambda found: str(file), text)


def crashed(end: ModuleEnd) -> bool:
    """Return whether an end is one that nobody wanted."""
    return end.reason in ("trap", "error")


def end_of(program: NodeProgram) -> ModuleEnd:
    """Return how a program of a node has ended."""
    record = program.record
    if record.standing is ProgramStanding.KILLED:
        return ModuleEnd(KILLED, "killed", record.reason)
    if record.standing is ProgramStanding.ENDED:
        if record.ending == "trapped":
            return ModuleEnd(record.code, "trap", record.reason)
        if record.ending in ("exited", "finished"):
            return ModuleEnd(record.code, "exit")
        return ModuleEnd(record.code, "error", record.reason)
    return ModuleEnd(1, "error", record.reason)


def deployed_records(reports: list[bytes]) -> bytes:
    """Return the records of periods, as they are published."""
    rows = []
    for one in reports:
        if len(one) == REPORT.size:
            start, wall, cpu = REPORT.unpack(one)
            times = (min(MOST, wall // 1000), min(MOST, cpu // 1000))
            rows.append(DEPLOYED.pack(start, *times, 0, 0, 0, 0))
    return b"".join(rows)


def child_row(module: DeviceModule, cpu: Mapping[int, float]) -> dict[str, Any]:
    """Return what a keep-alive says of a module."""
    from wasmsr.node.workers.worker_facts import resident_bytes

    process = 0 if module.program is None else module.program.pid
    return {
        "uuid": module.run.uuid, "active": module.program is not None,
        "cpu_usage_percent": round(cpu.get(process, 0.0), 2),
        "mem_usage": resident_bytes(process) or 0 if process else 0,
    }  # fmt: skip


def cpu_seconds(process: int) -> float | None:
    """Return the CPU time of a process in seconds, or None if it is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


__all__ = [
    "DeviceModule", "ModuleEnd", "ModuleHost", "child_row", "cpu_seconds", "deployed_records",
]  # fmt: skip
