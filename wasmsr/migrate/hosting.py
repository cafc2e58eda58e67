"""This host as a place for programs: `wasmsr.program` behind the ports of this room.

The only file here that knows the engine; the state machines see `ports`. A program that comes gets
this host's own folders and streams, whatever the other host gave it: a snapshot grants nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wasmsr.errors import (
    ModuleMismatch,
    SnapshotError,
    printable,
)
from wasmsr.executor.local import LocalExecutor
from wasmsr.interp.instruction_set.features import BY_NAME, State, chosen
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Limits
from wasmsr.migrate.files.carried_trees import CarriedTrees
from wasmsr.migrate.files.results import deliver
from wasmsr.migrate.ports import Buffer, Relays
from wasmsr.migrate.protocol import (
    ID_BYTES,
    Description,
    Ending,
    ModuleName,
    MountName,
    Move,
    ProgramLimits,
    Reason,
    Refusal,
)
from wasmsr.migrate.streams.inputs import HOLD_SECONDS, Feed, Gone, Local, Remote
from wasmsr.migrate.streams.relays import STREAMS, Relay, Shown, StdinAfterMove, input_along
from wasmsr.program.program import Program
from wasmsr.program.restoring import excessive
from wasmsr.record import replaced
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot import format as snapshot_format
from wasmsr.snapshot.encoding.container import VERSION
from wasmsr.snapshot.preload import preload
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, MODES, PORTABLE, Mount
from wasmsr.wasi.state import checked_state as wasi_state
from wasmsr.wasi.streams.relayed_input import RelayedInput
from wasmsr.wasi.streams.standard import InputStream

COMPILED = 4
"""How many modules are kept compiled for a program that may come."""
FEEDS = 8
"""How many programs may have an input of this end at a time; one more takes the oldest's."""


class HostedProgram:
    """A program of this host (`ports.Program`)."""

    def __init__(
        self,
        program: Program,
        mounts: tuple[MountName, ...],
        belongings: CarriedTrees,
        id: bytes = b"",
        places: Mapping[str, Path] | None = None,
        shown: bytes = b"",
        fed: bytes = b"",
        relays: Sequence[Relay | InputStream] = (),
        after: StdinAfterMove = "relay",
        results: Mapping[str, tuple[Path, str]] | None = None,
        executor: LocalExecutor | None = None,
    ) -> None:
        """`places`: carried trees that are in folders of `belongings`, by the guest's names;
        `shown`, `fed`, `relays`: node ids of the ends that show its output and have its input, and
        its streams there; `after`: what becomes of its input when it leaves; `results`: see
        `Hosting.results`."""
        self._executor = executor or LocalExecutor()
        self.id = self._executor.enroll(program, id)
        self._program: Program | None = program
        self._mounts = mounts
        self._belongings = belongings
        self._places = dict(places or {})
        self._shown = shown
        self._fed = fed
        self._relays = relays
        self._after = after
        self._results = results or {}
        self._sentence: str | None = None

    @property
    def program(self) -> Program:
        """The program, until `close`."""
        assert self._program is not None, "the program was closed"
        return self._program

    def describe(self) -> Description:
        """Return what a destination must have for the program."""
        module, store = self.program.module, self.program.store
        limits = store.limits
        return Description(
            modules=(ModuleName(module.digest, len(module.binary), module.name or ""),),
            snapshot_format=VERSION,
            features=tuple(sorted(module.needed_features)),
            mounts=self._mounts,
            shown=self._shown,
            fed=self._fed if self._reads_elsewhere() else b"",
            limits=ProgramLimits(
                limits.memory_pages,
                limits.table_elements,
                limits.stack_slots,
                limits.stack_frames,
                store.deterministic,
            ),
        )

    def _reads_elsewhere(self) -> bool:
        """Return whether it still has an input that does not go along. It may be running."""
        wasi = self.program.wasi
        streams = list(wasi.process.descriptors.values()) if wasi is not None else []
        return any(isinstance(one, RelayedInput) and not one.ended for one in streams)

    def module(self, digest: bytes) -> Buffer:
        """Return the binary of a module by digest."""
        module = self.program.module
        if module.digest != digest:
            raise ModuleMismatch(f"the program has no module {digest.hex()[:16]}")
        return module.binary

    def start(self) -> None:
        """Let the program run, for the first time or on."""
        self._executor.resume(self.id)

    def pause(self, timeout: float) -> bool:
        """Pause the program; False if it did not pause within `timeout` seconds."""
        return self._executor.pause(self.id, timeout)

    def wait(self, timeout: float | None) -> Ending | None:
        """Return how the program ended, or None if it has not after `timeout` seconds."""
        status = self._executor.wait(self.id, timeout)
        if not status.ending:
            return None
        sentence = status.sentence
        if status.ending in ("finished", "exited"):
            sentence = self._left(f"ended with code {status.code}")
        return Ending(status.ending, status.code, sentence)

    def _left(self, sentence: str) -> str:
        """Return where the files of a program that has ended are, if its user has not said
        where."""
        if self._sentence is None:
            self._sentence = self.deliver(sentence) if self._places else ""
        return self._sentence

    def deliver(self, sentence: str = "") -> str:
        """Put the files of a program that has ended here where its user wants them, and adds that
        to `sentence`."""
        for guest in self._places.keys() & self._results.keys():
            folder, replaces = self._results[guest]
            moved, left = deliver(self._places[guest], folder, replaces)
            if moved:
                names = ", ".join(map(printable, moved))
                sentence = f"{sentence}; {names} is in {printable(folder)}"
            if not left:
                del self._places[guest]
        if self._places:
            places = self._places.items()
            where = ", ".join(f"{printable(guest)} in {printable(path)}" for guest, path in places)
            sentence = f"{sentence}; its files are here: {where}"
        return sentence

    def pieces(self, held: Collection[bytes] = ()) -> Iterator[Buffer]:
        """Return the encoded snapshot without pieces of files that the destination holds."""
        snapshot = self.program.snapshot()
        wasi = self.program.wasi
        if wasi is not None:
            trees = wasi.process.trees.items()
            known = {os.fsdecode(guest): tree.known for guest, tree in trees}
            self._belongings.note(self.id, snapshot, known)
            assert snapshot.wasi is not None
            snapshot = replace(snapshot, wasi=input_along(self.program, snapshot.wasi, self._after))
        if held and snapshot.files:
            snapshot = replace(snapshot, files=snapshot.files.without(held))
        return snapshot_format.encode(snapshot)

    def close(self) -> None:
        """Release everything."""
        for relay in self._relays:
            relay.close()
        if self._program is not None:
            self._executor.remove(self.id)
            self._program.close()
            # Its memory goes with it, which may be most of this host's.
            self._program = None


class Hosting:
    """This host (`ports.Host`).

    Args:
        grants: gives folders and outputs anew for each program that comes.
        stdin: opens the input of a program that is to have the one of this end; None: empty.
        known: modules that are here anyway, by digest.
        files: a folder for the files of programs that bring some along.
        max_pages: limit of each memory of a program that comes, in pages of 64 KiB, in place of
            the one that it had.
        features: what of WebAssembly a program may need here, as for `Module`.
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
    ) -> None:
        preload()  # what leaves here should not stand while Python reads its modules
        self.grants = grants
        self.stdin = stdin
        self.features = chosen(features)
        self.max_pages = max_pages
        self.belongings = CarriedTrees(files)
        self.shown = Shown()
        self.node = b""
        """This end's node id."""
        self.results: Callable[[bytes], Mapping[str, tuple[Path, str]]] = lambda digest: {}
        """Of a program of one of these modules, by digest: carried trees, by the guest's names,
        whose files belong into a folder when it has ended here, and the name of the file that may
        be replaced there. Only trees that have no folder of the user's."""
        self.shows = False
        """Whether programs that start here show their output here, wherever they are."""
        self._feeds: dict[bytes, Feed] = {}
        """The inputs of this end that programs read, also from elsewhere, by the program."""
        self.after: StdinAfterMove = "relay"
        self.executor = LocalExecutor()
        self._hosted: dict[bytes, HostedProgram] = {}
        """The programs that are here, or were last, until they have ended."""
        self._known = known
        self._compiled: dict[bytes, Module] = {}

    def refuse(self, description: Description) -> Refusal | None:
        """Return why a program so described cannot come, or None."""
        if description.snapshot_format != VERSION:
            return Refusal(
                Reason.VERSION,
                f"it reads version {VERSION} of the snapshot format, "
                f"not {description.snapshot_format}",
                "install the same version of wasmsr on both ends",
            )
        if len(description.modules) != 1:
            return Refusal(Reason.FEATURE, "it takes programs of one module")
        for feature in description.features:
            if feature not in self.features:
                return _lacks(feature)
        limits = description.limits
        if self.max_pages is not None:
            limits = replace(limits, memory_pages=0)  # its own takes that one's place
        if (sentence := excessive(limits)) is not None:
            return Refusal(Reason.LIMIT, f"the program runs {sentence}")
        return self._refuse_mounts(description.mounts)

    def _refuse_mounts(self, mounts: Sequence[MountName]) -> Refusal | None:
        given = {mount.guest: mount.mode for mount in self.granted_mounts()}
        lacking = []
        for mount in mounts:
            if mount.mode not in MODES:
                return Refusal(Reason.MOUNT, f"it has no mounts of the mode {mount.mode!r}")
            if mount.guest not in given:
                if mount.mode not in PORTABLE:
                    lacking.append(mount)
            elif given[mount.guest] != mount.mode:
                return Refusal(
                    Reason.MOUNT,
                    f"it was given {mount.guest} in mode {given[mount.guest]}, and the program has "
                    f"it in mode {mount.mode}",
                    f"start it with {_option(mount)}",
                )
        if lacking:
            return Refusal(
                Reason.MOUNT,
                "it was not given what the program knows as "
                + ", ".join(mount.guest for mount in lacking),
                "start it with " + " ".join(map(_option, lacking)),
            )
        return None

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return digests of the pieces of files that are here since the program was."""
        return self.belongings.held(program)

    def forget(self, program: bytes, *, here: bool) -> None:
        """Release what is kept of a program that has ended, here or elsewhere."""
        hosted = self._hosted.pop(program, None)
        if hosted is not None and here:
            hosted.deliver()
        self.belongings.forget(program, here=here)
        feed = self._feeds.pop(program, None)
        if feed is not None:
            feed.close()

    def close(self) -> None:
        """Release everything."""
        for feed in self._feeds.values():
            feed.close()

    def feed(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Read on."""
        feed = self._feeds.get(move.program)
        if feed is None:
            raise ValueError("that end was started again since")
        return feed.fetch(move.epoch, position, most, HOLD_SECONDS)

    def own_input(self, program: bytes, epoch: int) -> tuple[InputStream | None, bytes]:
        """Return this end's input for a program, which stays here when that goes on, if it has
        to: then with this end's node id. Raises OSError."""
        feed = self._feeds.get(program)
        if feed is None:
            host = None if self.stdin is None else self.stdin()
            if host is None:
                return None, b""
            stream = InputStream(host, owned=True)
            if stream.regular or self.after == "eof":
                return stream, b""
            while len(self._feeds) >= FEEDS:
                self._feeds.pop(next(iter(self._feeds))).close()
            feed = self._feeds[program] = Feed(host)
        return RelayedInput(Local(feed, epoch)), self.node

    def input_of(self, program: bytes, relays: Relays) -> tuple[InputStream | None, bytes]:
        """Return the input of a program that comes, and the node id of the end that keeps it, or
        b""."""
        if relays.fetch is not None:
            return RelayedInput(Remote(relays.fetch)), relays.fed
        if relays.fed and program not in self._feeds:
            return RelayedInput(Gone()), relays.fed
        return self.own_input(program, relays.epoch)

    def granted_mounts(self) -> tuple[MountName, ...]:
        """Return the folders that programs get here, by name.

        Raises WasiConfigError for one that is not there.
        """
        grants = self.grants()
        for mount in grants.mounts:
            mount.check()
        return tuple(MountName(mount.guest, mount.effective_mode) for mount in grants.mounts)

    def carry_limit(self) -> int:
        """Return bytes of files that a program may bring along."""
        grants = self.grants()
        return CARRY_LIMIT if grants.carry_limit is None else grants.carry_limit

    def module(self, digest: bytes) -> Buffer | None:
        """Return the binary of a module by digest."""
        if digest in self._compiled:
            return self._compiled[digest].binary
        path = self._known.get(digest)
        if path is None:
            return None
        binary = path.read_bytes()
        return binary if hashlib.sha256(binary).digest() == digest else None

    def admit(self, binary: Buffer) -> None:
        """Validate and compile a module before its program comes."""
        data = bytes(binary)
        digest = hashlib.sha256(data).digest()
        if digest not in self._compiled:
            self._compiled[digest] = Module(data, features=self.features)
            while len(self._compiled) > COMPILED:
                del self._compiled[next(iter(self._compiled))]

    def compiled(self, digest: bytes, binary: Buffer) -> Module:
        """Return a module that was admitted, or is now. Raises ModuleError."""
        if digest not in self._compiled:
            self.admit(binary)
        return self._compiled[digest]

    def launch(self, make: Callable[[HostGrants], Program]) -> HostedProgram:
        """Return a program that begins here; `make` makes it. Raises OSError, and what `make`
        does."""
        id = secrets.token_bytes(ID_BYTES)
        stdin, fed = self.own_input(id, epoch=1)
        places: dict[str, Path] = {}
        try:
            grants = self.grants()
            # A carried tree without a folder gets one that is here when the program comes back.
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
            shown=self.node if self.shows else b"",
            fed=fed,
            relays=[] if stdin is None else [stdin],
            after=self.after,
            results=self.results(program.module.digest),
            executor=self.executor,
        )
        return self._hosted[id]

    def _placed(self, program: bytes, mount: Mount, places: dict[str, Path]) -> Mount:
        if mount.mode != "carry" or mount.host is not None:
            return mount
        place = places[mount.guest] = self.belongings.place(program, mount.guest)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return replaced(mount, host=place)

    def arrival(self, relays: Relays | None = None) -> HostedArrival:
        """Begin to take a program in."""
        return HostedArrival(self, relays or Relays(b"", b"", 0, None, None))

    def show(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Show a piece of output of a program that is elsewhere."""
        return self.shown.show(move.attempt, stream, offset, data)


class HostedArrival:
    """A program that comes (`ports.Arrival`): it is decoded while its bytes arrive."""

    def __init__(self, hosting: Hosting, relays: Relays) -> None:
        self._hosting = hosting
        self._relays = relays
        pages = hosting.max_pages
        self._decoder = snapshot_format.Decoder(
            files=hosting.carry_limit(),
            limits=None if pages is None else Limits(memory_pages=pages),
        )

    def feed(self, piece: Buffer) -> None:
        """Read on."""
        self._decoder.feed(piece)

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> HostedProgram:
        """Make a program, which does not run yet, of what was read."""
        snapshot = self._decoder.finish()
        if len(modules) != 1 or [m.digest for m in snapshot.modules] != [*modules]:
            raise ModuleMismatch("the snapshot is of other modules than were announced")
        (digest,) = modules
        self._check(snapshot, self._hosting.compiled(digest, modules[digest]))
        belongings = self._hosting.belongings
        places: dict[str, Path] = {}

        def folder(guest: str) -> Path:
            places[guest] = belongings.place(program, guest)
            return places[guest]

        stdin, fed = self._hosting.input_of(program, self._relays)
        grants = replaced(
            self._hosting.grants(), folder=folder, bases=belongings.bases(program), stdin=stdin
        )
        relays: list[Relay | InputStream] = [] if stdin is None else [stdin]
        if self._relays.send is not None:
            outputs = [Relay(stream, self._relays.send, self._relays.say) for stream in STREAMS]
            grants = replaced(grants, stdout=outputs[0], stderr=outputs[1])
            relays += outputs
        try:
            resumed = Program.resume(
                snapshot,
                module=self._hosting.compiled(digest, modules[digest]),
                grants=grants,
                max_pages=self._hosting.max_pages,
                live=True,
                deferred=True,
            )
        except BaseException:
            if stdin is not None:
                stdin.close()
            raise
        hosted = self._hosting._hosted[program] = HostedProgram(
            resumed,
            _mounts(snapshot),
            belongings,
            program,
            places,
            shown=self._relays.shown,
            fed=fed,
            relays=relays,
            after=self._hosting.after,
            results=self._hosting.results(digest),
            executor=self._hosting.executor,
        )
        return hosted

    def _check(self, snapshot: SnapshotState, module: Module) -> None:
        """Hold what has come, and not what was announced, against what may come here. Raises
        SnapshotError."""
        limits = snapshot.limits
        found = Description(
            modules=(ModuleName(module.digest, len(module.binary)),),
            snapshot_format=VERSION,
            features=tuple(sorted(module.needed_features)),
            mounts=_mounts(snapshot),
            limits=ProgramLimits(
                limits.memory_pages,
                limits.table_elements,
                limits.stack_slots,
                limits.stack_frames,
                limits.deterministic,
            ),
        )
        refusal = self._hosting.refuse(found)
        if refusal is not None:
            raise SnapshotError(f"it is not what was announced: {refusal.sentence}")


def _mounts(snapshot: SnapshotState) -> tuple[MountName, ...]:
    """Return the mounts of a snapshot. Raises SnapshotError for a state of WASI that cannot be."""
    if snapshot.wasi is None:
        return ()
    mounts = wasi_state.read(snapshot.wasi).mounts
    return tuple(MountName(os.fsdecode(mount.guest), mount.mode) for mount in mounts)


def _option(mount: MountName) -> str:
    """Return what the command line must have for a mount."""
    if mount.mode == "archive":
        return f"--dir ARCHIVE::{mount.guest}"
    host = "" if mount.mode == "mem" else "HOST"
    return f"--dir {host}::{mount.guest}" + ("" if mount.mode == "host" else f"::{mount.mode}")


def _lacks(feature: str) -> Refusal:
    known = BY_NAME.get(feature)
    if known is not None and known.state in (State.ON, State.OFF, State.ALWAYS):
        return Refusal(
            Reason.FEATURE,
            f"the program needs the feature {feature}, which is switched off there",
            f"it can be switched on there by --features +{feature}",
        )
    return Refusal(
        Reason.FEATURE,
        f"the program needs the feature {feature}, which it does not have",
        "install the same version of wasmsr on both ends",
    )
