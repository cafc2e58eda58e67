"""A call of a sandbox while it is made: plain data, which a saved sandbox has in its snapshot."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from wasmsr.errors import FormatError
from wasmsr.sandbox.results import SandboxFailure, SandboxResult, SandboxValue, ToolCall
from wasmsr.sandbox.streams import well_formed
from wasmsr.sandbox.tools import decode_value
from wasmsr.wasi.preview1.abi import Errno


@dataclass
class PendingCall:
    """A call, from its request to its answer.

    Attributes:
        stdout, stderr: What it has written so far.
        shown: What it has shown: by MIME type, bytes encoded.
        displayed: Bytes of it, as they came.
        instructions, seconds: What it took so far.
        question: What the guest has asked and waits for, or None.
        begun: Whether the tool of this question was called: it may have acted.
        ending: Why it is being ended: the name of a limit, "cancel", or None.
        answer: What the guest said at the end.
    """

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    shown: list[dict[str, Any]] = field(default_factory=list)
    displayed: int = 0
    instructions: int = 0
    seconds: float = 0.0
    question: dict[str, Any] | None = None
    begun: bool = False
    ending: str | None = None
    answer: dict[str, Any] | None = None

    @property
    def written(self) -> int:
        """Bytes of output, with what was displayed."""
        return len(self.stdout) + len(self.stderr) + self.displayed

    @property
    def tool(self) -> ToolCall | None:
        """The tool call that waits, or None."""
        asked = self.question
        if asked is None or asked["k"] != "tool":
            return None
        state: Literal["asked", "begun"] = "begun" if self.begun else "asked"
        return ToolCall(asked["id"], asked["name"], decode_value(asked["arguments"]), state)

    def result(self, status: Any, failure: SandboxFailure | None = None) -> SandboxResult:
        """Return what came of the call so far."""
        answer = self.answer or {}
        return SandboxResult(
            stdout=self.stdout.decode("utf-8", "replace"),
            stderr=self.stderr.decode("utf-8", "replace"),
            value=value_of(answer.get("value")),
            error=failure or self._failure(answer.get("error")),
            artifacts=tuple(one for one in map(value_of, self.shown) if one is not None),
            instructions=self.instructions,
            seconds=self.seconds,
            status=status,
            pending=self.tool if status == "waiting" else None,
        )

    def _failure(self, said: Any) -> SandboxFailure | None:
        if type(said) is not dict:
            return None
        kind, message = str(said.get("type")), str(said.get("message", ""))
        text, ending = str(said.get("traceback", "")), None
        if kind == "LimitExceeded" and said.get("limit") == "output":
            ending = "output"
        elif kind == "KeyboardInterrupt" and self.ending != "cancel":
            ending = self.ending
        if ending is not None:
            message = f"the call was ended by its limit: {ending}"
            return SandboxFailure("LimitExceeded", message, text, limit=ending)
        limit = None
        if kind == "MemoryError":
            limit = "memory"
        elif said.get("errno") in (Errno.NOSPC, Errno.FBIG):
            limit = "files"
        return SandboxFailure(kind, message, text, limit=limit)

    def record(self) -> dict[str, Any]:
        """Return it as data that a snapshot can hold."""
        return {**asdict(self), "stdout": bytes(self.stdout), "stderr": bytes(self.stderr)}

    @classmethod
    def of_record(cls, data: Any) -> PendingCall:
        """Return the call of a record. Raises FormatError."""
        names = cls.__dataclass_fields__
        if type(data) is not dict or data.keys() != names.keys():
            raise FormatError("the record of a sandbox has a call that is none")
        expected: dict[str, Any] = {
            "stdout": bytes,
            "stderr": bytes,
            "shown": list,
            "displayed": int,
            "instructions": int,
            "seconds": float,
            "question": (dict, type(None)),
            "begun": bool,
            "ending": (str, type(None)),
            "answer": (dict, type(None)),
        }
        for name, kinds in expected.items():
            one = data[name]
            number = isinstance(one, (int, float))
            if not isinstance(one, kinds) or (number and not 0 <= one < math.inf):
                raise FormatError(f"the record of a sandbox has a call with a wrong {name}")
        asked = data["question"]
        if asked is not None and (asked.get("k") not in ("tool", "input") or "id" not in asked):
            raise FormatError("the record of a sandbox has a question that is none")
        out, err = bytearray(data["stdout"]), bytearray(data["stderr"])
        asked = None if asked is None else question_of(asked)
        shown = [plain for one in data["shown"] if (plain := shown_of(one)) is not None]
        try:
            answer = well_formed(data["answer"])
        except ValueError as error:
            raise FormatError(f"the record of a sandbox has an answer: {error}") from error
        changed: dict[str, Any] = {"stdout": out, "stderr": err, "question": asked, "shown": shown}
        return cls(**{**data, **changed, "answer": answer})


def question_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a question of the guest as a call has it: all of it is of the right type.

    Arguments that are no values are left out; `wrong` says why.
    """
    asked: dict[str, Any] = {"k": answer["k"], "id": str(answer.get("id"))}
    if asked["k"] == "input":
        prompt, password = answer.get("prompt", ""), answer.get("password")
        return {**asked, "prompt": str(prompt), "password": bool(password)}
    asked["name"], arguments = str(answer.get("name")), answer.get("arguments")
    try:
        if type(arguments) is not dict:
            raise ValueError("the arguments have no names")
        decode_value(arguments)
        if "wrong" in answer:  # it was found before the call was saved
            raise ValueError(answer["wrong"])
    except ValueError as error:
        return {**asked, "arguments": {}, "wrong": str(error)}
    return {**asked, "arguments": arguments}


def shown_of(data: Any) -> dict[str, Any] | None:
    """Return what a guest shows as a call has it: only what is a part of the value."""
    value = value_of(data)
    return None if value is None else {mime: data[mime] for mime in value.data}


def value_of(data: Any) -> SandboxValue | None:
    """Return a value from what the guest said; None if it is none."""
    if type(data) is not dict:
        return None
    found: dict[str, str | bytes] = {}
    for mime, one in data.items():
        try:
            content = decode_value(one)
        except (ValueError, TypeError):
            continue
        if isinstance(content, (str, bytes)):
            found[mime] = content
    return SandboxValue(found)
