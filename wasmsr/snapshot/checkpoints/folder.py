"""A folder of checkpoints: their names, what each is made against, and the last complete one.

Each checkpoint is a snapshot of version 2 in a file of its own, `checkpoint-NUMBER.bin`. A file
appears by rename when it is complete. A checkpoint names its base by the root digest, and roots
survive a merge; so a file can be replaced by its full form at any time.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple

from wasmsr.errors import FormatError, HandedOver, SnapshotError, TrustError, printable
from wasmsr.interp.outcomes import Limits
from wasmsr.snapshot.encoding.container import (
    HEADER,
    INCREMENTAL,
    TRAILER,
    Header,
    read_trailer,
)
from wasmsr.snapshot.encoding.peek import exactly, read_section
from wasmsr.snapshot.encoding.read_limits import DEFAULT_LIMIT, FILES_LIMIT
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.encoding.section import ReadBase, no_base
from wasmsr.snapshot.format import is_of_module, read_file
from wasmsr.snapshot.memory.adoption import allocate
from wasmsr.snapshot.sections.host.files import without_unused
from wasmsr.snapshot.sections.pages.base import BASE, DEPTH_LIMIT
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.policy import READ_ANY, ReadTrust

NAME = "checkpoint-{:08d}.bin"
"""The name of a checkpoint's file, with its number."""

_NAME = re.compile(r"checkpoint-(\d{8})\.bin")
_PART = re.compile(r"\.checkpoint-\d{8}\.bin\..*\.part")
_LOCK = ".lock"
_MESSAGE = 4096
"""Bytes that a base section may have."""


def is_checkpoint_name(name: str) -> bool:
    """Return whether a file of this name is a checkpoint."""
    return _NAME.fullmatch(name) is not None


class CheckpointHead(NamedTuple):
    """What the ends of a file say.

    Attributes:
        root: Its root digest.
        base: The root digest of its base; None if it is full.
        handed: Whether the program was handed over to another host.
        size: Bytes of the file.
    """

    root: bytes
    base: bytes | None
    handed: bool
    size: int


class CheckpointLink(NamedTuple):
    """A checkpoint of a chain, read and verified.

    Attributes:
        number: Its number.
        decoder: What has read its file.
        read: Its state, root and depth.
    """

    number: int
    decoder: Decoder
    read: ReadBase


class CheckpointFolder:
    """A folder of checkpoints.

    Args:
        path: The folder.
        trust: Keys that decrypt, and whose signature is asked for of each checkpoint that is read.
    """

    def __init__(self, path: str | os.PathLike[str], trust: ReadTrust = READ_ANY) -> None:
        self.path = os.fspath(path)
        self.trust = trust

    def file(self, number: int) -> str:
        """Return the name of the file of a checkpoint."""
        return os.path.join(self.path, NAME.format(number))

    def numbers(self) -> list[int]:
        """Return the numbers of all checkpoints, ascending.

        Raises:
            SnapshotError: The folder cannot be read.
        """
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise SnapshotError(
                f"cannot read the checkpoints in {printable(self.path)}: {error.strerror}"
            ) from error
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def is_of_another(self, digest: bytes) -> bool:
        """Return whether the last checkpoint whose ends are whole is of another module.

        Args:
            digest: SHA-256 of the module.

        Raises:
            SnapshotError: The folder cannot be read.
        """
        for number in reversed(self.numbers()):
            with suppress(SnapshotError, OSError):
                self.head(number)
                return not is_of_module(self.file(number), digest, trust=self.trust)
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out of the folder, which is made if it is not there.

        Raises:
            SnapshotError: Another program writes its checkpoints here, or the folder cannot be
                written.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            lock = os.open(
                os.path.join(self.path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise SnapshotError(
                f"checkpoints cannot be written to {printable(self.path)}: {error.strerror}",
                hint="name a folder that this user can write: --checkpoint-dir FOLDER",
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SnapshotError(
                    f"another program writes its checkpoints to {printable(self.path)} now",
                    hint="give each program a folder of its own",
                ) from None
            self._tidy()
            yield
        finally:
            os.close(lock)

    def _tidy(self) -> None:
        """Remove what a writer that was killed has left."""
        with suppress(OSError):
            for name in os.listdir(self.path):
                if _PART.fullmatch(name):
                    os.unlink(os.path.join(self.path, name))

    def head(self, number: int) -> CheckpointHead:
        """Return what the ends of a file say, without reading all of it.

        Raises:
            SnapshotError: The file cannot be read, or is no snapshot of version 2.
        """
        path = self.file(number)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe could take for ever
                raise FormatError("it is no file")
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                header = Header.decode(exactly(file, HEADER.size))
                if header.version < 2:
                    raise FormatError("it is no checkpoint: its format version is 1")
                base = self._base_of(file) if header.form == INCREMENTAL else None
                file.seek(max(0, size - TRAILER.size))
                root = read_trailer(exactly(file, TRAILER.size))
        except OSError as error:
            raise SnapshotError(f"cannot read {printable(path)}: {error.strerror}") from error
        except SnapshotError as error:
            raise _of_file(path, error) from error
        return CheckpointHead(root, base, header.handed, size)

    def _base_of(self, file: BinaryIO) -> bytes:
        """Return the root of the base."""
        file.seek(0)
        _, data = read_section(file, BASE.kind, limit=_MESSAGE, trust=self.trust)
        if data is None:
            raise FormatError("the incremental snapshot has no base section")
        return BASE.fields_of(data)[0]

    def heads(self) -> dict[int, CheckpointHead]:
        """Return what each file's ends say, by number; damaged ones are left out."""
        found = {}
        for number in self.numbers():
            with suppress(SnapshotError):
                found[number] = self.head(number)
        return found

    def chain(self, number: int, heads: dict[int, CheckpointHead]) -> list[int]:
        """Return the numbers of the checkpoints that one is made of, the full one first.

        Raises:
            SnapshotError: One of them is not there, or damaged.
        """
        by_root = {head.root: one for one, head in heads.items()}
        found: list[int] = []
        place: int | None = number
        while True:
            if place is None or place not in heads:
                raise SnapshotError(
                    f"checkpoint {number} is not complete: a checkpoint below it is missing or "
                    "damaged"
                )
            if place in found or len(found) > DEPTH_LIMIT:
                raise FormatError(f"checkpoint {number} is below itself")
            found.append(place)
            base = heads[place].base
            if base is None:
                return found[::-1]
            place = by_root.get(base)

    def read(
        self,
        number: int,
        heads: dict[int, CheckpointHead],
        *,
        limit: int = DEFAULT_LIMIT,
        limits: Limits | None = None,
        files: int = FILES_LIMIT,
    ) -> SnapshotState:
        """Return the state of a checkpoint, through all that are below it.

        Args:
            number: Its number.
            heads: What `heads` returned.
            limit: Bytes that memories, tables and embedded modules may take.
            limits: Limits of the store in which the state is to be restored.
            files: Bytes of content of carried files.

        Raises:
            SnapshotError: A file of the chain is missing, damaged or not what it should be; the
                message names the file.
        """
        *_, last = self.links(number, heads, limit=limit, limits=limits, files=files)
        return last.read.state

    def links(
        self,
        number: int,
        heads: dict[int, CheckpointHead],
        *,
        limit: int = DEFAULT_LIMIT,
        limits: Limits | None = None,
        files: int = FILES_LIMIT,
    ) -> Iterator[CheckpointLink]:
        """Yield the checkpoints that one is made of, read and verified, the full one first.

        Each takes over the memories of the one before it, whose state is of no use afterwards. The
        arguments and errors are those of `read`.
        """
        below: ReadBase | None = None
        for one in self.chain(number, heads):
            path, base = self.file(one), below
            decoder = Decoder(
                limit=limit,
                limits=limits,
                files=files,
                allocate=allocate,
                trust=self.trust,
                find_base=no_base if base is None else lambda root, base=base: base,  # type: ignore[misc]
            )
            try:
                state = read_file(path, decoder).finish()
            except SnapshotError as error:
                raise _of_file(path, error) from error
            depth = 0 if below is None else below.depth + 1
            below = ReadBase(decoder.root, state, decoder.trees, depth)
            yield CheckpointLink(one, decoder, below)

    def load(
        self,
        *,
        warn: Callable[[str], None],
        adopt: bool = False,
        limit: int = DEFAULT_LIMIT,
        limits: Limits | None = None,
        files: int = FILES_LIMIT,
    ) -> tuple[int, SnapshotState]:
        """Return the last complete checkpoint: its number and its state.

        Args:
            warn: Gets a sentence for each damaged checkpoint that is passed over.
            adopt: Take it even if the program was handed over to another host.
            limit: As for `read`.
            limits: As for `read`.
            files: As for `read`.

        Raises:
            HandedOver: Another host owns the program now.
            TrustError: The last checkpoint is not trusted, or no key decrypts it.
            SnapshotError: No checkpoint is complete.
        """
        heads = self.heads()
        for number in reversed(self.numbers()):
            try:
                if number not in heads:
                    self.head(number)  # says what is wrong
                state = self.read(number, heads, limit=limit, limits=limits, files=files)
            except TrustError:
                raise  # to go on with an older one would hide it
            except SnapshotError as error:
                warn(f"checkpoint {number} is passed over: {error.message}")
                continue
            if heads[number].handed and not adopt:
                raise HandedOver(
                    f"the program in {printable(self.path)} was handed over to another host, "
                    "which may own it now",
                    hint="if that host is gone for good, --adopt takes the program over; "
                    "if it is not, the program would then run twice",
                )
            return number, without_unused(state)
        raise SnapshotError(
            f"there is no complete checkpoint in {printable(self.path)}",
            hint="wasmsr run PROGRAM --snapshot-every 5 --checkpoint-dir FOLDER writes some",
        )

    def prune(self, keep: int) -> int:
        """Remove the checkpoints that the last `keep` do not need; return how many.

        A file that cannot be removed stays.
        """
        heads = self.heads()
        needed: set[int] = set()
        kept = 0
        for number in sorted(heads, reverse=True):
            if kept == keep:
                break
            with suppress(SnapshotError):
                needed.update(self.chain(number, heads))
                kept += 1
        if kept < keep:
            return 0  # as long as there are not enough whole ones, nothing is removed
        removed = 0
        for number in self.numbers():
            if number < max(needed) and number not in needed:
                with suppress(OSError):
                    os.unlink(self.file(number))
                    removed += 1
        return removed


def _of_file(path: str, error: SnapshotError) -> SnapshotError:
    """Return an error of the same kind that names the file."""
    return type(error)(f"{printable(path)}: {error.message}", hint=error.hint)
