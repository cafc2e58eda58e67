"""A program of a node as a value, from its message and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wasmsr.rpc.control import control_messages as messages


@dataclass(frozen=True)
class ProgramInfo:
    """What a node says of a program.

    Attributes:
        program: Its id in hexadecimal digits.
        name: What people call it.
        standing: "running", "paused", "ended", "killed", "resumable" (no worker has it; it can be
            resumed from `saved`), "moving", "arriving", "moved" (another node has it; see `went`),
            "visiting" (a browser has it for a while), "lost" or "starting".
        reason: Why, as a sentence, or "".
        ending: "finished", "exited", "trapped", "fuel" or "failed" for a program that has ended.
        code: Its exit code, or None.
        module: SHA-256 of its module in hexadecimal digits.
        submitted: When it came, in seconds since 1970.
        submitter: Who brought it.
        changed: When its standing changed.
        life: How often it was started or resumed from a save point.
        worker: Process id of its worker, or None.
        memory: Bytes of memory that the worker has now, or None.
        every: Seconds between checkpoints, or None.
        saved: The last save point ("time", "number", "root", "size", "stdout", "stderr"), or None.
        epoch: The epoch in which this node owns it, or owned it; a move begins the next one.
        went: Where it is if it has moved ("address", "node", "epoch", "confirmed"), or None.
        move: How far its move is (the values of the last events), or None.
        lease: Of a leased program its terms, "epoch", "owner" (node id), "state", "register"
            ("answers" or "away"), "deadline" (seconds since 1970, by the owner's clock) and
            "checkpoint" (the one that counts), as far as this node has heard; or None.
        details: What `inspect` adds: the run, figures, the call stack.
    """

    program: str
    name: str
    standing: str
    reason: str = ""
    ending: str = ""
    code: int | None = None
    module: str = ""
    submitted: float = 0.0
    submitter: str = ""
    changed: float = 0.0
    life: int = 1
    worker: int | None = None
    memory: int | None = None
    every: float | None = None
    saved: Mapping[str, Any] | None = None
    epoch: int = 1
    went: Mapping[str, Any] | None = None
    move: Mapping[str, Any] | None = None
    lease: Mapping[str, Any] | None = None
    details: Mapping[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow on this node."""
        return self.standing in ("ended", "killed", "lost", "moved")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        found = asdict(self)
        if self.details is None:
            del found["details"]
        return found


def program_out(shown: Mapping[str, Any], *, details: bool = False) -> Any:
    """Return the message for what a node shows of a program; see `NodeProgram.shown`."""
    message = messages.ProgramMessage(
        program=shown["program"],
        name=shown["name"],
        standing=shown["standing"],
        reason=shown["reason"],
        ending=shown["ending"],
        code=shown["code"] or 0,
        module=bytes.fromhex(shown["module"]),
        submitted=shown["submitted"],
        submitter=shown["submitter"],
        changed=shown["changed"],
        life=shown["life"],
        worker=shown["worker"] or 0,
        memory=shown["memory"] or 0,
        every=shown["every"] or 0,
        epoch=shown["epoch"],
        move="" if shown["move"] is None else json.dumps(shown["move"], default=str),
        lease="" if shown["lease"] is None else json.dumps(shown["lease"]),
    )
    if shown["went"] is not None:
        went = {**shown["went"], "node": bytes.fromhex(shown["went"]["node"])}
        message.went.CopyFrom(messages.MovedToMessage(**went))
    saved = shown["saved"]
    if saved is not None:
        message.saved.CopyFrom(
            messages.SavePointMessage(**{**saved, "root": bytes.fromhex(saved["root"])})
        )
    if details:
        more = {name: shown[name] for name in ("spec", "stats", "depth", "frames") if name in shown}
        message.details = json.dumps(more)
    return message


def program_in(message: Any) -> ProgramInfo:
    """Return the value of a message."""
    saved = None
    if message.HasField("saved"):
        saved = {
            "time": message.saved.time,
            "number": message.saved.number,
            "root": message.saved.root.hex(),
            "size": message.saved.size,
            "stdout": message.saved.stdout,
            "stderr": message.saved.stderr,
        }
    went = None
    if message.HasField("went"):
        went = {
            "address": message.went.address,
            "node": message.went.node.hex(),
            "epoch": message.went.epoch,
            "confirmed": message.went.confirmed,
        }
    return ProgramInfo(
        program=message.program,
        name=message.name,
        standing=message.standing,
        reason=message.reason,
        ending=message.ending,
        code=message.code if message.standing == "ended" else None,
        module=message.module.hex(),
        submitted=message.submitted,
        submitter=message.submitter,
        changed=message.changed,
        life=message.life,
        worker=message.worker or None,
        memory=message.memory or None,
        every=message.every or None,
        saved=saved,
        epoch=message.epoch or 1,
        went=went,
        move=json.loads(message.move) if message.move else None,
        lease=json.loads(message.lease) if message.lease else None,
        details=json.loads(message.details) if message.details else None,
    )
