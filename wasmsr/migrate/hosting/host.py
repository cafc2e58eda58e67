"""This host (`ports.ProgramHost`): programs begin here, come here and end here.

A program that comes gets this host's own folders and streams, whatever the other host gave to it: a
snapshot grants nothing.
"""

from __future__ import annotations

import os
import secrets
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wasmsr.errors import FormatError, ModuleMismatch, SnapshotError
from wasmsr.executor.local import LocalExecutor
from wasmsr.interp.instruction_set.features import chosen
from wasmsr.interp.modules.ahead import AheadCompiler, CalledFunctions
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Limits
from wasmsr.migrate.files.carried_trees import CarriedTrees
from wasmsr.migrate.files.known_pages import KnownPages
from wasmsr.migrate.hosting import offers
from wasmsr.migrate.hosting.arriving_files import ArrivingFiles
from wasmsr.migrate.hosting.compiled_modules import KEPT, CompiledModules
from wasmsr.migrate.hosting.hosted_program import HostedProgram
from wasmsr.migrate.hosting.own_inputs import OwnInputs
from wasmsr.migrate.ports import Buffer, Relays
from wasmsr.migrate.protocol import (
    ID_BYTES,
    MEMORIES,
    SNAPSHOT_FORMAT,
    Description,
    KeptOutput,
    ModuleName,
    MountName,
    Move,
    Offer,
    ProgramLimits,
    Refusal,
)
from wasmsr.migrate.streams.relays import STREAMS, Relay, Shown, StdinAfterMove
from wasmsr.program.program import Program
from wasmsr.program.restoring import PreparedStore
from wasmsr.record import replaced
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot import format as snapshot_format
from wasmsr.snapshot.encoding.read_limits import DEFAULT_LIMIT
from wasmsr.snapshot.live.carried import image_limit
from wasmsr.snapshot.live.early import EarlyRest
from wasmsr.snapshot.live.incoming import IncomingState
from wasmsr.snapshot.live.known import KnownImage
from wasmsr.snapshot.memory.adoption import allocate
from wasmsr.snapshot.preload import preload
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, Mount
from wasmsr.wasi.state import checked_state as wasi_state
from wasmsr.wasi.state.contents import CHUNK
from wasmsr.wasi.streams.standard import InputStream

KNOWN_AT_ONCE = 256
"""Pages that are read of a kept image at a time: 1 MiB."""

Results = Callable[[bytes], Mapping[str, tuple[Path, str]]]
"""From a module's digest to its carried trees by guest path: each has the folder where the tree's
files go when the program has ended here, and the name of the file that may be replaced there. It
has no trees for which the user has named a folder."""


def _no_results(digest: bytes) -> Mapping[str, tuple[Path, str]]:
    return {}


class Hosting:
    """This host, with a registry of its programs by id.

    Attributes:
        executor: Runs the programs.
        belongings: The carried trees of programs.
        inputs: The inputs of this end.
    """

    def __init__(
        self,
        grants: Callable[[], HostGrants],
        *,
        known: Mapping[bytes, Path],
        files: Path,
        max_pages: int | None = None,
        features: str | Iterable[str] | None = None,
        stdin: Callable[[], int | None] | None = None,
        after: StdinAfterMove = "relay",
        shows: bool = False,
        results: Results = _no_results,
        programs: int = 1,
        executor: LocalExecutor | None = None,
        compiled: Iterable[Module] = (),
    ) -> None:
        """Make a host without programs.

        Args:
            grants: Gives folders and outputs anew to each program.
            known: Modules that are in files of this host, by digest.
            files: Folder for the files of programs that bring some along.
            max_pages: Limit of each memory of a program that comes, in pages of 64 KiB; None keeps
                the limit that the program has.
            features: What of WebAssembly a program may need here, as for `Module`.
            stdin: Opens the input of a program that has the one of this end; None: empty.
            after: What a program reads after it has left.
            shows: Whether programs that start here show their output here, wherever they are.
            results: Where files of programs go that end here.
            programs: How many programs come at most; so many modules stay compiled, or a few.
            executor: Runs the programs; None takes a new one.
            compiled: Modules that are compiled already.
        """
        preload()  # now, so that no paused program waits while Python reads its modules
        self.executor = executor or LocalExecutor()
        self.belongings = CarriedTrees(files)
        self.inputs = OwnInputs(stdin, after)
        self._known = KnownPages()
        self._grants = grants
        self._features = chosen(features)
        self._max_pages = max_pages
        self._modules = CompiledModules(known, self._features, max(KEPT, programs), compiled)
        self._shows = shows
        self._results = results
        self._shown = Shown()
        self._restore_seconds: dict[bytes, float] = {}
        self._hosted: dict[bytes, HostedProgram] = {}
        """The programs that are here, and those that have left and not ended."""

    @property
    def node(self) -> bytes:
        """The node id of this end."""
        return self.inputs.node

    @node.setter
    def node(self, node: bytes) -> None:
        self.inputs.node = node

    # What a program needs here.

    def granted_mounts(self) -> tuple[MountName, ...]:
        """Return the mounts that programs get here.

        Raises:
            WasiConfigError: A folder is not there.
        """
        grants = self._grants()
        for mount in grants.mounts:
            mount.check()
        return tuple(MountName(mount.guest, mount.effective_mode) for mount in grants.mounts)

    def refuse(self, description: Description) -> Refusal | None:
        """Return why a program so described cannot come, or None."""
        return offers.refuse(description, self._features, self._max_pages, self.granted_mounts)

    def module(self, digest: bytes) -> Buffer | None:
        """Return the binary of a module that is here, or None."""
        return self._modules.binary(digest)

    def admit(self, binary: Buffer) -> None:
        """Validate and compile a module before its program comes."""
        self._modules.admit(binary)

    def compiled(self, digest: bytes, binary: Buffer) -> Module:
        """Return a module of a program that comes. Raises ModuleError."""
        return self._modules.get(digest, binary)

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return digests of the pieces of files that are here since the program was."""
        return self.belongings.held(program)

    def known(self, program: bytes) -> int:
        """Return the epoch of the image that is kept of a program, or 0."""
        return self._known.epoch(program)

    # Programs that begin here.

    def launch(self, make: Callable[[HostGrants], Program]) -> HostedProgram:
        """Return a program that begins here.

        Args:
            make: Makes the program. What it raises, this raises.

        Raises:
            OSError: The input of this end cannot be opened.
        """
        id = secrets.token_bytes(ID_BYTES)
        stdin, fed = self.inputs.of_end(id, epoch=1)
        places: dict[str, Path] = {}
        try:
            grants = self._grants()
            # A carried tree without a folder gets a folder here, where it is when the program
            # comes back.
            mounts = [self._placed(id, mount, places) for mount in grants.mounts]
            program = make(replaced(grants, mounts=mounts, stdin=stdin))
        except BaseException:
            if stdin is not None:
                stdin.close()
            raise
        self._hosted[id] = HostedProgram(
            program,
            self.granted_mounts(),
            self.belongings,
            id,
            places,
            shown=self.node if self._shows else b"",
            fed=fed,
            relays=[] if stdin is None else [stdin],
            after=self.inputs.after,
            results=self._results(program.module.digest),
            executor=self.executor,
            known=self._known,
        )
        return self._hosted[id]

    def _placed(self, program: bytes, mount: Mount, places: dict[str, Path]) -> Mount:
        if mount.mode != "carry" or mount.host is not None:
            return mount
        place = places[mount.guest] = self.belongings.place(program, mount.guest)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return replaced(mount, host=place)

    # Programs that come.

    def arrival(
        self,
        relays: Relays | None = None,
        *,
        image: int | None = None,
        rest: int = 0,
        program: bytes = b"",
        offer: Offer | None = None,
        files: int = 0,
    ) -> HostedArrival:
        """Begin to take a program in; see `ports.ProgramHost`."""
        pages = Limits().memory_pages if self._max_pages is None else self._max_pages
        state = IncomingState(
            limit=DEFAULT_LIMIT,
            limits=Limits(memory_pages=pages),
            files=self._carry_limit(),
            image=image,
            rest=rest,
            expected=files,
        )
        early = EarlyRest(
            limit=DEFAULT_LIMIT, limits=Limits(memory_pages=pages), files=self._carry_limit()
        )
        known = self._known.image(program)
        relays = relays or Relays(b"", b"", 0, None, None)
        return HostedArrival(self, relays, state, early, known, program)

    def restored(self, file: Iterator[Buffer], relays: Relays) -> HostedArrival:
        """Return the arrival of a program whose snapshot is on this host's disk."""
        pages = self._max_pages
        decoder = snapshot_format.Decoder(
            files=image_limit(self._carry_limit()),
            limits=None if pages is None else Limits(memory_pages=pages),
            allocate=allocate,
        )
        for piece in file:
            decoder.feed(piece)
        return HostedArrival(self, relays, decoder)

    def restore_seconds(self, digest: bytes) -> float:
        """Return how long it took to restore a program of a module; 0.0 if none was."""
        return self._restore_seconds.get(digest, 0.0)

    def room_for_files(self, description: Description) -> int:
        """Return how many bytes of pieces of files a program may bring in the rounds."""
        return self._carry_limit()

    def _carry_limit(self) -> int:
        limit = self._grants().carry_limit
        return CARRY_LIMIT if limit is None else limit

    def prepare(self, snapshot: SnapshotState, modules: Mapping[bytes, Buffer]) -> PreparedStore:
        """Restore a program on trial from a state that it had before, and keep a store for it.

        Args:
            snapshot: The state; of its memories only the sizes count.
            modules: The binaries of its modules by digest.

        Raises:
            SnapshotError, ModuleError: The program cannot run here, or not as it was announced.
        """
        module, others = self._modules_of(snapshot, modules)
        return PreparedStore(snapshot, module, self._max_pages, others)

    def files_ahead(
        self, program: bytes, snapshot: SnapshotState, find: Callable[[bytes], bytes | None]
    ) -> ArrivingFiles | None:
        """Return what makes the carried files of a program that comes; None if it has none.

        Args:
            program: Its id.
            snapshot: A state that it had before, which was restored on trial.
            find: Gives a piece of a file that has come, or None.
        """
        if snapshot.wasi is None:
            return None
        given = {os.fsencode(mount.guest): mount.host for mount in self._grants().mounts}
        trees = {}
        for mount in wasi_state.read(snapshot.wasi).mounts:
            if mount.mode == "carry" and any(one.size >= CHUNK for one in mount.entries):
                guest = os.fsdecode(mount.guest)
                folder = given.get(mount.guest) or self.belongings.place(program, guest)
                trees[guest] = Path(folder), mount.entries
        if not trees:
            return None
        return ArrivingFiles(trees, self.belongings.bases(program), self._carry_limit(), find)

    def _modules_of(
        self, snapshot: SnapshotState, modules: Mapping[bytes, Buffer]
    ) -> tuple[Module, list[Module]]:
        """Return the module of the last instance of a program that comes, and its other modules.

        Raises:
            SnapshotError: They may not be here, or are others than were announced.
        """
        if [m.digest for m in snapshot.modules] != [*modules]:
            raise ModuleMismatch("the snapshot is of other modules than were announced")
        found = [self._modules.get(digest, binary) for digest, binary in modules.items()]
        self._check(snapshot, found)
        last = snapshot.instances[-1].module if snapshot.instances else 0
        if not 0 <= last < len(found):
            raise FormatError(f"the last instance is of module {last}")
        return found[last], [module for module in found if module is not found[last]]

    def resume(
        self,
        program: bytes,
        snapshot: SnapshotState,
        modules: Mapping[bytes, Buffer],
        relays: Relays,
        prepared: PreparedStore | None = None,
        ahead: ArrivingFiles | None = None,
    ) -> HostedProgram:
        """Make a program of a snapshot; the program does not run yet.

        Args:
            program: Its id.
            snapshot: Its state.
            modules: The binaries of its modules by digest.
            relays: How it reaches its streams.
            prepared: A store that was prepared for it; None makes one.
            ahead: Its carried files that were made ahead. The program closes it.

        Raises:
            SnapshotError: The program cannot run here, or not as it was announced.
        """
        module, others = self._modules_of(snapshot, modules)
        places: dict[str, Path] = {}

        def folder(guest: str) -> Path:
            made = ahead.folders.get(guest) if ahead else None
            places[guest] = made or self.belongings.place(program, guest)
            return places[guest]

        stdin, fed = self.inputs.of_guest(program, relays)
        grants = replaced(
            self._grants(), folder=folder, bases=self.belongings.bases(program), stdin=stdin,
            staged=ahead.staged if ahead else None,
        )  # fmt: skip
        streams: list[Relay | InputStream] = [] if stdin is None else [stdin]
        if relays.send is not None:
            outputs = [Relay(stream, relays.send, relays.say) for stream in STREAMS]
            grants = replaced(grants, stdout=outputs[0], stderr=outputs[1])
            streams += outputs
        began = time.monotonic()
        try:
            resumed = Program.resume(
                snapshot,
                module=module,
                grants=grants,
                max_pages=self._max_pages,
                live=True,
                deferred=True,
                adopted=True,
                prepared=prepared,
                others=others,
            )
        except BaseException:
            if stdin is not None:
                stdin.close()
            raise
        self._restore_seconds[module.digest] = time.monotonic() - began
        self._hosted[program] = HostedProgram(
            resumed,
            _mounts(snapshot),
            self.belongings,
            program,
            places,
            shown=relays.shown,
            fed=fed,
            relays=streams,
            after=self.inputs.after,
            results=self._results(module.digest),
            executor=self.executor,
            known=self._known,
            ahead=ahead,
        )
        return self._hosted[program]

    def _check(self, snapshot: SnapshotState, modules: Sequence[Module]) -> None:
        """Check the state that has come, not the announcement, against what may come here.

        Raises SnapshotError.
        """
        limits = snapshot.limits
        found = Description(
            modules=tuple(ModuleName(module.digest, len(module.binary)) for module in modules),
            snapshot_format=SNAPSHOT_FORMAT,
            features=tuple(sorted({name for module in modules for name in module.needed_features})),
            mounts=_mounts(snapshot),
            limits=ProgramLimits(
                limits.memory_pages,
                limits.table_elements,
                limits.stack_slots,
                limits.stack_frames,
                limits.deterministic,
            ),
        )
        refusal = self.refuse(found)
        if refusal is not None:
            raise SnapshotError(f"it is not what was announced: {refusal.sentence}")

    # Programs that are elsewhere or have ended.

    def show(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Show a piece of output of a program that is elsewhere; see `ports.ProgramHost`."""
        return self._shown.show(move.attempt, stream, offset, data)

    def feed(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Return input for a program that is elsewhere; see `ports.ProgramHost`."""
        return self.inputs.fetch(move, position, most)

    def forget(self, program: bytes, *, here: bool) -> None:
        """Release what is kept of a program that has ended, here or elsewhere."""
        hosted = self._hosted.pop(program, None)
        if hosted is not None and here:
            hosted.deliver()
        self.belongings.forget(program, here=here)
        self.inputs.forget(program)
        self._known.forget(program)

    def close(self) -> None:
        """Release everything."""
        self.inputs.close()
        self._known.close()


class HostedArrival:
    """A program that comes (`ports.Arrival`), or one whose snapshot was read from the disk."""

    def __init__(
        self,
        hosting: Hosting,
        relays: Relays,
        state: IncomingState | snapshot_format.Decoder,
        early: EarlyRest | None = None,
        known: KnownImage | None = None,
        program: bytes = b"",
    ) -> None:
        self._known = known
        self._program = program
        self._files: ArrivingFiles | None = None
        self._ahead = AheadCompiler()
        self._hosting = hosting
        self._early = early
        self._prepared: PreparedStore | None = None
        self._relays = relays
        self._state = state
        self._snapshot: SnapshotState | None = None

    @property
    def _incoming(self) -> IncomingState:
        assert isinstance(self._state, IncomingState), "the program is not on its way"
        return self._state

    def resize(self, sizes: Sequence[int]) -> None:
        """Take note of how many pages each memory has."""
        if len(sizes) > MEMORIES:
            raise FormatError(f"the program has {len(sizes)} memories; at most {MEMORIES} move")
        for number, pages in enumerate(sizes):
            self._incoming.resize(number, pages)

    def pages(
        self,
        memory: int,
        runs: array[int],
        data: Buffer,
        zeros: array[int],
        known: Sequence[int] = (),
    ) -> None:
        """Take pages of a memory."""
        for first, count in zip(known[::2], known[1::2], strict=True):
            self._take_known(memory, first, count)
        if runs:
            self._incoming.take(memory, runs, data)
        if zeros:
            self._incoming.zeros(memory, zeros)

    def _take_known(self, memory: int, first: int, count: int) -> None:
        if self._known is None:
            raise FormatError("pages are named as known, and this end keeps none of the program")
        for at in range(first, first + count, KNOWN_AT_ONCE):
            pages = min(KNOWN_AT_ONCE, first + count - at)
            data = self._known.pages(memory, at, pages)
            self._incoming.take(memory, array("Q", (at, pages)), data)

    def early(self, piece: Buffer) -> None:
        """Take the next piece of an earlier rest."""
        assert self._early is not None
        self._early.feed(piece)

    def prepare(self, modules: Mapping[bytes, Buffer]) -> None:
        """Restore the program on trial from the earlier rest; see `ports.Arrival`."""
        assert self._early is not None
        before = self._early.finish()
        self._prepared = self._hosting.prepare(before, modules)
        if self._program:
            find = self._incoming.piece
            self._files = self._hosting.files_ahead(self._program, before, find)
        self._incoming.foresee(self._early)

    def called(self, called: CalledFunctions, module: Buffer) -> None:
        """Make code of functions before the program needs it; see `ports.Arrival`."""
        self._ahead.compile(self._hosting.compiled(called.module, module), called)

    def files(self, digests: Sequence[bytes], lengths: Sequence[int], data: Buffer) -> None:
        """Take pieces of carried files."""
        self._incoming.take_files(digests, lengths, data)

    def place(self) -> None:
        """Make of carried files what has come, where it is no part of a tree yet."""
        if self._files is not None:
            self._files.work()

    def output(self, kept: KeptOutput) -> None:
        """Refuse it: this end keeps no output."""
        raise FormatError("kept output comes to an end that is no node")

    def feed(self, piece: Buffer) -> None:
        """Take the next piece of the rest."""
        self._incoming.feed(piece)

    def repeat(self, offset: int, size: int) -> None:
        """Take a part of the earlier rest as the next piece of the rest."""
        assert self._early is not None
        self._incoming.feed(self._early.part(offset, size), offset)

    def finish(self) -> bytes:
        """Check all of the state, and return its root digest."""
        self._snapshot = self._incoming.finish()
        return self._incoming.root

    def sync(self) -> None:
        """Write the image to the disk; after `finish` it is complete then."""
        self._incoming.sync()

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> HostedProgram:
        """Make a program, which does not run yet, of what has come."""
        state = self._state
        snapshot = self._snapshot if isinstance(state, IncomingState) else state.finish()
        assert snapshot is not None
        made = self._hosting.resume(
            program, snapshot, modules, self._relays, self._prepared, self._files
        )
        self._files = None
        # They map the memories that the program has now, a second time.
        self._snapshot = None
        for memory in snapshot.memories:
            memory.data = b""
        return made

    def close(self) -> None:
        """Release what has come."""
        if self._prepared is not None:
            self._prepared.close()
        if self._files is not None:
            self._files.give_up()
        if isinstance(self._state, IncomingState):
            self._state.close()


def _mounts(snapshot: SnapshotState) -> tuple[MountName, ...]:
    """Return the mounts of a snapshot. Raises SnapshotError for an invalid state of WASI."""
    if snapshot.wasi is None:
        return ()
    mounts = wasi_state.read(snapshot.wasi).mounts
    return tuple(MountName(os.fsdecode(mount.guest), mount.mode) for mount in mounts)
