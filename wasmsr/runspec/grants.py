"""What a host gives to a program: directories, addresses, streams.

A snapshot grants nothing, so every start and every resume gets its grants anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from pathlib import Path
    from typing import Any

    from wasmsr.channels.grant import ChannelGrant
    from wasmsr.mem.guest_memory import MemoryGrant
    from wasmsr.runspec.run_spec import RunSpec
    from wasmsr.wasi.facade import Stdout
    from wasmsr.wasi.filesystem.mounts import Mount
    from wasmsr.wasi.state.restore import TreeBase
    from wasmsr.wasi.state.staged_files import StagedFiles
    from wasmsr.wasi.state.tree_restore import OnChanged
    from wasmsr.wasi.streams.listen_address import TcpListen
    from wasmsr.wasi.streams.standard import InputStream


@record(frozen=True)
class HostGrants:
    """What this host gives the program, for each start and resume anew: a snapshot grants nothing.

    Attributes:
        mounts: folders, by the names that the program has for them.
        listen: where it listens, for each of its listening sockets.
        stdin: descriptor of its standard input, None for an empty one, or a stream for one run.
        stdout, stderr: descriptors, or anything with `write`.
        carry_limit: bytes that trees of the program's own may hold; None is the default.
        on_changed: what to do with files that were changed since they were saved: "error", "keep",
            "truncate", or None for what `Wasi.restore` takes.
        folder: gives the place of a carried tree for which no folder is among the mounts; None:
            one that vanishes with the program.
        bases: carried trees as they were when the program left this host.
        staged: files of carried trees that were made ahead, by guest name.
        channels: how it sends and gets messages; None: it may not use channels.
        memories: the remote memories that it can open; None: it may not use any.
    """

    mounts: Sequence[Mount] = ()
    listen: Sequence[TcpListen] = ()
    stdin: int | InputStream | None = 0
    stdout: Stdout = 1
    stderr: Stdout = 2
    carry_limit: int | None = None
    on_changed: OnChanged | None = None
    folder: Callable[[str], Path] | None = None
    bases: Mapping[str, TreeBase] | None = None
    staged: Mapping[str, StagedFiles] | None = None
    channels: ChannelGrant | None = None
    memories: MemoryGrant | None = None

    @classmethod
    def of(cls, spec: RunSpec, **others: Any) -> HostGrants:
        """Return what a description of a run asks for; `others` are fields from elsewhere.

        Standard streams that are files are not opened here; see `open_streams`.

        Raises:
            WasiConfigError: A mount or an address is not of the right form.
        """
        if "mounts" not in others and spec.mounts:
            from wasmsr.wasi.filesystem.mounts import Mount

            others["mounts"] = [Mount.parse(text) for text in spec.mounts]
        if spec.listen:
            from wasmsr.wasi.streams.listen_address import TcpListen

            others["listen"] = [TcpListen.parse(text) for text in spec.listen]
        if spec.remote_memories:
            from wasmsr.mem.guest_memory import MemoryGrant

            others["memories"] = MemoryGrant.parse(spec.remote_memories)
        return cls(carry_limit=spec.limits.carried, on_changed=spec.on_changed, **others)

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """Its listening sockets, opened when first asked for. Raises WasiConfigError."""
        opened: list[socket.socket] = self.__dict__.setdefault("opened", [])
        try:
            for address in self.listen[len(opened) :]:
                opened.append(address.open())
        except BaseException:
            self.close()
            raise
        return opened

    def close(self) -> None:
        """Close the listening sockets, and the way of the channels."""
        if self.channels is not None:
            self.channels.port.shut()
        for listening in self.__dict__.pop("opened", ()):
            listening.close()


def open_streams(spec: RunSpec, opened: list[int]) -> tuple[int | None, int, int]:
    """Return descriptors of the standard streams of a run: input, output, errors.

    A file is opened, a descriptor is taken as it is. Without an input the program reads an empty
    one; without outputs it has those of this process. A new run truncates its output files, and
    a restored one appends to them.

    Args:
        opened: Gets the descriptors that the caller must close.

    Raises:
        OSError: A file cannot be opened; what was opened before is in `opened`.
    """

    def descriptor(given: str | int, flags: int) -> int:
        if isinstance(given, int):
            return given
        opened.append(os.open(given, flags | os.O_CLOEXEC, 0o666))
        return opened[-1]

    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    write |= os.O_TRUNC if spec.from_snapshot is None else 0
    streams = spec.streams
    stdin = None if streams.stdin is None else descriptor(streams.stdin, os.O_RDONLY)
    stdout = descriptor(1 if streams.stdout is None else streams.stdout, write)
    if streams.stderr is not None and streams.stderr == streams.stdout:
        return stdin, stdout, stdout
    return stdin, stdout, descriptor(2 if streams.stderr is None else streams.stderr, write)
