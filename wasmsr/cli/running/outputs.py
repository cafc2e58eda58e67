"""The files that a run writes, and the files that it must not overwrite.

`launch` checks before the program starts, and again before each save. A file that is neither empty
nor a snapshot is never overwritten; another program's snapshot only with --force. Device and inode
tell files apart, so links and other spellings of a name make no difference.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator

from wasmsr import errors
from wasmsr.cli.options.usage import UsageError
from wasmsr.errors import printable
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from wasmsr.cli.options.run_options import RunOptions
    from wasmsr.snapshot.trust.policy import ReadTrust

    Pairs = list[tuple[str, str]]

WASM = b"\0asm"
SNAPSHOT = b"\x89WSR\r\n\x1a\n"
"""How snapshots begin. `snapshot.encoding.container` has the same and takes longer to import."""

NUMBER, TIME = "{n}", "{time}"
"""What `--snapshot-file` may contain: the next free number, the moment of saving (UTC)."""


RESUMED = "the snapshot that the program continues from"
"""The purpose of the file of `--from-snapshot`."""


class OutputError(UsageError):
    """An output would overwrite a file that must stay, or cannot be written; exit code 2."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@record(frozen=True)
class OutputName:
    """A file of the command line.

    Attributes:
        what: The option that names it, or its purpose.
        name: The name.
        real: The path without links.
        identity: Device and inode; None if there is no file yet.
    """

    what: str
    name: str
    real: str
    identity: tuple[int, int] | None

    def same(self, other: OutputName) -> bool:
        """Return whether both names are of one file."""
        if self.identity is None or other.identity is None:
            return self.real == other.real
        return self.identity == other.identity


def named(what: str, name: str) -> OutputName:
    """Return a file by its name."""
    try:
        status = os.stat(name)
    except OSError:
        return OutputName(what, name, os.path.realpath(name), None)
    return OutputName(what, name, os.path.realpath(name), (status.st_dev, status.st_ino))


def descriptor_of(name: str) -> int | None:
    """Return the descriptor of this process that a name means, or None for a file.

    `-`, `/dev/stdout`, `/dev/fd/1` and links to these mean 1.
    """
    if name == "-":
        return 1
    ours = {f"/proc/{os.getpid()}/fd", f"/proc/{os.getpid()}/task/{os.getpid()}/fd", "/dev/fd"}
    path = os.path.abspath(name)
    for _ in range(40):  # as many links as Linux follows
        folder, last = os.path.split(path)
        folder = os.path.realpath(folder)
        if folder in ours and last.isascii() and last.isdecimal():
            return int(last)
        path = os.path.join(folder, last)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def open_text(name: str) -> TextIO:
    """Open a file for text; if the name means a descriptor of this process, duplicate that."""
    number = descriptor_of(name)
    return open(name if number is None else os.dup(number), "w", encoding="utf-8")


def is_special(name: str) -> bool:
    """Return whether a name is that of a pipe, a device or another special file."""
    try:
        return not stat.S_ISREG(os.stat(name).st_mode)
    except OSError:
        return False


def check(reads: Iterable[tuple[str, str]], writes: Iterable[tuple[str, str]]) -> None:
    """Check all files of a run before it opens one.

    Args:
        reads: The files that the run reads, as (purpose, name).
        writes: The files that the run writes, as (option, name).

    Raises:
        OutputError: The run would overwrite a file that it reads, or write one file twice.
    """
    kept = [named(what, name) for what, name in reads]
    seen: list[OutputName] = []
    for option, name in writes:
        if descriptor_of(name) is not None:
            continue
        mine = named(option, name)
        for other in kept:
            # A resumed program may be saved in the file that it came from.
            resumed = option == "--snapshot-file" and other.what == RESUMED
            if mine.same(other) and not resumed and not is_special(name):
                raise OutputError(
                    f"{option} {printable(name)} is {other.what}; it is not overwritten.",
                    hint=f"name another file by {option}",
                )
        for other in seen:
            streams = {option, other.what} == {"--stdout", "--stderr"}
            if mine.same(other) and not streams and not is_special(name):
                raise OutputError(f"{other.what} and {option} name the same file.")
        seen.append(mine)
        if option in ("--trace-file", "--json-file"):
            kind = kind_of(name)
            if kind in ("a module", "a snapshot"):
                raise OutputError(
                    f"{option} {printable(name)} is {kind}; it is not overwritten.",
                    hint=f"name another file by {option}",
                )


def kind_of(name: str) -> str | None:
    """Return what is in a file: "a module", "a snapshot" or "no snapshot".

    Returns None if the file is empty, is no regular file or is not there.

    Raises:
        OutputError: The file cannot be read.
    """
    if not os.path.exists(name) or is_special(name):
        return None
    try:
        with open(name, "rb", buffering=0) as file:
            begin = file.read(len(SNAPSHOT))
    except OSError as error:
        raise OutputError(
            f"{printable(name)} is there and cannot be read to see what it is: {error.strerror}."
        ) from error
    if not begin:
        return None
    if begin.startswith(WASM):
        return "a module"
    return "a snapshot" if begin == SNAPSHOT else "no snapshot"


class SnapshotFile:
    """The place for snapshots that `--snapshot-file` names.

    Attributes:
        name: The name with its patterns, as the user gave it.
        descriptor: The descriptor of this process that the name means; None for a file.
        last: The name of the last snapshot; `name` if there is none yet.
    """

    def __init__(self, name: str, *, force: bool, trust: ReadTrust | None = None) -> None:
        self.name = name
        self.last = name
        self.descriptor = descriptor_of(name)
        self._force = force
        self._trust = trust
        self._number = 0
        self._written: tuple[int, ...] | None = None

    @property
    def has_pattern(self) -> bool:
        """Whether each snapshot gets a new name."""
        return self.descriptor is None and (NUMBER in self.name or TIME in self.name)

    @property
    def may_block(self) -> bool:
        """Whether a write may wait for a reader."""
        return self.descriptor is not None or is_special(self.name)

    def names(self) -> Iterator[str]:
        """Yield names for the next snapshot that no file has, without end."""
        while True:
            self._number += 1
            seconds, rest = divmod(time.time_ns() // 1_000_000, 1000)
            moment = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest:03}Z"
            name = self.name.replace(NUMBER, str(self._number)).replace(TIME, moment)
            if not os.path.lexists(name):
                self.last = name
                yield name
            elif NUMBER not in self.name:
                time.sleep(0.001)

    def check(self, digest: bytes) -> None:
        """Check that a snapshot may be written there.

        Args:
            digest: SHA-256 of the program's module.

        Raises:
            SnapshotError: The folder is missing, or cannot be written.
            OutputError: The file that is there must stay.
        """
        if self.descriptor is not None:
            self._check_descriptor()
            return
        name = self.name.replace(NUMBER, "1").replace(TIME, "now")
        target = os.path.realpath(name)
        if is_special(name) or name.endswith("/"):
            if os.path.isdir(name) or name.endswith("/"):
                raise OutputError(f"--snapshot-file {printable(name)} is a folder.")
            return
        folder = os.path.dirname(target)
        if not os.path.isdir(folder):
            raise errors.SnapshotError(
                f"--snapshot-file {printable(name)}: there is no folder {printable(folder)}",
                hint=f"mkdir -p {printable(folder)}",
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise errors.SnapshotError(
                f"--snapshot-file {printable(name)}: the folder {printable(folder)} cannot be "
                "written to",
                hint="--snapshot-file FILE saves in another folder",
            )
        if not self.has_pattern:
            self._check_content(target, digest)

    def _check_descriptor(self) -> None:
        assert self.descriptor is not None
        try:
            terminal = os.isatty(self.descriptor)
            os.fstat(self.descriptor)
        except OSError as error:
            raise OutputError(
                f"--snapshot-file {printable(self.name)}: {error.strerror}."
            ) from error
        if terminal:
            raise OutputError(
                f"--snapshot-file {printable(self.name)} is a terminal, and a snapshot is no text.",
                hint="send it somewhere: wasmsr run ... --snapshot-file - > FILE",
            )

    def _check_content(self, target: str, digest: bytes) -> None:
        """Raise OutputError unless the file that is there may be replaced."""
        try:
            if self._written == _state_of(target):
                return  # this run wrote the file, and nobody has changed it
        except OSError:
            return
        kind = kind_of(target)
        if kind is None:
            return
        shown = printable(self.name)
        if kind != "a snapshot":
            raise OutputError(
                f"--snapshot-file {shown} is {kind}; it is not overwritten.",
                hint="--snapshot-file FILE names another file",
            )
        if self._force:
            return
        from wasmsr.snapshot.format import is_of_module
        from wasmsr.snapshot.trust.policy import READ_ANY

        try:
            same = is_of_module(target, digest, trust=self._trust or READ_ANY)
        except errors.EncryptionError as error:
            raise OutputError(
                f"--snapshot-file {shown} is an encrypted snapshot, perhaps of another program.",
                hint="give its key with --decrypt-with KEY, or overwrite it with --force",
            ) from error
        if not same:
            raise OutputError(
                f"--snapshot-file {shown} is a snapshot of another program.",
                hint="--force overwrites it; another name keeps it, also a pattern: "
                f"--snapshot-file '{NUMBER}.bin'",
            )

    def save(self, pieces: Iterator[bytes], digest: bytes) -> int:
        """Write a snapshot, set `last`, and return the size in bytes.

        Raises:
            SnapshotError: It cannot be written, or the file that is there must stay.
        """
        from wasmsr.snapshot.format import save_pieces

        try:
            self.check(digest)
        except OutputError as error:
            raise errors.SnapshotError(error.message.rstrip("."), hint=error.hint) from error
        if self.descriptor is not None:
            return save_pieces(pieces, self.descriptor)
        if self.has_pattern:
            return save_pieces(pieces, self.name, names=self.names())
        size = save_pieces(pieces, self.name)
        try:
            self._written = _state_of(os.path.realpath(self.name))
        except OSError:  # somebody has removed it
            self._written = None
        return size


def _state_of(path: str) -> tuple[int, ...]:
    """Return values that change when the file is replaced or written."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def files_of(options: RunOptions, program: str | None, *, saves: bool) -> tuple[Pairs, Pairs]:
    """Return what a run reads and what it writes, for `check`.

    Args:
        options: The options of the run.
        program: The module's file.
        saves: Whether the options ask for a snapshot.
    """
    reads = [("the program", program)]
    reads.append((RESUMED, options.from_snapshot))
    reads.append(("the program's standard input", options.stdin))
    for text in options.dirs:
        host = text.partition("::")[0]
        if os.path.isfile(host):
            reads.append(("an archive given by --dir", host))
    reads += [("a module given by --preload", one.partition("=")[2]) for one in options.preload]
    writes = [
        ("--stdout", options.stdout),
        ("--stderr", options.stderr),
        ("--trace-file", options.trace_file),
        ("--json-file", options.json_file),
    ]
    pattern = NUMBER in options.snapshot_file or TIME in options.snapshot_file
    if not saves and not pattern:  # a key or a signal may still ask for a snapshot
        reads.append(("the place for snapshots", options.snapshot_file))
    elif not pattern:
        writes.append(("--snapshot-file", options.snapshot_file))
    return (
        [(what, name) for what, name in reads if name],
        [(what, name) for what, name in writes if name],
    )
