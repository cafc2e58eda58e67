"""A peer over a gRPC channel (`ports.Peer`).

Every failure of the wire raises `PeerLost`, every refusal `PeerRefused`; no error of gRPC leaves
this file. Before the first call, and after a failed one, both ends prove to each other that they
have the same key (`session`). Any thread may call.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.ports import Buffer
from wasmsr.migrate.protocol import (
    JOINED,
    PIECE,
    PROTOCOL,
    Answer,
    Committed,
    Ending,
    KeptOutput,
    ModuleName,
    Move,
    Offer,
    OwnershipState,
    PackedFiles,
    PackedPages,
    PeerLost,
    PeerRefused,
    PeerUnknown,
    Reason,
    Receipt,
    Refusal,
    Report,
    RoundHead,
    RoundReceipt,
)
from wasmsr.migrate.streams.inputs import HOLD_SECONDS
from wasmsr.rpc import channel, convert, messages
from wasmsr.rpc.convert import Malformed
from wasmsr.rpc.session import METADATA, NONCE, BadSeal, Call, PeerSession, hello
from wasmsr.runspec.address import Address

# After `channel`, which sets how loud it is.
import grpc  # type: ignore[import-untyped]  # isort: skip

WINDOW = 8 * PIECE
"""Most bytes that were sent and that the peer has not written yet."""

SMALL = 64 << 10
"""Bytes of a part of a transfer from which on it is a message of its own."""

JOINED_BYTES = 256 << 10
"""Bytes of small parts at which they are sent. Each message costs both ends a change of threads."""

QUESTION_SECONDS = 10.0
"""How long a peer may take to answer a question for which it at most writes a record."""

PREPARE_SECONDS = 120.0
"""How long a peer may take to validate and compile modules, or to restore a program on trial."""

SYNC_SECONDS = 120.0
"""How long a peer may take to write a round to its disk."""

STALL_SECONDS = channel.STALL_SECONDS
"""How long a transfer may go without progress."""

HURRY_SECONDS = 0.5
"""How long a question may take after an interrupt."""


class RemotePeer:
    """A peer at one address.

    Attributes:
        address: The address.
        met: The node id with which it has answered last, or b"".
    """

    def __init__(
        self, address: Address, node: bytes, key: bytes, *, wire: Any = None, token: bytes = b""
    ) -> None:
        """Connect at the first call.

        Args:
            address: The peer's address.
            node: The node id of this end.
            key: The key that the peer must have; b"" for none.
            wire: The channel; None makes one for plain text.
            token: What each call shows of this end's rights; b"" for nothing.
        """
        self.address = str(address)
        self.met = b""
        self._node = node
        self._key = key
        self._shown = [(channel.TOKEN, token)] if token else []
        self._methods: dict[str, Any] = {}
        self._replies: dict[str, Any] = {}
        self.connect(wire or grpc.insecure_channel(self.address, options=channel.CLIENT))
        self._lock = threading.Lock()
        self._calls: set[Any] = set()
        """Calls in progress, which `interrupt` cancels."""
        self._hurry = False
        self._meeting = threading.Lock()
        self._session: PeerSession | None = None
        self.joins = False
        """Whether the peer takes several parts of a transfer in one message."""

    def connect(self, wire: Any) -> None:
        """Make later calls over another channel."""
        self._channel = wire
        for name, (_, reply, client_streams, server_streams) in messages.methods().items():
            make = {
                (False, False): wire.unary_unary,
                (True, False): wire.stream_unary,
                (True, True): wire.stream_stream,
            }[client_streams, server_streams]
            self._methods[name] = make(_path(name))
            self._replies[name] = reply

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def interrupt(self) -> None:
        """Cancel the calls in progress; later calls wait only `HURRY_SECONDS`."""
        with self._lock:
            self._hurry = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def over(self, call: object) -> None:
        """Forget a call, which has ended."""
        with self._lock:
            self._calls.discard(call)

    def prepare(self, offer: Offer) -> Answer:
        """Ask the peer to take a program."""
        reply = self._ask("Prepare", convert.offer_out(offer), PREPARE_SECONDS)
        self._same_version(reply)
        self._refused(reply)
        try:
            answer = Answer(
                convert.node_in(reply.node),
                convert.missing_in(reply.missing),
                convert.held_in(reply.held),
                convert.abilities_in(reply.abilities),
                convert.span_in(reply.restore),
                convert.epoch_in(reply.known),
                convert.journal_in(reply.journal),
                convert.files_in(reply.files),
            )
        except Malformed as error:
            raise self._nonsense(error) from error
        self.joins = JOINED in answer.abilities
        return answer

    def upload(self, module: Buffer, digest: bytes, move: Move | None = None) -> None:
        """Send a module that the peer lacks."""
        view = memoryview(module)

        def requests() -> Iterator[Any]:
            name = ModuleName(digest, len(view))
            which = None if move is None else convert.move_out(move)
            yield messages.UploadRequest(module=convert.module_out(name), move=which)
            for start in range(0, len(view), PIECE):
                yield messages.UploadRequest(piece=bytes(view[start : start + PIECE]))

        self._refused(self._ask("Upload", requests, PREPARE_SECONDS))

    def transfer(
        self, move: Move, rest: int = 0, *, memory: bool = False, files: int = 0
    ) -> _Sending:
        """Begin to send the program's state; see `ports.Peer`."""
        with self._lock:
            if self._hurry:
                raise PeerLost("interrupted")
        session = self._meet()
        with self._lock:
            if self._hurry:
                raise PeerLost("interrupted")
            begin = messages.TransferBegin(
                move=convert.move_out(move), rest=rest, memory=memory, files=files
            )
            sending = _Sending(self, session.call(_path("Transfer")), begin)
            if not sending.is_over:
                self._calls.add(sending)
        return sending

    def commit(self, move: Move, stopped: float) -> Committed:
        """Tell the peer the decision; see `ports.Peer`."""
        request = messages.CommitRequest(
            protocol=PROTOCOL, node=self._node, move=convert.move_out(move), stopped=stopped
        )
        reply = self._ask("Commit", request, QUESTION_SECONDS)
        return Committed(self._standing(reply), convert.span_in(reply.started))

    def status(self, move: Move) -> Report:
        """Ask what the peer has decided about a move."""
        request = messages.StatusRequest(
            protocol=PROTOCOL, node=self._node, move=convert.move_out(move)
        )
        reply = self._ask("Status", request, QUESTION_SECONDS)
        self._refused(reply)
        try:
            return convert.report_in(reply)
        except Malformed as error:
            raise self._nonsense(error) from error

    def abort(self, move: Move) -> OwnershipState:
        """Take an undecided move back; return what the peer's journal says then."""
        request = messages.AbortRequest(
            protocol=PROTOCOL, node=self._node, move=convert.move_out(move)
        )
        return self._standing(self._ask("Abort", request, QUESTION_SECONDS))

    def output(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Send a piece of output to the peer, which shows it."""
        request = messages.OutputRequest(
            protocol=PROTOCOL,
            node=self._node,
            move=convert.move_out(move),
            stream=stream,
            offset=offset,
            data=data,
        )
        reply = self._ask_beside("Output", request, QUESTION_SECONDS)
        self._refused(reply)
        return int(reply.unseen)

    def input(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Ask the peer for input of a program that is here."""
        request = messages.InputRequest(
            protocol=PROTOCOL,
            node=self._node,
            move=convert.move_out(move),
            position=position,
            most=most,
        )
        # The peer holds the question until there is input, or for `HOLD_SECONDS`.
        reply = self._ask_beside("Input", request, HOLD_SECONDS + QUESTION_SECONDS)
        self._refused(reply)
        try:
            return convert.input_in(reply, most)
        except Malformed as error:
            raise self._nonsense(error) from error

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        """Tell the peer that a program has ended."""
        request = messages.EndedRequest(
            protocol=PROTOCOL,
            node=self._node,
            program=program,
            epoch=epoch,
            ending=convert.ending_out(ending),
        )
        self._refused(self._ask("Ended", request, QUESTION_SECONDS))

    def _ask(self, name: str, request: Any, seconds: float) -> Any:
        """Return the answer to a message, or to the messages that `request()` gives."""
        return self._exchange(name, request, self._run, seconds)

    def _ask_beside(self, name: str, request: Any, seconds: float) -> Any:
        """Ask on a thread of a program's stream, beside the thread of the end.

        Only a refusal by the peer itself is a refusal here. All other trouble may pass, and the
        program's streams must survive it.
        """

        def run(start: Callable[[float], Any], limit: float) -> Any:
            return start(limit).result()

        try:
            return self._exchange(name, request, run, seconds)
        except PeerRefused as error:
            raise PeerLost(error.message) from error

    def _exchange(
        self,
        name: str,
        request: Any,
        run: Callable[[Callable[[float], Any], float], Any],
        seconds: float,
    ) -> Any:
        again = False
        while True:
            session = self._meet()
            call = session.call(_path(name))

            def start(limit: float, call: Call = call) -> Any:
                if callable(request):
                    sent: Any = (call.seal(one.SerializeToString()) for one in request())
                else:
                    sent = call.seal(request.SerializeToString())
                proof = [(METADATA, call.metadata), *self._shown]
                return self._methods[name].future(sent, timeout=limit, metadata=proof)

            try:
                return self._replies[name].FromString(call.open(run(start, seconds)))
            except grpc.FutureCancelledError as error:
                raise PeerLost("interrupted") from error
            except (BadSeal, DecodeError) as error:
                self.forget(session)
                raise PeerUnknown(f"{self.address} answered without this end's key") from error
            except grpc.RpcError as error:
                if self.lost(error, session) and not again:
                    # The peer was started again, or has forgotten the session. It read nothing.
                    again = True
                    continue
                raise self.failed(error) from error

    def _run(self, start: Callable[[float], Any], seconds: float) -> Any:
        """Make a call that `interrupt` can cancel."""
        with self._lock:
            if self._hurry:
                seconds = min(seconds, HURRY_SECONDS)
            call = start(seconds)
            self._calls.add(call)
        try:
            return call.result()
        finally:
            self.over(call)

    def _meet(self) -> PeerSession:
        """Return the session with the peer; begin one if there is none.

        Raises:
            PeerUnknown: Somebody without the key answers.
            PeerLost: Nobody answers.
            PeerRefused: The peer has another version, or is this end.
        """
        with self._meeting:
            if self._session is not None:
                return self._session
            nonce = secrets.token_bytes(NONCE)
            proof = [(METADATA, hello(self._key, nonce)), *self._shown]
            request = messages.HelloRequest(protocol=PROTOCOL).SerializeToString()
            with self._lock:
                seconds = HURRY_SECONDS if self._hurry else QUESTION_SECONDS
                method = self._methods["Hello"]
                greeting = method.future(request, timeout=seconds, metadata=proof)
                self._calls.add(greeting)
            try:
                reply = messages.HelloReply.FromString(greeting.result())
            except grpc.FutureCancelledError as error:
                raise PeerLost("interrupted") from error
            except DecodeError as error:
                raise self.unknown() from error
            except grpc.RpcError as error:
                raise self.failed(error) from error
            finally:
                self.over(greeting)
            self._same_version(reply)
            session = PeerSession.begun(self._key, nonce, reply.nonce, reply.node, reply.proof)
            if session is None:
                raise self.unknown()
            if reply.node == self._node:
                # Somebody who only returns our own messages is not the peer either.
                sentence = f"{self.address} is this very end"
                raise PeerRefused(
                    Refusal(Reason.SELF, sentence, "name the address of the other end")
                )
            self._session, self.met = session, bytes(reply.node)
            return session

    def forget(self, session: PeerSession) -> None:
        """Forget the session; the next call begins another one."""
        with self._meeting:
            if self._session is session:
                self._session = None

    def lost(self, error: Any, session: PeerSession) -> bool:
        """Return whether a call failed because the peer does not have the session.

        If the connection may be a new one, this end forgets the session.
        """
        unknown = error.code() is grpc.StatusCode.UNAUTHENTICATED
        if unknown or error.code() is grpc.StatusCode.UNAVAILABLE:
            self.forget(session)
        return unknown

    def unknown(self) -> PeerUnknown:
        """Return the error for somebody without the key."""
        return PeerUnknown(
            f"{self.address} has not the same key as this end",
            hint="two ends of one user find their key by themselves; otherwise give both the same "
            "--token-file FILE (and --insecure to both or to neither)",
        )

    def _same_version(self, reply: Any) -> None:
        if reply.protocol != PROTOCOL:
            raise PeerRefused(
                Refusal(
                    Reason.VERSION,
                    f"{self.address} speaks version {reply.protocol} of the migration protocol "
                    f"(wasmsr {convert.text(reply.software, 64)}), this end version {PROTOCOL}",
                    "install the same version of wasmsr on both ends",
                )
            )

    def _standing(self, reply: Any) -> OwnershipState:
        self._refused(reply)
        try:
            return convert.standing_in(reply.standing)
        except Malformed as error:
            raise self._nonsense(error) from error

    def _refused(self, reply: Any) -> None:
        if reply.HasField("refusal"):
            raise self.refusal(reply.refusal)

    def refusal(self, message: Any) -> PeerRefused:
        """Return the error for a refusal that the peer sent."""
        said = convert.refusal_in(message)
        sentence = f"{self.address} refuses: {said.sentence or said.reason.name.lower()}"
        return PeerRefused(Refusal(said.reason, sentence, said.hint))

    def failed(self, error: Any) -> PeerLost | PeerRefused:
        """Return the error for a call that failed."""
        code = error.code()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return PeerRefused(
                Refusal(
                    Reason.VERSION,
                    f"{self.address} does not speak version {PROTOCOL} of the migration protocol",
                    "install the same version of wasmsr on both ends",
                )
            )
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return self.unknown()
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            details = convert.text(error.details() or "")
            sentence = f"{self.address} does not understand: {details}"
            return PeerRefused(Refusal(Reason.UNSPECIFIED, sentence))
        if code is grpc.StatusCode.PERMISSION_DENIED:
            details = convert.text(error.details() or "")
            sentence = f"{self.address} refuses: {details}"
            return PeerRefused(Refusal(Reason.UNSPECIFIED, sentence))
        if code is grpc.StatusCode.CANCELLED:
            return PeerLost(f"{self.address} cancelled the call")
        if code is grpc.StatusCode.UNAVAILABLE:
            return PeerLost(f"{self.address} cannot be reached")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return PeerLost(f"{self.address} did not answer in time")
        details = convert.text(error.details() or "")
        return PeerLost(f"{self.address} failed ({code.name.lower()}: {details})")

    def _nonsense(self, error: Malformed) -> PeerLost:
        return PeerLost(f"{self.address} sent an invalid answer: {error}")


def _path(name: str) -> str:
    return f"/{messages.SERVICE}/{name}"


class _Sending:
    """A transfer in progress (`ports.Sending`), at most `WINDOW` bytes ahead of the peer.

    A thread of gRPC takes the requests from a queue; a thread of ours reads the replies.
    """

    def __init__(self, peer: RemotePeer, call: Call, begin: Any) -> None:
        self._peer = peer
        self._sealed = call
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._joins = peer.joins
        self._small: list[Any] = []
        self._small_bytes = 0
        self._queue.put(messages.TransferRequest(begin=begin))
        self._round: RoundReceipt | None = None
        self._news = threading.Condition()
        self._sent = self._received = 0
        self.waited = 0.0
        self._receipt: Receipt | None = None
        self._error: PeerLost | PeerRefused | None = None
        self._over = False
        self._cancelled = False
        # Sealed by gRPC's thread, beside the one that sends.
        sealed = (call.seal(one.SerializeToString()) for one in iter(self._queue.get, None))
        proof = [(METADATA, call.metadata), *peer._shown]
        self._call = peer._methods["Transfer"](sealed, metadata=proof)
        threading.Thread(target=self._read, name="wasmsr-transfer", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._over

    def _put(self, request: Any, size: int = 0) -> None:
        """Send a part, of which `size` bytes count, or keep it for a while if it is small."""
        small = self._joins and size < SMALL
        if not small:
            self._flush()
        self._sent += size
        if not small:
            self._queue.put(request)
            return
        self._small.append(request)
        self._small_bytes += size
        if self._small_bytes >= JOINED_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Send the small parts that are kept."""
        parts, self._small, self._small_bytes = self._small, [], 0
        if len(parts) == 1:
            self._queue.put(parts[0])
        elif parts:
            self._queue.put(messages.TransferRequest(joined=parts))

    def _wait_for_room(self) -> None:
        if self._error or self._sent - self._received >= WINDOW:
            self._flush()
            self._wait(lambda: self._sent - self._received < WINDOW, STALL_SECONDS)

    def early(self, piece: Buffer, *, last: bool) -> None:
        self._wait_for_room()
        early = messages.Early(piece=bytes(piece), last=last)
        self._put(messages.TransferRequest(early=early), len(piece))

    def called(self, called: CalledFunctions) -> None:
        self._wait_for_room()
        request = messages.TransferRequest(called=convert.called_out(called))
        self._put(request, 4 * len(called.functions))

    def begin(self, head: RoundHead) -> None:
        round_ = messages.RoundBegin(number=head.number, sizes=head.sizes, last=head.last)
        self._put(messages.TransferRequest(round=round_))

    def pages(self, batch: PackedPages) -> None:
        self._wait_for_room()
        self._put(messages.TransferRequest(pages=convert.pages_out(batch)), len(batch.data))

    def files(self, batch: PackedFiles) -> None:
        self._wait_for_room()
        self._put(messages.TransferRequest(files=convert.files_out(batch)), len(batch.data))

    def output(self, kept: KeptOutput) -> None:
        self._wait_for_room()
        self._put(messages.TransferRequest(output=convert.kept_out(kept)), len(kept.data))

    def drain(self) -> None:
        self._flush()
        self._wait(lambda: self._received >= self._sent, STALL_SECONDS)

    def end(self, number: int) -> RoundReceipt:
        self._put(messages.TransferRequest(round_end=number))
        self._flush()
        self._wait(lambda: self._received >= self._sent, STALL_SECONDS)
        self._wait(lambda: self._round is not None and self._round.number == number, SYNC_SECONDS)
        assert self._round is not None
        return self._round

    def send(self, piece: Buffer) -> None:
        self._wait_for_room()
        self._put(messages.TransferRequest(piece=bytes(piece)), len(piece))

    def repeat(self, offset: int, size: int) -> None:
        span = messages.Span(offset=offset, size=size)
        self._put(messages.TransferRequest(repeat=span))

    def finish(self, receipt: Receipt) -> None:
        end = messages.TransferEnd(size=receipt.size, digest=receipt.digest)
        self._put(messages.TransferRequest(end=end))
        self._flush()
        self._queue.put(None)

    def ready(self) -> Receipt:
        self._wait(
            lambda: self._received >= self._sent or self._receipt or self._over, STALL_SECONDS
        )
        # READY counts as soon as it is heard; the end of the call may take half a round trip more.
        self._wait(lambda: self._receipt is not None, PREPARE_SECONDS)
        assert self._receipt is not None
        return self._receipt

    def cancel(self) -> None:
        self._cancelled = True
        self._queue.put(None)
        self._call.cancel()

    def _wait(self, done: Any, limit: float) -> None:
        """Wait for `done()`. Raise an error of the transfer, or after `limit` silent seconds."""
        with self._news:
            received = self._received
            began = time.monotonic()
            deadline = began + limit
            while not self._error and not done():
                if self._over:
                    raise PeerLost(f"{self._peer.address} ended the transfer without an answer")
                left = deadline - time.monotonic()
                if self._received != received:
                    received = self._received
                    deadline = time.monotonic() + limit
                elif left <= 0:
                    raise PeerLost(f"{self._peer.address} has stopped reading")
                self._news.wait(max(0.0, left))
            self.waited += time.monotonic() - began
            if self._error:
                raise self._error

    def _read(self) -> None:
        error: PeerLost | PeerRefused | None = None
        try:
            for sealed in self._call:
                reply = messages.TransferReply.FromString(self._sealed.open(sealed))
                part = reply.WhichOneof("part")
                if part == "refusal":
                    error = self._peer.refusal(reply.refusal)
                elif part == "ready":
                    with self._news:
                        self._receipt = convert.ready_in(reply.ready)
                        self._news.notify_all()
                elif part == "round":
                    with self._news:
                        self._round = convert.round_done_in(reply.round)
                        self._received = self._sent  # it answers to all that came before
                        self._news.notify_all()
                elif part == "received":
                    with self._news:
                        self._received = max(self._received, min(reply.received, self._sent))
                        self._news.notify_all()
        except (BadSeal, DecodeError):
            self._peer.forget(self._sealed.session)
            error = PeerUnknown(f"{self._peer.address} answered without this end's key")
        except grpc.RpcError as failure:
            self._peer.lost(failure, self._sealed.session)
            error = error or self._peer.failed(failure)
            if self._cancelled:
                error = PeerLost("interrupted")
        except Malformed as failure:
            error = self._peer._nonsense(failure)
        with self._news:
            # A READY counts even if the stream broke after it.
            self._error = None if self._receipt else error
            self._over = True
            self._news.notify_all()
        self._peer.over(self)
        self._queue.put(None)
