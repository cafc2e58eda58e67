"""What a saved sandbox has besides the state of its program: a record in the snapshot."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from wasmsr.errors import FormatError, SnapshotError
from wasmsr.sandbox.call import PendingCall
from wasmsr.sandbox.results import SandboxLimits
from wasmsr.snapshot.sections.host.hosts import SANDBOX
from wasmsr.snapshot.sections.host.wasi import HOST_STATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wasmsr.snapshot.state import SnapshotState


@dataclass(frozen=True)
class SandboxRecord:
    """What the host knows of a sandbox.

    Attributes:
        guest: The name of its guest.
        about: Addresses that the guest's driver has told.
        rest: Output of the guest that may become an answer.
        limits: What it may use.
        forks: How many forks it has had.
        call: The call that is being made, or None.
    """

    guest: str
    about: Mapping[str, Any]
    rest: bytes
    limits: SandboxLimits
    forks: int = 0
    call: PendingCall | None = None


def with_record(state: SnapshotState, record: SandboxRecord) -> SnapshotState:
    """Return a state with a record in it."""
    data = {
        "guest": record.guest,
        "about": dict(record.about),
        "rest": record.rest,
        "limits": asdict(record.limits),
        "forks": record.forks,
        "call": None if record.call is None else record.call.record(),
    }
    return replace(state, extra={**state.extra, HOST_STATE: {SANDBOX: data}})


def read_record(state: SnapshotState) -> tuple[SnapshotState, SandboxRecord]:
    """Return a state without its record, and the record, which is checked.

    Raises:
        SnapshotError: The snapshot is not that of a sandbox.
        FormatError: The record is damaged.
    """
    extra = dict(state.extra)
    data = extra.pop(HOST_STATE, {}).get(SANDBOX)
    if data is None:
        raise SnapshotError("the snapshot is not that of a sandbox")
    try:
        limits = SandboxLimits(**data["limits"])
        guest, rest, about = data["guest"], data["rest"], data["about"]
        if type(guest) is not str or type(rest) is not bytes or type(about) is not dict:
            raise TypeError("it has no guest, no rest of output or no addresses")
        given, forks = data["call"], data["forks"]
        if type(forks) is not int or not 0 <= forks < 1 << 60:
            raise TypeError("it has no number of forks")
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"the record of the sandbox is damaged: {error}") from error
    call = None if given is None else PendingCall.of_record(given)
    return replace(state, extra=extra), SandboxRecord(guest, about, rest, limits, forks, call)


__all__ = ["SandboxRecord", "read_record", "with_record"]
