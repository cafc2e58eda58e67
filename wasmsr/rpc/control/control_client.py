"""`Node`: a node of this or another machine, as a client of its control service sees it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar

from wasmsr import errors
from wasmsr.interp.modules.module import Module
from wasmsr.node import failures
from wasmsr.node.failures import NodeAway, NodeBusy, NodeError
from wasmsr.rpc import channel
from wasmsr.rpc.control import control_messages as messages
from wasmsr.rpc.control.client_values import DrainReport, LogPiece, MoveEvent, SavedProgram
from wasmsr.rpc.control.program_info import ProgramInfo, program_in
from wasmsr.rpc.control.sent_files import AGAIN_SECONDS, take_file, with_modules

# After `channel`, which sets how loud it is.
import grpc  # type: ignore[import-untyped]  # isort: skip

if TYPE_CHECKING:
    from wasmsr.node.security.tls_identity import TlsContent
    from wasmsr.runspec.run_spec import RunSpec

PIECE = 1 << 18
"""Bytes of a piece of a module."""

ANSWER_SECONDS = 60.0
"""How long a node may take to answer."""

BUSY = ("too many calls at once", "Concurrent RPC limit exceeded!")
"""What a node, and gRPC in its place, answers to a call for which it has no place now."""

Reply = TypeVar("Reply")


class Node:
    """A node: takes programs, shows them, and steers them. Any thread may call its methods.

    A program is named by its id in hexadecimal digits, by the first of them, or by its name.

    Args:
        address: `HOST:PORT`, or `unix:PATH`.
        token: The node's token, if it asks for one.
        tls: Our own certificate and the authorities that the node's may have; None for plain text,
            or for `authority` alone.
        authority: PEM of these authorities, for a caller without a certificate.
        node_id: The node that must answer, by its certificate; b"" checks its host's name.
        seconds: How long the node may take to answer, besides the time that a slow line needs for
            what is sent.
    """

    def __init__(
        self,
        address: str,
        *,
        token: bytes = b"",
        tls: TlsContent | None = None,
        authority: bytes = b"",
        node_id: bytes = b"",
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.address = address
        self._seconds = seconds
        self._metadata = ((channel.TOKEN, token),) if token else ()
        if tls is None and not authority:
            self._channel = grpc.insecure_channel(address, channel.CLIENT)
        else:
            from wasmsr.rpc.tls import client_channel  # only here: it needs `cryptography`

            self._channel = client_channel(
                address, tls, authority=authority, node=node_id, options=channel.CLIENT
            )

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    # ---- calls -----------------------------------------------------------------------------------

    def _stream(self, name: str, requests: Iterable[Any], seconds: float | None) -> Iterator[Any]:
        method = messages.methods(messages.CONTROL)[name]
        call = self._channel.stream_stream(
            f"/{messages.CONTROL}/{name}",
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        with self._errors(seconds):
            replies = call(iter(requests), timeout=seconds, metadata=self._metadata)
            try:
                yield from replies
            finally:
                replies.cancel()

    def _ask(
        self, name: str, requests: list[Any] | Callable[[], Iterable[Any]], size: int = 0
    ) -> Any:
        """Return the only answer; a call that sends `size` bytes may take longer.

        A node that has no place for the call has done nothing, and is asked again.
        """
        seconds, end = self._seconds + size / channel.LEAST_RATE, time.monotonic() + self._seconds
        while True:
            try:
                for reply in self._stream(
                    name, requests if isinstance(requests, list) else requests(), seconds
                ):
                    return reply
                raise NodeAway(f"the node {self.address} gave no answer")
            except NodeBusy:
                if time.monotonic() >= end:
                    raise
                time.sleep(AGAIN_SECONDS)

    @contextmanager
    def _errors(self, seconds: float | None = None) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(error, seconds or self._seconds) from None

    def _error(self, error: Any, seconds: float) -> errors.WasmsrError:
        code, details = error.code(), error.details() or ""
        codes = grpc.StatusCode
        if code in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.CANCELLED):
            late = code is codes.DEADLINE_EXCEEDED
            how = f"has not answered for {seconds:.0f} s" if late else "cannot be reached"
            return NodeAway(
                f"the node {self.address} {how}",
                hint="is it running there? `wasmsr node --listen ADDRESS` starts one"
                if not late
                else "`wasmsr ps` says whether it did what was asked",
            )
        if code is codes.RESOURCE_EXHAUSTED and details in BUSY:
            return NodeBusy(f"the node {self.address} is busy: {details}", hint="try it again")
        metadata = dict(error.trailing_metadata() or ())
        hint = metadata.get(messages.HINT, b"").decode("utf-8", "replace") or None
        name = metadata.get(messages.KIND, "")
        kind = getattr(failures, name, None) or getattr(errors, name, None)
        made: errors.WasmsrError | None = None
        if isinstance(kind, type) and issubclass(kind, errors.WasmsrError):
            try:
                made = kind(details, hint=hint)
            except TypeError:  # it needs more than a text
                made = None
        if made is None:
            made = NodeError(details or f"the node answers {code.name}", hint=hint)
            exit_code = metadata.get(messages.EXIT_CODE, "")
            if isinstance(exit_code, str) and exit_code.isdigit():
                made.exit_code = min(int(exit_code), 255)
        return made

    # ---- verbs -----------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Return what the node is, and how many programs it has by standing.

        "cpus" is the number of processors that its programs may use; None if it does not say.
        """
        reply = self._ask("Info", [messages.InfoRequest()])
        return {
            "node": reply.node.hex(),
            "address": self.address,
            "software": reply.software,
            "started": reply.started,
            "programs": dict(reply.programs),
            "confinement": list(reply.confinement),
            "stopping": reply.stopping,
            "cpus": reply.cpus or None,
        }

    def health(self, seconds: float | None = None) -> str:
        """Return "serving", or "stopping" if the node takes no programs any more.

        No token is needed.

        Args:
            seconds: How long the answer may take; None takes that of all calls.

        Raises:
            NodeAway: The node does not answer.
        """
        seconds = self._seconds if seconds is None else seconds
        path = f"/{messages.HEALTH}/Check"
        method = messages.methods(messages.HEALTH)["Check"]
        ask = self._channel.unary_unary(
            path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        with self._errors(seconds):
            reply = ask(method.request(), timeout=seconds)
        return "serving" if reply.status == reply.SERVING else "stopping"

    def submit(
        self,
        module: Module | bytes | str | os.PathLike[str],
        spec: RunSpec | Mapping[str, Any] | None = None,
        *,
        name: str = "",
        every: float | None = None,
        from_snapshot: str | os.PathLike[str] | None = None,
        lease: Mapping[str, Any] | None = None,
        goes_on: bool = False,
        fork: int = 0,
    ) -> ProgramInfo:
        """Have the node run a program.

        Args:
            module: The module, its bytes, or the path of its file (binary or text).
            spec: The run: arguments, environment, folders of the node's host, limits; the fields
                `args`, `own_name`, `own_args`, `invoke`, `env`, `mounts`, `listen`, `limits`,
                `features`, `deterministic`, `on_changed` and `preload` of `RunSpec`. The files of
                `preload` are sent along.
            name: What to call it.
            every: Seconds between checkpoints; None leaves that to the node.
            from_snapshot: A snapshot file of this module. The program begins in its state, as a
                fork: all that begin in one snapshot share the memory that they do not write.
            lease: The terms of its lease, so that it survives the loss of its node: "seconds",
                and if they are to be others than these, "failover" (ids of the nodes that may take
                it over; none), "policy" ("restore"), "output" ("live") and "unfenced" (none).
            goes_on: With a snapshot: the program goes on as it was, with its arguments, variables
                and random seed; it is no fork.
            fork: With `goes_on`: the number with which it calls `wasmsr_forked` first, if it
                exports that; 0 for none.

        Returns:
            The program, which runs.

        Raises:
            NodeError: The node does not take it, or cannot be reached.
            WasmsrError: What is wrong with the module, or with the description.
            OSError: The file cannot be read.
        """
        if isinstance(module, (str, os.PathLike)):
            name = name or os.path.basename(os.fspath(module))
            module = Module.from_file(module)
        binary = module.binary if isinstance(module, Module) else module
        given, more = with_modules(_spec(spec))
        begin = messages.SubmitBegin(
            spec=json.dumps(given), name=name, every=every or 0, lease=_terms(lease),
            goes_on=goes_on, fork=fork,
        )  # fmt: skip
        if from_snapshot is not None:
            begin.snapshot = _digest_of(from_snapshot)
            try:
                return self.submit_known(
                    hashlib.sha256(binary).hexdigest(), given, snapshot=begin.snapshot, name=name,
                    every=every, lease=lease, goes_on=goes_on, fork=fork,
                )  # fmt: skip
            except failures.SubmissionRefused as error:
                if not error.message.startswith("the node has no "):
                    raise

        def requests() -> Iterator[Any]:
            yield messages.SubmitRequest(begin=begin)
            for piece in _pieces(binary):
                yield messages.SubmitRequest(piece=piece)
            for digest, other in more.items():
                for piece in _pieces(other):
                    part = messages.ModulePiece(digest=digest, piece=piece)
                    yield messages.SubmitRequest(more=part)
            if from_snapshot is not None:
                with open(from_snapshot, "rb") as file:
                    while piece := file.read(PIECE):
                        yield messages.SubmitRequest(state=piece)

        size = sum(map(len, (binary, *more.values())))
        size += 0 if from_snapshot is None else os.path.getsize(from_snapshot)
        return program_in(self._ask("Submit", requests, size).program)

    def submit_known(
        self,
        module: str,
        spec: RunSpec | Mapping[str, Any] | None = None,
        *,
        snapshot: str = "",
        name: str = "",
        every: float | None = None,
        lease: Mapping[str, Any] | None = None,
        goes_on: bool = False,
        fork: int = 0,
    ) -> ProgramInfo:
        """Have the node run a program whose files it has; nothing is sent but their digests.

        Args:
            module: SHA-256 of the module in hexadecimal digits, as in `ProgramInfo.module`.
            spec: As for `submit`; each `preload` is NAME=DIGEST.
            snapshot: The same of the snapshot in which it begins; "" for none.
            name: What to call it.
            every: As for `submit`.
            lease: As for `submit`.
            goes_on: As for `submit`.
            fork: As for `submit`.

        Raises:
            SubmissionRefused: The node has not the files.
            WasmsrError: As for `submit`.
        """
        begin = messages.SubmitBegin(
            spec=json.dumps(_spec(spec)), name=name, every=every or 0, digest=module,
            snapshot=snapshot, lease=_terms(lease), goes_on=goes_on, fork=fork,
        )  # fmt: skip
        reply = self._ask("Submit", [messages.SubmitRequest(begin=begin)])
        return program_in(reply.program)

    def ps(self) -> list[ProgramInfo]:
        """Return all programs of the node, oldest first."""
        reply = self._ask("List", [messages.ListRequest()])
        return [program_in(one) for one in reply.programs]

    def watch(self) -> Iterator[list[ProgramInfo]]:
        """Yield all programs, at once and after each change."""
        for reply in self._stream("List", [messages.ListRequest(follow=True)], None):
            yield [program_in(one) for one in reply.programs]

    def wait(self, program: str, seconds: float | None = None) -> ProgramInfo:
        """Return a program when nothing can follow, it is resumable, or the time is over."""
        end = None if seconds is None else time.monotonic() + seconds
        for found in self.watch():
            mine = [one for one in found if one.program.startswith(program)]
            if len(mine) != 1:
                raise failures.NoSuchProgram(f"the node has no program {program}")
            late = end is not None and time.monotonic() >= end
            if mine[0].is_final or mine[0].standing == "resumable" or late:
                return mine[0]
        raise NodeAway(f"the node {self.address} is being stopped")

    def logs(
        self,
        program: str,
        streams: Iterable[str] = (),
        *,
        follow: bool = False,
        had: Mapping[str, tuple[int, int]] | None = None,
    ) -> Iterator[LogPiece]:
        """Yield output that the node keeps of a program.

        Args:
            program: The program.
            streams: "stdout", "stderr"; none stands for both.
            follow: Wait for more until the program has ended.
            had: What the caller has already: of each stream, the offset after its last piece, and
                the `life` of that.
        """
        (stdout, out_life), (stderr, err_life) = (
            (had or {}).get(stream, (0, 0)) for stream in ("stdout", "stderr")
        )
        request = messages.LogsRequest(
            program=program, streams=list(streams), follow=follow, stdout=stdout, stderr=stderr,
            stdout_life=out_life, stderr_life=err_life,
        )  # fmt: skip
        for reply in self._stream("Logs", [request], None if follow else self._seconds):
            yield LogPiece(
                reply.stream, reply.offset, reply.data, reply.life, reply.rewound, reply.dropped
            )

    def _program(self, method: str, program: str) -> ProgramInfo:
        return program_in(self._ask(method, [messages.ProgramRequest(program=program)]).program)

    def pause(self, program: str) -> ProgramInfo:
        """Pause a program; a node that starts again leaves it paused."""
        return self._program("Pause", program)

    def resume(self, program: str) -> ProgramInfo:
        """Let a paused program run on, or continue one that is resumable from its save point."""
        return self._program("Resume", program)

    def kill(self, program: str) -> ProgramInfo:
        """End a program for good; its output stays."""
        return self._program("Kill", program)

    def checkpoint(self, program: str) -> ProgramInfo:
        """Save a program, which runs on."""
        return self._program("Checkpoint", program)

    def snapshot(self, program: str, file: str | os.PathLike[str] | IO[bytes]) -> SavedProgram:
        """Write a snapshot of a program to a file; the program stands for a moment, and runs on.

        `submit` takes the file with `from_snapshot`, on this node or another one. Folders of the
        node's host that the program has are not in it; carried ones are.

        Args:
            program: The program.
            file: The path of the file, which is replaced; or an open file, which is written from
                where it is.

        Raises:
            NodeError: It cannot be saved. Nothing is written to a path then.
            OSError: The file cannot be written.
        """
        request = messages.ProgramRequest(program=program)
        size, last = take_file(
            lambda: self._stream("Snapshot", [request], None), file, self._seconds, self.address
        )
        return SavedProgram(size, last.stdout, last.stderr)

    def carried(self, program: str, mount: str, file: str | os.PathLike[str] | IO[bytes]) -> int:
        """Write the files of a carried mount to a tar file, and return its size in bytes.

        The program has ended, was killed, or is lost. Its files are on the last node that had it.

        Args:
            program: The program.
            mount: The path at which the program had them.
            file: As for `snapshot`. What is in it was made by the program: unpack it with care.

        Raises:
            NodeError: The node does not give them. Nothing is written to a path then.
            OSError: The file cannot be written.
        """
        request = messages.CarriedRequest(program=program, mount=mount)
        return take_file(
            lambda: self._stream("Carried", [request], None), file, self._seconds, self.address
        )[0]

    def drop_carried(self, program: str, mount: str) -> None:
        """Have the node remove the files of a carried mount of a program that has ended.

        Otherwise they stay as long as the node shows the program.
        """
        request = messages.CarriedRequest(program=program, mount=mount, remove=True)
        self._ask("Carried", [request])

    def migrate(
        self,
        program: str,
        to: str,
        *,
        max_downtime: float | None = None,
        max_rounds: int | None = None,
        stop_and_copy: bool = False,
        auto_converge: bool = False,
        tell: Callable[[MoveEvent], object] = lambda event: None,
    ) -> ProgramInfo:
        """Move a program to another node, and return what this node then says of it.

        Args:
            program: The program.
            to: `HOST:PORT` of the other node.
            max_downtime: Seconds of predicted downtime at which the program is stopped; None
                leaves that to the node.
            max_rounds: Most rounds, the last one included.
            stop_and_copy: Stop the program before anything is sent.
            auto_converge: Hold a program back that writes faster than the line sends.
            tell: Gets what happens: rounds, progress, and last "moved" with the figures.

        Raises:
            NodeError: The program was not moved. It runs on, unless the error says otherwise.
        """
        policy = messages.MovePolicyMessage(
            max_downtime=max_downtime or 0, max_rounds=max_rounds or 0,
            stop_and_copy=stop_and_copy, auto_converge=auto_converge,
        )  # fmt: skip
        request = messages.MigrateRequest(program=program, to=to, policy=policy)
        for reply in self._stream("Migrate", [request], None):
            if reply.WhichOneof("part") == "program":
                return program_in(reply.program)
            tell(MoveEvent.read(reply.event))
        raise NodeAway(f"the node {self.address} gave no answer")

    def drain(
        self,
        *to: str,
        at_once: int | None = None,
        deadline: float | None = None,
        max_downtime: float | None = None,
        tell: Callable[[MoveEvent], object] = lambda event: None,
    ) -> DrainReport:
        """Move all programs to other nodes, and return how many went and which did not.

        Args:
            to: `HOST:PORT` of each node that may get programs.
            at_once: Programs that move at the same time; None: four.
            deadline: Seconds after which no move is begun; None for none.
            max_downtime: As for `migrate`.
            tell: Gets what happens in all moves.
        """
        request = messages.DrainRequest(
            to=to, at_once=at_once or 0, deadline=deadline or 0,
            policy=messages.MovePolicyMessage(max_downtime=max_downtime or 0),
        )  # fmt: skip
        for reply in self._stream("Drain", [request], None):
            if reply.WhichOneof("part") == "result":
                left = tuple((one.program, one.reason) for one in reply.result.left)
                return DrainReport(reply.result.moved, left)
            tell(MoveEvent.read(reply.event))
        raise NodeAway(f"the node {self.address} gave no answer")

    def adopt(self, program: str) -> ProgramInfo:
        """Resume a program here whose owner cannot be asked.

        It is one whose move is not decided, or that is at a node that is gone for good. If it runs
        elsewhere after all, there are two of it: nobody but the caller can know.
        """
        return self._program("Adopt", program)

    def inspect(self, program: str) -> ProgramInfo:
        """Return a program with `details`: its run, figures, its call stack."""
        return self._program("Inspect", program)


def _spec(spec: RunSpec | Mapping[str, Any] | None) -> dict[str, Any]:
    if spec is None:
        return {}
    return dict(spec) if isinstance(spec, Mapping) else spec.as_dict()


def _pieces(binary: bytes) -> Iterator[bytes]:
    view = memoryview(binary)
    for at in range(0, len(view), PIECE):
        yield bytes(view[at : at + PIECE])


def _terms(lease: Mapping[str, Any] | None) -> str:
    return "" if lease is None else json.dumps(dict(lease))


def _digest_of(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
