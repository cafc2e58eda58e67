"""Files that go to a node or come from one: modules; and what it sends, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, Final

from wasmsr.interp.modules.module import MAGIC, assemble
from wasmsr.node.failures import NodeAway, NodeBusy

AGAIN_SECONDS: Final = 0.1
"""How long a caller waits whose node has no place for its call."""

Place = str | os.PathLike[str] | IO[bytes]
"""The path of a file, or an open file."""


def take_file(
    ask: Callable[[], Iterator[Any]], file: Place, seconds: float, address: str
) -> tuple[int, Any]:
    """Write a file that a node sends, and return its size in bytes and the last message.

    Args:
        ask: Asks the node; the messages have a `piece` each, and the last one is `whole`.
        file: The path of the file, which is replaced; or an open file, which is written from where
            it is.
        seconds: How long a node that is busy is asked again.
        address: The node's.

    Raises:
        NodeError: The file does not come. Nothing is written to a path then.
        OSError: It cannot be written.
    """
    if not isinstance(file, (str, os.PathLike)):
        return _take(ask, file, seconds, address)
    path = os.fspath(file)
    part = f"{path}.{secrets.token_hex(8)}.part"
    try:
        with open(part, "xb") as opened:
            found = _take(ask, opened, seconds, address)
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
    return found


def _take(
    ask: Callable[[], Iterator[Any]], file: IO[bytes], seconds: float, address: str
) -> tuple[int, Any]:
    end = time.monotonic() + seconds
    while True:
        try:
            size = 0
            for reply in ask():
                file.write(reply.piece)
                size += len(reply.piece)
                if reply.whole:
                    file.flush()
                    return size, reply
        except NodeBusy:  # nothing has come
            if time.monotonic() >= end:
                raise
            time.sleep(AGAIN_SECONDS)
            continue
        raise NodeAway(f"the node {address} gave no whole file")


def with_modules(spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return a run that names further modules by digest, and these modules by digest.

    Args:
        spec: The run; each `preload` is NAME=FILE, with a file of this host.

    Raises:
        OSError: A file cannot be read.
        MalformedError: It is text, and no module.
    """
    found: dict[str, bytes] = {}
    named: list[str] = []
    for text in spec.get("preload") or ():
        name, _, file = str(text).partition("=")
        with open(file, "rb") as opened:
            data = opened.read()
        # The node decodes it, in a worker.
        binary = data if data.startswith(MAGIC) else assemble(data, file)
        digest = hashlib.sha256(binary).hexdigest()
        found[digest] = binary
        named.append(f"{name}={digest}")
    return ({**spec, "preload": named} if named else dict(spec)), found


__all__ = ["take_file", "with_modules"]
