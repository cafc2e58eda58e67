"""The guard of leased programs: no host call with an effect outside after the lease has ended."""

from __future__ import annotations

from collections.abc import Callable

from wasmsr.interp.gate import HostCall, HostGate
from wasmsr.interp.store.externs import Retry
from wasmsr.program.program import WASI_MODULES

INSIDE = frozenset(
    ("args_get", "args_sizes_get", "clock_res_get", "clock_time_get", "environ_get",
     "environ_sizes_get", "fd_fdstat_get", "fd_fdstat_set_flags", "fd_filestat_get", "fd_pread",
     "fd_prestat_dir_name", "fd_prestat_get", "fd_readdir", "fd_renumber", "fd_seek", "fd_tell",
     "path_filestat_get", "path_readlink", "poll_oneoff", "random_get", "sched_yield")
)  # fmt: skip
"""Calls of WASI that nobody outside notices. All others need a lease that lasts."""


class LeaseGate(HostGate):
    """Compares the deadline before each host call with an effect outside.

    A call that comes too late is made again when the program continues under a new lease. A frozen
    process continues behind this check, so the check narrows the window and does not close it.
    """

    def __init__(self, may: Callable[[], bool]) -> None:
        """Make a gate; `may` returns whether the lease lasts."""
        self._may = may

    def host_call(self, call: HostCall) -> None:
        """Carry out a host call, or pause the program before it.

        Raises:
            Retry: The lease has ended. The call has had no effect.
        """
        inside = call.name in INSIDE and call.module in WASI_MODULES
        if not inside and not self._may():
            call.caller.store.pause()
            raise Retry
        call.perform()
