"""Programs that begin in a saved state which the process holds: forks of a `Moment`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.run_spec import RunSpec, SpecError
from wasmsr.runspec.stop_conditions import StopConditions

if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module
    from wasmsr.snapshot.moments.moment import Moment


def fork_number(program: bytes) -> int:
    """Return the number of the fork that a program is: a positive 63-bit number of its id."""
    return int.from_bytes(program[:8], "big") >> 1 | 1


def forked_program(
    moment: Moment, module: Module, run: RunSpec, grants: HostGrants, program: bytes
) -> Program:
    """Return a program that begins in a saved state, before it runs.

    Random bytes that it asks for are its own, and so are the number and the seed of its fork.

    Args:
        moment: The state.
        module: The program's module.
        run: Its run. The state has its arguments and variables already.
        grants: What the host gives to it.
        program: Its id.

    Raises:
        SpecError: The run gives arguments or addresses, or names an export.
        SnapshotError, WasiConfigError: The state cannot be restored with these grants.
    """
    if run.args or run.own_args or run.env or run.invoke is not None:
        raise SpecError(
            "a program that begins in a snapshot has its arguments and variables already"
        )
    if run.listen:
        raise SpecError("programs that begin in one snapshot cannot listen on one address")
    number = fork_number(program)
    (store,) = moment.fork(
        1,
        first=number,
        mounts=grants.mounts,
        stdin=grants.stdin,
        stdout=grants.stdout,
        stderr=grants.stderr,
        on_changed=grants.on_changed,
        carry_limit=grants.carry_limit,
    )
    made = Program(store, module, store.wasi, HostGrants())
    made.stop_conditions = StopConditions.of(run, made.stop_conditions.fuel)
    return made


__all__ = ["fork_number", "forked_program"]
