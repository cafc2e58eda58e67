"""What one end gives to the programs that run there: folders, streams, a place for results."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wasmsr import errors
from wasmsr.cli import programs
from wasmsr.cli.options.remote_options import DEFAULT, RemoteOptions
from wasmsr.record import replaced
from wasmsr.runspec.run_spec import RunSpec

if TYPE_CHECKING:
    from wasmsr.runspec.grants import HostGrants

CARRIED = "::{}::carry"
"""The folder of a packaged program: its files travel with it."""
SEPARATOR = programs.SEPARATOR


class GuestGrants:
    """The grants of one end, from its options."""

    def __init__(self, options: RemoteOptions, spec: RunSpec) -> None:
        self._options = options
        self._spec = spec

    def spec(self) -> RunSpec:
        """Return the description of the programs that run here, with all their folders."""
        return replaced(self._spec, mounts=tuple(self._dirs()))

    def grants(self) -> HostGrants:
        """Return folders and streams for one program."""
        from wasmsr.runspec.grants import HostGrants

        return HostGrants.of(self.spec(), stdin=None)

    def _dirs(self) -> list[str]:
        """Return the folders that programs get here, in the form of --dir.

        A packaged program that writes has its files in a folder of its own, which travels with it,
        unless the user gives one. An end that takes whatever comes gives the folders that the user
        has given, and those of packaged programs besides.
        """
        options, given = self._options, self._options.dirs
        named = options.named
        if options.send:
            return list(given) if named is None else named.mounts(given, CARRIED)
        if options.program is not None:
            return list(given) if named is None else named.mounts(given, "")
        taken = {text.split(SEPARATOR)[1] if SEPARATOR in text else text for text in given}
        more = programs.PROGRAMS[DEFAULT].mounts(given, "")
        return [*given, *(text for text in more if text.split(SEPARATOR)[1] not in taken)]

    def results(self, digest: bytes) -> Mapping[str, tuple[Path, str]]:
        """Return where the files of a packaged program go when it has ended here.

        See `Results` of `wasmsr.migrate.hosting.host`.
        """
        for program in (programs.find(DEFAULT), programs.PROGRAMS[DEFAULT]):
            if program is not None and program.here is not None and _digest(program) == digest:
                return {program.here: (Path.cwd(), program.files[-1])}
        return {}

    def stdin(self) -> int | None:
        """Open the input of this end anew; None if the user has given none.

        A FIFO opens before anybody writes to it, so that only the program waits for a writer.

        Raises:
            WasiConfigError: The input cannot be opened.
        """
        name = self._options.stdin
        if name is None:
            return None
        try:
            if name == "-":
                return os.dup(0)
            return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise errors.WasiConfigError(
                f"standard input cannot be read from {name}: {error.strerror}"
            ) from error


def packaged() -> dict[bytes, Path]:
    """Return the packaged modules by digest: sources need not send them."""
    found = {_digest(program): program.path for program in programs.PROGRAMS.values()}
    return {digest: path for digest, path in found.items() if digest is not None}


def _digest(program: programs.NamedProgram) -> bytes | None:
    """Return SHA-256 of a packaged module, or None if the module is not there."""
    try:
        status = program.path.stat()
        return _digest_of(program.path, status.st_mtime_ns, status.st_size)
    except OSError:
        return None


@functools.cache
def _digest_of(path: Path, changed: int, size: int) -> bytes:
    """Return SHA-256 of a file that was last changed then.

    Each program that arrives is compared with these modules while it stands, so they are read once.
    """
    return hashlib.sha256(path.read_bytes()).digest()
