"""Which directories of the host a program may see, and under which names.

From the command line's `--dir` (or the library) to `process`, which opens them. A mount is the only
way in which a program, or a snapshot, comes to any file.
"""

from __future__ import annotations

import os

from wasmsr.errors import WasiConfigError
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

SEPARATOR = "::"
MODES = ("host",)
"""Modes that work. `host`: the directory itself; where the program moves, it must be there too."""
PLANNED_MODES = ("carry", "overlay", "mem", "ro")


@record(frozen=True)
class Mount:
    """One preopened directory: `host` is where it is, `guest` the name that the program sees."""

    host: Path
    guest: str
    mode: str = "host"

    def __post_init__(self) -> None:
        if not self.guest or "\0" in self.guest:
            raise WasiConfigError(f"a mount needs a name for the program: {self.guest!r}")
        if self.mode in PLANNED_MODES:
            raise WasiConfigError(
                f"the mount mode {self.mode!r} is not supported in this version",
                hint=f"leave the mode out, or write --dir {self.host}::{self.guest}::host",
            )
        if self.mode not in MODES:
            raise WasiConfigError(
                f"there is no mount mode {self.mode!r}", hint="the mode that works is: host"
            )

    @classmethod
    def parse(cls, text: str) -> Mount:
        """`HOST[::GUEST[::MODE]]`, as `--dir` takes it; GUEST defaults to HOST.

        Raises WasiConfigError for any other form.
        """
        from pathlib import Path  # only here: it takes as long as to run a small program

        parts = text.split(SEPARATOR)
        if len(parts) > 3 or not all(parts):
            raise WasiConfigError(
                f"not a mount: {text!r}", hint="write --dir HOST[::GUEST[::MODE]]"
            )
        host = parts[0]
        guest = parts[1] if len(parts) > 1 else host
        return cls(Path(host), guest, parts[2] if len(parts) > 2 else "host")

    def open(self) -> int:
        """A host descriptor of the directory; WasiConfigError names it where there is none."""
        try:
            return os.open(self.host, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            problem = "does not exist"
        except NotADirectoryError:
            problem = "is not a directory"
        except (OSError, ValueError) as error:
            problem = f"cannot be opened: {getattr(error, 'strerror', None) or error}"
        raise WasiConfigError(f"the directory {self.host} {problem}")
