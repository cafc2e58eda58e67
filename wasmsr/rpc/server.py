"""The gRPC server of one end: gives the calls of peers to `Answers`, and returns its answers.

The committed descriptors define the methods. The server reads nothing of a call before the caller
has proved that it has the key (`session`), and limits what a caller can hold (`gate`). A refusal
(`PeerRefused`) travels in the reply. The answer to an invalid message is INVALID_ARGUMENT. If a
caller has no key, or another version, a line says so.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from wasmsr.errors import MigrationError
from wasmsr.migrate.handover.answers import Answers
from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.protocol import (
    PIECE,
    PROTOCOL,
    Move,
    Offer,
    PeerRefused,
    Reason,
    Refusal,
    refused,
)
from wasmsr.node.security.failures import AccessRefused
from wasmsr.rpc import channel, convert, messages
from wasmsr.rpc.convert import Malformed
from wasmsr.rpc.gate import Gate
from wasmsr.rpc.session import METADATA, BadSeal, Call, Sessions
from wasmsr.runspec.address import Address

# After `channel`, which sets how loud it is.
import grpc  # type: ignore[import-untyped]  # isort: skip

log = logging.getLogger(__name__)

SPARE = 1
"""Calls of each method at once, above one for each program: for a call that the caller has ended
and this end has not."""

REFUSALS = 4
"""More threads, which refuse calls."""

CALLS = 100
"""Calls at once that gRPC gives to this server of one program, with those that it refuses."""

ANSWER_SECONDS = 1.0
"""How long a server that stops waits for the calls that it is answering."""

OTHER_VERSION = re.compile(r"/wasmsr\.v(\d{1,9})\.Migration/")

Requests = Iterator[Any]


class ServerTls(Protocol):
    """TLS as a server needs it."""

    def credentials(self) -> Any:
        """Return gRPC's credentials."""

    def admit(self, wire: Any) -> Sender:
        """Return who makes a call, by gRPC's context of it. Raises AccessRefused."""


class Server:
    """Serves one end at one address until `stop`."""

    def __init__(
        self,
        answers: Answers,
        address: Address,
        software: str,
        key: bytes,
        *,
        programs: int = 1,
        tls: ServerTls | None = None,
    ) -> None:
        """Bind and start.

        Args:
            answers: Answers the calls.
            address: Where to listen.
            software: The version of wasmsr, for people at the peer.
            key: The key that callers must have; b"" for none.
            programs: How many programs the end takes; so many calls of a method are answered at a
                time, and one more.
            tls: The server's certificate; None for plain text.

        Raises:
            MigrationError: The address cannot be used.
        """
        self.address = address
        _check_free(address)
        methods = messages.methods()
        at_once = programs + SPARE
        threads = at_once * len(methods) + REFUSALS
        self._gate = Gate(dict.fromkeys(methods, at_once))
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="wasmsr-rpc"),
            handlers=[
                MigrationHandlers(
                    answers, software, key, self._gate, _anybody if tls is None else tls.admit
                )
            ],
            options=channel.SERVER,
            maximum_concurrent_rpcs=max(CALLS, threads),
        )
        try:
            if tls is None:
                bound = self._server.add_insecure_port(str(address))
            else:
                bound = self._server.add_secure_port(str(address), tls.credentials())
        except RuntimeError:
            bound = 0
        if not bound:
            raise _unusable(address, "it cannot be listened on")
        self._server.start()

    def stop(self, grace: float = ANSWER_SECONDS) -> None:
        """Take no more calls, finish those in progress, and close the port.

        A call may be the reason to stop. So the server answers it first; otherwise the peer would
        repeat it.

        Args:
            grace: Seconds after which calls in progress are cancelled.
        """
        self._server.stop(grace).wait(grace + 1.0)
        self._gate.close()


def _check_free(address: Address) -> None:
    """Try to bind as the server will, because gRPC does not say why it cannot."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(place)
                trial.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _unusable(address, "another process listens there") from error
        raise _unusable(address, error.strerror or str(error)) from error


def _unusable(address: Address, why: str) -> MigrationError:
    return MigrationError(
        f"cannot listen on {address}: {why}",
        phase="prepare",
        owner="source",
        hint="choose another --port (and tell the other end as its --peer)",
    )


@dataclass(frozen=True)
class Sender:
    """Who makes a call.

    Attributes:
        node: The node that its certificate names; None if a call may name any node.
        meet: Is told of each offer, before it is answered.
    """

    node: bytes | None = None
    meet: Callable[[Offer], None] = lambda offer: None

    def check(self, node: bytes) -> None:
        """Refuse a call that names another node than the caller's certificate."""
        if self.node is not None and node != self.node:
            raise refused(
                Reason.OWNERSHIP,
                f"the caller says that it is node {node.hex()}, and its certificate names node "
                f"{self.node.hex()}",
            )


def _anybody(wire: Any) -> Sender:
    """Take everybody who has the key."""
    return Sender()


class MigrationHandlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call from its metadata, before anything else of the call is read.

    Args:
        answers: Answers the calls.
        software: The version of wasmsr.
        key: The key that callers must have; b"" for none.
        gate: Limits the calls.
        admit: Gets gRPC's context of each call, and returns who makes it, or raises AccessRefused.
    """

    def __init__(
        self,
        answers: Answers,
        software: str,
        key: bytes,
        gate: Gate,
        admit: Callable[[Any], Sender] = _anybody,
    ) -> None:
        self._answers = answers
        self._software = software
        self._gate = gate
        self._admit = admit
        self._sessions = Sessions(key, answers.node)
        calls = _Calls(answers, software)
        self._methods = {
            f"/{messages.SERVICE}/{name}": (name, kind[0], getattr(calls, name, None))
            for name, kind in messages.methods().items()
        }

    def service(self, details: Any) -> Any:
        """Return the handler of a call, or None for a method that is not here."""
        found = self._methods.get(details.method)
        if found is None:
            other = OTHER_VERSION.match(details.method)
            if other and int(other[1]) != PROTOCOL:
                self._answers.refused_calls.version(f"version {other[1]}", "")
            return None
        name, kind, method = found
        proof = dict(details.invocation_metadata or ()).get(METADATA, b"")
        if not isinstance(proof, bytes):
            proof = b""
        if name == "Hello":
            met = self._sessions.hello(proof)
            return self._refuse() if met is None else _served(self._hello(*met))
        call = self._sessions.admit(details.method, proof)
        return self._refuse() if call is None else _served(self._answer(name, kind, method, call))

    def _refuse(self) -> Any:
        def behave(requests: Requests, wire: Any) -> Iterator[bytes]:
            self._answers.refused_calls.key(wire.peer())
            wire.abort(grpc.StatusCode.UNAUTHENTICATED, "the caller has not this end's key")
            yield b""

        return _served(behave)

    def _hello(self, nonce: bytes, proof: bytes) -> Callable[..., Iterator[bytes]]:
        def behave(requests: Requests, wire: Any) -> Iterator[bytes]:
            self._admitted(wire)
            reply = messages.HelloReply(
                protocol=PROTOCOL,
                software=self._software,
                node=self._answers.node,
                nonce=nonce,
                proof=proof,
            )
            yield reply.SerializeToString()

        return behave

    def _admitted(self, wire: Any) -> Sender:
        """Return who makes a call; end the call of somebody who may not."""
        try:
            return self._admit(wire)
        except AccessRefused as error:
            text = error.message.encode("ascii", "backslashreplace").decode("ascii")
            wire.abort(grpc.StatusCode.PERMISSION_DENIED, text)
            raise

    def _answer(
        self, name: str, kind: Any, method: Any, call: Call
    ) -> Callable[..., Iterator[bytes]]:
        def parse(data: bytes) -> Any:
            try:
                return kind.FromString(call.open(data))
            except DecodeError:
                raise Malformed("not a message") from None

        def behave(requests: Requests, wire: Any) -> Iterator[bytes]:
            sender = self._admitted(wire)
            with self._gate.enter(name) as entered:
                if not entered:
                    wire.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{name} is being answered")
                incoming = map(parse, self._gate.read(requests, wire))
                try:
                    with closing(method(incoming, sender)) as replies:
                        for reply in replies:
                            yield call.seal(reply.SerializeToString())
                except Malformed as error:
                    said = f"a message from {wire.peer()} was refused: {error}"
                    self._answers.refused_calls.say("message", said)
                    wire.abort(grpc.StatusCode.INVALID_ARGUMENT, convert.text(str(error)))
                except BadSeal as error:
                    self._answers.refused_calls.key(wire.peer())
                    wire.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
                except grpc.RpcError:
                    log.info("%s broke %s off", wire.peer(), name)

        return behave


def _served(behave: Callable[..., Iterator[bytes]]) -> Any:
    """Return a handler of streams of bytes.

    All methods are streams, because gRPC would read a single message itself before it calls the
    handler, and would block a thread until the message is there.
    """
    return grpc.stream_stream_rpc_method_handler(behave)


def _unary(answer: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """Return a method that answers one message with one."""

    def method(self: _Calls, requests: Requests, sender: Sender) -> Iterator[Any]:
        request = next(requests, None)
        if request is None:
            raise Malformed("a message was expected")
        yield answer(self, request, sender)

    return method


class _Calls:
    """The service's methods, under their names in the descriptors: messages to messages."""

    def __init__(self, answers: Answers, software: str) -> None:
        self._answers = answers
        self._software = software

    def _from(self, request: Any, program: bytes, sender: Sender) -> None:
        """Refuse a message about a program from an end that has nothing to do with it."""
        node = convert.node_in(request.node)
        sender.check(node)
        self._answers.check_sender(program, node)

    def _named(self, move: Move, sender: Sender) -> None:
        """Refuse a stream about a program from a node that has nothing to do with it."""
        if sender.node is not None:
            self._answers.check_sender(move.program, sender.node)

    @_unary
    def Prepare(self, request: Any, sender: Sender) -> Any:
        reply = messages.PrepareReply(
            protocol=PROTOCOL, software=self._software, node=self._answers.node
        )
        try:
            offer = convert.offer_in(request)
            if offer.protocol == PROTOCOL:
                sender.check(offer.node)
                sender.meet(offer)
            answer = self._answers.prepare(offer)
            reply.missing.extend(answer.missing)
            reply.held = b"".join(answer.held[: convert.HELD])
            reply.abilities.extend(answer.abilities)
            reply.restore = answer.restore
            reply.known = answer.known
            reply.journal = answer.journal
            reply.files = min(answer.files, convert.MOST_FILES)
        except PeerRefused as error:
            reply.refusal.CopyFrom(convert.refusal_out(error))
        return reply

    def Upload(self, requests: Requests, sender: Sender) -> Iterator[Any]:
        upload = None
        try:
            first: Any = next(requests, None)
            if _part(first) != "module":
                raise Malformed("an upload begins with the module's name")
            move = convert.move_in(first.move) if first.HasField("move") else None
            if move is not None:
                self._named(move, sender)
            upload = self._answers.upload(convert.module_in(first.module), move)
            for request in requests:
                upload.write(_piece(request))
            upload.finish()
        except PeerRefused as error:
            yield messages.UploadReply(refusal=convert.refusal_out(error))
            return
        finally:
            if upload:
                upload.close()
        yield messages.UploadReply()

    def Transfer(self, requests: Requests, sender: Sender) -> Iterator[Any]:
        reception = None
        try:
            first: Any = next(requests, None)
            if _part(first) != "begin":
                raise Malformed("a transfer begins with its move")
            move, rest, memory, files = convert.begin_in(first.begin)
            self._named(move, sender)
            reception = self._answers.begin(move, rest, memory, files)
            for request in requests:
                before = reception.received
                for part in _parts(request):
                    reply = _take(reception, part)
                    if reply is not None:
                        yield reply
                        if _part(reply) == "ready":
                            return
                if reception.received != before:
                    yield messages.TransferReply(received=reception.received)
            raise Malformed("a transfer ends with its digest")
        except PeerRefused as error:
            if reception:
                reception.failed(error)
            yield messages.TransferReply(refusal=convert.refusal_out(error))
        finally:
            if reception:
                reception.cancel()

    @_unary
    def Commit(self, request: Any, sender: Sender) -> Any:
        try:
            _same_protocol(request)
            move = convert.move_in(request.move)
            self._from(request, move.program, sender)
            began = time.monotonic()
            standing = self._answers.commit(move, convert.span_in(request.stopped))
            started = time.monotonic() - began
        except PeerRefused as error:
            return messages.CommitReply(refusal=convert.refusal_out(error))
        return messages.CommitReply(standing=int(standing), started=started)

    @_unary
    def Status(self, request: Any, sender: Sender) -> Any:
        node = self._answers.node
        try:
            _same_protocol(request)
            move = convert.move_in(request.move)
            self._from(request, move.program, sender)
            return convert.report_out(self._answers.status(move), node)
        except PeerRefused as error:
            return messages.StatusReply(
                protocol=PROTOCOL, node=node, refusal=convert.refusal_out(error)
            )

    @_unary
    def Abort(self, request: Any, sender: Sender) -> Any:
        try:
            _same_protocol(request)
            move = convert.move_in(request.move)
            self._from(request, move.program, sender)
            standing = self._answers.abort(move)
        except PeerRefused as error:
            return messages.AbortReply(refusal=convert.refusal_out(error))
        return messages.AbortReply(standing=int(standing))

    @_unary
    def Output(self, request: Any, sender: Sender) -> Any:
        try:
            _same_protocol(request)
            self._from(request, request.move.program, sender)
            unseen = self._answers.output(*convert.output_in(request))
        except PeerRefused as error:
            return messages.OutputReply(refusal=convert.refusal_out(error))
        return messages.OutputReply(unseen=unseen)

    @_unary
    def Input(self, request: Any, sender: Sender) -> Any:
        try:
            _same_protocol(request)
            self._from(request, request.move.program, sender)
            data, end = self._answers.input(*convert.question_in(request))
        except PeerRefused as error:
            return messages.InputReply(refusal=convert.refusal_out(error))
        return messages.InputReply(data=data, end=end)

    @_unary
    def Ended(self, request: Any, sender: Sender) -> Any:
        try:
            _same_protocol(request)
            program = convert.node_in(request.program)
            self._from(request, program, sender)
            self._answers.ended(program, request.epoch, convert.ending_in(request.ending))
        except PeerRefused as error:
            return messages.EndedReply(refusal=convert.refusal_out(error))
        return messages.EndedReply()


def _part(request: Any) -> str | None:
    """Return which part of a stream a message is; None if it is none, or the stream is over."""
    part: str | None = None if request is None else request.WhichOneof("part")
    return part


def _parts(request: Any) -> Iterable[Any]:
    """Return the parts of a transfer that one message has."""
    if not request.joined:
        return (request,)
    if _part(request):
        raise Malformed("a part beside joined parts")
    return request.joined  # type: ignore[no-any-return]


def _take(reception: Reception, request: Any) -> Any:
    """Give a part of a transfer to the reception; return the answer to it, or None."""
    part = _part(request)
    if part == "round":
        reception.begin(convert.head_in(request.round))
    elif part == "pages":
        reception.pages(convert.pages_in(request.pages))
    elif part == "round_end":
        done = reception.end(request.round_end)
        return messages.TransferReply(
            round=messages.RoundDone(
                number=done.number, sync=done.sync, flush=done.flush, placed=done.placed
            )
        )
    elif part == "early":
        reception.early(_bounded(request.early.piece), last=request.early.last)
    elif part == "called":
        reception.called(convert.called_in(request.called))
    elif part == "files":
        reception.files(convert.chunks_in(request.files))
    elif part == "output":
        reception.output(convert.kept_in(request.output))
    elif part == "repeat":
        reception.repeat(request.repeat.offset, request.repeat.size)
    elif part == "end":
        held = reception.finish(convert.receipt_in(request.end))
        return messages.TransferReply(
            ready=messages.Ready(
                size=held.size, digest=held.digest, sync=held.sync, restore=held.restore
            )
        )
    else:
        reception.write(_piece(request))
    return None


def _piece(request: Any) -> bytes:
    if _part(request) != "piece":
        raise Malformed("a piece was expected")
    return _bounded(request.piece)


def _bounded(piece: bytes) -> bytes:
    if not 1 <= len(piece) <= PIECE:
        raise Malformed(f"a piece of {len(piece)} bytes")
    return bytes(piece)


def _same_protocol(request: Any) -> None:
    if request.protocol != PROTOCOL:
        raise PeerRefused(
            Refusal(
                Reason.VERSION,
                f"it speaks version {PROTOCOL} of the migration protocol, not {request.protocol}",
            )
        )
