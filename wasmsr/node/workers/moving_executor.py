"""The executor of a node's worker: its program can leave for another node, or come from one.

It packs and unpacks the program's state; the supervisor copies bytes between it and the other node,
and has the journal.
"""

from __future__ import annotations

import os
import socket
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.output.logs import ProgramLog
from wasmsr.executor.port import ExecutorError
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.interp.modules.module import Module
from wasmsr.library import preloaded
from wasmsr.migrate.files.carried_trees import CarriedTrees
from wasmsr.migrate.hosting.host import HostedArrival, Hosting
from wasmsr.migrate.hosting.hosted_program import HostedProgram
from wasmsr.migrate.hosting.leaving import LeavingProgram
from wasmsr.migrate.ports import Relays
from wasmsr.migrate.protocol import MountName
from wasmsr.node.moving.conversation import PIECE, Answering
from wasmsr.record import replaced
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.snapshot.moments.moment import Moment
from wasmsr.wasi.filesystem.mounts import Mount

NO_RELAYS = Relays(b"", b"", 0, None, None)
"""Programs of a node have their streams with them."""


QUESTIONS = ("begin", "early", "called", "round", "sample", "batches", "files", "rest", "slow")
"""What the supervisor asks of a program that leaves."""


class MovingExecutor(LocalExecutor):
    """An executor whose programs move (`port.MovesPrograms`). They have one module in common."""

    def __init__(
        self,
        *,
        carried: Path,
        module: Module,
        rings: tuple[Path, int],
        locks: Path | None = None,
        overdue: Callable[[bytes], None] = lambda program: None,
        moment: Moment | None = None,
    ) -> None:
        """Make an empty registry.

        Args:
            carried: The folder for carried trees, by program.
            module, rings, locks, overdue, moment: As for `LocalExecutor`.
        """
        super().__init__(locks=locks, overdue=overdue, module=module, rings=rings, moment=moment)
        self._only = module
        self._carried = carried
        self._belongings = CarriedTrees(carried)
        self._arrivals: dict[bytes, tuple[HostedArrival, int]] = {}
        """What arrives, or has arrived and does not run yet, with its image."""

    def _grants(self, run: RunSpec, program: bytes, streams: Sequence[Any]) -> HostGrants:
        """Return what this host gives; a carried tree without a folder gets one that stays."""
        grants = super()._grants(run, program, streams)
        if any(map(_is_homeless, grants.mounts)):
            # It begins, or goes on from a state with all of its files.
            self._belongings.forget_bases(program)

        def folder(guest: str) -> Path:
            place = self._belongings.place(program, guest)
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            return place

        mounts = [
            replaced(one, host=folder(one.guest)) if _is_homeless(one) else one
            for one in grants.mounts
        ]
        return replaced(grants, mounts=mounts)

    # ---- leaving ---------------------------------------------------------------------------------

    def _hosted(self, program: bytes) -> HostedProgram:
        held = self._of(program)
        mounts = [Mount.parse(text) for text in held.run.mounts]
        return HostedProgram(
            held.program,
            tuple(MountName(one.guest, one.effective_mode) for one in mounts),
            self._belongings,
            program,
            executor=self,
            enrolled=True,
        )

    def describe(self, program: bytes) -> dict[str, Any]:
        """Return what another host must have; see `port.MovesPrograms.describe`."""
        found = self._hosted(program).describe()
        limits = found.limits
        return {
            "modules": [[one.digest, one.size, one.name] for one in found.modules],
            "snapshot_format": found.snapshot_format,
            "features": list(found.features),
            "mounts": [[one.guest, one.mode] for one in found.mounts],
            "limits": [
                limits.memory_pages, limits.table_elements, limits.stack_slots,
                limits.stack_frames, limits.deterministic,
            ],
        }  # fmt: skip

    def leave(self, program: bytes, end: int, held: Sequence[bytes] = (), files: int = 0) -> None:
        """Begin to send a program away; see `port.MovesPrograms.leave`."""
        leaving = self._hosted(program).leave(frozenset(held), files=files)
        departing = _Departing(leaving, os.dup(end))
        threading.Thread(target=departing.serve, name="wasmsr-leave", daemon=True).start()

    # ---- coming ----------------------------------------------------------------------------------

    def arrive(
        self,
        program: bytes,
        spec: Mapping[str, Any],
        end: int,
        *,
        image: int = -1,
        file: int = -1,
        rest: int = 0,
        files: int = 0,
    ) -> None:
        """Begin to take in a program; see `port.MovesPrograms.arrive`."""
        run = RunSpec.read(spec)
        limits = run.machine_limits
        memory = None if limits is None else limits.memory_pages
        logs: dict[str, ProgramLog] = {}
        # Each once, in the order in which a snapshot has them.
        modules = {one.digest: one for one in (*preloaded(run).values(), self._only)}

        def grants() -> HostGrants:
            streams = [None, logs.get("stdout"), logs.get("stderr")]
            return HostGrants.of(run, stdin=None, stdout=streams[1], stderr=streams[2])

        hosting = Hosting(
            grants, known={}, files=self._carried, max_pages=memory, features=run.features,
            executor=self, compiled=modules.values(),
        )  # fmt: skip

        def restore() -> None:
            # The output is complete by now.
            logs.update({name: self._ring(name) for name in ("stdout", "stderr")})
            try:
                arrival.restore(program, dict.fromkeys(modules, b""))
            except BaseException:
                for log in logs.values():
                    log.close()
                raise
            held = self._of(program)
            held.logs = logs
            self._note_run(held, run)

        own = os.dup(image) if image >= 0 else -1
        try:
            if file >= 0:
                arrival = hosting.restored(_read(file), NO_RELAYS)
            else:
                arrival = hosting.arrival(
                    NO_RELAYS, image=own if own >= 0 else None, rest=rest, program=program,
                    files=files,
                )  # fmt: skip
        except BaseException:
            if own >= 0:
                os.close(own)
            raise
        arriving = _Arriving(arrival, tuple(modules), restore, os.dup(end))
        self._arrivals[program] = arrival, own

        def serve() -> None:
            arriving.serve()
            if not arriving.is_here:
                arrival.close()
                self._forget(program)

        threading.Thread(target=serve, name="wasmsr-arrive", daemon=True).start()

    def sync(self, program: bytes) -> None:
        """Write an image to the disk; see `port.MovesPrograms.sync`."""
        arriving = self._arrivals.get(program)
        if arriving is None:
            raise ExecutorError(f"program {program.hex()[:8]} does not arrive")
        arriving[0].sync()

    def resume(self, program: bytes) -> None:
        """Let the program run on."""
        super().resume(program)
        self._forget(program)

    def _forget(self, program: bytes) -> None:
        """Close the image of a program that has come, or that does not come."""
        _, image = self._arrivals.pop(program, (None, -1))
        if image >= 0:
            os.close(image)


def _is_homeless(mount: Mount) -> bool:
    return mount.mode == "carry" and mount.host is None


def _read(file: int) -> Iterator[bytes]:
    while piece := os.read(file, PIECE):
        yield piece


class _Departing:
    """A program that leaves, as the supervisor asks for it."""

    def __init__(self, leaving: LeavingProgram, end: int) -> None:
        self._leaving = leaving
        self._socket = socket.socket(fileno=end)
        methods = {name: getattr(self, name) for name in QUESTIONS}
        self._answering = Answering(self._socket, methods)

    def serve(self) -> None:
        """Answer until the supervisor has closed the socket; then release what was kept."""
        with self._socket:
            self._answering.serve()
        try:
            self._leaving.close()
        except WasmsrError:
            return  # the program does not pause: its memory goes with the process

    def begin(self) -> list[Any]:
        leaving = self._leaving
        return [leaving.rest_size, leaving.rest_seconds, leaving.method, leaving.files_size]

    def early(self) -> Iterator[Any]:
        return _pieces(self._leaving.early)

    def called(self) -> Iterator[list[Any]]:
        for one in self._leaving.called():
            functions = array("I", one.functions).tobytes()
            yield [one.module, one.deterministic, one.metered, one.native, functions]

    def round(self, timeout: float) -> list[Any]:
        stands = self._leaving.round(self._answering.stays, timeout)
        return [stands, list(self._leaving.sizes), self._leaving.parts]

    def sample(self, count: int) -> list[Any]:
        return list(self._leaving.sample(count))

    def batches(self) -> Iterator[list[Any]]:
        for batch in self._leaving.batches():
            runs = (batch.runs, batch.zeros, batch.known)
            yield [batch.memory, batch.data, *(one.tobytes() for one in runs)]

    def files(self) -> Iterator[list[Any]]:
        for batch in self._leaving.files():
            yield [list(batch.digests), list(batch.lengths), batch.data]

    def rest(self, since: bool) -> Iterator[Any]:
        for part in self._leaving.rest(since=since):
            if isinstance(part, tuple):
                yield list(part)
            else:
                yield from _pieces(part)
        yield ["digest", self._leaving.digest]

    def slow(self, share: float) -> None:
        self._leaving.slow(share)


class _Arriving:
    """A program that comes, as the supervisor gives it.

    Attributes:
        is_here: Whether all of it has come, and it is restored.
    """

    def __init__(
        self, arrival: HostedArrival, modules: tuple[bytes, ...], restore: Callable[[], None],
        end: int,
    ) -> None:  # fmt: skip
        self._arrival, self._modules, self._restore = arrival, modules, restore
        self.is_here = False
        self._socket = socket.socket(fileno=end)
        methods: dict[str, Callable[..., Any]] = {
            "resize": arrival.resize,
            "pages": self.pages,
            "files": arrival.files,
            "place": arrival.place,
            "early": arrival.early,
            "called": self.called,
            "prepare": lambda: arrival.prepare(dict.fromkeys(modules, b"")),
            "feed": arrival.feed,
            "repeat": arrival.repeat,
            "finish": arrival.finish,
            "restore": self.restore,
        }
        self._answering = Answering(self._socket, methods)

    def serve(self) -> None:
        """Answer until the supervisor has closed the socket."""
        with self._socket:
            self._answering.serve()

    def called(
        self, module: bytes, deterministic: bool, metered: bool, native: bool, functions: bytes
    ) -> None:
        if module not in self._modules:
            raise ValueError("functions of another module than the program's")
        found = array("I", functions)
        called = CalledFunctions(module, deterministic, metered, native, found)
        self._arrival.called(called, b"")

    def pages(self, memory: int, data: bytes, *runs: bytes) -> None:
        first, zeros, known = (array("Q", one) for one in runs)
        self._arrival.pages(memory, first, data, zeros, known)

    def restore(self) -> None:
        self._restore()
        self.is_here = True


def _pieces(data: Any) -> Iterator[memoryview]:
    view = memoryview(data)
    for at in range(0, len(view), PIECE):
        yield view[at : at + PIECE]


def make_with(carried: Path) -> Callable[..., LocalExecutor]:
    """Return what makes the executor of a worker whose carried trees are in a folder."""

    def make(**values: Any) -> LocalExecutor:
        return MovingExecutor(carried=carried, **values)

    return make


__all__ = ["MovingExecutor", "make_with"]
