"""A program for the tests of migration: it counts, and knows when it runs twice.

It fills the ports of `wasmsr.migrate` without an engine. Its state is a snapshot header and a
number; what it is asked for and when it runs is noted in a `World`, which raises the alarm if two
copies of one program run at a time, or one goes on from a state that is not the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from wasmsr.errors import FormatError, MigrationError, ModuleError
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.ports import Buffer, FileBatch, Relays
from wasmsr.migrate.protocol import (
    Description,
    Ending,
    KeptOutput,
    ModuleName,
    MountName,
    Move,
    Offer,
    Reason,
    Refusal,
)
from wasmsr.snapshot.encoding.container import FLAG_HANDED, HEADER, MAGIC, Header
from wasmsr.snapshot.live.outgoing import PageBatch
from wasmsr.wasi.state.contents import digest_of

MODULE = b"\0asm\1\0\0\0" + b"counter" * 300
DIGEST = hashlib.sha256(MODULE).digest()
PIECE = b"a piece of a file" * 100
CODE = 7
"""What a counter exits with."""


class Violation(AssertionError):
    """A program ran twice, or from an old state."""


class World:
    """Who runs where: program id to the end that runs it, and the number at which it last stood."""

    def __init__(self) -> None:
        self.running: dict[bytes, str] = {}
        self.stood: dict[bytes, int] = {}
        self.starts = 0
        self.excused = False
        """Whether an end was killed that owned a program."""

    def start(self, program: bytes, end: str, number: int) -> None:
        if program in self.running:
            raise Violation(f"runs on {self.running[program]} and {end}")
        if self.stood.get(program, number) != number:
            raise Violation(f"goes on from {number}, stood at {self.stood[program]}")
        self.running[program] = end
        self.starts += 1

    def stand(self, program: bytes, end: str, number: int) -> None:
        if self.running.get(program) == end:
            del self.running[program]
            self.stood[program] = number

    def killed(self, end: str) -> None:
        """All that ran on `end` is gone."""
        for program in [p for p, where in self.running.items() if where == end]:
            del self.running[program]
            # What it did since it last stood is lost; nobody may go on from there by himself.
            self.stood[program] = -1


class Counter:
    """Counts one on each `wait` while it runs, and ends at `limit`."""

    def __init__(
        self,
        world: World,
        end: str,
        *,
        number: int = 0,
        limit: int = 1000,
        program: bytes | None = None,
        size: int = 3000,
    ) -> None:
        self.world = world
        self.end = end
        self.number = number
        self.limit = limit
        self.size = size
        self.id = program or secrets.token_bytes(16)
        self.running = False
        self.closed = False
        self.ran = 0
        """Rounds of its moves in which it ran."""

    def describe(self) -> Description:
        return Description(
            modules=(ModuleName(DIGEST, len(MODULE), "counter"),), mounts=(MountName("/data"),)
        )

    def module(self, digest: bytes) -> Buffer:
        assert digest == DIGEST
        return MODULE

    def start(self) -> None:
        assert not self.closed
        self.world.start(self.id, self.end, self.number)
        self.running = True

    def pause(self, timeout: float) -> bool:
        self._stand()
        return True

    def _stand(self) -> None:
        if self.running:
            self.running = False
            self.world.stand(self.id, self.end, self.number)

    def wait(self, timeout: float | None) -> Ending | None:
        if self.running:
            self.number += 1
            if self.number >= self.limit:
                self._stand()
        return Ending("exited", CODE) if self.number >= self.limit else None

    def guard(self, may: Callable[[], bool]) -> None:
        self.may = may

    def lease(self, pause_at: int, end_at: int) -> None:
        pass

    def left(self, epoch: int, received: Path | None) -> None:
        pass

    def leave(self, held: Collection[bytes] = (), known: int = 0, files: int = 0) -> LeavingCounter:
        return LeavingCounter(self, files)

    def pieces(self) -> Iterator[Buffer]:
        assert not self.running
        yield from self.bytes_now()

    def bytes_now(self) -> Iterator[Buffer]:
        state = json.dumps({"number": self.number, "limit": self.limit, "size": self.size})
        header = Header(0, 0, 0, bytes(32)).encode()
        yield header[:10]
        yield header[10:] + state.encode().ljust(256)
        yield memoryview(bytes(self.size))

    def close(self) -> None:
        assert not self.running
        self.closed = True


class LeavingCounter:
    """A counter on its way out, whose memory has a page for each two that it counted."""

    rest_size = 300
    rest_seconds = 0.0
    method = "count"

    def __init__(self, counter: Counter, files: int = 0) -> None:
        self.counter = counter
        self.files_size = 0 if not files else len(PIECE)
        self.given: list[bytes] = []
        self.digest = b""
        self.sizes: Sequence[int] = [4]
        self.parts: dict[str, float] = {}
        self.left = 2
        self.stands = False
        self.early: Buffer = b"".join(map(bytes, counter.bytes_now()))

    def round(self, stays: Callable[[int], bool], timeout: float) -> bool:
        self.left = max(0, self.left - 1)
        stands = stays(self.left * 1000)
        if stands and not self.counter.pause(timeout):
            raise MigrationError("the program did not pause", phase="stop", owner="source")
        self.stands = stands
        if not stands and self.counter.running:
            self.counter.ran += 1
        return stands or not self.counter.running

    def called(self) -> Iterator[CalledFunctions]:
        return iter(())

    def sample(self, count: int) -> tuple[bytes, int]:
        return bytes(4096), 1

    def batches(self) -> Iterator[PageBatch]:
        number = (self.counter.number if self.stands else 99).to_bytes(4, "little")
        yield PageBatch(0, array("Q", [0, 1]), number.ljust(4096, b"\0"), array("Q"))
        yield PageBatch(0, array("Q", [1, 2]), bytes(range(256)) * 32, array("Q", [3, 1]))

    def files(self) -> Iterator[FileBatch]:
        """Yield a file in the first round, and how far it counted in the last one."""
        number = b"%d" % self.counter.number
        piece = number if self.stands else PIECE
        if self.files_size and piece not in self.given:
            self.given.append(piece)
            yield FileBatch((digest_of(piece),), (len(piece),), piece)

    def rest(self, *, since: bool = False) -> Iterator[Buffer | tuple[int, int]]:
        digest = hashlib.sha256()
        for piece in self.counter.pieces():
            digest.update(piece)
            if since and len(piece) == self.counter.size > 0:
                yield len(self.early) - len(piece), len(piece)
            else:
                yield piece
        self.digest = digest.digest()

    def output(self) -> Iterator[KeptOutput]:
        return iter(())

    def slow(self, share: float) -> None:
        pass

    def close(self) -> None:
        pass


class CounterHost:
    """A host that knows counters; `refusal` and `broken` make it say no."""

    def __init__(self, world: World, end: str) -> None:
        self.world = world
        self.end = end
        self.refusal: Refusal | None = None
        self.broken = ""
        self.admitted: list[bytes] = []

    def refuse(self, description: Description) -> Refusal | None:
        for mount in description.mounts:
            if mount.guest != "/data":
                return Refusal(Reason.MOUNT, f"{mount.guest} is not mounted", "--dir it")
        return self.refusal

    def module(self, digest: bytes) -> Buffer | None:
        return None

    def admit(self, binary: Buffer) -> None:
        if bytes(binary) != MODULE:
            raise ModuleError("no counter")
        self.admitted.append(bytes(binary))

    def make(self, **values: object) -> Counter:
        return Counter(self.world, self.end, **values)  # type: ignore[arg-type]

    def known(self, program: bytes) -> int:
        return 0

    def held(self, program: bytes) -> tuple[bytes, ...]:
        return ()

    def room_for_files(self, description: Description) -> int:
        return 10_000

    def forget(self, program: bytes, *, here: bool) -> None:
        pass

    def show(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        return 0

    def feed(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        return b"", True

    def close(self) -> None:
        pass

    def arrival(
        self,
        relays: Relays | None = None,
        *,
        image: int | None = None,
        rest: int = 0,
        program: bytes = b"",
        offer: Offer | None = None,
        files: int = 0,
    ) -> CounterArrival:
        return self.arriving(image)

    def arriving(self, image: int | None) -> CounterArrival:
        return CounterArrival(self, image)

    def restored(self, file: Iterator[Buffer], relays: Relays) -> CounterArrival:
        arrival = CounterArrival(self, None)
        for piece in file:
            arrival.feed(piece)
        return arrival

    def restore_seconds(self, digest: bytes) -> float:
        return 0.0


class CounterArrival:
    """The bytes of a counter on its way in."""

    def __init__(self, host: CounterHost, image: int | None = None) -> None:
        self.host = host
        self.image = image
        self.state = bytearray()
        self.before = bytearray()
        self.prepared = False
        self.memory = bytearray()
        self.pieces: dict[bytes, bytes] = {}
        self.finished = self.closed = False

    def files(self, digests: Sequence[bytes], lengths: Sequence[int], data: Buffer) -> None:
        assert not self.closed
        (digest,), (length,) = digests, lengths
        if digest in self.pieces:
            raise FormatError("a piece of a file came twice")
        if len(data) != length or digest_of(bytes(data)) != digest:
            raise FormatError("a piece of a file that came is not what its digest names")
        self.pieces[digest] = bytes(data)

    def place(self) -> None:
        assert not self.closed and not self.finished

    def resize(self, sizes: Sequence[int]) -> None:
        assert not self.closed
        self.memory.extend(bytes(sizes[0] * 4096 - len(self.memory)))

    def pages(
        self,
        memory: int,
        runs: array[int],
        data: Buffer,
        zeros: array[int],
        known: Sequence[int] = (),
    ) -> None:
        assert not self.closed
        if known:
            raise FormatError("nothing is kept")
        if memory:
            return
        if sum(runs[-2:]) > len(self.memory) // 4096:
            raise FormatError("a page is beyond the end of the memory")
        view = memoryview(data)
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            self.memory[first * 4096 : (first + count) * 4096] = view[: count * 4096]
            view = view[count * 4096 :]

    def early(self, piece: Buffer) -> None:
        assert not self.closed
        self.before += piece

    def prepare(self, modules: Mapping[bytes, Buffer]) -> None:
        assert not self.closed
        assert bytes(modules[DIGEST]) == MODULE
        self.prepared = True

    def called(self, called: CalledFunctions, module: Buffer) -> None:
        assert bytes(module) == MODULE
        if called.functions and max(called.functions) > 1:
            raise FormatError("a counter has two functions")

    def repeat(self, offset: int, size: int) -> None:
        assert self.prepared
        self.feed(self.before[offset : offset + size])

    def output(self, kept: KeptOutput) -> None:
        raise FormatError("no output is kept here")

    def feed(self, piece: Buffer) -> None:
        assert not self.closed
        self.state += piece
        if not self.state.startswith(MAGIC[: len(self.state)]):
            raise FormatError("this is not a snapshot")

    def finish(self) -> bytes:
        if len(self.state) < HEADER.size:
            raise FormatError("cut off")
        self.finished = True
        return hashlib.sha256(self.state).digest()

    def sync(self) -> None:
        """Make the image a snapshot, once all has come: no sooner, and by nobody else."""
        assert not self.closed
        if self.finished and self.image is not None:
            header = Header.decode(self.state[: HEADER.size])
            handed = header._replace(flags=header.flags | FLAG_HANDED).encode()
            os.pwrite(self.image, handed + self.state[HEADER.size :], 0)

    def close(self) -> None:
        self.closed = True

    def restore(self, program: bytes, modules: Mapping[bytes, Buffer]) -> Counter:
        if self.host.broken:
            raise FormatError(self.host.broken)
        assert bytes(modules[DIGEST]) == MODULE
        assert Header.decode(self.state[: HEADER.size]).flags in (0, FLAG_HANDED)
        try:
            values = json.loads(bytes(self.state[HEADER.size : HEADER.size + 256]))
        except ValueError as error:
            raise FormatError("no counter") from error
        if len(self.state) != HEADER.size + 256 + values["size"]:
            raise FormatError("cut off")
        if any(self.memory):
            came = int.from_bytes(self.memory[:4], "little")
            assert came == values["number"], "a page of an older round"
            if self.pieces:
                wanted = {PIECE, b"%d" % values["number"]}
                assert {*self.pieces.values()} == wanted, "the pieces of files of another state"
        return self.host.make(program=program, **values)
