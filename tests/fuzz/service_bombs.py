"""Calls that are small and ask for much: modules, frames of zstd, pages and sizes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

from tests.fuzz.service_messages import BOMB, Call
from wasmsr.rpc import messages
from wasmsr.rpc.control import control_messages
from wasmsr.wasi.state.contents import digest_of

PIECE = 1 << 20


def leb(value: int) -> bytes:
    """Return an unsigned LEB128 number."""
    found = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        found.append(low | (0x80 if value else 0))
        if not value:
            return bytes(found)


def section(number: int, body: bytes) -> bytes:
    """Return a section of a module."""
    return bytes([number]) + leb(len(body)) + body


def module_bombs() -> list[bytes]:
    """Return modules that promise much, or take long, in few bytes."""
    head, kind = b"\0asm\1\0\0\0", section(1, b"\1\x60\0\0")

    def body(code: bytes, local: bytes = b"\0") -> bytes:
        made = local + code + b"\x0b"
        return section(10, b"\1" + leb(len(made)) + made)

    one = head + kind + section(3, b"\1\0")
    many = leb(200_000)
    functions = section(3, many + b"\0" * 200_000)
    return [
        head + section(1, b"\xff\xff\xff\xff\x0f"),
        head + kind + section(3, b"\xff\xff\xff\xff\x0f"),
        head + kind + functions,
        head
        + kind
        + section(3, many + b"\0" * 200_000)
        + section(10, many + b"\2\0\x0b" * 200_000),
        one + body(b"", b"\1\xff\xff\xff\xff\x0f\x7f"),
        one + body(b"\x02\x40" * 100_000 + b"\x0b" * 100_000),
        one + body(b"\x41\0" * 400_000 + b"\x1a" * 400_000),
        one + body(b"\x41\0\x0e" + many + b"\0" * 200_001),
        head + section(5, b"\1\1\x80\x80\4\x80\x80\4"),
        head + section(4, b"\1\x70\0\xff\xff\xff\xff\x0f"),
        head + section(5, leb(1000) + b"\0\1" * 1000),
        head + section(6, many + b"\x7f\0\x41\0\x0b" * 200_000),
        head + section(11, b"\1\1" + leb(PIECE) + b"x"),
        head + b"".join(section(0, b"\4name" + b"\0" * 10) for _ in range(20_000)),
    ]


def bombs(service: str, calls: Sequence[Call], numbers: random.Random) -> list[Call]:
    """Return calls with a bomb in place of something."""
    if service == "control":
        begin = control_messages.SubmitBegin(name="fuzzed", spec="{}")
        binary = numbers.choice(module_bombs())
        pieces = [binary[at : at + PIECE] for at in range(0, len(binary), PIECE)]
        parts = [control_messages.SubmitRequest(begin=begin)]
        parts += [control_messages.SubmitRequest(piece=piece) for piece in pieces]
        return [Call(f"/{control_messages.CONTROL}/Submit", tuple(parts))]
    made = list(calls)
    for at, call in enumerate(made):
        if call.method.endswith("/Upload") and numbers.random() < 0.5:
            return _module(made, numbers)
        if call.method.endswith("/Transfer"):
            parts = [_part(one, numbers) for one in call.messages]
            made[at] = Call(call.method, tuple(_with_more(parts, numbers)))
    return made


def _with_more(parts: list[Any], numbers: random.Random) -> list[Any]:
    """Return the messages of a transfer, perhaps with others between them: functions that were
    called, and pieces of files."""
    (module, *_) = [*_modules_in(parts), bytes(32)]
    for _ in range(numbers.choice((0, 1, 1, 3))):
        part = _called(module, numbers) if numbers.random() < 0.6 else _files(numbers)
        parts.insert(numbers.randrange(1, len(parts) + 1), part)
    return parts


def _modules_in(parts: Sequence[Any]) -> Iterator[bytes]:
    """Yield the digests of modules of which functions are named."""
    for one in parts:
        yield from _modules_in(one.joined)
        if one.WhichOneof("part") == "called":
            yield one.called.module


def _called(module: bytes, numbers: random.Random) -> Any:
    """Return functions that were called, or that cannot have been."""
    most = (1 << 32) - 1
    functions: Sequence[int] = numbers.choice((
        [most], [0], [1] * 1024, range(1024), range(1025), range(most, most - 1024, -1), [],
        [1], [2, 1], range(1 << 16), sorted(numbers.sample(range(200_000), 1024)),
    ))  # fmt: skip
    ways = [numbers.random() < 0.5 for _ in range(3)]
    return messages.TransferRequest(
        called=messages.Called(
            module=numbers.choice((module, module, module, bytes(32), b"short")),
            deterministic=ways[0], metered=ways[1], native=ways[2], functions=functions,
        )
    )  # fmt: skip


def _files(numbers: random.Random) -> Any:
    """Return pieces of files: right ones, and such as take much or are none."""
    pieces = [numbers.randbytes(numbers.choice((1, 1000, 65536))) for _ in range(3)]
    digests = [digest_of(piece) for piece in pieces]
    made = messages.Files(
        digests=b"".join(digests), lengths=map(len, pieces), data=b"".join(pieces)
    )
    which = numbers.randrange(6)
    if which == 0:
        made.data, made.packed = BOMB, True
    elif which == 1:
        made.lengths[0] = numbers.choice((0, 1 << 31, (1 << 32) - 1))
    elif which == 2:
        made.digests = digests[0] * 3
    elif which == 3:
        made.digests, made.lengths[:] = bytes(32 * 20_000), [0] * 20_000
    elif which == 4:
        made.data = made.data[1:]
    return messages.TransferRequest(files=made)


def _module(calls: list[Call], numbers: random.Random) -> list[Call]:
    """Return calls that offer and send another module."""
    binary = numbers.choice(module_bombs())
    name = messages.ModuleName(digest=hashlib.sha256(binary).digest(), size=len(binary))
    for call in calls:
        for message in call.messages:
            if call.method.endswith("/Prepare"):
                del message.modules[:]
                message.modules.append(name)
    made = []
    for call in calls:
        if call.method.endswith("/Upload"):
            first = messages.UploadRequest(module=name)
            if call.messages[0].HasField("move"):
                first.move.CopyFrom(call.messages[0].move)
            pieces = [binary[at : at + PIECE] for at in range(0, len(binary), PIECE)]
            parts = [first, *(messages.UploadRequest(piece=piece) for piece in pieces)]
            made.append(Call(call.method, tuple(parts)))
        else:
            for whole in call.messages if call.method.endswith("/Transfer") else ():
                for one in (whole, *whole.joined):
                    if one.WhichOneof("part") == "called":
                        one.called.module = name.digest
            made.append(call)
    return made


def _part(message: Any, numbers: random.Random) -> Any:
    """Return a message of a transfer, perhaps with a bomb in it."""
    for one in message.joined:
        _part(one, numbers)
    part = message.WhichOneof("part")
    if numbers.random() < 0.5:
        return message
    if part == "pages":
        message.pages.data, message.pages.packed = BOMB, True
        if numbers.random() < 0.5:
            message.pages.size = 4096
            message.pages.runs[:] = [0, 1]
        if numbers.random() < 0.3:
            message.pages.zeros[:] = [0, (1 << 32) - 1]
        if numbers.random() < 0.3:
            message.pages.known[:] = [numbers.choice((0, 15, 1 << 31)), (1 << 32) - 1]
    elif part == "round":
        sizes = (1 << 20, (1 << 40) - 1, 17, 0)
        message.round.sizes[:] = [numbers.choice(sizes)] * numbers.choice((1, 1, 64))
    elif part == "begin":
        message.begin.rest = numbers.choice((1 << 61, 1 << 33, 0))
    elif part == "repeat":
        message.repeat.size = numbers.choice((1 << 62, (1 << 64) - 1, 1 << 30))
    return message
