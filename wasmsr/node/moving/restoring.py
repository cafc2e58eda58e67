"""Asks a worker to take a program in: as its state comes, or from a file."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.ports import Buffer
from wasmsr.node.moving.conversation import Conversation
from wasmsr.node.supervision.program_record import ProgramRecord

PIECE = 1 << 20
"""Bytes that are read of a file at a time."""


def arrive(
    executor: ProcessExecutor,
    record: ProgramRecord,
    *,
    image: int = -1,
    file: int = -1,
    rest: int = 0,
    files: int = 0,
) -> Conversation:
    """Return a conversation in which a worker takes a program in.

    Args:
        executor: The worker.
        record: What is noted of the program.
        image, file, rest, files: As for `Executor.arrive`.

    Raises:
        WasmsrError: The worker cannot begin.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            executor.arrive(
                bytes.fromhex(record.program), record.spec, theirs.fileno(),
                image=image, file=file, rest=rest, files=files,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
    return Conversation(ours)


def restore_file(executor: ProcessExecutor, record: ProgramRecord, file: Iterator[Buffer]) -> None:
    """Have a worker make a paused program of a snapshot.

    Args:
        executor: The worker.
        record: What is noted of the program.
        file: The snapshot, in pieces.

    Raises:
        WasmsrError, OSError: It cannot be restored, or read.
    """
    reader, writer = os.pipe()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with open(writer, "wb", buffering=0) as end:
                for piece in file:
                    view = memoryview(piece)
                    while view:
                        view = view[end.write(view) :]
        except BrokenPipeError:
            return  # the worker says why
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)

    thread = threading.Thread(target=write, name="wasmsr-restore", daemon=True)
    thread.start()
    try:
        conversation = arrive(executor, record, file=reader)
    finally:
        os.close(reader)
        thread.join()
    try:
        if errors:
            raise errors[0]
        conversation.ask("restore")
    finally:
        conversation.close()


__all__ = ["PIECE", "arrive", "restore_file"]
