"""The `Wasi` object: one program's WASI, as the rest of the package and library users see it.

    wasi = Wasi(args=["prog"], mounts=[Mount.parse("data")], stdin=b"hello")
    store.instantiate(module, wasi.imports)

`imports` is what the module is linked with, `capture` and `restore` are what snapshots use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from wasmsr.errors import WasiConfigError
from wasmsr.wasi.clocks import Clocks, Random
from wasmsr.wasi.engine import HostFunction
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1 import functions, rights, unstable
from wasmsr.wasi.process import PendingPoll, Process, Streams
from wasmsr.wasi.streams.descriptor import Descriptor
from wasmsr.wasi.streams.sockets import Listener
from wasmsr.wasi.streams.standard import ByteSink, ByteSource, InputStream, OutputStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from types import TracebackType
    from typing import Any

    from wasmsr.wasi.filesystem.trees import MountTree
    from wasmsr.wasi.state.checked_state import WasiState
    from wasmsr.wasi.state.contents import Contents
    from wasmsr.wasi.state.restore import CarriedFiles
    from wasmsr.wasi.state.tree_restore import OnChanged

Stdin = int | bytes | str | os.PathLike[str] | ByteSource | InputStream | None
"""A host descriptor, the bytes themselves, a path, anything with `read`, None for an empty input,
or what is made of any of these."""
Stdout = int | ByteSink
"""A host descriptor, or anything with `write`."""


class Wasi:
    """WASI preview 1 for one program. Not to be shared between programs.

    Descriptors 0, 1 and 2 are the standard streams, then the mounts in their order, then the
    listening sockets. Host descriptors given as numbers stay the caller's to close.
    """

    def __init__(
        self,
        *,
        args: Sequence[str | bytes] = (),
        env: Mapping[str, str] | Sequence[str | bytes] = (),
        mounts: Sequence[Mount] = (),
        stdin: Stdin = None,
        stdout: Stdout = 1,
        stderr: Stdout = 2,
        sockets: Sequence[socket.socket] = (),
        deterministic: bool = False,
        seed: int | bytes | str | None = None,
        carry_limit: int | None = None,
    ) -> None:
        """`env`: a mapping, or `KEY=VALUE` strings; `sockets`: listening `socket.socket`s;
        `deterministic`: virtual clocks and random bytes from `seed` (default 0); `carry_limit`:
        bytes that a tree in memory may hold, and that snapshots carry (default 1 GiB).

        Raises WasiConfigError for what cannot be used.
        """
        if deterministic and seed is None:
            seed = 0
        random = Random(None if seed is None else Random.seed_of(seed))
        process = Process(Clocks(deterministic=deterministic), random)
        process.args = tuple(_text("argument", argument) for argument in args)
        process.environ = _environ(env)
        if carry_limit is not None:
            process.carry_limit = carry_limit
        try:
            streams = process.streams = _streams(stdin, stdout, stderr)
            process.sockets = tuple(sockets)
            for stream in (streams.stdin, streams.stdout, streams.stderr):
                self._add(process, stream)
            process.mount(mounts)
            for name in process.trees:
                self._add(process, process.preopen(name))
            for index, listening in enumerate(sockets):
                self._add(process, Listener(listening, index))
        except BaseException:
            process.close()
            raise
        self._use(process)

    @staticmethod
    def _add(process: Process, descriptor: Descriptor) -> None:
        rights.grant(descriptor)
        process.add(descriptor)

    def _use(self, process: Process) -> None:
        self.process = process
        self.imports: Mapping[str, Mapping[str, HostFunction]] = {
            functions.MODULE: functions.imports(process),
            unstable.MODULE: functions.imports(process, unstable.UNSTABLE),
        }

    def capture(self, contents: Contents | None = None) -> dict[str, Any]:
        """Return everything of WASI that the program can observe, as data that msgpack can hold.

        The program must be paused. The format is that of `docs/snapshot-format.md`, section WASI.

        Args:
            contents: Gets the chunks of carried files.

        Raises:
            UnportableState: Something cannot be saved; the message names it.
        """
        from wasmsr.wasi.state.capture import capture  # only where something is saved
        from wasmsr.wasi.state.contents import Contents

        return capture(self.process, Contents() if contents is None else contents)

    @classmethod
    def restore(
        cls,
        state: Mapping[str, Any] | WasiState,
        *,
        mounts: Sequence[Mount] = (),
        stdin: Stdin = None,
        stdout: Stdout = 1,
        stderr: Stdout = 2,
        sockets: Sequence[socket.socket] = (),
        live: bool = False,
        on_changed: OnChanged | None = None,
        carried: CarriedFiles | None = None,
        shared: Mapping[bytes, MountTree] | None = None,
    ) -> Wasi:
        """Return a program's WASI as `capture` saved it, under these mounts and streams.

        Mounts are matched by guest name; those that the program does not have are left out. Input
        that was read but not consumed comes before `stdin`. A regular file that is the one which
        the program was reading continues where it was. The clocks are stopped until
        `resume_clock`, or until the program asks for the time.

        Args:
            state: What `capture` returned, or what `checked_state.read` made of it.
            mounts, stdin, stdout, stderr: As for the constructor.
            sockets: Sockets in the place of those that the program was started with, in the same
                order.
            live: Whether the clocks count the time in between.
            on_changed: What to do with files that were changed since.
            carried: What to do with carried files.
            shared: What other processes share of the mounts' trees, by guest name.

        Raises:
            FormatError: The state is none.
            WasiConfigError: A mount is missing; the hint has the option to type.
            SnapshotError: A file is gone, or another one has its place.
        """
        self = cls.waiting()
        self.enter(
            state,
            mounts=mounts,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            sockets=sockets,
            live=live,
            on_changed=on_changed,
            carried=carried,
            shared=shared,
        )
        return self

    @classmethod
    def waiting(cls) -> Wasi:
        """Return the WASI of a program whose state comes later, for `enter`; it has nothing open.

        Its `imports` are those that the program gets.
        """
        self = cls.__new__(cls)
        self._use(Process(Clocks(), Random(None)))
        return self

    def enter(
        self,
        state: Mapping[str, Any] | WasiState,
        *,
        mounts: Sequence[Mount] = (),
        stdin: Stdin = None,
        stdout: Stdout = 1,
        stderr: Stdout = 2,
        sockets: Sequence[socket.socket] = (),
        live: bool = False,
        on_changed: OnChanged | None = None,
        carried: CarriedFiles | None = None,
        shared: Mapping[bytes, MountTree] | None = None,
    ) -> None:
        """Take over a saved state, once, after `waiting`; arguments and errors as for `restore`."""
        from wasmsr.wasi.state.checked_state import WasiState, read
        from wasmsr.wasi.state.restore import restore  # only where something was saved

        checked = state if isinstance(state, WasiState) else read(state)
        streams = _streams(stdin, stdout, stderr)
        try:
            process = restore(
                checked,
                mounts,
                streams,
                sockets=sockets,
                live=live,
                on_changed=on_changed,
                carried=carried,
                shared=shared,
            )
        except BaseException:
            streams.stdin.close()
            raise
        self.process.become(process)

    def end_wait(self) -> None:
        """Let the time come for which a paused program waits, as a signal ends a sleep.

        It is for a program that is told something else at the same time, and asks for it then.
        """
        pending = self.process.pending
        if pending is not None:
            self.process.pending = PendingPoll(pending.call, pending.started, over=True)

    def go_back(self, state: WasiState, files: Contents, since: int | None) -> None:
        """Go back to a state in place: mounts, streams and sockets stay the same.

        What was written to the host is not undone, but files in trees that are carried, and files
        that the program writes, are as they were. Input that was read from a pipe is gone.

        Args:
            state: What `checked_state.read` made of what `capture` returned.
            files: The content of carried files.
            since: When it was captured, ns of realtime.

        Raises:
            SnapshotError: A file is gone, or standard input was closed since.
        """
        from wasmsr.wasi.state.restore import go_back  # only where something was saved

        go_back(self.process, state, files, since)

    def place_files(self) -> None:
        """Finish a restore that had `CarriedFiles.deferred`. Raises SnapshotError."""
        self.process.place_files()

    def stop_clock(self) -> None:
        """Stop the program's monotonic clock: the program is being saved."""
        self.process.clocks.stop()

    def resume_clock(self, *, live: bool | None = None) -> None:
        """Continue the clock.

        Args:
            live: Whether the time since the stop counts. None: what `restore` was told.
        """
        self.process.clocks.resume(live=live)

    def close(self) -> None:
        """Close all files. Calls fail with EBADF from then on."""
        self.process.close()

    def __enter__(self) -> Wasi:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _text(what: str, value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else os.fsencode(value)
    if b"\0" in raw:
        raise WasiConfigError(f"a zero byte in the {what} {value!r}")
    return raw


def _environ(env: Mapping[str, str] | Sequence[str | bytes]) -> tuple[bytes, ...]:
    pairs: Sequence[str | bytes]
    if isinstance(env, Mapping):
        for key in env:
            if "=" in key:
                raise WasiConfigError(f"an equals sign in the environment variable {key!r}")
        pairs = [f"{key}={value}" for key, value in env.items()]
    else:
        pairs = env
    found = []
    for pair in pairs:
        raw = _text("environment variable", pair)
        if raw.find(b"=") <= 0:
            raise WasiConfigError(
                f"not an environment variable: {os.fsdecode(raw)!r}", hint="write --env KEY=VALUE"
            )
        found.append(raw)
    return tuple(found)


def _streams(stdin: Stdin, stdout: Stdout, stderr: Stdout) -> Streams:
    """Return the standard streams from the arguments of a user."""
    try:
        out, error = OutputStream("stdout", stdout), OutputStream("stderr", stderr)
        if stdin is None or isinstance(stdin, bytes):
            return Streams(InputStream(-1, stdin or b""), out, error)
        if isinstance(stdin, int):
            return Streams(InputStream(stdin), out, error)
        if isinstance(stdin, InputStream):
            return Streams(stdin, out, error)
        if not isinstance(stdin, (str, os.PathLike)):
            return Streams(InputStream(-1, source=stdin), out, error)
    except OSError as problem:
        raise WasiConfigError(f"a standard stream cannot be used: {problem.strerror}") from problem
    try:
        host = os.open(stdin, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise WasiConfigError(
            f"standard input cannot be read from {os.fspath(stdin)}: {reason}"
        ) from problem
    if stat.S_ISDIR(os.fstat(host).st_mode):
        os.close(host)
        raise WasiConfigError(
            f"standard input cannot be read from {os.fspath(stdin)}: it is a directory"
        )
    return Streams(InputStream(host, owned=True), out, error)
