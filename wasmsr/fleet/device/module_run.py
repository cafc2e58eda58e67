"""From a module as an orchestrator describes it to a run on this device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wasmsr import small_files
from wasmsr.channels.grant import READ, WRITE
from wasmsr.errors import printable
from wasmsr.fleet.failures import FleetError

MODES: Final = {"r": READ, "w": WRITE, "rw": READ | WRITE}
"""Modes of a channel in a request."""
ON_CRASH: Final = ("ignore", "restart", "restore")
SNAPSHOT_SECONDS: Final = 10.0
"""Seconds between snapshots of a module that is restored and does not say."""


@dataclass(frozen=True)
class ModuleRun:
    """What a device runs.

    Attributes:
        uuid: The module's UUID.
        name: Its name.
        file: The file on this device.
        spec: The run, as a node takes it.
        epoch: How often the module was given to a device; 0 if the orchestrator does not say.
        on_crash: `ignore`, `restart` or `restore`.
        every: Seconds between snapshots, or None.
        rules: Rules for its channels, as `ChannelGrant.about` has them.
        period: ns of its periods, or 0.
        repeat: How often it runs, for a measurement; None for once, without one.
        limit: Seconds that all of that may take, or None.
        each_limit: Seconds that one run may take, or None.
        engine: The engine that is asked for, or None.
        program: The id of its record in the register, in hexadecimal digits; "" without a lease.
        lease: Seconds of its lease.
        index: The order in which modules came to the orchestrator; another one that gets the same
            UUID has a larger one.
    """

    uuid: str
    name: str
    file: Path
    spec: Mapping[str, Any]
    epoch: int = 0
    on_crash: str = "ignore"
    every: float | None = None
    rules: list[list[Any]] = field(default_factory=list)
    period: int = 0
    repeat: int | None = None
    limit: float | None = None
    each_limit: float | None = None
    engine: str | None = None
    program: str = ""
    lease: float = 0.0
    index: int = 0

    @property
    def given(self) -> tuple[int, int]:
        """What grows each time that the orchestrator gives a module of this UUID to a device."""
        return self.index, self.epoch


def module_run(data: Mapping[str, Any], folder: Path) -> ModuleRun:
    """Return the run of a request.

    Args:
        data: The data of the message, which is checked.
        folder: What relative names of files begin at.
    """
    args = data.get("args") or {}
    file = folder / data["file"]
    mounts = [f"{(folder / one).absolute()}::{one}" for one in args.get("dirs") or ()]
    env = {}
    for pair in args.get("env") or ():
        name, _, value = pair.partition("=")
        env[name] = value
    on_crash = args.get("fault_crash") or "ignore"
    every = args.get("snapshot_every")
    if every is None and on_crash == "restore":
        every = SNAPSHOT_SECONDS
    resources = args.get("resources") or {}
    lease = data.get("lease") or {}
    return ModuleRun(
        data["uuid"], data.get("name", "module"), file,
        {"own_name": data["file"], "args": list(args.get("argv") or ()),
         "env": [f"{name}={value}" for name, value in env.items()],
         "mounts": mounts},
        data.get("epoch", 0), on_crash, every,
        [_rule(one) for one in data.get("channels", ())],
        int(resources.get("period") or 0), args.get("repeat"), args.get("limit"),
        args.get("ilimit"), args.get("engine"),
        lease.get("program", ""), float(lease.get("seconds", 0)), data.get("index", 0),
    )  # fmt: skip


def _rule(channel: Mapping[str, Any]) -> list[Any]:
    return [channel["path"], MODES[channel.get("mode", "rw")], channel["topic"]]


def readable_module(path: Path) -> bytes:
    """Return the bytes of a module's file.

    Raises:
        FleetError: It is not there, or cannot be read.
    """
    try:
        if path.is_dir():
            raise FleetError(f"{path} is a folder, and no module")
        code, _ = small_files.read(path, LARGEST)  # a pipe would never end
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte
        raise FleetError(f"{printable(path)}: {error}") from None
    if len(code) > LARGEST:
        raise FleetError(f"{path} has more than {LARGEST} bytes, which a module has at most")
    return code


LARGEST: Final = 512 << 20
"""Bytes of a module's file."""

__all__ = ["ON_CRASH", "ModuleRun", "module_run", "readable_module"]
