"""What runs under a lease, where its parts are, and what of them is named by epoch.

    FOLDER/EPOCH/checkpoints/      checkpoints of one owner
    FOLDER/EPOCH/stdout-OFFSET     its output (`epoch_log.py`), and the same of stderr
    FOLDER/EPOCH/result.json       how the program ended there

What the record in the register names counts, and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr import small_files
from wasmsr.executor.port import HELD, ProgramStatus
from wasmsr.ownership.epoch_log import Shown
from wasmsr.ownership.fencing import epoch_folder
from wasmsr.ownership.owner_record import OwnerRecord
from wasmsr.runspec.run_spec import RunSpec

if TYPE_CHECKING:
    from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust

CHECKPOINTS = "checkpoints"
RESULT = "result.json"
RESULT_BYTES = 1 << 16
"""Bytes of a result that are read at most."""

KEPT = 2
"""Checkpoints that a folder keeps at least: one may be written while the register is asked."""


@dataclass(frozen=True)
class LeasedRun:
    """A run, for one node.

    Attributes:
        spec: The run as `RunSpec.as_dict` gives it.
        folder: The program's folder, which every node of the failover set can use.
        workers: This node's folder of workers for the program; see `node_state.py`.
        streams: Descriptors as `Executor.start` takes them; `HELD` writes the stream to a log.
        store: Address of a store of snapshots for the checkpoints that count, or None: then they
            are only in `folder`.
        every: Seconds between checkpoints.
        keep: Checkpoints that stay; `KEPT` at least.
        commit: Hold output back until the checkpoint with it counts.
        shown: What gets the output of a stream, by its name, as it is let out.
        begun: Is told where this epoch's part of a stream begins, by the stream's name.
        wait: Seconds that a worker waits for a new supervisor.
    """

    spec: Mapping[str, Any]
    folder: Path
    workers: Path
    streams: tuple[int, int, int] = (-1, HELD, HELD)
    store: str | None = None
    every: float = 5.0
    keep: int = 3
    commit: bool = False
    shown: Mapping[str, Shown] | None = None
    begun: Callable[[str, int], None] = lambda stream, start: None
    wait: float = 30.0

    def checkpoints(self, epoch: int) -> str:
        """Return the folder of the checkpoints of an epoch."""
        return os.fspath(epoch_folder(self.folder, epoch) / CHECKPOINTS)

    @property
    def logged(self) -> tuple[str, ...]:
        """The streams that are written to logs."""
        names = ("stdout", "stderr")
        return tuple(name for name, at in zip(names, self.streams[1:], strict=True) if at == HELD)

    @property
    def address(self) -> str:
        """What the record says of the place of the checkpoints."""
        return os.fspath(self.folder) if self.store is None else f"store:{self.store}"

    @property
    def read_trust(self) -> ReadTrust:
        """Keys by which checkpoints are read. Raises KeySourceError."""
        return RunSpec.read(self.spec).read_trust

    @property
    def write_trust(self) -> WriteTrust:
        """Keys by which checkpoints are written. Raises KeySourceError."""
        return RunSpec.read(self.spec).write_trust

    def write_result(self, epoch: int, status: ProgramStatus, sizes: Mapping[str, int]) -> None:
        """Write how the program ended, durably. It counts when the record has ended in this epoch.

        Raises OSError.
        """
        place = epoch_folder(self.folder, epoch)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        values = {
            "epoch": epoch, "ending": status.ending, "code": status.code,
            "sentence": status.sentence, **sizes,
        }  # fmt: skip
        small_files.replace(place / RESULT, json.dumps(values).encode())

    def remove_older(self, epoch: int) -> None:
        """Remove the checkpoints of epochs before this one, whose own checkpoint counts."""
        for place in self.folder.glob(f"*/{CHECKPOINTS}"):
            if place.parent.name.isdigit() and int(place.parent.name) < epoch:
                shutil.rmtree(place, ignore_errors=True)


def read_result(folder: Path, record: OwnerRecord) -> dict[str, Any] | None:
    """Return the result that counts by a record that has ended, or None if there is none."""
    try:
        with open(epoch_folder(folder, record.epoch) / RESULT, "rb") as file:
            found = json.loads(file.read(RESULT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
