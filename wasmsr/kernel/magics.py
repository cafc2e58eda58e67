"""The magics of a kernel: lines in front of a cell's code that keep states and go back to them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path

from wasmsr import small_files
from wasmsr.errors import WasmsrError
from wasmsr.kernel.checkpoints import RECORD, CellRecord, KeptSession, kept_sessions
from wasmsr.kernel.settings import ConnectionFile, KernelSettings
from wasmsr.sandbox.sandbox import Sandbox

KNOWN = {
    "snapshot": "%snapshot [NAME] keeps the state",
    "rewind": "%rewind [NAME] goes back to it, or to the last one",
    "snapshots": "%snapshots lists what was kept",
    "forget": "%forget NAME removes it",
    "fork": "%fork starts a second kernel in the state of this one",
    "sessions": "%sessions lists the states of kernels that were killed",
    "restore": "%restore [NUMBER] goes on from the state of one of them",
    "park": "%park gives back the memory until the next cell",
    "matplotlib": "%matplotlib does nothing: figures are always in the notebook",
}
LONGEST = 60
"""Characters of a snapshot's name."""
LONGEST_BYTES = 110
"""Bytes of it: a file's name has two characters for each, and at most 255."""


class MagicError(WasmsrError):
    """A magic is not known, or cannot do what was asked."""


def split_magics(code: str) -> tuple[list[list[str]], str]:
    """Return the magics in front of a cell, as words, and its code, whose lines keep their numbers.

    Raises:
        MagicError: There is no such magic, or it has too many words.
    """
    lines = code.split("\n")
    found: list[list[str]] = []
    for at, line in enumerate(lines):
        if not line.strip():
            continue
        if not line.startswith("%"):
            break
        words = line[1:].split()
        if not words or words[0] not in KNOWN:
            raise MagicError(
                f"there is no magic {line.split()[0]!r}", hint="; ".join(KNOWN.values())
            )
        most = 2 if words[0] in ("snapshot", "rewind", "forget", "restore") else 1
        if words[0] != "matplotlib" and len(words) > most:
            raise MagicError(f"%{words[0]} has too many words", hint=KNOWN[words[0]])
        found.append(words)
        lines[at] = ""
    code = "\n".join(lines)
    if any(words[0] == "restore" for words in found) and (len(found) > 1 or code.strip()):
        raise MagicError(
            "%restore is a cell of its own: the cell that was cut off may go on in it",
            hint="put the code into the next cell",
        )
    return found, code


class Magics:
    """The magics of one kernel.

    Args:
        folder: Where its states are.
        settings: What it was told.
        load: Opens a saved state.
        tell: Writes into the cell's output.

    Attributes:
        parks: Whether the worker is to end after this cell.
    """

    def __init__(
        self,
        folder: Path,
        settings: KernelSettings,
        load: Callable[[str], Sandbox],
        tell: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._load = load
        self._tell = tell
        self.parks = False
        self._restored: KeptSession | None = None
        self._held = ExitStack()
        """Keeps the restored state from others until this kernel has written one of its own."""

    @property
    def between(self) -> str:
        """The state before the cell with which %restore has gone on; empty if there is none."""
        one = self._restored
        return "" if one is None or not one.record.between else str(one.folder / one.record.between)

    def do(self, words: list[str], sandbox: Sandbox) -> Sandbox:
        """Carry out a magic, and return the sandbox in which the cell goes on.

        Raises:
            MagicError, SnapshotError: It cannot be done.
        """
        name = words[1] if len(words) > 1 else ""
        if words[0] == "snapshot":
            self._snapshot(name, sandbox)
        elif words[0] == "rewind":
            return self._rewind(name, sandbox)
        elif words[0] == "snapshots":
            self._tell("".join(f"{one}\n" for one in self._names()) or "none\n")
        elif words[0] == "forget":
            self._file(self._known(name)).unlink(missing_ok=True)
        elif words[0] == "sessions":
            found = enumerate(kept_sessions(self._folder), 1)
            self._tell("".join(f"{at}  {one.said}\n" for at, one in found) or "none\n")
        elif words[0] == "restore":
            return self._restore(name, sandbox)
        elif words[0] == "fork":
            self._fork(sandbox)
        elif words[0] == "park":
            self.parks = True
        return sandbox

    def _snapshot(self, name: str, sandbox: Sandbox) -> None:
        names = self._names()
        if not name:
            number = 1
            while str(number) in names:
                number += 1
            name = str(number)
        if len(name) > LONGEST or len(name.encode()) > LONGEST_BYTES:
            raise MagicError(f"a name has at most {LONGEST} characters, and {LONGEST_BYTES} bytes")
        sandbox.save(self._file(name))
        self._tell(f"kept as {name}\n")

    def _rewind(self, name: str, sandbox: Sandbox) -> Sandbox:
        made = self._load(self._file(self._known(name)).name)
        sandbox.close()
        return made

    def _restore(self, number: str, sandbox: Sandbox) -> Sandbox:
        found = kept_sessions(self._folder)
        if not found:
            raise MagicError("no kernel that was killed has left a state")
        try:
            at = int(number or 1) - 1
            one = found[at] if at >= 0 else None
        except (ValueError, IndexError):
            one = None
        if one is None:
            raise MagicError(f"there is no session {number!r}", hint=KNOWN["sessions"])
        with ExitStack() as held:
            held.enter_context(one.held())
            made = self._load(str(one.folder / one.record.file))
            self._held.close()
            self._restored, self._held = one, held.pop_all()
        sandbox.close()
        self._tell(f"the state of {one.said}\n")
        return made

    def settle(self) -> None:
        """Remove what was restored: the kernel has a state of its own after it."""
        one, self._restored = self._restored, None
        with self._held:
            if one is not None:
                one.give_over(self._folder)

    def _fork(self, sandbox: Sandbox) -> None:
        """Start a kernel in the state of this one; its worker starts when it is used."""
        from jupyter_core.paths import jupyter_runtime_dir

        path = Path(jupyter_runtime_dir()) / f"kernel-{os.urandom(8).hex()}.json"
        try:
            self._start_fork(sandbox, path)
        except (OSError, WasmsrError) as error:
            with suppress(OSError, WasmsrError):
                shutil.rmtree(ConnectionFile.read(path).folder, ignore_errors=True)
            with suppress(OSError):
                path.unlink()
            raise MagicError(
                f"the fork cannot be made: {error}", hint="is there space on the disk?"
            ) from error

    def _start_fork(self, sandbox: Sandbox, path: Path) -> None:
        from jupyter_client.connect import write_connection_file

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = os.urandom(32).hex().encode()
        write_connection_file(str(path), key=key, kernel_name="wasmsr")
        folder = ConnectionFile.read(path).folder
        folder.mkdir(mode=0o700, parents=True)
        (copy,) = sandbox.fork(1)
        with copy:
            copy.save(folder / "state-1.bin")
        record = CellRecord(number=1, file="state-1.bin", between="state-1.bin")
        small_files.replace(folder / RECORD, json.dumps(asdict(record)).encode())
        words = [sys.executable, "-m", "wasmsr", "kernel", "run", "--goes-on", "-f", str(path)]
        subprocess.Popen(
            [*words, *self._settings.options()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._tell(f"jupyter console --existing {path.name}\n")

    def _names(self) -> list[str]:
        """Return the names of the snapshots, the oldest first."""
        found = sorted(self._folder.glob("kept-*.bin"), key=lambda one: one.stat().st_mtime_ns)
        names = []
        for one in found:
            try:
                names.append(bytes.fromhex(one.stem.removeprefix("kept-")).decode())
            except ValueError:
                continue
        return names

    def _known(self, name: str) -> str:
        names = self._names()
        if not names:
            raise MagicError("nothing was kept", hint=KNOWN["snapshot"])
        if not name:
            return names[-1]
        if name not in names:
            raise MagicError(f"nothing was kept as {name!r}", hint="kept are " + ", ".join(names))
        return name

    def _file(self, name: str) -> Path:
        return self._folder / f"kept-{name.encode().hex()}.bin"
