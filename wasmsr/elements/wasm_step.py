"""Runs a step in WebAssembly in this process, where it can be paused, saved and restored."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasmsr.elements.engine.control import PACKET
from wasmsr.elements.failures import ElementError
from wasmsr.elements.folder.element import Element
from wasmsr.errors import WasmsrError, printable, reason
from wasmsr.executor.local import status_of
from wasmsr.executor.port import ProgramStatus
from wasmsr.executor.saving import ProgramSaver, read_checkpoint
from wasmsr.interp.modules.module import Module
from wasmsr.mem.action import ElementAction
from wasmsr.mem.guest_memory import MemoryFunctions, MemoryGrant
from wasmsr.mem.guest_state import OWNER
from wasmsr.mem.transports import epoch_of
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.preload import preload

PAUSE_SECONDS = 10.0
"""How long a program may take to pause."""


@dataclass(frozen=True)
class StepPlace:
    """Where a step is saved, and who steers it. One without a place is not saved.

    Attributes:
        folder: The folder of its saved states.
        output: The file of its standard output.
        control: The end at which the scheduler asks.
        cut: The name of the cut from which it goes on; "" if it begins.
        root: The root digest of its state in that cut, in hex.
        written: Bytes of its standard output in that cut.
    """

    folder: Path
    output: Path
    control: socket.socket
    cut: str = ""
    root: str = ""
    written: int = 0


def run_wasm(
    element: Element, params: Any, action: ElementAction, place: StepPlace | None, most: int
) -> bytes:
    """Run a module to its end and return what it has written to its standard output.

    Args:
        element: The element.
        params: Its parameters, which it reads as JSON from its standard input.
        action: Its memories, and its index.
        place: Where it is saved, and from where it goes on.
        most: How many bytes of output are enough; one more is returned if there are more.

    Raises:
        ElementError: It trapped, or ended with another exit code than 0, or its output is lost.
        WasmsrError: It cannot be linked or restored.
    """
    assert isinstance(element.code, bytes)
    with ExitStack() as kept:
        given = kept.enter_context(tempfile.TemporaryFile())
        given.write(json.dumps(params).encode())
        given.flush()
        given.seek(0)
        out = _output(place)
        kept.callback(os.close, out)
        grants = HostGrants(
            stdin=given.fileno(), stdout=out, stderr=2,
            memories=_grant(action, "" if place is None else place.cut),
        )  # fmt: skip
        program = _program(element, Module(element.code, name=element.name), grants, action, place)
        kept.callback(program.close)
        status = _SteeredStep(program, place, out).run()
        if status.ending not in ("finished", "exited") or status.code:
            why = status.sentence or f"it ended with exit code {status.code}"
            raise ElementError(f"{printable(element.name)}: {why}")
        # Its saved states stay until the result counts: the run may go on from them yet.
        return _read(out, most + 1)


def _output(place: StepPlace | None) -> int:
    """Return a descriptor of the standard output, with what the step had written in its cut."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if place is None:
        descriptor, name = tempfile.mkstemp(prefix="wasmsr-")
        os.unlink(name)
        return descriptor
    descriptor = os.open(place.output, flags, 0o600)
    try:
        if os.fstat(descriptor).st_size < place.written:
            raise ElementError(f"{printable(place.output)} is shorter than it was")
        os.ftruncate(descriptor, place.written)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read(descriptor: int, most: int) -> bytes:
    data = bytearray()
    while len(data) < most and (more := os.pread(descriptor, most - len(data), len(data))):
        data += more
    return bytes(data)


def _grant(action: ElementAction, cut: str) -> MemoryGrant | None:
    if not action.memories:
        return None
    return MemoryGrant(
        {name: durl.value("url") for name, durl in action.memories.items()},
        {name: epoch_of(durl, action.epoch) for name, durl in action.memories.items()},
        cut,
    )


def _program(
    element: Element,
    module: Module,
    grants: HostGrants,
    action: ElementAction,
    place: StepPlace | None,
) -> Program:
    """Return the program of a step, at its beginning or where its cut has it."""
    if place is not None and place.cut:
        root = bytes.fromhex(place.root)
        state = read_checkpoint(os.fspath(place.folder), root, RunSpec())
        _forget_newer(place.folder, root)
        return Program.resume(state, module=module, grants=grants)
    if place is not None:  # states of an earlier try count no more
        shutil.rmtree(place.folder, ignore_errors=True)
    return Program.launch(
        module,
        argv=[f"{element.name}.o.wasm"],
        env={"__OW_PAR": str(action.index)},
        grants=grants,
    )


def _forget_newer(path: Path, root: bytes) -> None:
    """Remove states that are newer than the one that counts: the next one is not made of them."""
    folder = CheckpointFolder(path)
    number = max(one for one, head in folder.heads().items() if head.root == root)
    for newer in folder.numbers():
        if newer > number:
            with suppress(OSError):
                os.unlink(folder.file(newer))


class _SteeredStep:
    """A program that runs to its end, and answers the scheduler meanwhile."""

    def __init__(self, program: Program, place: StepPlace | None, out: int) -> None:
        self._program, self._place, self._out = program, place, out
        self._saver: ProgramSaver | None = None
        self._written = 0

    def run(self) -> ProgramStatus:
        """Run the program, and return how it has ended."""
        read, write = os.pipe()
        os.set_blocking(write, False)

        def stopped() -> None:
            with suppress(BlockingIOError):  # the pipe says it already
                os.write(write, b"!")

        self._program.on_stopped = stopped
        waits: list[Any] = [read] if self._place is None else [read, self._place.control]
        try:
            self._program.start()
            while self._program.state in (ProgramState.RUNNING, ProgramState.PAUSED):
                ready, _, _ = select.select(waits, [], [])
                if read in ready:
                    os.read(read, 64)
                if waits[-1] is not read and waits[-1] in ready and not self._answer_one():
                    waits.pop()  # the scheduler is gone, and soon this process
            return status_of(self._program, None)
        finally:
            self._program.pause(PAUSE_SECONDS)  # it runs only if something here failed
            if self._saver is not None:
                self._saver.close()
            os.close(read)
            os.close(write)

    def _answer_one(self) -> bool:
        """Answer one question; return False if nobody asks any more."""
        assert self._place is not None
        control = self._place.control
        try:
            packet = control.recv(PACKET)
        except OSError:
            return False
        if not packet:
            return False
        asked = json.loads(packet)
        try:
            found = self._done(asked)
        except (WasmsrError, OSError, MemoryError) as error:
            found = {"error": reason(error)}
        with suppress(OSError):
            control.send(json.dumps({"number": asked["number"], **found}).encode())
        return True

    def _done(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked, and return the answer."""
        assert self._place is not None
        question = asked["do"]
        if question == "prepare":
            if self._saver is None:
                preload(self._program.module)
                folder = os.fspath(self._place.folder)
                self._saver = ProgramSaver(self._program, RunSpec(), folder, asked["keep"])
            self._saver.keep = asked["keep"]
        elif question == "pause":
            if not self._program.pause(PAUSE_SECONDS):
                raise ElementError(f"it did not pause within {PAUSE_SECONDS:g} s")
            if self._program.state is not ProgramState.PAUSED:
                return {"ended": True}
        elif question == "take":
            self._take(asked["cut"])
        elif question == "go":
            if self._program.state is ProgramState.PAUSED:
                self._program.start()
        elif question == "saved":
            assert self._saver is not None
            done = self._saver.wait()
            os.fsync(self._out)
            return {"root": done.root.hex(), "written": self._written}
        return {}

    def _take(self, cut: str) -> None:
        """Copy the state of the paused program; it says of which cut it is."""
        assert self._saver is not None
        if self._program.state is not ProgramState.PAUSED:
            raise ElementError("it is not paused")
        memories = self._program.store.owners.get(OWNER)
        try:
            if isinstance(memories, MemoryFunctions):
                memories.mark(cut)
            self._saver.take()
            self._written = os.fstat(self._out).st_size
        finally:
            if isinstance(memories, MemoryFunctions):
                memories.mark("")


__all__ = ["StepPlace", "run_wasm"]
