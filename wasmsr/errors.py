"""Every exception of wasmsr, and the exit code that the command line gives for each.

Every other room imports this file; it imports only `record`. A pause, the end of the fuel and a
program's own exit code are outcomes, not errors (`wasmsr.Outcome`); RATIONALE.md has the reason.
"""

from __future__ import annotations

from itertools import islice

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# All exit codes of the command line, beside 0 and the program's own code.
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
"""Largest length of a message in characters; a longer one is cut in its middle."""


class WasmsrError(Exception):
    """Base class of all errors that wasmsr raises.

    The constructor applies `printable` to message and hint, so they can contain names from
    untrusted files.

    Attributes:
        message: What happened, and where.
        hint: One sentence that says what to do next, or None.
        exit_code: Exit code of the command line when this error ends it.
    """

    exit_code: int = EXIT_HOST

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = printable(message, LONGEST)
        self.hint = None if hint is None else printable(hint, LONGEST)
        super().__init__(self.message)


PACKAGES = {
    "aiohttp": ("aiohttp", "python3-aiohttp"),
    "asyncssh": ("asyncssh", "python3-asyncssh"),
    "cffi": ("cffi", "python3-cffi"),
    "click": ("click", "python3-click"),
    "cryptography": ("cryptography", "python3-cryptography"),
    "etcd3gw": ("etcd3gw", None),
    "fsspec": ("fsspec", "python3-fsspec"),
    "jsonschema": ("jsonschema", "python3-jsonschema"),
    "google": ("protobuf", "python3-protobuf"),
    "grpc": ("grpcio", "python3-grpcio"),
    "mcp": ("mcp", None),
    "msgpack": ("msgpack", "python3-msgpack"),
    "numpy": ("numpy", "python3-numpy"),
    "opentelemetry": ("opentelemetry-exporter-otlp-proto-http", None),
    "paho": ("paho-mqtt", "python3-paho-mqtt"),
    "platformdirs": ("platformdirs", "python3-platformdirs"),
    "prometheus_client": ("prometheus-client", "python3-prometheus-client"),
    "pyarrow": ("pyarrow", None),
    "rich": ("rich", "python3-rich"),
    "s3fs": ("s3fs", "python3-s3fs"),
    "tomli": ("tomli", "python3-tomli"),
    "wasmtime": ("wasmtime", None),
    "yaml": ("pyyaml", "python3-yaml"),
    "zstandard": ("zstandard", "python3-zstandard"),
}
"""For each import name: the package's name for pip, and Debian's name or None."""


class MissingPackageError(WasmsrError):
    """A Python package is not installed, or does not work on this machine.

    Some dependencies have no wheel for some CPUs (gRPC has none for s390x). There wasmsr is
    installed without them; a command that needs one raises this error.

    Attributes:
        package: The package's name for pip.
    """

    exit_code = EXIT_USAGE

    def __init__(
        self, name: str, why: str, *, extra: str | None = None, instead: str | None = None
    ) -> None:
        """Make the error.

        Args:
            name: Name of the import that failed.
            why: What needs the package.
            extra: The extra of wasmsr that brings it and all that it needs, for the hint.
            instead: Another way, for the hint.
        """
        self.package, debian = PACKAGES.get(name, (name, None))
        ways = [f"pip install 'wasmsr[{extra}]'" if extra else f"pip install {self.package}"]
        ways += [f"apt-get install {debian}"] if debian else []
        ways += [instead] if instead else []
        super().__init__(
            f"{why} needs the Python package {self.package}, which is not installed or does not "
            "work on this machine",
            hint="; or ".join(ways),
        )


class ModuleError(WasmsrError):
    """A module cannot be used.

    Attributes:
        offset: Offset in bytes in the module, or None where no single byte is the cause.
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
        feature: Name of the proposal, for example "simd" or "exceptions".
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
    """One line of a backtrace.

    Attributes:
        module: Name of the module, or None.
        function: Name of the function, or a name made of its index.
        index: Index of the function in the module.
        offset: Position in the function, as an offset in bytes in the module.
    """

    module: str | None
    function: str
    index: int
    offset: int

    def __str__(self) -> str:
        where = f"{self.module}!" if self.module else ""
        return printable(f"{where}{self.function} (function {self.index}, byte {self.offset:#x})")


def printable(name: object, limit: int | None = 400) -> str:
    """Return a name in the form that messages show.

    Every message must pass names of modules, files and peers through this function, because such
    names are untrusted and go to terminals. Characters that are not printable are escaped as in
    Python: control characters, direction marks, bytes that are not UTF-8. A backslash is escaped
    only if another character is.

    Args:
        name: Text, bytes, or a path.
        limit: Largest length in characters; a longer name is cut in its middle. None: no limit.
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
    """Return names for a message, separated by commas.

    Args:
        names: The names; `printable` is applied to each.
        most: Largest number of names; dots stand for the rest.
    """
    shown = [printable(name, 100) for name in islice(names, most + 1)]
    return ", ".join([*shown[:most], "..."] if len(shown) > most else shown)


def _escaped(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def reason(error: BaseException) -> str:
    """Return the text of an error, or its class name if the text is empty."""
    return str(error) or type(error).__name__


class Trap(WasmsrError):
    """The program ended with a trap (specification, section 4.2.1).

    Attributes:
        code: Name of the trap in `wasmsr.interp.instruction_set.traps`, for example
            "integer divide by zero".
        backtrace: Frames of the program, innermost first.
    """

    exit_code = EXIT_TRAP

    def __init__(self, code: str, backtrace: tuple[Frame, ...] = ()) -> None:
        super().__init__(code)
        self.code = code
        self.backtrace = backtrace


class UncaughtException(Trap):
    """The program threw an exception and did not catch it.

    A host function can raise this error (see `Tag.throw`), or pass on one from a call back into the
    program. The error then continues as an exception in the program, which can catch it.

    Attributes:
        exception: The `wasmsr.ThrownException`.
        tag: Tag of the exception.
        fields: Fields of the exception as Python values.
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
        code: Exit code of the program, 0 to 2**32 - 1.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the program exited with code {code}")
        self.code = code


class Interrupted(WasmsrError):
    """A call through the library was paused before it returned; `Store.run` continues it."""

    exit_code = EXIT_INTERRUPTED


class SnapshotError(WasmsrError):
    """A snapshot cannot be taken, read or restored."""

    exit_code = EXIT_SNAPSHOT


class FormatError(SnapshotError):
    """The bytes are not a well-formed snapshot, or describe a state that cannot exist."""


class VersionError(SnapshotError):
    """This wasmsr does not read the snapshot's format version."""


class DigestError(SnapshotError):
    """The snapshot does not match its digest: it was damaged or changed."""


class TrustError(SnapshotError):
    """A snapshot is not trusted, or a key for it cannot be used."""


class SignatureError(TrustError):
    """A snapshot is not signed by a key that the user trusts, or its signature is wrong."""


class EncryptionError(TrustError):
    """A snapshot cannot be decrypted: no key, another key, or changed bytes."""


class KeySourceError(TrustError):
    """A key cannot be read or written, or is no key of the kind that is needed."""


class ModuleMismatch(SnapshotError):
    """The snapshot needs a module that was not given."""


class UnportableState(SnapshotError):
    """The program has state that a snapshot cannot contain; the message names it."""


class HandedOver(SnapshotError):
    """The snapshot was handed over to another host, which owns the program; see `--adopt`."""


class MigrationError(WasmsrError):
    """A move failed.

    Attributes:
        phase: "prepare", "stop", "stream", "hand-over" or "commit".
        owner: Who owns the program: "source", "destination" or "unknown".
    """

    exit_code = EXIT_MIGRATION

    def __init__(self, message: str, *, phase: str, owner: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.phase = phase
        self.owner = owner


class HostError(WasmsrError):
    """A host function raised an exception; `__cause__` is that exception."""


class WasiConfigError(WasmsrError):
    """WASI cannot use the given mounts, arguments or streams."""

    exit_code = EXIT_USAGE
