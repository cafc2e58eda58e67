"""Between messages and the values of `wasmsr.migrate.protocol`; checks every size on the way in.

What comes from the wire is hostile: ids and digests have exactly their length, texts and lists are
bounded, texts that reach a terminal have no control characters, and a value that cannot be raises
`Malformed` before anything is done with the message.
"""

from __future__ import annotations

import math
import os
from array import array
from typing import Any

from wasmsr.errors import printable
from wasmsr.interp.modules.ahead import AT_ONCE, CalledFunctions
from wasmsr.migrate import protocol as terms
from wasmsr.rpc import messages

MODULES, FEATURES, MOUNTS = terms.MODULES, 256, 256
"""Most entries of each list in an offer."""
TEXT = 1000
PATH = 4096
LEASE_LEAST, LEASE_MOST = 100, 86_400_000
"""Milliseconds of a lease."""
HELD = terms.PIECE // terms.DIGEST_BYTES
"""Digests of pieces of files in one answer, of 64 KiB each; what is above is sent again."""


class Malformed(ValueError):
    """A message that no end of this version sends."""


def text(value: str, limit: int = TEXT) -> str:
    """Return text for people: bounded, and only what is printable in one line."""
    return printable(value[:limit], None)[:limit]


def _id(value: bytes, what: str) -> bytes:
    if len(value) != terms.ID_BYTES:
        raise Malformed(f"{what} has {len(value)} bytes in place of {terms.ID_BYTES}")
    return value


def _digest(value: bytes) -> bytes:
    if len(value) != terms.DIGEST_BYTES:
        raise Malformed(f"a digest has {len(value)} bytes in place of {terms.DIGEST_BYTES}")
    return value


def _count(values: Any, limit: int, what: str) -> None:
    if len(values) > limit:
        raise Malformed(f"{len(values)} {what}; at most {limit} are allowed")


def move_in(message: Any) -> terms.Move:
    """Return the value of a message, checked. Raises Malformed."""
    if not 1 <= message.epoch < 1 << 63:
        raise Malformed(f"epoch {message.epoch}")
    return terms.Move(
        _id(message.program, "a program's id"),
        message.epoch,
        _id(message.attempt, "an attempt's id"),
    )


def move_out(move: terms.Move) -> Any:
    """Return the message of a move."""
    return messages.Move(program=move.program, epoch=move.epoch, attempt=move.attempt)


def node_in(value: bytes) -> bytes:
    """Return the value of a message, checked. Raises Malformed."""
    return _id(value, "a node's id")


def module_in(message: Any) -> terms.ModuleName:
    """Return the value of a message, checked. Raises Malformed."""
    return terms.ModuleName(_digest(message.digest), message.size, text(message.name, 256))


def module_out(module: terms.ModuleName) -> Any:
    """Return the message of a module's name."""
    name = text(module.name, 256)
    return messages.ModuleName(digest=module.digest, size=module.size, name=name)


def offer_in(message: Any) -> terms.Offer:
    """Raise Malformed. Of another protocol's offer only protocol and software are read."""
    software = text(message.software, 64)
    if message.protocol != terms.PROTOCOL:
        nothing = terms.Move(bytes(terms.ID_BYTES), 0, bytes(terms.ID_BYTES))
        return terms.Offer(b"", nothing, terms.Description(()), message.protocol, software)
    _count(message.modules, MODULES, "modules")
    _count(message.features, FEATURES, "features")
    _count(message.mounts, MOUNTS, "mounts")
    for mount in message.mounts:
        if len(mount.guest) > PATH:
            raise Malformed("a mount's path is too long")
    limits = message.limits
    description = terms.Description(
        modules=tuple(module_in(module) for module in message.modules),
        snapshot_format=message.snapshot_format,
        features=tuple(text(feature, 64) for feature in message.features),
        mounts=tuple(
            terms.MountName(os.fsdecode(mount.guest), text(mount.mode, 64))
            for mount in message.mounts
        ),
        shown=node_in(message.shown) if message.shown else b"",
        fed=node_in(message.fed) if message.fed else b"",
        limits=terms.ProgramLimits(
            limits.memory_pages,
            limits.table_elements,
            limits.stack_slots,
            limits.stack_frames,
            limits.deterministic,
        ),
        lease=lease_in(message.lease),
        record=_record(message.record),
    )
    return terms.Offer(
        node_in(message.node),
        move_in(message.move),
        description,
        message.protocol,
        software,
        rounds_in(message.rounds),
        text(message.address, 300),
    )


def _record(value: bytes) -> bytes:
    if len(value) > RECORD:
        raise Malformed("what the node notes of its program is too large")
    return bytes(value)


def kept_in(message: Any) -> terms.KeptOutput:
    """Return a piece of kept output, checked. Raises Malformed."""
    if message.stream not in ("stdout", "stderr"):
        raise Malformed("kept output of a stream that programs do not have")
    if len(message.data) > terms.PIECE or message.offset >= 1 << 62:
        raise Malformed("a piece of output is too large")
    return terms.KeptOutput(message.stream, message.offset, bytes(message.data))


def kept_out(kept: terms.KeptOutput) -> Any:
    """Return the message of a piece of kept output."""
    return messages.Kept(stream=kept.stream, offset=kept.offset, data=kept.data)


def called_in(message: Any) -> CalledFunctions:
    """Return functions that were called, checked but for what the module has. Raises Malformed."""
    _count(message.functions, AT_ONCE, "called functions")
    return CalledFunctions(
        _digest(message.module),
        message.deterministic,
        message.metered,
        message.native,
        array("I", message.functions),
    )


def called_out(called: CalledFunctions) -> Any:
    """Return the message of functions that were called."""
    return messages.Called(
        module=called.module,
        deterministic=called.deterministic,
        metered=called.metered,
        native=called.native,
        functions=called.functions,
    )


RECORD = 1 << 19
"""Most bytes of what a node notes of a program."""

FILE_PIECE = 65536
"""Most bytes of a piece of a file."""
MOST_FILES = (1 << 62) - 1
"""Most bytes of files that a message says."""
PIECE_OF_OUTPUT = 65536
PIECE_OF_INPUT = 65536


def output_in(message: Any) -> tuple[terms.Move, str, int, bytes]:
    """Move, stream, offset and bytes. Raises Malformed."""
    if len(message.data) > PIECE_OF_OUTPUT or message.offset >= 1 << 62:
        raise Malformed("a piece of output is too large")
    return move_in(message.move), text(message.stream, 16), message.offset, bytes(message.data)


def question_in(message: Any) -> tuple[terms.Move, int, int]:
    """Move, place in the input and most bytes. Raises Malformed."""
    if not 1 <= message.most <= PIECE_OF_INPUT or message.position >= 1 << 62:
        raise Malformed("a question for input that cannot be")
    return move_in(message.move), message.position, message.most


def input_in(message: Any, most: int) -> tuple[bytes, bool]:
    """Return bytes, and whether the input ends there. Raises Malformed."""
    if len(message.data) > most:
        raise Malformed("more input than was asked for")
    return bytes(message.data), message.end


def abilities_in(values: Any) -> tuple[str, ...]:
    """Return the value of a message, checked. Raises Malformed."""
    _count(values, FEATURES, "abilities")
    return tuple(text(value, 64) for value in values)


def offer_out(offer: terms.Offer) -> Any:
    """Return the message of an offer."""
    wanted = offer.description
    return messages.PrepareRequest(
        protocol=offer.protocol,
        software=offer.software,
        node=offer.node,
        move=move_out(offer.move),
        snapshot_format=wanted.snapshot_format,
        modules=[module_out(module) for module in wanted.modules],
        features=wanted.features,
        mounts=[
            messages.MountName(guest=os.fsencode(mount.guest), mode=mount.mode)
            for mount in wanted.mounts
        ],
        shown=wanted.shown,
        fed=wanted.fed,
        rounds=offer.rounds,
        lease=wanted.lease,
        record=wanted.record,
        address=offer.address,
        limits=messages.Limits(
            memory_pages=wanted.limits.memory_pages,
            table_elements=wanted.limits.table_elements,
            stack_slots=wanted.limits.stack_slots,
            stack_frames=wanted.limits.stack_frames,
            deterministic=wanted.limits.deterministic,
        ),
    )


def missing_in(values: Any) -> tuple[bytes, ...]:
    """Return the value of a message, checked. Raises Malformed."""
    _count(values, MODULES, "modules")
    return tuple(_digest(value) for value in values)


def held_in(value: bytes) -> tuple[bytes, ...]:
    """Return the value of a message, checked. Raises Malformed."""
    if len(value) % terms.DIGEST_BYTES:
        raise Malformed("half a digest")
    size = terms.DIGEST_BYTES
    return tuple(value[start : start + size] for start in range(0, len(value), size))


def receipt_in(message: Any) -> terms.Receipt:
    """Return the value of an end of a transfer, checked. Raises Malformed."""
    return terms.Receipt(message.size, _digest(message.digest))


def ready_in(message: Any) -> terms.Receipt:
    """Return the value of a READY, checked. Raises Malformed."""
    spans = span_in(message.sync), span_in(message.restore)
    return terms.Receipt(message.size, _digest(message.digest), *spans)


def rounds_in(value: int) -> int:
    """Return a number of rounds, checked. Raises Malformed."""
    if not 1 <= value <= terms.MOST_ROUNDS:
        raise Malformed(f"{value} rounds; at least 1 and at most {terms.MOST_ROUNDS} are allowed")
    return value


def lease_in(value: int) -> int:
    """Return milliseconds of a lease, checked; 0 for none. Raises Malformed."""
    if value and not LEASE_LEAST <= value <= LEASE_MOST:
        raise Malformed(f"a lease of {value} ms")
    return value


def journal_in(value: bytes) -> bytes:
    """Return a journal's id, checked; b"" for none. Raises Malformed."""
    return _id(value, "a journal's id") if value else b""


def begin_in(message: Any) -> tuple[terms.Move, int, bool, int]:
    """Return move, size of the rest, whether READY may be in memory, and bytes of files.

    Raises Malformed.
    """
    if message.rest >= 1 << 62:
        raise Malformed("the rest of a state is too large")
    return move_in(message.move), message.rest, message.memory, files_in(message.files)


def files_in(value: int) -> int:
    """Return a number of bytes of files, checked. Raises Malformed."""
    if value > MOST_FILES:
        raise Malformed("more bytes of files than there can be")
    return value


def chunks_in(message: Any) -> terms.PackedFiles:
    """Return the value of pieces of files, checked but for their content. Raises Malformed."""
    digests = held_in(bytes(message.digests))
    lengths = tuple(message.lengths)
    if not digests or len(digests) != len(lengths):
        raise Malformed(f"{len(digests)} digests and {len(lengths)} lengths of pieces of files")
    if not all(0 < length <= FILE_PIECE for length in lengths):
        raise Malformed("a piece of a file is empty or too long")
    if sum(lengths) > terms.BATCH_BYTES or len(message.data) > terms.BATCH_BYTES:
        raise Malformed(f"pieces of files have more than {terms.BATCH_BYTES} bytes")
    return terms.PackedFiles(digests, lengths, bytes(message.data), message.packed)


def files_out(batch: terms.PackedFiles) -> Any:
    """Return the message of pieces of files."""
    return messages.Files(
        digests=b"".join(batch.digests),
        lengths=batch.lengths,
        data=batch.data,
        packed=batch.packed,
    )


def head_in(message: Any) -> terms.RoundHead:
    """Return the value of a round's beginning, checked. Raises Malformed."""
    _count(message.sizes, terms.MEMORIES, "memories")
    if any(size >= 1 << 40 for size in message.sizes):
        raise Malformed("a memory is too large")
    return terms.RoundHead(rounds_in(message.number), tuple(message.sizes), message.last)


def pages_in(message: Any) -> terms.PackedPages:
    """Return the value of a batch of pages, checked but for its content. Raises Malformed."""
    if len(message.runs) % 2 or len(message.zeros) % 2 or len(message.known) % 2:
        raise Malformed("half a run of pages")
    if message.size > terms.BATCH_BYTES or len(message.data) > terms.BATCH_BYTES:
        raise Malformed(f"a batch has more than {terms.BATCH_BYTES} bytes")
    if message.memory >= terms.MEMORIES:
        raise Malformed(f"memory {message.memory}")
    return terms.PackedPages(
        message.memory,
        array("Q", message.runs),
        array("Q", message.zeros),
        message.size,
        message.data,
        message.packed,
        array("Q", message.known),
    )


def pages_out(batch: terms.PackedPages) -> Any:
    """Return the message of a batch of pages."""
    return messages.Pages(
        memory=batch.memory,
        runs=batch.runs.tolist(),
        zeros=batch.zeros.tolist(),
        size=batch.size,
        data=batch.data,
        packed=batch.packed,
        known=batch.known.tolist(),
    )


def round_done_in(message: Any) -> terms.RoundReceipt:
    """Return the value of the end of a round."""
    spans = (message.sync, message.flush, message.placed)
    return terms.RoundReceipt(message.number, *map(span_in, spans))


def refusal_in(message: Any) -> terms.Refusal:
    """Return the value of a refusal."""
    reasons = [reason.value for reason in terms.Reason]
    reason = message.reason if message.reason in reasons else 0
    return terms.Refusal(terms.Reason(reason), text(message.sentence), text(message.hint))


def refusal_out(error: terms.PeerRefused) -> Any:
    """Return the message of a refusal."""
    return messages.Refusal(
        reason=int(error.reason), sentence=text(error.message), hint=text(error.hint or "")
    )


def standing_in(value: int) -> terms.OwnershipState:
    """Return the value of a message, checked. Raises Malformed."""
    try:
        return terms.OwnershipState(value)
    except ValueError:
        raise Malformed(f"standing {value}") from None


def ending_in(message: Any) -> terms.Ending:
    """Return the value of an ending."""
    return terms.Ending(text(message.kind, 32), message.code, text(message.sentence))


def ending_out(ending: terms.Ending) -> Any:
    """Return the message of an ending."""
    return messages.Ending(
        kind=ending.kind, code=ending.code & 0xFFFFFFFF, sentence=text(ending.sentence)
    )


def report_in(message: Any) -> terms.Report:
    """Return the value of a message, checked. Raises Malformed."""
    if message.epoch >= 1 << 63:
        raise Malformed(f"epoch {message.epoch}")
    if message.attempt:
        _id(message.attempt, "an attempt's id")
    return terms.Report(
        standing_in(message.standing),
        message.epoch,
        message.attempt,
        ending_in(message.ending) if message.HasField("ending") else None,
        journal_in(message.journal),
    )


def report_out(report: terms.Report, node: bytes) -> Any:
    """Return the message of a report."""
    return messages.StatusReply(
        protocol=terms.PROTOCOL,
        node=node,
        standing=int(report.standing),
        epoch=report.epoch,
        attempt=report.attempt,
        ending=ending_out(report.ending) if report.ending else None,
        journal=report.journal,
    )


def epoch_in(value: int) -> int:
    """Return an epoch, checked. Raises Malformed."""
    if value >= 1 << 63:
        raise Malformed(f"epoch {value}")
    return value


def span_in(value: float) -> float:
    """Return seconds, for people: a number that is none counts as nothing."""
    return value if math.isfinite(value) and 0 <= value < 1e9 else 0.0
