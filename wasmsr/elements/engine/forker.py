"""A process without threads that forks a process for each copy of an element.

It has loaded what elements need, so a copy starts in a millisecond. It speaks with the scheduler in
packets of JSON. When the scheduler is gone it ends, and all that it has forked ends with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
import types
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.elements.engine.control import PACKET
from wasmsr.elements.engine.run_folder import RunFolder, params_of
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.element import ElementGraph
from wasmsr.elements.running import run_element
from wasmsr.errors import WasmsrError
from wasmsr.mem.action import ElementAction
from wasmsr.mem.durl import Durl

if TYPE_CHECKING:
    from wasmsr.elements.wasm_step import StepPlace

DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


class Forker:
    """Forks copies, and tells how they ended."""

    def __init__(self, run: RunFolder, graph: ElementGraph, sock: socket.socket) -> None:
        self._run, self._graph, self._sock = run, graph, sock
        self._libc = ctypes.CDLL(None)
        self._pids: dict[int, int] = {}

    def loop(self) -> None:
        """Serve the scheduler until it is gone."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(read, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the scheduler decides when copies end
        gc.freeze()
        self._sock.send(b"{}")
        while True:
            ready, _, _ = select.select([self._sock.fileno(), read], [], [])
            if read in ready:
                with suppress(BlockingIOError):
                    os.read(read, 4096)
                self._reap()
            if self._sock.fileno() in ready:
                packet, given, _, _ = socket.recv_fds(self._sock, PACKET, 1)
                if not packet:
                    break
                try:
                    self._do(json.loads(packet), given)
                finally:
                    for descriptor in given:
                        os.close(descriptor)
        for pid in self._pids:
            _kill(pid)

    def _do(self, asked: dict[str, Any], given: list[int]) -> None:
        if "kill" in asked:
            for pid, number in self._pids.items():
                if number == asked["kill"]:
                    _kill(pid)
            return
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(asked["id"], 1, f"no process: {error.strerror}")
            return
        if pid == 0:
            code = 1
            try:
                self._libc.prctl(DEATH_SIGNAL, signal.SIGKILL)
                if os.getppid() == parent:
                    code = self._child(asked, given)
            finally:
                os._exit(code)
        self._pids[pid] = asked["id"]

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            number = self._pids.pop(ended.si_pid, None)
            if number is not None:
                _kill(ended.si_pid)  # what the copy has started itself; nobody has its id yet
            _, status = os.waitpid(ended.si_pid, 0)
            if number is not None:
                self._tell(number, os.waitstatus_to_exitcode(status), "")

    def _tell(self, number: int, code: int, why: str) -> None:
        with suppress(OSError):
            self._sock.send(json.dumps({"id": number, "code": code, "why": why}).encode())

    def _child(self, asked: dict[str, Any], given: list[int]) -> int:
        """Run one copy in its own process; return its exit code."""
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        self._sock.close()
        name, index = asked["element"], asked["index"]
        log = os.open(self._run.log(name, index), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        element = self._graph.elements[name]
        try:
            self._compute(asked, given)
        except WasmsrError as error:
            print(f"{element.name}: {error}", file=sys.stderr)
            return 1
        except SystemExit as error:
            print(f"{element.name}: it ended by exit({error.code!r})", file=sys.stderr)
            return 1
        except BaseException:  # noqa: BLE001 (the code of an element is a stranger's)
            traceback.print_exc()
            return 1
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
        return 0

    def _compute(self, asked: dict[str, Any], given: list[int]) -> None:
        name, index = asked["element"], asked["index"]
        element = self._graph.elements[name]
        runtime = types.SimpleNamespace(
            run=self._run.ident, element=name, copies=element.copies, attempt=asked["attempt"]
        )
        action = ElementAction(map(Durl.parse, asked["memories"]), index=index, runtime=runtime)
        place = self._place(asked, given)
        params = params_of(self._run.path, asked["parents"])
        text = run_element(element, params, action, place=place)
        action.terminate()
        result = self._run.result(name, index)
        part = result.with_suffix(".part")
        try:
            part.write_text(text)
            part.replace(result)
        except OSError as error:
            raise ElementError(f"the result cannot be written: {error.strerror}") from error

    def _place(self, asked: dict[str, Any], given: list[int]) -> StepPlace | None:
        """Return where a copy is saved, and who steers it."""
        if not given:
            return None
        from wasmsr.elements.wasm_step import StepPlace

        name, index = asked["element"], asked["index"]
        return StepPlace(
            self._run.saved(name, index),
            self._run.output(name, index),
            socket.socket(fileno=os.dup(given[0])),
            **{key: asked[key] for key in ("cut", "root", "written") if key in asked},
        )


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def main() -> None:
    """Run the process: its words are the folder of the run, and descriptors: a socket, a lock."""
    run = RunFolder(Path(sys.argv[1]))
    sock = socket.socket(fileno=int(sys.argv[2]))
    os.set_inheritable(int(sys.argv[3]), False)  # this process has it to its end, and all copies
    graph = run.graph()
    if any(isinstance(element.code, bytes) for element in graph):
        # Here once, and not in each copy.
        from wasmsr.elements import wasm_step
        from wasmsr.snapshot.preload import preload

        assert wasm_step
        preload()
    # The end of the socket tells that the scheduler is gone. A signal for that would end this
    # process before it has ended what copies have started.
    Forker(run, graph, sock).loop()


if __name__ == "__main__":
    main()
