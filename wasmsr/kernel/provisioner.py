"""A provisioner of jupyter_client that starts a relay again when somebody has killed it."""

from __future__ import annotations

import time
from typing import Any

from jupyter_client.launcher import launch_kernel
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

MOST = 10
"""Starts of a relay within `WITHIN` seconds, after which it is given up."""
WITHIN = 60.0


class RelayProvisioner(LocalProvisioner):  # type: ignore[misc]
    """Starts the relay again with the same ports; clients connect to it again by themselves."""

    process: Any = None
    _words: tuple[list[str], dict[str, Any]] | None = None
    _starts: tuple[float, ...] = ()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the relay, and remember how."""
        found = await super().launch_kernel(cmd, **kwargs)
        self._words = cmd, LocalProvisioner._scrub_kwargs(kwargs)
        self._starts = ()
        return found

    async def poll(self) -> int | None:
        """Return the relay's exit code, or None; one that was killed is started again here."""
        found: int | None = await super().poll()
        if found is None or found >= 0 or self._words is None or self.process is None:
            return found
        now = time.monotonic()
        self._starts = (*(one for one in self._starts if one > now - WITHIN), now)
        if len(self._starts) > MOST:
            return found
        words, options = self._words
        self.process = launch_kernel([*words, "--goes-on"], **options)
        self.pid = self.pgid = self.process.pid
        return None

    async def kill(self, restart: bool = False) -> None:
        """Kill the relay for good."""
        self._words = None
        await super().kill(restart)

    async def terminate(self, restart: bool = False) -> None:
        """End the relay for good."""
        self._words = None
        await super().terminate(restart)
