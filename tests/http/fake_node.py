"""A node for the page's tests: two programs that do what they are told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from wasmsr.errors import WasmsrError

FIRST, SECOND = "ab" * 16, "cd" * 16
NASTY = "<img src=x onerror=\"document.title='owned'\">"
"""A name that would be HTML if the page took it for that."""


class FakeNode:
    """Answers the page; `acts` is what it was told."""

    def __init__(self) -> None:
        self.acts: list[tuple[str, str]] = []
        self.moves: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.visits: dict[str, Any] = {}
        self.standing = {FIRST: "running", SECOND: "ended"}
        self.written = {FIRST: b"line 1\nline 2\n", SECOND: NASTY.encode() + b"\xff\n"}

    def about(self) -> Mapping[str, Any]:
        return {"node": "12" * 16, "software": "0.1.0", "started": time.time(), "stopping": False}

    def _one(self, program: str) -> dict[str, Any]:
        if program not in self.standing:
            raise WasmsrError("there is no such program", hint="`wasmsr ps` lists them")
        return {
            "program": program,
            "name": "counter" if program == FIRST else NASTY,
            "standing": self.standing[program],
            "reason": "",
            "ending": "exited",
            "code": 3,
            "memory": 5 << 20,
            "saved": {"time": time.time() - 300},
            "submitted": time.time() - 7200,
            "submitter": "client ann",
            "move": self.moves.get(program),
            "lease": self.leases.get(program),
        }

    def programs(self) -> list[Mapping[str, Any]]:
        return [self._one(FIRST), self._one(SECOND)]

    def inspect(self, program: str) -> Mapping[str, Any]:
        frames = [{"function": NASTY, "index": 7, "offset": 99}, {"index": 8, "offset": 1}]
        return {**self._one(program), "frames": frames, "depth": 2}

    def output(self, program: str, stream: str, offset: int, most: int) -> tuple[int, bytes]:
        data = self.written[program] if stream == "stdout" else b"error\n"
        begins = max(0, len(data) + offset) if offset < 0 else min(offset, len(data))
        return begins, data[begins : begins + most]

    def view(self, program: str) -> bytes:
        self._one(program)
        return b"<!doctype html><title>a copy</title>"

    def migrate(self, program: str, address: str) -> Mapping[str, Any]:
        self.acts.append((program, f"migrate {address}"))
        if ":" not in address:
            raise WasmsrError(f"{address!r} is no address", hint="give HOST:PORT")
        rounds = [
            {"round": 1, "bytes_raw": 4 << 20, "seconds": 0.25, "rate": 1e6, "predicted": 0.5},
            {"round": 2, "bytes_raw": 1 << 20, "seconds": 0.06, "rate": 1e6, "predicted": 0.02},
        ]
        self.moves[program] = {
            "peer": address, "standing": "copying", "since": time.time(), "rounds": rounds,
            "left": 1 << 20, "predicted": 0.02,
        }  # fmt: skip
        return self._one(program)

    def lend(self, program: str) -> Any:
        self._one(program)
        if program not in self.visits:
            raise WasmsrError("it cannot be lent", hint="run it here")
        return self.visits[program]

    def visit(self, program: str) -> Any:
        return self.visits.get(program)

    def act(self, program: str, verb: str) -> Mapping[str, Any]:
        self.acts.append((program, verb))
        if verb == "checkpoint":
            raise WasmsrError("the disk is full", hint="make room")
        self.standing[program] = {"pause": "paused", "resume": "running", "kill": "killed"}[verb]
        return self._one(program)
