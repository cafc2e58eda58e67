"""Fencing: whose effects outside count.

A check before an effect is never enough, because a frozen process continues behind the check. So
each effect is of one of three kinds, and `EFFECTS` lists them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from wasmsr.ownership.failures import EffectRefused
from wasmsr.ownership.owner_record import OwnerRecord
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.wasi.filesystem.mounts import Mount


class EffectKind(Enum):
    """What keeps an effect of an older epoch from counting."""

    NAMED = "named by epoch"
    """It is written below a folder of the epoch, and the record names what counts."""
    REFUSED = "refused by the receiver"
    """The receiver is ours, and drops an older epoch."""
    UNFENCED = "not fenceable"
    """Nothing. A leased program does not get it, unless `--unfenced` names it."""


class EffectRow(NamedTuple):
    """One kind of effect outside.

    Attributes:
        effect: What the program or its node does.
        kind: What keeps an older epoch from counting.
        how: How.
    """

    effect: str
    kind: EffectKind
    how: str


EFFECTS = (
    EffectRow("a checkpoint", EffectKind.NAMED,
              "a folder an epoch; the record names its root digest and epoch"),
    EffectRow("standard output and errors, kept", EffectKind.NAMED, "`EpochLog`: a file an epoch"),
    EffectRow("a result", EffectKind.NAMED,
              "a file an epoch; the record that ends names the epoch"),
    EffectRow("the record itself", EffectKind.REFUSED, "a swap compares the whole record"),
    EffectRow("a message to a receiver of ours", EffectKind.REFUSED,
              "`EpochGate` in it: an end of `remote` drops output, questions for input and the end "
              "of a program from an epoch older than the newest that it has met; for the end of a "
              "program it reads the record"),
    EffectRow("files below a mount of mode `overlay`, `mem`, or `carry` without a folder of the "
              "host", EffectKind.NAMED, "they are part of the checkpoint"),
    EffectRow("files below a mount of mode `host`, or `carry` with a folder of the host",
              EffectKind.UNFENCED, "refused; `--unfenced host` allows it"),
    EffectRow("a connection that a stranger makes", EffectKind.UNFENCED,
              "refused; `--unfenced listen` allows it"),
    EffectRow("a stream that is a file or a descriptor of the host", EffectKind.UNFENCED,
              "refused; `--unfenced streams` allows it"),
)  # fmt: skip
"""All effects outside that a leased program can have."""

UNFENCED = ("host", "listen", "streams")
"""What `--unfenced` can name."""


def check_fenced(run: RunSpec, unfenced: tuple[str, ...] = ()) -> None:
    """Check that a leased program gets nothing of the host whose effects cannot be fenced.

    Args:
        run: The description of the run.
        unfenced: What the user allows by name: members of `UNFENCED`.

    Raises:
        EffectRefused: It would get something else that cannot be fenced.
        WasiConfigError: A mount is none.
    """
    for name in unfenced:
        if name not in UNFENCED:
            raise EffectRefused(
                f"there is no effect {name!r} to allow", hint=f"the names are {', '.join(UNFENCED)}"
            )
    if "host" not in unfenced:
        for mount in map(Mount.parse, run.mounts):
            mode = mount.effective_mode
            if mode == "host" or (mode == "carry" and mount.host is not None):
                raise EffectRefused(
                    f"the folder {mount.guest} has the mode `{mode}`, and a leased program must "
                    "not write to the host: two owners could",
                    hint="use the mode `ro`, `overlay` or `mem`; or allow it: --unfenced host",
                )
    if "listen" not in unfenced and run.listen:
        raise EffectRefused(
            f"a leased program must not answer strangers on {run.listen[0]}: two owners could",
            hint="leave --tcp-listen out; or allow it: --unfenced listen",
        )
    if "streams" not in unfenced:
        for name in ("stdout", "stderr"):
            if getattr(run.streams, name) is not None:
                raise EffectRefused(
                    f"the {name} of a leased program must not be a file of the host",
                    hint="read it from the log; or allow it: --unfenced streams",
                )


def epoch_folder(folder: Path, epoch: int) -> Path:
    """Return the folder, below `folder`, for what the owner of an epoch writes."""
    return folder / f"{epoch:012d}"


class EpochGate:
    """A receiver's memory: the largest epoch of each program from which it took an effect.

    Any thread may call it.
    """

    def __init__(self, look_up: Callable[[bytes], OwnerRecord | None], most: int = 100_000) -> None:
        """Make a gate.

        Args:
            look_up: Reads the record of a program that the gate has not met; so a receiver that was
                started again does not take an older epoch.
            most: Programs that are remembered; beyond that, `look_up` is asked again.
        """
        self._look_up = look_up
        self._most = most
        self._lock = threading.Lock()
        self._largest: dict[bytes, int] = {}

    def admit(self, program: bytes, epoch: int) -> None:
        """Take an effect of an epoch, and none of an older one from then on.

        Hold the lock of what the effect changes around `admit` and the change, so that no effect of
        a newer epoch comes between.

        Raises:
            EffectRefused: The effect is of an older epoch.
            RegisterAway: The gate has not met the program, and the register does not answer.
        """
        with self._lock:
            known = self._largest.get(program)
        record = None
        if known is None:
            record = self._look_up(program)
            known = record.epoch if record is not None else 0
        with self._lock:
            known = max(known, self._largest.get(program, 0))
            if epoch < known:
                raise EffectRefused(
                    f"an effect of epoch {epoch} came after epoch {known} had begun",
                    program=program,
                    record=record,
                )
            self._largest.pop(program, None)
            self._largest[program] = epoch
            while len(self._largest) > self._most:
                del self._largest[next(iter(self._largest))]
