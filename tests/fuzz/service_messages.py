"""Mutations of protobuf messages, and of streams of them, by their descriptors.

A mutation changes a field, repeats it, takes it away, puts a part of another message in its place,
or damages the bytes. The numbers and ids that it puts in are those at which checks go wrong: the
ends of ranges, and the ids of other programs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import zstandard

NUMBERS = (0, 1, 2, 63, 64, 255, 256, 4095, 65535, 65536, (1 << 20) + 1, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, (1 << 40) - 1, 1 << 40, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1)  # fmt: skip
FLOATS = (0.0, -1.0, 0.1, 1e-9, 86_400.0, 1e18, float("inf"), float("nan"), -float("inf"))
TEXTS = ("", "x", "\0", "\x1b[2J", "../../etc/passwd", "é" * 3000, "a" * 70_000, "stdout", "ro",
    "stderr", "host", "\ufeff", "[" * 3000, '{"a":' * 2000, "-1", "%s%n", "\n\r\u2028")  # fmt: skip
BOMB = zstandard.ZstdCompressor().compress(bytes(1 << 28))
"""A zstd frame of a few kilobytes that holds 256 MiB."""
MOST = 1 << 20
"""Bytes of a field that a mutation makes at most."""


class Call(NamedTuple):
    """One call: a method's name, and its messages."""

    method: str
    messages: tuple[Any, ...]


class MessageMutator:
    """Makes wrong messages of right ones.

    Args:
        numbers: Where its choices come from.
        ids: Ids (of programs, nodes, attempts) that messages can name.
        texts: More texts that they can have.
    """

    def __init__(
        self, numbers: random.Random, ids: Sequence[bytes] = (), texts: Sequence[str] = ()
    ) -> None:
        self.numbers = numbers
        self.ids = [*ids, bytes(16), b"\xff" * 16, b"short", b""]
        self.texts = [*TEXTS, *texts]

    # ---- fields ----------------------------------------------------------------------------------

    def change(self, message: Any) -> None:
        """Change one field of a message, or of one that is in it."""
        where, field = self._field(message)
        if field is None:
            return
        label_many = hasattr(getattr(where, field.name), "append") or hasattr(
            getattr(where, field.name), "add"
        )
        if label_many:
            self._change_many(where, field)
        elif field.message_type is not None:
            if self.numbers.random() < 0.5 and where.HasField(field.name):
                where.ClearField(field.name)
            else:
                getattr(where, field.name).SetInParent()
        else:
            try:
                setattr(where, field.name, self._value(field, getattr(where, field.name)))
            except (ValueError, UnicodeEncodeError):
                where.ClearField(field.name)

    def _field(self, message: Any) -> tuple[Any, Any]:
        """Return a field, and the message that has it: deep ones as often as others."""
        found = []
        stack = [message]
        while stack:
            one = stack.pop()
            for field in one.DESCRIPTOR.fields:
                found.append((one, field))
                value = getattr(one, field.name)
                if field.message_type is None:
                    continue
                if hasattr(value, "add"):
                    stack.extend(list(value)[:3])
                elif not hasattr(value, "keys") and one.HasField(field.name):
                    stack.append(value)
        return self.numbers.choice(found) if found else (message, None)

    def _value(self, field: Any, old: Any) -> Any:
        numbers = self.numbers
        if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            return numbers.choice(FLOATS)
        if field.cpp_type == field.CPPTYPE_BOOL:
            return not old
        if field.type == field.TYPE_BYTES:
            return self.garbled(old)
        if field.type == field.TYPE_STRING:
            return self.text(old)
        bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
        near = (old + numbers.choice((-1, 1, 2))) if old is not None else 1
        value = numbers.choice((*NUMBERS, near, near, near))
        return max(0, value) % (1 << bits)

    def garbled(self, old: bytes) -> bytes:
        """Return other bytes than these, or damaged ones."""
        numbers = self.numbers
        which = numbers.randrange(9)
        if which == 0:
            return numbers.choice(self.ids)
        if which == 1:
            return old[: numbers.randrange(len(old) + 1)]
        if which == 2:
            return (old * 3)[:MOST] + b"x"
        if which == 3:
            return BOMB
        if which == 4:
            return numbers.randbytes(numbers.choice((0, 1, 16, 32, 33, 5000)))
        if which == 5:
            return bytes(numbers.choice((MOST - 1, MOST, MOST + 1, 65537)))
        data = bytearray(old or b"\0")
        for _ in range(numbers.choice((1, 1, 2, 8))):
            data[numbers.randrange(len(data))] = numbers.choice((0, 1, 0x7F, 0x80, 0xFF))
        return bytes(data)

    def text(self, old: str) -> str:
        """Return another text than this, or a damaged one."""
        numbers = self.numbers
        if old.startswith("{") and numbers.random() < 0.8:
            return self._object(old)
        if numbers.random() < 0.6 or not old:
            return numbers.choice(self.texts)
        at = numbers.randrange(len(old))
        return old[:at] + numbers.choice(self.texts)[:50] + old[at + 1 :]

    def _object(self, old: str) -> str:
        """Return a JSON object with a value of another kind somewhere."""
        numbers = self.numbers
        try:
            found = json.loads(old)
        except (ValueError, RecursionError):
            return old
        values: list[Any] = [
            None, True, -1, 1 << 70, 1e308, "", "x" * 5000, [], [[]], {}, ["a\0b"], {"a": {}},
            ["a"] * 3000, "18446744073709551616", "1e9", [1], {"": ""}, ["=", "A=B"],
        ]  # fmt: skip
        place = found
        while place and numbers.random() < 0.4:
            inner = [one for one in place.values() if isinstance(one, dict) and one]
            if not inner:
                break
            place = numbers.choice(inner)
        names = [*place, "args", "env", "mounts", "limits", "listen", "invoke", "features", "clock",
            "on_changed", "own_args", "deterministic", "program", "\ud800"]  # fmt: skip
        place[numbers.choice(names)] = numbers.choice(values)
        return json.dumps(found)

    def _change_many(self, where: Any, field: Any) -> None:
        numbers, value = self.numbers, getattr(where, field.name)
        if hasattr(value, "keys"):
            return
        items = list(value)
        which = numbers.randrange(5)
        if which == 0 or not items:
            del value[:]
            if field.message_type is not None:
                value.add()
                return
            count = numbers.choice((1, 2, 3, 257, 70_000))
            plain = {field.TYPE_STRING: "", field.TYPE_BYTES: b""}
            made = self._value(field, plain.get(field.type, 0))
            if field.type in plain:
                made, count = made[:40], min(count, 5000)
            elif not isinstance(made, int):
                return
            value.extend([made] * count)
            return
        if which == 1:
            items = items * numbers.choice((2, 70))
        elif which == 2:
            items.reverse()
        elif which == 3:
            del items[numbers.randrange(len(items))]
        elif field.message_type is None:
            items[numbers.randrange(len(items))] = self._value(field, items[0])
        del value[:]
        value.extend(items[:100_000])

    # ---- whole messages and calls ----------------------------------------------------------------

    def damage(self, data: bytes) -> bytes:
        """Return damaged bytes of a message."""
        numbers = self.numbers
        if not data or numbers.random() < 0.2:
            return data + numbers.randbytes(numbers.randrange(20))
        if numbers.random() < 0.3:
            return data[: numbers.randrange(len(data))]
        if numbers.random() < 0.2:
            return data + data
        found = bytearray(data)
        for _ in range(numbers.choice((1, 2, 5))):
            found[numbers.randrange(min(len(found), 200))] = numbers.randrange(256)
        return bytes(found)

    def wrong(self, calls: Sequence[Call], kinds: Mapping[str, Any]) -> list[Call]:
        """Return calls of which something is wrong; of a message that is damaged only its bytes.

        Args:
            calls: Calls that a server takes, in order.
            kinds: The class of the requests of each method.
        """
        found = [Call(one.method, tuple(map(self._copy, one.messages))) for one in calls]
        for _ in range(self.numbers.choice((1, 1, 1, 2, 3))):
            self._mutate(found, kinds)
        return found

    @staticmethod
    def _copy(message: Any) -> Any:
        if isinstance(message, bytes):
            return message
        made = type(message)()
        made.CopyFrom(message)
        return made

    def _mutate(self, calls: list[Call], kinds: Mapping[str, Any]) -> None:
        numbers = self.numbers
        at = numbers.randrange(len(calls))
        method, messages = calls[at].method, list(calls[at].messages)
        which = numbers.randrange(12)
        if which == 0:
            del calls[at]
            if not calls:
                calls.append(Call(method, ()))
            return
        if which == 1:
            calls.insert(numbers.randrange(len(calls) + 1), calls[at])
            return
        if which == 2:
            other = numbers.randrange(len(calls))
            calls[at], calls[other] = calls[other], calls[at]
            return
        if which == 3 and messages:
            i, j = (numbers.randrange(len(messages)) for _ in range(2))
            messages[i], messages[j] = messages[j], messages[i]
        elif which == 4 and messages:
            i = numbers.randrange(len(messages))
            messages[i:i] = [messages[i]] * numbers.choice((1, 1, 30))
        elif which == 5 and messages:
            del messages[numbers.randrange(len(messages)) :]
        elif which == 6:
            kind = kinds[method]
            messages.insert(numbers.randrange(len(messages) + 1), self._other(kind, calls))
        elif which == 7 and messages:
            i = numbers.randrange(len(messages))
            if not isinstance(messages[i], bytes):
                messages[i] = self.damage(messages[i].SerializeToString())
        elif messages:
            for _ in range(numbers.choice((1, 1, 2))):
                one = numbers.choice(messages)
                if not isinstance(one, bytes):
                    self.change(one)
        calls[at] = Call(method, tuple(messages))

    def _other(self, kind: Any, calls: Sequence[Call]) -> Any:
        """Return a message of a kind, empty or of another call."""
        found = [one for call in calls for one in call.messages if isinstance(one, kind)]
        if found and self.numbers.random() < 0.7:
            made = self._copy(self.numbers.choice(found))
        else:
            made = kind()
        self.change(made)
        return made
