"""What a node is told of an execution, and what is noted of it beside its request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from wasmsr import small_files
from wasmsr.jobs.execution.requests import ExecutionFolder
from wasmsr.jobs.preparing.prepared import Prepared
from wasmsr.record import replaced
from wasmsr.wasi.filesystem.mounts import Mount

OURS: Final = "job."
"""How the names of our programs on nodes begin; the execution's id follows."""

RUN_FIELDS: Final = ("own_name", "own_args", "invoke", "env", "preload")
"""What a node is told of a run, besides its mounts and limits."""

LARGEST: Final = 1 << 20
"""Bytes of a note that are read."""


@dataclass(frozen=True)
class ServerNote:
    """What is noted of an execution, so that another process goes on watching it.

    Attributes:
        began: When it was started, in seconds since 1970.
        paused: Seconds for which it was paused since then.
        replaced: Ids of its earlier programs, which were lost and begun again.
        seen: Whether a server was seen to have the program.
        base: Bytes of each stream of the log that are not of this program: it goes on where
            another one was saved.
        fork: The number of the fork that it is then; 0 for none.
        saving: Whether it stands only because it is being saved.
        fetched: Whether its outputs are in its results.
    """

    began: float
    paused: float = 0.0
    replaced: tuple[str, ...] = ()
    seen: bool = False
    base: Mapping[str, int] = field(default_factory=dict)
    fork: int = 0
    saving: bool = False
    fetched: bool = False

    def write(self, folder: ExecutionFolder) -> None:
        """Write the note. Raises OSError."""
        small_files.replace(folder.path / "server.json", json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: ExecutionFolder, began: float) -> ServerNote:
        """Return what was noted; if nothing was, an execution that began at `began`."""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            data, _ = small_files.read(folder.path / "server.json", LARGEST)
            found = json.loads(data)
            return cls(
                float(found["began"]),
                float(found["paused"]),
                tuple(map(str, found["replaced"])),
                bool(found.get("seen", True)),  # a version before did not say so
                {str(name): int(size) for name, size in found.get("base", {}).items()},
                int(found.get("fork", 0)),
                found.get("saving") is True,
                found.get("fetched") is True,
            )
        return cls(began, seen=True)


def spec_for(prepared: Prepared) -> dict[str, Any]:
    """Return the run as a node takes it.

    Outputs are in folders of the server, which go with the program; `fetch_outputs` brings them.

    Raises:
        JobError: A value is wrong.
    """
    run = prepared.run()
    whole = run.as_dict()
    spec: dict[str, Any] = {name: whole[name] for name in RUN_FIELDS if name in whole}
    memory = run.limits.memory
    limits = {"memory": memory, "carried": prepared.request.resources.disk or None}
    spec["limits"] = {name: size for name, size in limits.items() if size is not None}
    mounts = [Mount.parse(text) for text in run.mounts]
    spec["mounts"] = [
        (replaced(one, host=None) if one.mode == "carry" else one).option for one in mounts
    ]
    return spec


def terms_for(prepared: Prepared, lease: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the terms of an execution's lease: its own wishes, and those of its executor."""
    if lease is None:
        return None
    request = prepared.request
    return {"policy": request.on_loss, "output": request.output, **lease}


__all__ = ["OURS", "ServerNote", "spec_for", "terms_for"]
