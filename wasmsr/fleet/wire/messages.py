"""Messages of a fleet: JSON of the form `{object_id, action, type, data}`.

Reading has two steps, because an orchestrator answers a message that it cannot use: `decode` finds
the fields, and `FleetMessage.kind` says what the message is and checks its data. What is read is
written again as equal JSON; keys that nobody here knows are kept.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

import jsonschema

from wasmsr.fleet.wire.failures import WireError

LARGEST: Final = 1 << 20
"""Bytes of a message."""
SCHEMA_FILE = "messages.schema.json"
TEXTS = ("object_id", "action", "type")
DEEPEST: Final = 64
"""Levels of lists and objects in a message. What is deeper could be read, and fail when it is
written again: the library's limit is that of the stack."""
SHOWN = 200
"""Characters of a value that an error shows."""

KINDS: Mapping[tuple[str, str | None, str, str | None], str] = {
    ("reg", "create", "req", "manager"): "manager",
    ("reg", "create", "req", "runtime"): "runtime",
    ("reg", "delete", "req", "manager"): "departure",
    ("reg", "delete", "req", "runtime"): "departure",
    ("reg", None, "resp", None): "acknowledgement",
    ("control", "create", "req", "module"): "module",
    ("control", "create_batch", "req", None): "batch",
    ("control", "delete", "req", "module"): "deletion",
    ("control", "exited", "req", "module"): "exit",
    ("keepalive", "update", "req", "runtime"): "keepalive",
    ("log", "error", "resp", None): "failure",
    ("register", "read", "req", None): "reading",
    ("register", "swap", "req", None): "swap",
    ("register", None, "resp", None): "verdict",
}
"""What a message is, by the kind of its topic, its action, its type and the type in its data. The
names are those of the definitions in the schema."""


@dataclass(frozen=True)
class FleetMessage:
    """A message.

    Attributes:
        action: What is asked for or has happened; None in an answer to a registration.
        data: Plain data.
        type: `req` or `resp`.
        object_id: Identifies a request; the answer has the same.
        others: Further fields of the message, which are kept.
    """

    action: str | None
    data: Mapping[str, Any]
    type: str | None = "req"
    object_id: str | None = field(default_factory=lambda: str(uuid.uuid4()))
    others: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return its JSON.

        Raises:
            WireError: It would have more than 1 MiB, or a number is none of JSON.
        """
        fields = {"object_id": self.object_id, "action": self.action, "type": self.type}
        whole = {name: value for name, value in fields.items() if value is not None}
        try:
            text = json.dumps(whole | {"data": self.data} | dict(self.others), allow_nan=False)
        except ValueError as error:
            raise WireError("invalid JSON", str(error)[:SHOWN]) from None
        _check_size(len(text))
        return text.encode()

    def kind(self, topic: str) -> str:
        """Return what it is on a topic of the kind `topic`, after a check of its data.

        Raises:
            WireError: A field is missing, action and type do not go together there, or a value of
                the data is wrong.
        """
        if self.type is None:
            raise WireError("missing field", "type")
        if self.action is None and self.type == "req":
            raise WireError("missing field", "action")
        inner = self.data.get("type")
        for given in (inner if isinstance(inner, str) else None, None):
            kind = KINDS.get((topic, self.action, self.type, given))
            if kind is not None:
                _check(kind, self.data)
                return kind
        if inner is None and any(key[:3] == (topic, self.action, self.type) for key in KINDS):
            raise WireError("missing field", "type")
        said = (self.action, self.type)
        raise WireError("invalid action/type", [one and one[:SHOWN] for one in said])


def decode(payload: bytes) -> FleetMessage:
    """Read a message.

    Args:
        payload: Its bytes, as published.

    Raises:
        WireError: It is too large, no JSON object, or a field has another type.
    """
    whole = _plain(payload)
    for name in TEXTS:
        if name in whole and not isinstance(whole[name], str):
            raise WireError("invalid field", name)
    data = whole.get("data")
    if "data" not in whole:
        raise WireError("missing field", "data")
    if not isinstance(data, dict):
        raise WireError("invalid field", "data")
    others = {name: value for name, value in whole.items() if name not in (*TEXTS, "data")}
    return FleetMessage(
        whole.get("action"), data, whole.get("type"), whole.get("object_id"), others
    )


def _plain(payload: bytes) -> dict[str, Any]:
    _check_size(len(payload))
    try:
        found = json.loads(
            payload.decode(),
            parse_constant=_refuse,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
        _check_depth(found)
        # A surrogate that stands alone is no text: files, tables and logs could not hold it.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise WireError("invalid JSON", str(error)[:SHOWN]) from None
    if not isinstance(found, dict):
        raise WireError("invalid JSON", "not an object")
    return found


def _check_depth(found: Any) -> None:
    level: list[Any] = [[found]]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"more than {DEEPEST} levels of lists and objects")


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise WireError("message too large", size, hint=f"a message has at most {LARGEST} bytes")


@cache
def _validator(kind: str) -> Any:
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    whole = json.loads(text)
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": whole["$defs"]})


def _check(kind: str, data: Mapping[str, Any]) -> None:
    error = next(_validator(kind).iter_errors(data), None)
    if error is None:
        return
    if error.validator == "required" and not error.absolute_path:
        missing = next(name for name in error.validator_value if name not in data)
        raise WireError("missing field", missing)
    where = ".".join(map(str, error.absolute_path)) or "data"
    raise WireError(f"invalid {where}", error.message[:SHOWN])
