"""One node of the campaign: the product's supervisor, with the times of the campaign.

python -m tests.ownership.campaign_node JSON
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.lease import boot_clock
from wasmsr.ownership.owner_record import OwnerRecord
from wasmsr.ownership.register import Register
from wasmsr.ownership.sqlite_backend import SqliteBackend
from wasmsr.ownership.supervision.leased_run import LeasedRun
from wasmsr.ownership.supervision.supervisor import Supervisor


def register_of(given: dict[str, Any]) -> Register:
    """The register of a run, with little patience."""
    if given["register"].startswith("http"):
        from wasmsr.http.etcd_backend import EtcdBackend

        return Register(EtcdBackend([given["register"]], timeout=0.3), patience=0.2)
    return Register(SqliteBackend(Path(given["register"]), busy=0.2), patience=0.2)


def note(text: str) -> None:
    """Write a line for people."""
    print(f"{boot_clock() / 1e9:.3f} {text}", file=sys.stderr, flush=True)


def main(given: dict[str, Any]) -> None:
    looked = {"epoch": 0, "time": 0}

    def shown(data: bytes | memoryview) -> None:
        """Say how much was written, and in which epoch and when the node looked at its lease."""
        print(json.dumps({**looked, "bytes": len(data)}), flush=True)

    run = LeasedRun(
        {"program": given["wasm"]}, Path(given["store"]), Path(given["workers"]),
        every=given["interval"], shown={"stdout": shown}, wait=1.0,
    )  # fmt: skip
    supervisor = Supervisor(
        bytes.fromhex(given["node"]), bytes.fromhex(given["program"]), register_of(given), run,
        seconds=given["lease"], say=note, stay=True,
    )  # fmt: skip
    check = supervisor.guest.lease.check

    def noted(record: OwnerRecord | None) -> None:
        """Look at the deadline. A process that is frozen after this is not stopped by it."""
        looked.update(epoch=supervisor.epoch, time=boot_clock())
        check(record)

    supervisor.guest.lease.check = noted  # type: ignore[method-assign]
    # A thread that fails ends the node, as a crash would.
    threading.excepthook = lambda args: (note(repr(args.exc_value)), os._exit(3))
    note(f"node {os.getpid()} begins")
    try:
        nodes = tuple(map(bytes.fromhex, given["nodes"]))
        if (
            given["creates"]
            and supervisor.keeper.register.read(bytes.fromhex(given["program"])) is None
        ):
            supervisor.begin(failover=nodes)
        else:
            supervisor.take_over()
        supervisor.run()
    except (WasmsrError, OSError) as error:
        note(f"the node fails: {error!r}")
        os._exit(4 if isinstance(error, OwnershipError) else 3)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
