"""What the fuzzer of services attacks: a node, and an end of `wasmsr remote`, each a process.

Each target knows right calls, sends wrong ones as a caller that it trusts, tidies up what came of
them, and looks for harm afterwards: is the process alive, has it grown, and does the program that
nobody touches still count?
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import secrets
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from tests.fuzz.service_end import KEY, LINES, FuzzedEnd
from tests.fuzz.service_messages import Call, MessageMutator
from tests.node.programs import counting, lines
from wasmsr import Node
from wasmsr.errors import WasmsrError
from wasmsr.interp.modules.module import assemble
from wasmsr.migrate.protocol import PROTOCOL, Ending, PeerLost
from wasmsr.node.security.authority import Authority
from wasmsr.node.security.tls_identity import TlsFiles, load
from wasmsr.node.workers.warm_parents import PARENTS
from wasmsr.rpc import channel, convert, messages
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.control import control_messages
from wasmsr.rpc.session import METADATA, PeerSession
from wasmsr.rpc.session import Call as SealedCall
from wasmsr.runspec.address import Address

# After `channel`, which sets how loud it is.
import grpc  # type: ignore[import-untyped]  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
GROWTH = 64 << 20
"""Bytes by which a target may grow."""
START_SECONDS = 60.0
CALL_SECONDS = 20.0
SETTLE_SECONDS = 20.0
"""How long threads and descriptors of calls that are over may stay."""
SPARE = PARENTS + 4
"""Threads or descriptors more than before that do no harm: a node has a socket for each parent."""
SENTENCE = 2000
"""Characters of a refusal at most."""
TYPED = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "PERMISSION_DENIED",
    "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "CANCELLED")  # fmt: skip
"""The statuses of refusals. UNKNOWN is an exception that nobody caught."""


class Harm(AssertionError):
    """A target took harm; the text says which."""


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        found: int = trial.getsockname()[1]
    return found


def check_refusal(method: str, error: Any) -> None:
    """Raise Harm unless a call was ended by a typed status with one sentence."""
    code, details = error.code().name, error.details() or ""
    if code not in TYPED:
        raise Harm(f"{method} ended with {code}: {details[:500]}")
    check_sentence(method, details)


def check_sentence(method: str, text: str) -> None:
    """Raise Harm unless a refusal is one line for people."""
    if not text.strip() or not text.isprintable() or len(text) > SENTENCE:
        raise Harm(f"{method} was refused by {text[:300]!r}, which is no sentence")
    if "Traceback" in text or "Exception" in text or re.search(r"\b\w+Error\b", text):
        raise Harm(f"{method} was refused by {text[:300]!r}, which is for programmers")


class FuzzTarget:
    """One process that is attacked.

    Attributes:
        name: The service.
        kinds: The class of the requests of each method.
    """

    name = ""
    kinds: Mapping[str, Any]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.before: tuple[int, int, int] = (0, 0, 0)
        self.answers: Counter[str] = Counter()
        """How often a method was answered, and how."""
        self.counted = -1

    # ---- what each target has --------------------------------------------------------------------

    def corpus(self) -> list[list[Call]]:
        """Return sequences of right calls, without ids of a sequence."""
        raise NotImplementedError

    def mutator(self, numbers: random.Random) -> MessageMutator:
        """Return what makes the calls wrong."""
        raise NotImplementedError

    def fresh(self, calls: Sequence[Call], numbers: random.Random) -> list[Call]:
        """Return the calls with new ids."""
        return list(calls)

    def send(self, call: Call) -> None:
        """Make a call and read all answers. Raises Harm for a refusal that is none."""
        raise NotImplementedError

    def tidy(self) -> None:
        """End what came of a sequence."""

    def output(self) -> bytes:
        """Return the last bytes that the untouched program has written, from a line's start."""
        raise NotImplementedError

    # ---- checks ----------------------------------------------------------------------------------

    def held(self) -> tuple[int, int, int]:
        """Return memory, threads and descriptors of the process."""
        assert self.process is not None
        try:
            found = psutil.Process(self.process.pid)
            return found.memory_info().rss, found.num_threads(), found.num_fds()
        except psutil.NoSuchProcess:
            raise Harm(f"the {self.name} process has ended") from None

    def check(self) -> None:
        """Raise Harm if the target has taken harm."""
        self.check_alive()
        self.check_counting()
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            memory, threads, descriptors = self.held()
            grown = memory - self.before[0] > GROWTH
            more = threads - self.before[1] > SPARE or descriptors - self.before[2] > SPARE
            if not grown and not more:
                return
            if time.monotonic() > deadline:
                break
            self.tidy()
            time.sleep(0.2)
        raise Harm(
            f"the {self.name} process holds {memory >> 20} MiB, {threads} threads and "
            f"{descriptors} descriptors; before: {self.before[0] >> 20} MiB, {self.before[1]}, "
            f"{self.before[2]}"
        )

    def check_alive(self) -> None:
        """Raise Harm if the process has ended."""
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise Harm(f"the {self.name} process has ended with code {code}")

    def check_counting(self) -> None:
        """Raise Harm unless the untouched program has written more, and all of it is right."""
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            found = self.output()
            if found:
                first, last = int(found[:8]), int(found[-9:])
                if found != lines(first, last + 1):
                    raise Harm(f"the untouched program wrote {found[-60:]!r}")
                if last > self.counted:
                    self.counted = last
                    return
            if time.monotonic() > deadline:
                raise Harm(f"the untouched program counts no further than {self.counted}")
            time.sleep(0.01)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()
            self.process.wait()


class NodeTarget(FuzzTarget):
    """The services of `wasmsr node`, with a certificate that it trusts."""

    name = "control"
    kinds: ClassVar = {
        f"/{service}/{name}": method.request
        for service in (control_messages.CONTROL, control_messages.HEALTH,
                        control_messages.REFLECTION)
        for name, method in control_messages.methods(service).items()
    }  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        port = free_port()
        authority = Authority.create(folder / "ca")
        _, certificate, key = authority.issue("node", ["localhost"], folder / "node")
        _, mine, my_key = authority.issue("client:fuzz", [], folder / "client")
        ca, revoked = authority.folder / "authority.crt", authority.folder / "revoked.crl"
        words = ["--listen", f"127.0.0.1:{port}", "--state-dir", str(folder / "state"),
            "--tls-certificate", str(certificate), "--tls-key", str(key),
            "--tls-authority", str(ca), "--tls-revoked", str(revoked),
            "--on-stop", "kill"]  # fmt: skip
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wasmsr", "node", *words], stderr=log, cwd=ROOT
            )
        tls = load(TlsFiles(mine, my_key, ca, revoked))
        self.node = Node(f"localhost:{port}", tls=tls, seconds=CALL_SECONDS)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.node.info()
                break
            except WasmsrError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)
        module = counting(LINES, 5)
        self.untouched = self.node.submit(module, {}, name="untouched").program
        self.module = self.node.ps()[0].module
        self.offset = (0, 0)
        for number in range(3):  # imports, pools and the first warm parent are no growth
            for calls in self.corpus():
                for call in self.fresh(calls, random.Random(number)):
                    with suppress(grpc.RpcError):
                        self.send(call)
            self.tidy()
        self.check_counting()
        self.before = self.held()

    def corpus(self) -> list[list[Call]]:
        """Return right calls of each method."""
        some = control_messages
        spec = json.dumps({"args": ["a"], "env": ["A=B"], "limits": {"memory": 1 << 20}})
        begin = some.SubmitBegin(spec=spec, name="fuzzed", digest=self.module, every=0.0)
        whole = some.SubmitBegin(spec=spec, name="fuzzed")
        piece = some.SubmitRequest(piece=counting(LINES, 5))
        which = some.ProgramRequest(program="fuzzed")
        submit = self._call("Submit", some.SubmitRequest(begin=begin))
        other = assemble(b"(module)")
        digest = hashlib.sha256(other).hexdigest()
        more = some.SubmitRequest(more=some.ModulePiece(digest=digest, piece=other))
        linked = json.dumps({"preload": [f"other={digest}"], "mounts": ["::/out::carry"]})
        several = some.SubmitRequest(begin=some.SubmitBegin(spec=linked, name="fuzzed"))
        carried = some.CarriedRequest(program="fuzzed", mount="/out")
        removed = some.CarriedRequest(program="fuzzed", mount="/out", remove=True)
        acts = [self._call(name, which) for name in ("Checkpoint", "Inspect", "Pause", "Resume")]
        logs = some.LogsRequest(program="fuzzed", streams=["stdout"], stdout=9, stdout_life=1)
        health, reflection = some.HEALTH, some.REFLECTION
        info = some.methods(reflection)["ServerReflectionInfo"].request
        return [
            [submit, *acts, self._call("Logs", logs), self._call("Kill", which)],
            [self._call("Submit", some.SubmitRequest(begin=whole), piece)],
            [self._call("Submit", several, piece, more), self._call("Snapshot", which),
             self._call("Kill", which), self._call("Carried", carried),
             self._call("Carried", removed)],
            [self._call("Info", some.InfoRequest()), self._call("List", some.ListRequest())],
            [submit, self._call("Pause", which), self._call("Kill", which)],
            [submit, self._call("Migrate", some.MigrateRequest(program="x", to="127.0.0.1:1")),
             self._call("Adopt", which)],
            [self._call("Drain", some.DrainRequest(to=["127.0.0.1:1"], at_once=1, deadline=0.1))],
            [self._call("Check", some.methods(health)["Check"].request(service=some.CONTROL),
                        service=health),
             self._call("ServerReflectionInfo", info(list_services="x"),
                        info(file_by_filename="wasmsr/control/v1/control.proto"),
                        info(file_containing_symbol=some.CONTROL), service=reflection)],
        ]  # fmt: skip

    def fresh(self, calls: Sequence[Call], numbers: random.Random) -> list[Call]:
        """Return the calls for a program of another name."""
        made = [Call(one.method, tuple(map(MessageMutator._copy, one.messages))) for one in calls]
        name = f"fuzz-{numbers.getrandbits(60):x}"
        for call in made:
            for message in call.messages:
                if "program" in message.DESCRIPTOR.fields_by_name:
                    message.program = name
                elif "begin" in message.DESCRIPTOR.fields_by_name and message.HasField("begin"):
                    message.begin.name = name
        return made

    @staticmethod
    def _call(name: str, *parts: Any, service: str = control_messages.CONTROL) -> Call:
        return Call(f"/{service}/{name}", parts)

    def mutator(self, numbers: random.Random) -> MessageMutator:
        """Return what makes the calls wrong."""
        texts = ["fuzzed", self.module, self.untouched[:3] + "x", "0" * 64, secrets.token_hex(16)]
        return MessageMutator(numbers, (), texts)

    def send(self, call: Call) -> None:
        """Make a call and read its answers, those of a call without an end for a moment."""
        kind = self.kinds[call.method]
        parts = []
        for one in call.messages:
            data = one if isinstance(one, bytes) else one.SerializeToString()
            if self._is_harmless(kind, data):
                parts.append(data)
        follows = call.method.endswith(("/Logs", "/List", "/Watch"))
        made = self.node._channel.stream_stream(call.method)
        replies = made(iter(parts), timeout=0.3 if follows else CALL_SECONDS)
        try:
            for _ in range(1000):
                if next(replies, None) is None:
                    self.answers[f"{call.method.rpartition('/')[2]} answered"] += 1
                    return
        except grpc.RpcError as error:
            if follows and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return
            self.answers[f"{call.method.rpartition('/')[2]} {error.code().name}"] += 1
            check_refusal(call.method, error)
        finally:
            replies.cancel()

    def _is_harmless(self, kind: Any, data: bytes) -> bool:
        """Return whether a message does not name the untouched program: a caller may steer it."""
        try:
            name = getattr(kind.FromString(data), "program", None)
        except Exception:  # noqa: BLE001 (damaged; the node finds that out)
            return True
        if not isinstance(name, str):
            return True
        digits = name.strip().lower()
        return name != "untouched" and not (digits and self.untouched.startswith(digits))

    def tidy(self) -> None:
        """Kill the programs of the fuzzer."""
        for program in self.node.ps():
            if program.program != self.untouched and not program.is_final:
                with suppress(WasmsrError):
                    self.node.kill(program.program)

    def output(self) -> bytes:
        """Return what the untouched program has written since the last question."""
        found = b""
        for piece in self.node.logs(self.untouched, ["stdout"], had={"stdout": self.offset}):
            found += piece.data
            self.offset = piece.offset + len(piece.data), piece.life
            if piece.rewound:
                raise Harm("the untouched program was put back")
        cut = len(found) % 9
        if cut:
            self.offset = self.offset[0] - cut, self.offset[1]
        return found[: len(found) - cut]

    def close(self) -> None:
        """End the node."""
        self.node.close()
        super().close()


@dataclass
class RecordedSession(PeerSession):
    """A session that keeps what is sent in it: the corpus of the migration service."""

    sent: list[Call] = field(default_factory=list)

    def call(self, method: str) -> SealedCall:
        """Return the next call."""
        made = super().call(method)
        found: list[Any] = []
        seal, kind = made.seal, messages.methods()[method.rpartition("/")[2]][0]

        def keep(message: bytes) -> bytes:
            found.append(kind.FromString(message))
            self.sent[at] = Call(method, tuple(found))
            return seal(message)

        at = len(self.sent)
        self.sent.append(Call(method, ()))
        made.seal = keep  # type: ignore[method-assign]
        return made


class EndTarget(FuzzTarget):
    """The service of `wasmsr remote`, as a peer that has its key."""

    name = "migration"
    kinds: ClassVar = {
        f"/{messages.SERVICE}/{name}": method[0] for name, method in messages.methods().items()
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        theirs, ours = free_port(), free_port()
        for name in ("theirs", "ours"):
            (folder / name).mkdir()
        words = [sys.executable, "-m", "tests.fuzz.service_end", str(folder / "theirs")]
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*words, str(theirs), str(ours)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT,
            )  # fmt: skip
        assert self.process.stdout is not None
        _, program, node = self.process.stdout.readline().split()
        self.untouched, self.other = bytes.fromhex(program.decode()), bytes.fromhex(node.decode())
        self.ours = FuzzedEnd(folder / "ours", ours, theirs)
        self.ours.hide()
        self.me = self.ours.end.journal.node
        self.used: set[tuple[bytes, int, bytes]] = set()
        self.read = 0
        self.peer = RemotePeer(Address("127.0.0.1", theirs), self.me, KEY)
        self.peer.status(convert.move_in(messages.Move(
            program=bytes(16), epoch=1, attempt=bytes(16))))  # fmt: skip
        self.recorded = self._record()
        self.programs = [one.program for one in self._moves(self.recorded)][:1]
        for _ in range(2):
            numbers = random.Random(1)
            for calls in self.corpus():
                for call in self.fresh(calls, numbers):
                    self.send(call)
            self.tidy()
        self.check_counting()
        self.before = self.held()

    def _record(self) -> list[Call]:
        """Move a program there, and return the calls that this took."""
        peer = next(iter(self.ours.end.peers))
        session = peer._meet()  # type: ignore[attr-defined]
        kept = RecordedSession(session.nonce, session.secret, session._last, session._taken)
        peer._session = kept  # type: ignore[attr-defined]
        for count in (200, 800, 3200):  # on a busy host it may end before it moves
            program = self.ours.begin(count, 5)
            time.sleep(0.2)
            del kept.sent[:]
            if self.ours.end.move(program.id) is not None:
                return [one for one in kept.sent if one.messages]
            self.ours.end.finish(program.id, Ending("exited", 0))
        raise Harm("the program of the corpus did not move")

    def _moves(self, calls: Iterable[Call]) -> list[Any]:
        """Return the messages in calls that name a move."""
        found = []
        for call in calls:
            for whole in call.messages:
                if isinstance(whole, bytes):
                    continue
                for message in (whole, *getattr(whole, "joined", ())):
                    for one in (message, getattr(message, "begin", None)):
                        has = one is not None and "move" in one.DESCRIPTOR.fields_by_name
                        if has and one.HasField("move"):
                            found.append(one.move)
        return found

    def corpus(self) -> list[list[Call]]:
        """Return the calls of a move, and questions about it."""
        move = self._moves(self.recorded)[0]
        fields = {"protocol": PROTOCOL, "node": self.me, "move": move}
        ending = messages.Ending(kind="exited", code=7, sentence="it ended")
        more = [
            self._call("Status", messages.StatusRequest(**fields)),
            self._call("Output", messages.OutputRequest(**fields, stream="stdout", data=b"x")),
            self._call("Input", messages.InputRequest(**fields, most=10)),
            self._call("Ended", messages.EndedRequest(
                protocol=PROTOCOL, node=self.me, program=move.program, epoch=move.epoch,
                ending=ending)),
        ]  # fmt: skip
        abort = self._call("Abort", messages.AbortRequest(**fields))
        whole = [one for one in self.recorded if not one.method.endswith("/Hello")]
        undone = [one for one in whole if not one.method.endswith("/Commit")] + [abort]
        return [whole, undone, [*whole, *more], more, [undone[0], abort]]

    @staticmethod
    def _call(name: str, *parts: Any) -> Call:
        return Call(f"/{messages.SERVICE}/{name}", parts)

    def fresh(self, calls: Sequence[Call], numbers: random.Random) -> list[Call]:
        """Return the calls for a program and an attempt of their own."""
        made = [Call(one.method, tuple(map(MessageMutator._copy, one.messages))) for one in calls]
        program, attempt = numbers.randbytes(16), numbers.randbytes(16)
        self.programs = [*self.programs[:1], *[*self.programs[1:], program][-20:]]
        for move in self._moves(made):
            move.program, move.attempt = program, attempt
        for call in made:
            for message in call.messages:
                if "program" in message.DESCRIPTOR.fields_by_name:
                    message.program = program
        return made

    def mutator(self, numbers: random.Random) -> MessageMutator:
        """Return what makes the calls wrong."""
        return MessageMutator(numbers, [self.untouched, self.me, self.other, *self.programs])

    def send(self, call: Call) -> None:
        """Make a call under the session's proof and read its answers."""
        with suppress(PeerLost):
            sealed = self.peer._meet().call(call.method)
            parts = []
            for one in call.messages:
                data = one if isinstance(one, bytes) else one.SerializeToString()
                if len(data) < channel.MESSAGE - 64:
                    parts.append(sealed.seal(data))
            self.used.update((m.program, m.epoch, m.attempt) for m in self._moves([call]))
            made = self.peer._channel.stream_stream(call.method)
            replies = made(
                iter(parts), timeout=CALL_SECONDS, metadata=[(METADATA, sealed.metadata)]
            )
            reply = messages.methods()[call.method.rpartition("/")[2]][1]
            try:
                for data in replies:
                    if call.method.endswith("/Hello"):
                        continue
                    self._check_reply(call.method, reply.FromString(sealed.open(data)))
            except grpc.RpcError as error:
                self.answers[f"{call.method.rpartition('/')[2]} {error.code().name}"] += 1
                check_refusal(call.method, error)
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self.peer._session = None
            finally:
                replies.cancel()

    def _check_reply(self, method: str, reply: Any) -> None:
        name = method.rpartition("/")[2]
        if not reply.HasField("refusal"):
            self.answers[f"{name} answered"] += 1
        else:
            reason = messages.Refusal.Reason.Name(reply.refusal.reason)
            self.answers[f"{name} refused, {reason}"] += 1
            check_sentence(method, reply.refusal.sentence)

    def tidy(self) -> None:
        """Take back the attempts of a sequence."""
        for program, epoch, attempt in self.used:
            if len(program) == len(attempt) == 16 and 0 < epoch < 1 << 63:
                move = messages.Move(program=program, epoch=epoch, attempt=attempt)
                request = messages.AbortRequest(protocol=PROTOCOL, node=self.me, move=move)
                self.send(self._call("Abort", request))
        self.used.clear()

    def output(self) -> bytes:
        """Return what the untouched program has written since the last question."""
        with open(self.folder / "theirs" / "untouched", "rb") as file:
            file.seek(self.read)
            found = file.read()
        found = found[: len(found) - len(found) % 9]
        self.read += len(found)
        return found

    def close(self) -> None:
        """End both ends."""
        self.peer.close()
        self.ours.served.close()
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        super().close()


TARGETS: dict[str, type[NodeTarget] | type[EndTarget]] = {
    kind.name: kind for kind in (NodeTarget, EndTarget)
}

__all__ = ["TARGETS", "EndTarget", "FuzzTarget", "Harm", "NodeTarget", "check_refusal"]
