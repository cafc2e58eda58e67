"""Where the server's sandboxes come from: Python sandboxes by the policy, parked in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wasmsr.mcp.policy import SandboxGrant
from wasmsr.sandbox import Sandbox, SandboxLimits


class PythonSource:
    """Makes Python sandboxes as a policy has them."""

    def __init__(self, grant: SandboxGrant, store: Any) -> None:
        """Make the source.

        Args:
            grant: What each sandbox gets.
            store: The store for parked sandboxes.
        """
        self._grant = grant
        self._store = store
        # A call that is too long is paused by the shelf, so seconds are no limit here.
        self._limits = SandboxLimits(
            instructions=grant.instructions,
            memory=grant.memory,
            output=grant.output,
            files=grant.files,
        )

    @classmethod
    def at(cls, grant: SandboxGrant, folder: Path) -> PythonSource:
        """Return a source whose parked sandboxes are in a store in a folder of this host."""
        from wasmsr.snapshot.store.store import SnapshotStore

        return cls(grant, SnapshotStore(folder, create=True))

    def make(self, packages: str) -> Any:
        """Return a new sandbox with a package set."""
        return Sandbox.python(
            packages=packages,
            mounts=self._grant.mounts,
            limits=self._limits,
            deterministic=self._grant.deterministic,
        )

    def park(self, sandbox: Any, name: str) -> None:
        """Put a sandbox into the store under a name, and close it."""
        sandbox.park(self._store, _stored(name))

    def wake(self, name: str) -> Any:
        """Take a sandbox out of the store."""
        return Sandbox.wake(
            self._store, _stored(name), mounts=self._grant.mounts, limits=self._limits
        )

    def forget(self, name: str) -> None:
        """Remove a parked sandbox from the store."""
        self._store.remove(_stored(name))


def _stored(name: str) -> str:
    return f"mcp-{name}"
