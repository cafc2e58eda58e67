"""Where the server's sandboxes come from: Python sandboxes by the policy, parked in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

from wasmsr.mcp.policy import SandboxGrant
from wasmsr.sandbox.results import SandboxLimits
from wasmsr.sandbox.sandbox import Sandbox

NOW = "\0now"
"""The label of a sandbox's present state; no client can give it to a snapshot."""


class PythonSource:
    """Makes Python sandboxes as a policy has them, and keeps parked ones in files.

    A parked sandbox is a folder: one file for its present state, and one for each snapshot.
    """

    def __init__(self, grant: SandboxGrant, folder: Path) -> None:
        """Make the source.

        Args:
            grant: What each sandbox gets.
            folder: Where parked sandboxes are; made if it is not there.
        """
        self._grant = grant
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The shelf pauses a call that takes too long, so seconds are no limit here.
        self._limits = SandboxLimits(
            instructions=grant.instructions,
            memory=grant.memory,
            output=grant.output,
            files=grant.files,
        )

    def make(self, packages: str) -> Sandbox:
        """Return a new sandbox with a package set."""
        return Sandbox.python(
            packages,
            mounts=self._grant.mounts,
            limits=self._limits,
            deterministic=self._grant.deterministic,
        )

    def park(self, sandbox: Sandbox, name: str) -> None:
        """Write a sandbox and its snapshots to files, and close it.

        Raises:
            SnapshotError: It cannot be written. The sandbox is as before.
        """
        (self._folder / name).mkdir(exist_ok=True)
        labels = sandbox.snapshots
        sandbox.snapshot(NOW)
        try:
            for label in (*labels, NOW):
                sandbox.rewind(label)
                sandbox.save(self._file(name, label))
        except BaseException:
            sandbox.rewind(NOW)
            sandbox.forget(NOW)
            raise
        sandbox.close()

    def wake(self, name: str, label: str = NOW) -> Sandbox:
        """Return the sandbox of a parked state: the present one, or a snapshot's."""
        return Sandbox.load(self._file(name, label), mounts=self._grant.mounts, limits=self._limits)

    def forget(self, name: str) -> None:
        """Remove the files of a sandbox, if it has any."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder / name)

    def _file(self, name: str, label: str) -> Path:
        # Labels are the client's words, and no names of files.
        return self._folder / name / f"{hashlib.sha256(label.encode()).hexdigest()[:32]}.bin"
