"""`RunSpec`: what runs, with what, within which limits, and when it is saved.

The command line, the library, `wasmsr.program` and the executor share this description. It holds
plain data only, so it can be stored, sent to another process and compared. `RunSpec.read` is the
one reader: a dictionary, a file, environment variables and the options of the command line all
end there, with the same kinds and the same errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wasmsr.errors import EXIT_USAGE, WasmsrError
from wasmsr.record import record
from wasmsr.runspec.kinds import (
    Choice,
    Count,
    Features,
    Flag,
    Folder,
    Folders,
    OptionKind,
    Preloaded,
    ReadableFile,
    RepeatedText,
    Seconds,
    Size,
    SnapshotSource,
    Variable,
    WritableFile,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Any

    from wasmsr.interp.outcomes import Limits
    from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust
    from wasmsr.wasi.state.tree_restore import OnChanged

PAGE = 65536
"""Bytes of a Wasm page."""


class SpecError(WasmsrError):
    """A description of a run is wrong; the message names the field."""

    exit_code = EXIT_USAGE


@record(frozen=True)
class StreamSpec:
    """The standard streams of a run, each a file's name or a descriptor; None is the host's choice.

    Attributes:
        stdin: Source of the standard input.
        stdout: Destination of the standard output.
        stderr: Destination of the standard error.
    """

    stdin: str | int | None = None
    stdout: str | int | None = None
    stderr: str | int | None = None


@record(frozen=True)
class LimitSpec:
    """What a run may use at most; None is the default of the host.

    Attributes:
        memory: Bytes of each memory.
        fuel: Instructions.
        timeout: Seconds.
        carried: Bytes of folders in memory, and of files in snapshots.
    """

    memory: int | None = None
    fuel: int | None = None
    timeout: float | None = None
    carried: int | None = None


@record(frozen=True)
class SnapshotPolicy:
    """When a run is saved, and where the snapshots go.

    Attributes:
        after: Seconds after which the run is saved and stops.
        at: Instructions after which the run is saved and stops.
        every: Seconds between two snapshots of a run that goes on.
        file: Name of the snapshot file.
        force: A snapshot of another program may be overwritten.
        embed_module: The module is part of the snapshots.
        keep_running: The run goes on after `after` or `at`.
        on_interrupt: The run is saved before a signal or the timeout ends it.
        hop: Instructions between two captures that are restored in place.
        checkpoints: Folder that takes the snapshots of `every` as checkpoints: one full, then what
            changed; None writes whole snapshots to `file`.
        keep: How many checkpoints the folder keeps.
        merge_after: After how many increments older checkpoints are merged.
        sign_with: Source of the key that signs snapshots: a file, `env:NAME` or `fd:N`.
        encrypt_with: Source of the key that encrypts them.
    """

    after: float | None = None
    at: int | None = None
    every: float | None = None
    file: str = "snapshot.bin"
    force: bool = False
    embed_module: bool = False
    keep_running: bool = False
    on_interrupt: bool = False
    hop: int | None = None
    checkpoints: str | None = None
    keep: int = 3
    merge_after: int = 16
    sign_with: str | None = None
    encrypt_with: str | None = None

    @property
    def saves(self) -> bool:
        """Whether the policy asks for a snapshot; keys and signals can ask for more."""
        return self.on_interrupt or not (self.after is self.at is self.every is None)


@record(frozen=True)
class RunSpec:
    """One run of one program.

    Attributes:
        program: Name of a packaged program, or of a file with a module.
        args: Arguments of the program, or of the export that `invoke` names.
        own_args: Arguments of the program that come before those in `args`.
        own_name: Argument 0 of the program; None gives the module's name.
        invoke: The export to call; None calls `_start`.
        core: The file is a component; its core module runs.
        preload: Modules that are instantiated first, in this order, each `NAME=FILE`. Later ones
            import from them by NAME.
        env: Environment variables, each `NAME=VALUE`.
        inherit_env: The program gets the variables of the host's process too.
        mounts: Directories, each `HOST[::GUEST[::MODE]]`.
        remote_memories: Memories that the program can open, each `NAME=tcp://HOST:PORT[;EPOCH]`.
        listen: Addresses on which the program accepts connections, each `ADDR:PORT`.
        streams: Standard streams.
        limits: What the run may use.
        features: Features of WebAssembly that the module may need, as for `Module`.
        deterministic: NaNs are canonical; clocks and random numbers repeat.
        snapshots: When the run is saved.
        from_snapshot: A snapshot file, or a folder of checkpoints, that the run continues.
        on_changed: What happens to files that changed since the snapshot.
        adopt: The run takes over a program that was handed to a host that is gone.
        decrypt_with: Source of the key that decrypts the snapshot. The key that encrypts is tried
            too.
        require_signature: Source of public keys, one of which must have signed the snapshot.
    """

    program: str | None = None
    args: tuple[str, ...] = ()
    own_args: tuple[str, ...] = ()
    own_name: str | None = None
    invoke: str | None = None
    core: bool = False
    preload: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    inherit_env: bool = False
    mounts: tuple[str, ...] = ()
    listen: tuple[str, ...] = ()
    remote_memories: tuple[str, ...] = ()
    streams: StreamSpec = StreamSpec()
    limits: LimitSpec = LimitSpec()
    features: str | None = None
    deterministic: bool = False
    snapshots: SnapshotPolicy = SnapshotPolicy()
    from_snapshot: str | None = None
    on_changed: OnChanged | None = None
    adopt: bool = False
    decrypt_with: str | None = None
    require_signature: str | None = None

    # -- reading -----------------------------------------------------------------------------------

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> RunSpec:
        """Return the description that a dictionary gives.

        Args:
            given: Values by the names of fields; groups are dictionaries of their own. A value is
                text, as an option of the command line has it, or plain data of the field's type.

        Raises:
            SpecError: A field is unknown, or a value is not of its kind.
        """
        flat: dict[str, Any] = {}
        for name, value in given.items():
            if name in GROUPS:
                if not isinstance(value, Mapping):
                    raise SpecError(f"{name}: a group of fields is expected")
                flat.update({f"{name}.{inner}": one for inner, one in value.items()})
            else:
                flat[name] = value
        for name in flat:
            if name not in KINDS:
                raise SpecError(f"{name}: a run has no such field")
        return cls._made({name: _value(name, value) for name, value in flat.items()})

    @classmethod
    def from_options(cls, given: Mapping[str, Any]) -> RunSpec:
        """Return the description that options give, by their names without dashes at the start.

        Options that are not of the run are left out, and so are those that are None.
        """
        return cls._made(
            {
                OPTIONS[name]: _value(OPTIONS[name], value)
                for name, value in given.items()
                if name in OPTIONS and value is not None
            }
        )

    @classmethod
    def from_variables(cls, environment: Mapping[str, str]) -> RunSpec:
        """Return the description that variables give, `WASMSR_FUEL` for the option `--fuel`."""
        given: dict[str, Any] = {}
        for name, field in OPTIONS.items():
            text = environment.get("WASMSR_" + name.replace("-", "_").upper())
            if text:
                kind = KINDS[field]
                given[name] = list(filter(None, text.splitlines())) if kind.repeated else text
        return cls.from_options(given)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> RunSpec:
        """Return the description in a file: a JSON object with the fields of `read`.

        Raises:
            OSError: The file cannot be read.
            SpecError: The file is not a JSON object, or a field is wrong.
        """
        import json

        with open(path, encoding="utf-8") as file:
            try:
                given = json.load(file)
            except (ValueError, RecursionError) as error:
                raise SpecError(f"{path}: not JSON: {error}") from None
        if not isinstance(given, dict):
            raise SpecError(f"{path}: a JSON object is expected")
        return cls.read(given)

    @classmethod
    def _made(cls, flat: Mapping[str, Any]) -> RunSpec:
        """Return the record of checked values by dotted names."""
        values: dict[str, Any] = {}
        groups: dict[str, dict[str, Any]] = {name: {} for name in GROUPS}
        for name, value in flat.items():
            group, dot, inner = name.partition(".")
            if dot:
                groups[group][inner] = value
            else:
                values[name] = value
        for group, kind in GROUPS.items():
            values[group] = kind(**groups[group])
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that `read` takes; fields with their default value are left out."""
        found: dict[str, Any] = {}
        for group, name in PLACES:
            holder: Any = getattr(self, group) if group else self
            value = getattr(holder, name)
            if value != getattr(type(holder), name):
                place = found.setdefault(group, {}) if group else found
                place[name] = list(value) if isinstance(value, tuple) else value
        return found

    # -- what follows from it ----------------------------------------------------------------------

    def environment(self, ours: Mapping[str, str]) -> list[str]:
        """Return the program's variables; `ours` are those of the host's process."""
        given = {text.partition("=")[0]: text for text in self.env}
        if self.inherit_env:
            kept = {k: f"{k}={v}" for k, v in ours.items() if not k.startswith("WASMSR_")}
            given = kept | given
        return list(given.values())

    @property
    def read_trust(self) -> ReadTrust:
        """What snapshots are read with. Raises KeySourceError."""
        from wasmsr.snapshot.trust.policy import ReadTrust

        keys = (self.decrypt_with, self.snapshots.encrypt_with)
        accepted = self.require_signature
        return ReadTrust.read(keys, () if accepted is None else (accepted,))

    @property
    def write_trust(self) -> WriteTrust:
        """What snapshots are written with. Raises KeySourceError."""
        from wasmsr.snapshot.trust.policy import WriteTrust

        return WriteTrust.read(self.snapshots.sign_with, self.snapshots.encrypt_with)

    @property
    def max_pages(self) -> int | None:
        """The limit of each memory in Wasm pages, or None."""
        most = self.limits.memory
        return None if most is None else min(most // PAGE, PAGE)

    @property
    def machine_limits(self) -> Limits | None:
        """The limits of the store, or None for the defaults."""
        if self.max_pages is None:
            return None
        from wasmsr.interp.outcomes import Limits

        return Limits(memory_pages=self.max_pages)


GROUPS: dict[str, Any] = {"streams": StreamSpec, "limits": LimitSpec, "snapshots": SnapshotPolicy}
"""Fields that are records of their own."""

TEXT = OptionKind()

FIELDS: tuple[tuple[str, str | None, OptionKind], ...] = (
    ("program", None, TEXT),
    ("args", None, RepeatedText()),
    ("own_args", "arg", RepeatedText()),
    ("own_name", None, TEXT),
    ("invoke", "invoke", TEXT),
    ("core", "core", Flag()),
    ("preload", "preload", Preloaded()),
    ("env", "env", Variable()),
    ("inherit_env", "inherit-env", Flag()),
    ("mounts", "dir", Folders()),
    ("listen", "tcp-listen", RepeatedText()),
    ("remote_memories", "remote-memory", RepeatedText()),
    ("streams.stdin", "stdin", ReadableFile()),
    ("streams.stdout", "stdout", WritableFile()),
    ("streams.stderr", "stderr", WritableFile()),
    ("limits.memory", "max-memory", Size()),
    ("limits.fuel", "fuel", Count(0)),
    ("limits.timeout", "timeout", Seconds()),
    ("limits.carried", "carry-limit", Size()),
    ("features", "features", Features()),
    ("deterministic", "deterministic", Flag()),
    ("snapshots.after", "snapshot-after", Seconds()),
    ("snapshots.at", "snapshot-at", Count(0)),
    ("snapshots.every", "snapshot-every", Seconds()),
    ("snapshots.file", "snapshot-file", WritableFile()),
    ("snapshots.force", "force", Flag()),
    ("snapshots.embed_module", "embed-module", Flag()),
    ("snapshots.keep_running", "keep-running", Flag()),
    ("snapshots.on_interrupt", "snapshot-on-interrupt", Flag()),
    ("snapshots.hop", "hop", Count(1)),
    ("snapshots.checkpoints", "checkpoint-dir", Folder()),
    ("snapshots.keep", "keep", Count(1)),
    ("snapshots.merge_after", "merge-after", Count(1)),
    ("snapshots.sign_with", "sign-with", TEXT),
    ("snapshots.encrypt_with", "encrypt-with", TEXT),
    ("from_snapshot", "from-snapshot", SnapshotSource()),
    ("on_changed", "on-changed", Choice("error", "keep", "truncate")),
    ("adopt", "adopt", Flag()),
    ("decrypt_with", "decrypt-with", TEXT),
    ("require_signature", "require-signature", TEXT),
)
"""THE table of a run's fields: (dotted name, option without dashes or None, kind of the value)."""

KINDS = {name: kind for name, _, kind in FIELDS}
"""The kind of each field."""

PLACES = tuple(name.rpartition(".")[::2] for name in KINDS)
"""The group of each field, "" for none, and its name there. These texts are made once: Python's
cache of attributes keeps every text by which one was asked for."""

OPTIONS = {option: name for name, option, _ in FIELDS if option is not None}
"""The field of each option, by the option's name without the dashes at its start."""


def option_kind(option: str) -> OptionKind:
    """Return the kind of the field that an option sets, `--fuel` for example."""
    return KINDS[OPTIONS[option.removeprefix("--")]]


def _value(name: str, value: Any) -> Any:
    """Return the value of a field, read and checked.

    Raises:
        SpecError: The value is not of the field's kind.
    """
    kind = KINDS[name]
    try:
        if kind.repeated:
            if isinstance(value, Mapping) and name == "env":
                value = [f"{key}={text}" for key, text in value.items()]
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise ValueError("a list of texts is expected.")
            return tuple([_read(kind, one) for one in value])
        if name.startswith("streams.") and type(value) is int:
            return value
        return None if value is None else _read(kind, value)
    except (ValueError, OverflowError) as error:
        raise SpecError(f"{name}: {error}") from None


def _read(kind: OptionKind, value: Any) -> Any:
    """Return one value; numbers are read as their text is, so that both have the same limits."""
    if isinstance(kind, Flag) and isinstance(value, bool):
        return value
    if isinstance(kind, (Size, Count, Seconds)) and type(value) in (int, float):
        if not isinstance(kind, Seconds) and value != int(value):
            raise ValueError(f"{value!r} is not a whole number.")
        return kind.read(repr(value) if isinstance(kind, Seconds) else str(int(value)))
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not of the kind {kind.name}.")
    return kind.read(value)
