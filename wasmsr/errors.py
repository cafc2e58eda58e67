"""Every exception of wasmsr, and the exit code that the command line gives for each.

This file stands at the bottom of the package: every other room imports it, and it imports only
`record`. Outcomes that are not errors (a pause, an empty fuel tank, a program's own exit code) are
values of `wasmsr.interp.machine`, not exceptions; see RATIONALE.md.
"""

from __future__ import annotations

from itertools import islice

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Exit codes of the command line. 0 and the guest's own code apart, these are all there are.
EXIT_USAGE = 2
EXIT_STOPPED = 120
"""Stopped on purpose; the snapshot is on disk."""
EXIT_FUEL = 121
"""Out of fuel, or of time."""
EXIT_MODULE = 122
EXIT_SNAPSHOT = 123
EXIT_MIGRATION = 124
EXIT_HANDED = 125
"""Interrupted after the hand-over was decided and before the peer confirmed it."""
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_TRAP = 134
EXIT_HOST = 1


LONGEST = 4000
"""Characters of a message; one that says more was made to fill a terminal."""


class WasmsrError(Exception):
    """Root of all errors that wasmsr raises on purpose. Names in messages and hints may be raw:
    `printable` is applied to both, so that they can be shown wherever they are caught.

    Attributes:
        hint: one sentence that says what to do about it, or None.
        exit_code: what the command line exits with when this error ends it.
    """

    exit_code: int = EXIT_HOST

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = printable(message, LONGEST)
        self.hint = None if hint is None else printable(hint, LONGEST)
        super().__init__(self.message)


PACKAGES = {
    "cffi": ("cffi", "python3-cffi"),
    "click": ("click", "python3-click"),
    "google": ("protobuf", "python3-protobuf"),
    "grpc": ("grpcio", "python3-grpcio"),
    "msgpack": ("msgpack", "python3-msgpack"),
    "platformdirs": ("platformdirs", "python3-platformdirs"),
    "rich": ("rich", "python3-rich"),
    "wasmtime": ("wasmtime", None),
    "zstandard": ("zstandard", "python3-zstandard"),
}
"""What an import name needs: the package's name for pip, and Debian's where it has one."""


class MissingPackageError(WasmsrError):
    """A Python package that this needs is not installed, or does not work on this machine.

    Not every dependency has a wheel for every CPU (gRPC has none for s390x), so wasmsr is installed
    without those, and says so where one is needed.

    Attributes:
        package: the package's name for pip.
    """

    exit_code = EXIT_USAGE

    def __init__(self, name: str, why: str, *, instead: str | None = None) -> None:
        """`name` is what was imported; `why` is what needs it; `instead` a way without it."""
        self.package, debian = PACKAGES.get(name, (name, None))
        ways = [f"pip install {self.package}", *([f"apt-get install {debian}"] if debian else [])]
        ways += [instead] if instead else []
        super().__init__(
            f"{why} needs the Python package {self.package}, which is not installed or does not "
            "work on this machine",
            hint="; or ".join(ways),
        )


class ModuleError(WasmsrError):
    """A module cannot be used.

    Attributes:
        offset: byte offset in the module's binary, or None where no single byte is to blame.
    """

    exit_code = EXIT_MODULE

    def __init__(self, message: str, *, offset: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.offset = offset

    def __str__(self) -> str:
        if self.offset is None:
            return self.message
        return f"{self.message} (at byte {self.offset:#x})"


class MalformedError(ModuleError):
    """The bytes are not a module (WebAssembly specification, section 5, Binary Format)."""


class InvalidError(ModuleError):
    """The bytes are a module that does not validate (specification, section 3, Validation)."""


class UnsupportedError(ModuleError):
    """The module needs a feature that this engine lacks.

    Attributes:
        feature: the feature's name, as proposals are named: "simd", "exceptions", ...
    """

    def __init__(
        self, message: str, *, feature: str, offset: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, offset=offset, hint=hint)
        self.feature = feature


class LinkError(ModuleError):
    """An import is missing or has another type (specification, section 4.5.4, Instantiation)."""


@record(frozen=True)
class Frame:
    """One line of a backtrace: function name and index, and byte offset in the module's binary."""

    module: str | None
    function: str
    index: int
    offset: int

    def __str__(self) -> str:
        where = f"{self.module}!" if self.module else ""
        return printable(f"{where}{self.function} (function {self.index}, byte {self.offset:#x})")


def printable(name: object, limit: int | None = 400) -> str:
    """A name as messages show it: THE function for every name of a module, a file or a peer.

    Names come from files that anybody can have made, and go to terminals. What is no printable
    text is escaped as in Python (control characters, direction marks, bytes that are no UTF-8, a
    backslash only where something else is escaped too); what is longer than `limit` characters is
    cut in its middle, and nothing is cut with None.

    Args:
        name: text, bytes, or a path.
    """
    if isinstance(name, bytes):
        text = name.decode("utf-8", "surrogateescape")
    else:
        text = name if isinstance(name, str) else str(name)
    if limit is not None and len(text) > limit:
        text = f"{text[: limit // 2]}...{text[-limit // 2 :]}"
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def listed(names: Iterable[object], most: int = 20) -> str:
    """Names for a message, separated by commas; of many the first ones."""
    shown = [printable(name, 100) for name in islice(names, most + 1)]
    return ", ".join([*shown[:most], "..."] if len(shown) > most else shown)


def _escaped(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def reason(error: BaseException) -> str:
    """What an error says, to stand behind a colon; of one that says nothing, what it is."""
    return str(error) or type(error).__name__


class Trap(WasmsrError):
    """The program did what the specification answers with a trap.

    Attributes:
        code: the trap's name in `wasmsr.interp.traps`, for example "integer divide by zero".
        backtrace: innermost frame first.
    """

    exit_code = EXIT_TRAP

    def __init__(self, code: str, backtrace: tuple[Frame, ...] = ()) -> None:
        super().__init__(code)
        self.code = code
        self.backtrace = backtrace


class UncaughtException(Trap):
    """The program threw an exception that nothing in it caught.

    Raised by a host function (see `Tag.throw`), or let through by one that called back, it goes to
    the program that called the function, which may catch it.

    Attributes:
        exception: the `wasmsr.ThrownException`; its tag and its fields as Python values are
            `tag` and `fields`.
    """

    def __init__(
        self, exception: Any, tag: Any, fields: tuple[Any, ...], backtrace: tuple[Frame, ...] = ()
    ) -> None:
        super().__init__("uncaught exception", backtrace)
        self.exception = exception
        self.tag = tag
        self.fields = fields


class Exit(WasmsrError):
    """The program ended itself (WASI `proc_exit`).

    Attributes:
        code: the guest's exit code, 0 to 2**32 - 1.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the program exited with code {code}")
        self.code = code


class Interrupted(WasmsrError):
    """A call through the library was paused before it ended; `Store.run` goes on with it."""

    exit_code = EXIT_INTERRUPTED


class SnapshotError(WasmsrError):
    """A snapshot cannot be taken, read or restored."""

    exit_code = EXIT_SNAPSHOT


class FormatError(SnapshotError):
    """The bytes are not a well-formed snapshot, or say what no machine can be in."""


class VersionError(SnapshotError):
    """The snapshot's format version is one that this wasmsr does not read."""


class DigestError(SnapshotError):
    """The snapshot's bytes are not those that its digest names: it was damaged or altered."""


class ModuleMismatch(SnapshotError):
    """The snapshot belongs to a module other than the one given, or none was given."""


class UnportableState(SnapshotError):
    """The program holds something that no snapshot can carry; the message names it."""


class HandedOver(SnapshotError):
    """The snapshot was handed to another host, which owns the program now; see `--adopt`."""


class MigrationError(WasmsrError):
    """A move failed.

    Attributes:
        phase: "prepare", "stop", "stream", "hand-over" or "commit".
        owner: who owns the program now: "source", "destination" or "unknown".
    """

    exit_code = EXIT_MIGRATION

    def __init__(self, message: str, *, phase: str, owner: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.phase = phase
        self.owner = owner


class HostError(WasmsrError):
    """A host function raised; the original exception is `__cause__`."""


class WasiConfigError(WasmsrError):
    """Mounts, arguments or streams given to WASI are not usable."""

    exit_code = EXIT_USAGE
