"""Which directories a program sees, under which names, and what a move does with them.

The command line's `--dir` and the library make mounts, and `mount_trees` opens them. Only a mount
gives a program, or a snapshot, a file of the host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from wasmsr.errors import WasiConfigError
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Final

SEPARATOR = "::"
MODES: Final = {
    "host": "the folder itself; where the program moves, the same must be there",
    "ro": "the same, to be read only",
    "carry": "the folder itself; all that is in it moves with the program",
    "overlay": "read from the folder, write beside it; what was written moves with the program",
    "mem": "a tree in memory, which moves with the program",
    "archive": "the content of a .zip or .tar file, to be read only",
    "input": "as ro, but files open for writing too, and then a write fails (EBADF)",
    "alias": "another name for a mount before it: HOST is the other name for the program",
}
"""Each mode with its meaning. A mount of a regular file gets the mode `archive`."""
PORTABLE: Final = frozenset({"carry", "mem"})
"""Modes whose whole tree is in the snapshot: the destination need not give a folder."""
CARRYING: Final = PORTABLE | {"overlay"}
"""Modes with a tree in the snapshot."""
CARRY_LIMIT: Final = 1 << 30
"""Default of `--carry-limit`, bytes of content: what trees may hold when they are saved or read."""

Content = Mapping[str, "bytes | str | None"]


@record(frozen=True)
class Mount:
    """One preopened directory: `host` is where it is (None: nowhere, for `mem`, and for `carry`
    that begins empty or comes out of a snapshot), `guest` the name that the program sees, `mode`
    one of `MODES`, `files` what a `mem` tree begins with."""

    host: Path | None
    guest: str
    mode: str = "host"
    files: Content | None = None

    def __post_init__(self) -> None:
        if not self.guest or "\0" in self.guest:
            raise WasiConfigError(f"a mount needs a name for the program: {self.guest!r}")
        if self.mode not in MODES:
            raise WasiConfigError(
                f"there is no mount mode {self.mode!r}", hint=f"the modes are: {', '.join(MODES)}"
            )
        if self.mode == "mem" and self.host is not None:
            raise WasiConfigError(
                f"a mount in memory has no folder of the host: {self.host}",
                hint=f"write --dir ::{self.guest}::mem",
            )
        if self.host is None and self.mode not in PORTABLE:
            raise WasiConfigError(
                f"the mount {self.guest} needs a folder of the host",
                hint=f"write --dir HOST::{self.guest}::{self.mode}",
            )
        if self.files and self.mode != "mem":
            raise WasiConfigError(f"only a mount in memory is given its files: {self.guest}")

    @classmethod
    def parse(cls, text: str) -> Mount:
        """Read `HOST[::GUEST[::MODE]]`, as `--dir` takes it.

        Without GUEST, the guest path is HOST. A tree in memory has no HOST:
        `::/scratch::mem`.

        Raises:
            WasiConfigError: It has another form.
        """
        from pathlib import Path  # only here: it takes as long as to run a small program

        parts = text.split(SEPARATOR)
        host = parts[0]
        nowhere = not host and len(parts) == 3
        if len(parts) > 3 or not all(parts[nowhere:]):
            raise WasiConfigError(
                f"not a mount: {text!r}",
                hint="write --dir HOST[::GUEST[::MODE]], or --dir ::GUEST::mem",
            )
        guest = parts[1] if len(parts) > 1 else host
        return cls(None if nowhere else Path(host), guest, parts[2] if len(parts) > 2 else "host")

    @classmethod
    def memory(cls, guest: str, files: Content | None = None) -> Mount:
        """Return a mount in memory that begins with files.

        Args:
            guest: The name that the program sees.
            files: Path below the mount to content. Text is UTF-8, None makes an empty directory.
                Directories on the way are made.
        """
        return cls(None, guest, "mem", files)

    @property
    def option(self) -> str:
        """How the command line names it."""
        host = "" if self.host is None else str(self.host)
        return SEPARATOR.join((host, self.guest, self.mode))

    @property
    def effective_mode(self) -> str:
        """The mode, or `archive` where the host has a regular file there."""
        if self.mode in ("host", "ro") and self.is_archive:
            return "archive"
        return self.mode

    @property
    def is_archive(self) -> bool:
        """Whether there is a regular file on the host. Raises WasiConfigError where nothing is."""
        if self.host is None:
            return False
        try:
            return stat.S_ISREG(os.stat(self.host).st_mode)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def open(self) -> int:
        """Return a host descriptor of the directory.

        Raises:
            WasiConfigError: There is none; the message names it.
        """
        assert self.host is not None, "this mount has no folder"
        try:
            return os.open(self.host, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error

    def check(self) -> None:
        """Check that the mount can be opened, as far as that shows without opening it.

        Raises:
            WasiConfigError: It cannot.
        """
        if self.mode == "alias":
            return  # its host is no folder
        if self.host is None or (self.mode == "carry" and not os.path.exists(self.host)):
            return  # the host where the program goes makes it
        if not self.is_archive:
            os.close(self.open())

    def _unusable(self, error: OSError | ValueError) -> WasiConfigError:
        if isinstance(error, FileNotFoundError):
            problem = "does not exist"
        elif isinstance(error, NotADirectoryError):
            problem = "is not a directory"
        else:
            problem = f"cannot be opened: {getattr(error, 'strerror', None) or error}"
        return WasiConfigError(f"the directory {self.host} {problem}")
