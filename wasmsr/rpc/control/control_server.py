"""The gRPC server of a node: gives calls to the supervisor, and its answers back.

Nothing of a call is read before the caller is admitted. A call that is silent, or slower than a
line that works, is ended (`gate`). Calls that wait for news have places of their own, so that they
do not take those of the others.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.message import DecodeError

from wasmsr.errors import (
    EXIT_MIGRATION,
    EXIT_MODULE,
    EXIT_SNAPSHOT,
    EXIT_USAGE,
    WasmsrError,
    printable,
)
from wasmsr.node.failures import NodeError, NoSuchProgram, SubmissionRefused, WrongState
from wasmsr.node.leases.lease_terms import LeaseTerms
from wasmsr.node.moving.node_moves import ARRIVALS
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.output_pieces import program_output
from wasmsr.node.supervision.program_record import STREAMS
from wasmsr.rpc import channel
from wasmsr.rpc import messages as migration
from wasmsr.rpc.control import control_messages as messages
from wasmsr.rpc.control.move_calls import MoveCalls
from wasmsr.rpc.control.node_peer import NO_KEY
from wasmsr.rpc.control.program_info import program_out
from wasmsr.rpc.control.standard_services import (
    ControlCall,
    HealthCalls,
    ReflectionCalls,
    first_of,
)
from wasmsr.rpc.gate import Gate
from wasmsr.rpc.server import MigrationHandlers, Sender

# After `channel`, which sets how loud it is.
import grpc  # type: ignore[import-untyped]  # isort: skip

log = logging.getLogger(__name__)

FOLLOWERS = 32
"""Calls at once that wait for news."""

FOLLOWING = ("Logs", "List", "Watch", "ServerReflectionInfo", "Migrate", "Drain")
"""Methods that wait for news."""

SENDERS = 8
"""Calls at once that send files. A snapshot takes a file as large as the program meanwhile."""

SENDING = ("Snapshot", "Carried")
"""Methods that send a file."""

QUESTIONS = 16
"""Other calls at once."""

MORE = 8
"""More threads, which refuse calls."""

CALLS = 200
"""Calls at once that gRPC gives to this server, with those that it refuses."""

PIECE = 1 << 20
"""Bytes of a piece of a module at most."""

SENTENCE = 1000
"""Characters of a refusal, and of its hint, at most."""

SPEC_BYTES = 1 << 18
"""Bytes of the description of a run at most."""

Admit = Callable[[str, bytes | None, bytes], str]
"""Gets address, certificate and token of a caller; returns its name, or raises a WasmsrError."""


AdmitNode = Callable[[Any], Sender]
"""Gets gRPC's context of a call of another node; returns who calls, or raises AccessRefused."""


class ControlServer:
    """Serves a node until `stop`."""

    _moves_gate: Gate | None = None

    def __init__(
        self,
        node: NodeSupervisor,
        address: str,
        software: str,
        admit: Admit,
        *,
        confinement: tuple[str, ...] = (),
        credentials: Any = None,
        local: str | None = None,
        admit_node: AdmitNode | None = None,
    ) -> None:
        """Bind and start.

        Args:
            node: The supervisor.
            address: `HOST:PORT`, or `unix:PATH`.
            software: The version of wasmsr.
            admit: Who may call.
            confinement: What the machine gives to confine workers.
            credentials: gRPC's server credentials; None for plain text.
            local: A socket in a folder of this user, for callers on this machine; or None.
            admit_node: Which nodes may send programs; None for none.

        Raises:
            NodeError: The address cannot be used.
        """
        self._gate = Gate({"follow": FOLLOWERS, "send": SENDERS, "question": QUESTIONS})
        self._stopped = threading.Event()
        handlers: list[Any] = [
            _Handlers(node, software, admit, confinement, self._gate, self._stopped)
        ]
        threads = FOLLOWERS + SENDERS + QUESTIONS + MORE
        if admit_node is not None:
            at_once = dict.fromkeys(migration.methods(), ARRIVALS + 1)
            self._moves_gate = Gate(at_once)
            handlers.append(
                MigrationHandlers(
                    node.moves.end.answers, software, NO_KEY, self._moves_gate, admit_node
                )
            )
            threads += 3 * ARRIVALS
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="wasmsr-control"),
            handlers=handlers,
            options=channel.SERVER,
            maximum_concurrent_rpcs=CALLS,
        )
        self._bind(address, credentials)
        if local is not None:
            self._bind(f"unix:{local}", None)
        self._server.start()

    def _bind(self, address: str, credentials: Any) -> None:
        try:
            if credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise NodeError(
                f"the node cannot listen on {printable(address)}",
                hint="another process listens there, or this machine has not that address: choose "
                "another one with --listen",
            )

    def stop(self, grace: float = 1.0) -> None:
        """Take no more calls, finish those in progress, and close the port."""
        self._stopped.set()
        self._server.stop(grace).wait(grace + 1.0)
        self._gate.close()
        if self._moves_gate is not None:
            self._moves_gate.close()


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the method of a call."""

    def __init__(
        self,
        node: NodeSupervisor,
        software: str,
        admit: Admit,
        confinement: tuple[str, ...],
        gate: Gate,
        stopped: threading.Event,
    ) -> None:
        self._admit, self._gate = admit, gate
        calls = {
            messages.CONTROL: _Calls(node, software, confinement, stopped),
            messages.HEALTH: HealthCalls(lambda: bool(node.shown()["stopping"]), stopped.wait),
            messages.REFLECTION: ReflectionCalls(),
        }
        self._methods: dict[str, tuple[str, Any, Any]] = {}
        for service, found in calls.items():
            for name, method in messages.methods(service).items():
                entry = name, method.request, getattr(found, name)
                self._methods[f"/{service}/{name}"] = entry
        old = f"/{messages.OLD_REFLECTION}/ServerReflectionInfo"
        self._methods[old] = self._methods[f"/{messages.REFLECTION}/ServerReflectionInfo"]

    def service(self, details: Any) -> Any:
        found = self._methods.get(details.method)
        if found is None:
            return None
        name, kind, method = found
        # Probes of containers have no token, and health says nothing but that.
        free = details.method.startswith(f"/{messages.HEALTH}/")
        return grpc.stream_stream_rpc_method_handler(self._behave(name, kind, method, free))

    def _behave(
        self, name: str, kind: Any, method: Any, free: bool
    ) -> Callable[..., Iterator[bytes]]:
        def parse(data: bytes) -> Any:
            try:
                return kind.FromString(data)
            except DecodeError:
                raise SubmissionRefused("not a message") from None

        def behave(requests: Iterator[bytes], wire: Any) -> Iterator[bytes]:
            try:
                caller = wire.peer()
                if not free:
                    caller = self._admit(caller, *channel.proofs_of(wire))
                with self._gate.enter(_place(name)) as entered:
                    if not entered:
                        wire.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once")
                    incoming = map(parse, self._gate.read(requests, wire))
                    replies = method(incoming, ControlCall(caller, wire.is_active))
                    sent = (reply.SerializeToString() for reply in replies)
                    yield from self._gate.send(sent, wire) if name in SENDING else sent
            except (WasmsrError, OSError, KeyError) as error:
                _refuse(wire, error)
            except grpc.RpcError:
                log.info("%s broke %s off", wire.peer(), name)

        return behave


def _place(method: str) -> str:
    """Return which places a method needs."""
    if method in SENDING:
        return "send"
    return "follow" if method in FOLLOWING else "question"


def _refuse(wire: Any, error: BaseException) -> None:
    """End a call with the status of an error."""
    codes = grpc.StatusCode
    if not isinstance(error, WasmsrError):
        if isinstance(error, KeyError):
            wire.abort(codes.NOT_FOUND, "there is nothing of that name")
        wire.abort(codes.INTERNAL, _ascii(f"the node's host failed: {error}"))
    assert isinstance(error, WasmsrError)
    code = codes.INTERNAL
    if isinstance(error, NoSuchProgram):
        code = codes.NOT_FOUND
    elif isinstance(error, WrongState):
        code = codes.FAILED_PRECONDITION
    elif isinstance(error, SubmissionRefused):
        code = codes.INVALID_ARGUMENT
    elif (rule := getattr(error, "rule", None)) is not None:
        code = codes.UNAUTHENTICATED if rule == "token" else codes.PERMISSION_DENIED
    elif error.exit_code in (EXIT_USAGE, EXIT_MODULE):  # what the caller has sent is wrong
        code = codes.INVALID_ARGUMENT
    elif error.exit_code in (EXIT_SNAPSHOT, EXIT_MIGRATION):
        code = codes.FAILED_PRECONDITION
    wire.set_trailing_metadata(
        (
            (messages.HINT, (error.hint or "")[:SENTENCE].encode()),
            (messages.EXIT_CODE, str(error.exit_code)),
            (messages.KIND, type(error).__name__),
        )
    )
    wire.abort(code, _ascii(error.message))


def _ascii(text: str) -> str:
    """Return a text as the details of a status can hold it; it may quote what a caller sent."""
    shown = printable(text[:SENTENCE], None)
    return shown.encode("ascii", "backslashreplace").decode("ascii")[:SENTENCE]


class _Calls:
    """The methods of the control service, under their names there."""

    def __init__(
        self,
        node: NodeSupervisor,
        software: str,
        confinement: tuple[str, ...],
        stopped: threading.Event,
    ) -> None:
        self._node, self._software = node, software
        self._confinement, self._stopped = confinement, stopped
        moves = MoveCalls(node, stopped)
        self.Migrate, self.Drain = moves.migrate, moves.drain

    def Info(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        first_of(requests)
        shown = self._node.shown()
        yield messages.InfoReply(
            node=self._node.node,
            software=self._software,
            started=shown["started"],
            programs=shown["programs"],
            confinement=self._confinement,
            stopping=shown["stopping"],
            cpus=shown["cpus"],
        )

    def Submit(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        first = first_of(requests)
        if first.WhichOneof("part") != "begin":
            raise SubmissionRefused("the first message has no description of the program")
        begin = first.begin
        if len(begin.spec) + len(begin.lease) > SPEC_BYTES:
            raise SubmissionRefused(f"the description has more than {SPEC_BYTES} bytes")
        spec = _object(begin.spec or "{}", "description")
        if not (begin.every == 0 or 0.1 <= begin.every <= 86_400):
            raise SubmissionRefused("checkpoints are 0.1 to 86,400 seconds apart")
        lease = None if not begin.lease else LeaseTerms.read(_object(begin.lease, "lease"))
        name = printable(begin.name, 100)
        parts = _Pieces(requests)
        program = self._node.submit(
            begin.digest or parts.of("piece"),
            spec,
            more=parts.more(),
            snapshot=begin.snapshot,
            state=parts.of("state"),
            name=name,
            caller=call.caller,
            every=begin.every or None,
            lease=lease,
            fork=begin.fork if begin.goes_on else None,
            wanted=call.is_active,
        )
        found = self._node.find(program)
        yield messages.SubmitReply(program=program_out(found.shown()))

    def List(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        request = first_of(requests)
        while True:
            found = [program_out(one.shown()) for one in self._node.programs()]
            yield messages.ListReply(programs=found)
            if not request.follow:
                return
            self._node.wait_for_change(1.0)
            if not call.is_active() or self._stopped.is_set():
                return

    def Logs(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        request = first_of(requests)
        program = self._node.find(request.program)
        streams = tuple(request.streams) or STREAMS
        if not set(streams) <= set(STREAMS):
            raise SubmissionRefused(f"the streams of a program are {' and '.join(STREAMS)}")
        pieces = program_output(
            program,
            dict.fromkeys(streams),
            follow=request.follow,
            had={
                "stdout": (request.stdout, request.stdout_life),
                "stderr": (request.stderr, request.stderr_life),
            },
            gone=lambda: not call.is_active() or self._stopped.is_set(),
        )
        for piece in pieces:
            yield messages.LogsReply(**piece._asdict())

    def Pause(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        yield self._do(requests, lambda program: program.pause())

    def Resume(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        yield self._do(requests, lambda program: program.resume())

    def Kill(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        yield self._do(requests, lambda program: program.kill(f"killed by {call.caller}"))

    def Checkpoint(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        yield self._do(requests, lambda program: program.checkpoint())

    def Snapshot(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        program = self._node.find(first_of(requests).program)
        with program.snapshot() as (file, ends):
            while piece := file.read(PIECE):
                yield messages.SnapshotReply(piece=piece)
        yield messages.SnapshotReply(whole=True, **ends)

    def Carried(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        request = first_of(requests)
        program = self._node.find(request.program)
        if request.remove:
            program.drop_carried(request.mount)
        else:
            for piece in program.carried(request.mount):
                yield messages.CarriedReply(piece=piece)
        yield messages.CarriedReply(whole=True)

    def Inspect(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        program = self._node.find(first_of(requests).program)
        yield messages.ProgramReply(program=program_out(program.inspect(), details=True))

    def Adopt(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        found = self._node.adopt(first_of(requests).program)
        yield messages.ProgramReply(program=program_out(found.shown()))

    def _do(self, requests: Iterator[Any], act: Callable[[Any], object]) -> Any:
        program = self._node.find(first_of(requests).program)
        act(program)
        return messages.ProgramReply(program=program_out(program.shown()))


def _object(text: str, what: str) -> dict[str, Any]:
    """Return the object that a text is. Raises SubmissionRefused."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SubmissionRefused(f"the {what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise SubmissionRefused(f"the {what} is no object")
    return found


class _Pieces:
    """The pieces of a submission: of the module, of other modules, and of the snapshot."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests
        self._next: Any = None

    def of(self, part: str) -> Iterator[bytes]:
        """Yield the pieces up to the first message of another part. Raises SubmissionRefused."""
        return (getattr(request, part) for request in self._of(part))

    def more(self) -> Iterator[tuple[str, bytes]]:
        """Yield the pieces of other modules, each with the module's digest."""
        return ((request.more.digest, request.more.piece) for request in self._of("more"))

    def _of(self, part: str) -> Iterator[Any]:
        while True:
            request, self._next = self._next or next(self._requests, None), None
            if request is None:
                return
            found = request.WhichOneof("part")
            size = len(request.more.piece) if found == "more" else 0
            if found in ("piece", "state"):
                size = len(getattr(request, found))
            if found not in ("piece", "more", "state") or size > PIECE:
                raise SubmissionRefused(
                    f"pieces of at most {PIECE} bytes of modules or the snapshot were expected"
                )
            if found != part:
                self._next = request
                return
            yield request
