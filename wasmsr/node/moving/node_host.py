"""A node as a place for programs that come from other nodes (`migrate.ports.ProgramHost`).

A program that comes gets a folder, a record and a worker of its own before its state comes. It is
this node's when the journal says so. Until then nothing of an older stay is touched.
"""

from __future__ import annotations

import hashlib
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from wasmsr.errors import FormatError, ModuleError, WasmsrError
from wasmsr.executor.output.rings import RingLog, cut_ring, ring_bounds
from wasmsr.executor.process import ProcessExecutor
from wasmsr.interp.instruction_set.features import chosen
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.hosting import offers
from wasmsr.migrate.ports import Buffer, Relays
from wasmsr.migrate.protocol import (
    Description,
    KeptOutput,
    MountName,
    Move,
    Offer,
    PeerRefused,
    Reason,
    Refusal,
    refused,
)
from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.moving.conversation import Conversation
from wasmsr.node.moving.restoring import arrive, restore_file
from wasmsr.node.moving.travel_record import TravelRecord, travel_in
from wasmsr.node.moving.worker_program import WorkerProgram, mapped
from wasmsr.node.supervision.node_folder import NodeFolder, ProgramFolder
from wasmsr.node.supervision.program_record import (
    STREAMS,
    ProgramRecord,
    ProgramStanding,
    SavePoint,
)
from wasmsr.node.supervision.submissions import all_modules, placed
from wasmsr.node.workers.warm_parents import reap
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.wasi.filesystem import tree_walk
from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, Mount


class NodePlace(Protocol):
    """What the host needs of the node's supervisor. Any thread may call it."""

    @property
    def folder(self) -> NodeFolder:
        """The node's folder."""

    @property
    def ring(self) -> int:
        """Bytes that are kept of each stream."""

    @property
    def leases_programs(self) -> bool:
        """Whether leased programs may be here."""

    def check(self, digest: str, run: RunSpec) -> None:
        """Check a program by the node's policy. Raises WasmsrError."""

    def admit(self, program: str, caller: str, digest: str, run: RunSpec) -> None:
        """Count a program that comes. Raises WasmsrError."""

    def release(self, program: str) -> None:
        """Count a program no more that has come in vain."""

    def load(self, digest: str, features: str | None) -> None:
        """Have a module loaded, on trial. Raises WasmsrError."""

    def worker(self, record: ProgramRecord, folder: ProgramFolder) -> ProcessExecutor:
        """Return a new worker. Raises WasmsrError."""


class ComingProgram:
    """A program that arrives, or that waits for its source's decision.

    Attributes:
        record: What is noted of it.
        folder: Its folder.
        executor: Its worker.
    """

    def __init__(
        self, record: ProgramRecord, folder: ProgramFolder, executor: ProcessExecutor
    ) -> None:
        self.record, self.folder, self.executor = record, folder, executor


class NodeModules:
    """The modules of a node, where the hand-over looks for those that came: `NodeHost` has them."""

    def get(self, digest: bytes) -> bytes | None:
        """Return None: the host has what there is."""

    def put(self, binary: Buffer, digest: bytes) -> None:
        """Do nothing: the host has kept it when it admitted it."""


class NodeHost:
    """The node's side of arrivals. Any thread may call its methods."""

    def __init__(self, place: NodePlace) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._coming: dict[bytes, ComingProgram] = {}
        self._restore_seconds: dict[bytes, float] = {}

    # ---- what may come ---------------------------------------------------------------------------

    def refuse(self, description: Description) -> Refusal | None:
        """Return why a program so described cannot come, or None."""
        if not description.record:
            return Refusal(Reason.FEATURE, "it is a node, and takes programs of other nodes only")
        try:
            found = travel_in(description.record)
        except SubmissionRefused as error:
            return Refusal(Reason.STATE, error.message, error.hint or "")
        named = tuple(one.digest.hex() for one in description.modules)
        if named != all_modules(found.digest, found.run):
            return Refusal(Reason.MODULE, "what it says of the program's modules is contradictory")
        if (found.lease is None) != (description.lease == 0):
            return Refusal(Reason.STATE, "what it says of the program's lease is contradictory")
        if found.lease is not None and not self._place.leases_programs:
            return Refusal(
                Reason.FEATURE, "it has no register and no store, which leased programs need",
                "start that node with --ownership-register and --checkpoints-store",
            )  # fmt: skip
        try:
            self._place.check(found.digest, found.run)
            names = chosen(found.run.features)
        except (WasmsrError, ValueError) as error:
            return _by_policy(error)
        return offers.refuse(description, names, None, lambda: _mounts(found.run))

    def module(self, digest: bytes) -> Buffer | None:
        """Return the binary of a module that is here, or None."""
        path = self._place.folder.module(digest.hex())
        with suppress(OSError, ValueError):
            return mapped(path)
        return None

    def admit(self, binary: Buffer) -> None:
        """Keep a module, and have a warm parent load it. Raises ModuleError."""
        digest = hashlib.sha256(binary).hexdigest()
        path = self._place.folder.module(digest)
        new = not path.exists()
        try:
            if new:
                self._place.folder.take_module([bytes(binary)])
            self._place.load(digest, None)
        except (WasmsrError, OSError) as error:
            if new:
                path.unlink(missing_ok=True)
            raise ModuleError(str(error)) from error

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return nothing: all pieces of files are in the state that comes.

        The program goes on from that state if its worker is lost before a checkpoint is written.
        By then it may have overwritten what is here since it left.
        """
        return ()

    def known(self, program: bytes) -> int:
        """Return 0: no image is kept."""
        return 0

    def room_for_files(self, description: Description) -> int:
        """Return how many bytes of pieces of files a program may bring in the rounds."""
        limit = travel_in(description.record).run.limits.carried
        return CARRY_LIMIT if limit is None else limit

    def restore_seconds(self, digest: bytes) -> float:
        """Return how long it took to restore a program of a module; 0.0 if none was."""
        return self._restore_seconds.get(digest, 0.0)

    # ---- what comes ------------------------------------------------------------------------------

    def arrival(
        self,
        relays: Relays | None = None,
        *,
        image: int | None = None,
        rest: int = 0,
        program: bytes = b"",
        offer: Offer | None = None,
        files: int = 0,
    ) -> NodeArrival:
        """Begin to take a program in: with a folder, a record and a worker."""
        assert offer is not None
        found = travel_in(offer.description.record)
        if found.program != program.hex():
            raise refused(Reason.STATE, "what the other node notes is of another program")
        caller = f"node {offer.node.hex()}"
        try:
            self._place.admit(found.program, caller, found.digest, found.run)
        except WasmsrError as error:
            raise PeerRefused(_by_policy(error)) from error
        try:
            folder = self._place.folder.program(found.program, offer.move.epoch)
            if any(folder.path.iterdir()):  # what an earlier attempt has left
                folder.remove()
                folder = self._place.folder.program(found.program, offer.move.epoch)
            record = _record(found, offer.move, self._place.folder.module)
            record.write(folder.record)
            coming = self._begin(record, folder)
        except BaseException:
            self._place.release(found.program)
            raise
        try:
            conversation = arrive(
                coming.executor, record, image=-1 if image is None else image, rest=rest,
                files=files,
            )  # fmt: skip
        except BaseException:
            self.drop(coming)
            raise
        return NodeArrival(self, coming, conversation)

    def _begin(self, record: ProgramRecord, folder: ProgramFolder) -> ComingProgram:
        (folder.carried / record.program).mkdir(parents=True, exist_ok=True, mode=0o700)
        coming = ComingProgram(record, folder, self._place.worker(record, folder))
        with self._lock:
            self._coming[bytes.fromhex(record.program)] = coming
        return coming

    def restored(self, file: Iterator[Buffer], relays: Relays) -> KeptState:
        """Return the state of a program that is in the journal's folder."""
        return KeptState(self, file)

    def again(self, program: bytes) -> ComingProgram:
        """Return a program that an earlier process has taken in, with a new worker.

        Raises:
            WasmsrError, OSError: What is noted of it cannot be read, or no worker starts.
        """
        for folder in self._place.folder.programs():
            if folder.program == program.hex() and folder.record.exists():
                record = ProgramRecord.read(folder.record)
                if record.attempt and record.went is None and not record.standing.is_final:
                    return self._begin(record, folder)
        raise FormatError(f"nothing is noted of program {program.hex()[:8]}, which has come")

    def made(self, coming: ComingProgram, seconds: float) -> WorkerProgram:
        """Return a program that has come and is restored, as the hand-over sees it."""
        record = coming.record
        self._restore_seconds[bytes.fromhex(record.digest)] = seconds
        ends = {name: ring_bounds(coming.folder.output, name)[1] for name in STREAMS}
        record.saved = SavePoint(record.life, time.time(), "", 0, 0, ends["stdout"], ends["stderr"])
        record.write(coming.folder.record)
        return WorkerProgram(
            coming.executor, record, coming.folder,
            self._place.folder.module(record.digest), lambda: self.drop(coming),
        )  # fmt: skip

    def take(self, program: bytes) -> ComingProgram | None:
        """Return a program that is this node's now, and forget it here."""
        with self._lock:
            return self._coming.pop(program, None)

    def coming(self) -> list[ComingProgram]:
        """Return the programs that arrive."""
        with self._lock:
            return list(self._coming.values())

    def drop(self, coming: ComingProgram) -> None:
        """End the worker of a program that is not to be here, and remove its folder."""
        with self._lock:
            program = bytes.fromhex(coming.record.program)
            ours = self._coming.get(program) is coming
            if ours:
                del self._coming[program]
        coming.executor.kill()
        reap(coming.executor.pid, 1)
        if ours:  # otherwise it has become a program of this node
            coming.folder.remove()
            self._place.release(coming.record.program)

    # ---- streams, and the end --------------------------------------------------------------------

    def show(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Refuse it: output of a program of a node goes along."""
        raise ValueError("a node shows no output of programs that are elsewhere")

    def feed(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Refuse it: programs of a node have no input."""
        raise ValueError("a node has no input for programs that are elsewhere")

    def forget(self, program: bytes, *, here: bool) -> None:
        """Remove the carried trees of a program that has ended elsewhere; others stay."""
        if not here:
            tree_walk.remove(self._place.folder.carried / program.hex())

    def close(self) -> None:
        """Do nothing: the supervisor ends the workers."""


class NodeArrival:
    """The state of a program that comes, on its way to its worker (`migrate.ports.Arrival`)."""

    def __init__(self, host: NodeHost, coming: ComingProgram, conversation: Conversation) -> None:
        self._host, self._coming, self._worker = host, coming, conversation
        self._rings: dict[str, RingLog] = {}
        self._is_here = False

    def resize(self, sizes: Sequence[int]) -> None:
        """Take note of how many pages each memory has."""
        self._worker.ask("resize", list(sizes))

    def pages(
        self,
        memory: int,
        runs: array[int],
        data: Buffer,
        zeros: array[int],
        known: Sequence[int] = (),
    ) -> None:
        """Take pages of a memory."""
        packed = (array("Q", one).tobytes() for one in (runs, zeros, known))
        self._worker.ask("pages", memory, data, *packed)

    def output(self, kept: KeptOutput) -> None:
        """Append kept output to the program's ring here."""
        folder = self._coming.folder.output
        folder.mkdir(exist_ok=True, mode=0o700)
        ring = self._rings.get(kept.stream)
        end = -1 if ring is None else ring.drained()
        if kept.offset < end:
            raise FormatError(f"output of {kept.stream} comes twice")
        if ring is None or kept.offset > end:  # what is between is kept no more
            if ring is not None:
                ring.close()
            cut_ring(folder, kept.stream, kept.offset)
            ring = RingLog(folder, kept.stream, self._host._place.ring)
            self._rings[kept.stream] = ring
        ring.write(memoryview(kept.data))

    def files(self, digests: Sequence[bytes], lengths: Sequence[int], data: Buffer) -> None:
        """Take pieces of carried files."""
        self._worker.ask("files", list(digests), list(lengths), data)

    def place(self) -> None:
        """Have the worker make carried files of what has come."""
        self._worker.ask("place")

    def early(self, piece: Buffer) -> None:
        """Take the next piece of an earlier rest."""
        self._worker.ask("early", piece)

    def prepare(self, modules: Mapping[bytes, Buffer]) -> None:
        """Have the worker restore the program on trial."""
        self._worker.ask("prepare")

    def called(self, called: CalledFunctions, module: Buffer) -> None:
        """Have the worker make code of functions."""
        kind = called.deterministic, called.metered, called.native
        functions = array("I", called.functions).tobytes()
        self._worker.ask("called", called.module, *kind, functions)

    def feed(self, piece: Buffer) -> None:
        """Take the next piece of the rest."""
        self._worker.ask("feed", piece)

    def repeat(self, offset: int, size: int) -> None:
        """Take a part of the earlier rest as the next piece of the rest."""
        self._worker.ask("repeat", offset, size)

    def finish(self) -> bytes:
        """Have the worker check all of the state; return its root digest."""
        root: bytes = self._worker.ask("finish")
        return root

    def sync(self) -> None:
        """Write what the image has to the disk."""
        self._coming.executor.sync(bytes.fromhex(self._coming.record.program))

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> WorkerProgram:
        """Have the worker make a paused program of what has come."""
        for ring in self._rings.values():
            ring.sync()
            ring.close()
        self._rings = {}
        began = time.monotonic()
        self._worker.ask("restore")
        self._is_here = True
        self._worker.close()
        return self._host.made(self._coming, time.monotonic() - began)

    def close(self) -> None:
        """End the worker, and remove what has come; after `restore` do nothing."""
        if self._is_here:
            return
        self._worker.close()
        for ring in self._rings.values():
            ring.close()
        self._host.drop(self._coming)


class KeptState:
    """The state of a program that an earlier process has taken in (`migrate.ports.WholeState`)."""

    def __init__(self, host: NodeHost, file: Iterator[Buffer]) -> None:
        self._host, self._file = host, file

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> WorkerProgram:
        """Have a new worker make a paused program of the file."""
        coming = self._host.again(program)
        try:
            restore_file(coming.executor, coming.record, self._file)
        except BaseException:
            coming.executor.kill()
            reap(coming.executor.pid, 1)
            self._host.take(program)
            raise
        return self._host.made(coming, 0.0)


def _record(found: TravelRecord, move: Move, module: Callable[[str], Path]) -> ProgramRecord:
    """Return the record of a program that comes; `module` returns the file of a module."""
    standing = ProgramStanding.PAUSED if found.paused else ProgramStanding.RUNNING
    return ProgramRecord(
        found.program, found.name, found.digest, placed(found.digest, found.run, module),
        found.submitted, found.submitter, standing=standing, changed=time.time(), life=found.life,
        begins=[list(one) for one in found.begins], every=found.every, epoch=move.epoch,
        attempt=move.attempt.hex(), lease=found.lease,
    )  # fmt: skip


def _mounts(run: RunSpec) -> tuple[MountName, ...]:
    mounts = [Mount.parse(text) for text in run.mounts]
    for mount in mounts:
        mount.check()
    return tuple(MountName(mount.guest, mount.effective_mode) for mount in mounts)


def _by_policy(error: BaseException) -> Refusal:
    """Return the refusal of a program that the node does not take."""
    rule = getattr(error, "rule", "")
    text = error.message if isinstance(error, WasmsrError) else str(error)
    named = f"its rule {rule!r} forbids it: {text}" if rule else text
    return Refusal(Reason.LIMIT, named, getattr(error, "hint", None) or "")


__all__ = ["ComingProgram", "NodeArrival", "NodeHost", "NodeModules", "NodePlace"]
