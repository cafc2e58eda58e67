"""The gRPC server of one end: hands what the peer asks to a `Node`, and its answers back.

Method handlers are made from the committed descriptors. A refusal (`PeerRefused`) travels in the
reply; a message that cannot be is answered with INVALID_ARGUMENT; a method of another version of
the service is reported to the node, so that both ends say the same.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wasmsr.errors import MigrationError
from wasmsr.migrate.node import Node
from wasmsr.migrate.terms import PIECE, PROTOCOL, PeerRefused, Reason, Refusal, Standing
from wasmsr.rpc import channel, convert, messages
from wasmsr.rpc.address import Address
from wasmsr.rpc.convert import Malformed

# After `channel`, which sets how loud it is.
import grpc  # type: ignore[import-untyped]  # isort: skip

log = logging.getLogger(__name__)

WORKERS = 8
"""Calls served at once; two ends need five: a transfer, a question, an answer, a piece of output,
and a question for input, which waits."""

ANSWER_SECONDS = 1.0
"""How long a server that stops gives to the calls that it is answering."""

JUNK = object()
"""In place of a message that could not be parsed."""

OTHER_VERSION = re.compile(r"/wasmsr\.v(\d{1,9})\.Migration/")


class Server:
    """Serves a node on one address until `stop`."""

    def __init__(self, node: Node, address: Address, software: str) -> None:
        """Binds and starts. Raises MigrationError if the address cannot be had."""
        self.address = address
        _check_free(address)
        self._server = grpc.server(
            ThreadPoolExecutor(WORKERS, thread_name_prefix="wasmsr-rpc"),
            handlers=[_Handlers(node, software)],
            options=channel.SERVER,
            maximum_concurrent_rpcs=WORKERS,
        )
        try:
            bound = self._server.add_insecure_port(str(address))
        except RuntimeError:
            bound = 0
        if not bound:
            raise _unusable(address, "it cannot be listened on")
        self._server.start()

    def stop(self, grace: float = ANSWER_SECONDS) -> None:
        """Takes no more calls, lets those under way be answered, breaks them off after `grace`
        seconds, and lets go of the port.

        What a call told the node may be the very reason to stop: it is answered first, or the peer
        would think that it was not heard.
        """
        self._server.stop(grace).wait(grace + 1.0)


def _check_free(address: Address) -> None:
    """Tries to bind as the server will: gRPC itself does not say why it could not."""
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


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a method."""

    def __init__(self, node: Node, software: str) -> None:
        calls = _Calls(node, software)
        self._node = node
        self._handlers = {}
        for name, (request, reply, client_streams, server_streams) in messages.methods().items():
            kind = {
                (False, False): grpc.unary_unary_rpc_method_handler,
                (True, False): grpc.stream_unary_rpc_method_handler,
                (True, True): grpc.stream_stream_rpc_method_handler,
            }[client_streams, server_streams]
            self._handlers[f"/{messages.SERVICE}/{name}"] = kind(
                getattr(calls, name),
                request_deserializer=_parser(request),
                response_serializer=reply.SerializeToString,
            )

    def service(self, details: Any) -> Any:
        handler = self._handlers.get(details.method)
        if handler is None:
            other = OTHER_VERSION.match(details.method)
            if other and int(other[1]) != PROTOCOL:
                self._node.stranger(f"version {other[1]}", "")
        return handler


def _parser(kind: Any) -> Callable[[bytes], Any]:
    """Bytes to a message, or `JUNK` where they are none: a handler answers that, gRPC would log."""
    from google.protobuf.message import DecodeError

    def parse(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            return JUNK

    return parse


def _checked(call: Callable[..., Any]) -> Callable[..., Any]:
    """A unary method that answers a message that cannot be with INVALID_ARGUMENT."""

    def checked(self: _Calls, request: Any, wire: Any) -> Any:
        try:
            if request is JUNK:
                raise Malformed("not a message")
            return call(self, request)
        except Malformed as error:
            log.warning("%s sent what cannot be: %s", wire.peer(), error)
            wire.abort(grpc.StatusCode.INVALID_ARGUMENT, convert.text(str(error)))
            raise

    return checked


class _Calls:
    """The service's methods, under their names in the descriptors."""

    def __init__(self, node: Node, software: str) -> None:
        self._node = node
        self._software = software

    @_checked
    def Prepare(self, request: Any) -> Any:
        reply = messages.PrepareReply(
            protocol=PROTOCOL, software=self._software, node=self._node.journal.node
        )
        try:
            answer = self._node.prepare(convert.offer_in(request))
            reply.missing.extend(answer.missing)
            reply.held = b"".join(answer.held[: convert.HELD])
            reply.abilities.extend(answer.abilities)
        except PeerRefused as error:
            reply.refusal.CopyFrom(convert.refusal_out(error))
        return reply

    def Upload(self, requests: Iterator[Any], wire: Any) -> Any:
        try:
            first: Any = next(requests, None)
            if _part(first) != "module":
                raise Malformed("an upload begins with the module's name")
            upload = self._node.upload(convert.module_in(first.module))
            for request in requests:
                upload.write(_piece(request))
            upload.finish()
        except PeerRefused as error:
            return messages.UploadReply(refusal=convert.refusal_out(error))
        except Malformed as error:
            wire.abort(grpc.StatusCode.INVALID_ARGUMENT, convert.text(str(error)))
            raise
        return messages.UploadReply()

    def Transfer(self, requests: Iterator[Any], wire: Any) -> Iterator[Any]:
        reception = None
        try:
            first: Any = next(requests, None)
            if _part(first) != "move":
                raise Malformed("a transfer begins with its move")
            reception = self._node.begin(convert.move_in(first.move))
            for request in requests:
                if _part(request) == "end":
                    held = reception.finish(convert.receipt_in(request.end))
                    ready = messages.Ready(size=held.size, digest=held.digest)
                    yield messages.TransferReply(ready=ready)
                    return
                reception.write(_piece(request))
                yield messages.TransferReply(received=reception.received)
            raise Malformed("a transfer ends with its digest")
        except PeerRefused as error:
            yield messages.TransferReply(refusal=convert.refusal_out(error))
        except Malformed as error:
            wire.abort(grpc.StatusCode.INVALID_ARGUMENT, convert.text(str(error)))
            raise
        except grpc.RpcError:
            log.info("%s broke a transfer off", wire.peer())
        finally:
            if reception:
                reception.cancel()

    @_checked
    def Commit(self, request: Any) -> Any:
        try:
            _same_protocol(request)
            move = convert.move_in(request.move)
            standing = self._node.commit(move, convert.span_in(request.stopped))
        except PeerRefused as error:
            return messages.CommitReply(refusal=convert.refusal_out(error))
        return messages.CommitReply(standing=int(standing))

    @_checked
    def Status(self, request: Any) -> Any:
        node = self._node.journal.node
        try:
            _same_protocol(request)
            return convert.report_out(self._node.status(convert.move_in(request.move)), node)
        except PeerRefused as error:
            return messages.StatusReply(
                protocol=PROTOCOL, node=node, refusal=convert.refusal_out(error)
            )

    @_checked
    def Abort(self, request: Any) -> Any:
        try:
            _same_protocol(request)
            standing: Standing = self._node.abort(convert.move_in(request.move))
        except PeerRefused as error:
            return messages.AbortReply(refusal=convert.refusal_out(error))
        return messages.AbortReply(standing=int(standing))

    @_checked
    def Output(self, request: Any) -> Any:
        try:
            _same_protocol(request)
            self._node.output(*convert.output_in(request))
        except PeerRefused as error:
            return messages.OutputReply(refusal=convert.refusal_out(error))
        return messages.OutputReply()

    @_checked
    def Input(self, request: Any) -> Any:
        try:
            _same_protocol(request)
            data, end = self._node.input(*convert.question_in(request))
        except PeerRefused as error:
            return messages.InputReply(refusal=convert.refusal_out(error))
        return messages.InputReply(data=data, end=end)

    @_checked
    def Ended(self, request: Any) -> Any:
        try:
            _same_protocol(request)
            program = convert.node_in(request.program)
            self._node.ended(program, request.epoch, convert.ending_in(request.ending))
        except PeerRefused as error:
            return messages.EndedReply(refusal=convert.refusal_out(error))
        return messages.EndedReply()


def _part(request: Any) -> str | None:
    """Which part of a stream a message is; None if it is none, or the stream is over."""
    part: str | None = None if request in (None, JUNK) else request.WhichOneof("part")
    return part


def _piece(request: Any) -> bytes:
    if _part(request) != "piece":
        raise Malformed("a piece was expected")
    if not 1 <= len(request.piece) <= PIECE:
        raise Malformed(f"a piece of {len(request.piece)} bytes")
    return bytes(request.piece)


def _same_protocol(request: Any) -> None:
    if request.protocol != PROTOCOL:
        raise PeerRefused(
            Refusal(
                Reason.VERSION,
                f"it speaks version {PROTOCOL} of the migration protocol, not {request.protocol}",
            )
        )
