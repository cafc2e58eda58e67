"""The process of `wasmsr node`: supervisor, server and log, from the settings to the end."""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr import __version__
from wasmsr.cli.moving.addresses import state_folder
from wasmsr.cli.options.node_options import LOCAL, socket_name
from wasmsr.cli.running.node_in_fleet import NodeInFleet
from wasmsr.cli.running.terminal import END_CODES, Events
from wasmsr.cli.words import messages
from wasmsr.errors import printable
from wasmsr.executor.server_process import become_server
from wasmsr.migrate.protocol import Reason, refused
from wasmsr.node.metrics import Metrics
from wasmsr.node.moving.drain import Drain
from wasmsr.node.security.failures import AccessRefused, CredentialsError
from wasmsr.node.security.guard import Guard, host_of
from wasmsr.node.security.policy import MountWish, Policy, ProgramAdmission, ProgramWish
from wasmsr.node.security.tls_identity import TlsFiles, TlsIdentity
from wasmsr.node.security.tokens import TokenCheck
from wasmsr.node.settings.reading import Settings
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.program_record import ProgramStanding
from wasmsr.node.workers.confinement import WorkerLimits, host_confinement
from wasmsr.node.workers.worker_facts import own_bytes
from wasmsr.runspec.address import Address
from wasmsr.runspec.run_spec import RunSpec

if TYPE_CHECKING:
    from wasmsr.http.bounded_server import BoundedServer
    from wasmsr.http.move_spans import MoveSpans
    from wasmsr.migrate.events import Event
    from wasmsr.migrate.ports import Peer
    from wasmsr.migrate.protocol import Offer
    from wasmsr.node.stored_checkpoints import StoredCheckpoints
    from wasmsr.ownership.register import Register
    from wasmsr.rpc.control.control_server import ControlServer
    from wasmsr.rpc.server import Sender

WORKER_BYTES = 1 << 30
"""Memory of a worker beside the memories of its program: for Python, and to save and restore."""

LARGEST_MEMORY = 4 << 30
"""Memory of a program that names no limit, if the policy has none: that of 32-bit addresses."""

MOVE_LEVELS = {"round": "info", "prepared": "info", "arrived": "notice", "moved": "notice"}
"""The level of each event of a move that is no warning."""

LEVELS = {"unreadable": "error", "trouble": "error", "not-saved": "warning", "refused": "warning",
    "no-checkpoint": "warning", "not-stored": "warning", "stored": "info",
    "not-resumed": "warning", "checkpoint": "info", "not-taken-over": "warning",
    "register-away": "warning", "not-given-back": "warning"}  # fmt: skip
"""The level of each event that is no notice."""

REFUSALS = 1.0
"""Seconds between two lines about refusals of one host."""


class NodeLog:
    """Events of a node on standard error, one a line. Any thread may call it."""

    def __init__(self, form: str, level: str) -> None:
        """Begin; `form` is "text" or "json", `level` as in `messages.LEVELS`."""
        self._json = form == "json"
        self._most = messages.LEVELS.index(level)
        self._lock = threading.Lock()
        self._refused: dict[str, float] = {}

    def note(self, event: str, **values: Any) -> None:
        """Write one event."""
        level = LEVELS.get(event, "notice")
        if event.startswith("move-"):
            level = MOVE_LEVELS.get(event.removeprefix("move-"), "warning")
        if messages.LEVELS.index(level) > self._most:
            return
        if self._json:
            line = json.dumps({"time": time.time(), "level": level, "event": event, **values})
        else:
            shown = " ".join(f"{name}={_word(value)}" for name, value in values.items())
            line = f"wasmsr: {event} {shown}".rstrip()
        with self._lock, suppress(OSError, ValueError):
            sys.stderr.write(f"{printable(line, None)}\n")
            sys.stderr.flush()

    def refused(self, error: AccessRefused, host: str) -> None:
        """Write that a caller was refused, at most once a second for each host."""
        now = time.monotonic()
        with self._lock:
            if now - self._refused.get(host, -REFUSALS) < REFUSALS:
                return
            if len(self._refused) > 1000:
                self._refused.clear()
            self._refused[host] = now
        self.note("refused", caller=host, rule=error.rule, reason=error.message)


def _word(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or not text else text


class NodeCounts:
    """Counts the events of a node for its metrics, and answers when somebody looks."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def note(self, event: str, **values: Any) -> None:
        """Count one event."""
        add = self.metrics.add
        if event == "program" and values["standing"] == "ended":
            add("wasmsr_programs_ended", values.get("ending") or "other")
        elif event == "program" and values["standing"] == "killed":
            add("wasmsr_programs_ended", "killed")
        elif event.startswith("move-"):
            self.metrics.take_move(event.removeprefix("move-"), values)
        elif event == "worker-lost":
            add("wasmsr_workers_lost", values["cause"])
        elif event == "checkpoint":
            add("wasmsr_checkpoints", "written")
            add("wasmsr_checkpoint_bytes", by=values["bytes"])
            self.metrics.observe("wasmsr_checkpoint_seconds", values["seconds"])
        elif event in ("no-checkpoint", "not-saved"):
            add("wasmsr_checkpoints", "failed")
        elif event in ("stored", "not-stored"):
            add("wasmsr_checkpoints", event)
        elif event in ("taken-over", "not-taken-over"):
            add("wasmsr_takeovers", event)
        elif event == "register-away":
            add("wasmsr_register_outages")

    def watch(self, supervisor: NodeSupervisor, tls: TlsIdentity | None) -> None:
        """Have the supervisor and the certificate asked when somebody looks at the metrics."""

        def states() -> dict[tuple[str, ...], float]:
            counts = dict.fromkeys((one.value for one in ProgramStanding), 0)
            for program in supervisor.programs():
                counts[program.standing.value] += 1
            return {(state,): float(count) for state, count in counts.items()}

        def memory() -> dict[tuple[str, ...], float]:
            return {(): float(sum(own_bytes(one.pid) for one in supervisor.programs() if one.pid))}

        def leases() -> dict[tuple[str, ...], float]:
            shown = [one.shown() for one in supervisor.programs() if one.record.lease is not None]
            return {
                (one["program"], one["lease"]["owner"], one["lease"].get("state", "")): float(
                    one["lease"]["epoch"]
                )
                for one in shown
            }

        def ages() -> dict[tuple[str, ...], float]:
            found = [one.record for one in supervisor.programs() if one.record.lease is not None]
            now = time.time()
            return {(one.program,): now - one.saved.time for one in found if one.saved is not None}

        self.metrics.ask("wasmsr_lease_epoch", leases)
        self.metrics.ask("wasmsr_lease_checkpoint_age_seconds", ages)
        self.metrics.ask("wasmsr_programs", states)
        self.metrics.ask("wasmsr_worker_memory_bytes", memory)
        self.metrics.set("wasmsr_node_info", 1, supervisor.node.hex(), __version__)
        if tls is not None:
            days = tls.identity.days_left
            self.metrics.ask("wasmsr_certificate_expiry_days", lambda: {(): days()})


class NodeService:
    """A node from its settings to its end."""

    def __init__(self, settings: Settings, *, resume: bool, fleet: Path | None = None) -> None:
        """Read the files that the settings name.

        Args:
            settings: The settings.
            resume: Whether to resume all programs that can be resumed.
            fleet: A file `config.json` of a fleet, or None.

        Raises:
            CredentialsError: The node's certificate cannot be used.
        """
        self._settings, self._resume = settings, resume
        self._log = NodeLog(settings["log.format"], settings["log.level"])
        self._counts = NodeCounts()
        self._stored: StoredCheckpoints | None = None
        self._spans: MoveSpans | None = None
        self._state = state_folder(settings["node.state-dir"])
        self._policy = _policy(settings)
        self._admission = ProgramAdmission(self._policy)
        self._tls = _tls(settings)
        self._fleet = NodeInFleet.of(settings, fleet, self._log.note)

    def run(self, events: Events) -> int:
        """Serve until a signal, and return the exit code."""
        settings = self._settings
        become_server()
        confinement = tuple(host_confinement())  # forks, so it comes before threads
        limits = WorkerLimits(memory=(self._policy.memory or LARGEST_MEMORY) + WORKER_BYTES)
        more: dict[str, Any] = {"register": self._register()}
        if self._fleet is not None:
            more |= self._fleet.rules()
        rules = NodeRules(
            limits=limits, ring=settings["node.output-limit"], every=settings["checkpoints.every"],
            keep=settings["checkpoints.keep"], admit=self._admit, check=self._check,
            leave=lambda program: self._admission.leave(bytes.fromhex(program)),
            peer=self._peer, note=self._note, trace=self._trace,
            store=settings["checkpoints.store"] or "", advertised=self._advertised(),
            **more,
        )  # fmt: skip
        self._supervisor: NodeSupervisor | None = None
        node = self._tls.identity.node if self._tls else b""
        supervisor = NodeSupervisor(self._state / "node", rules, node)
        self._supervisor = supervisor
        if settings["checkpoints.store"] is not None:
            from wasmsr.node.stored_checkpoints import StoredCheckpoints

            self._stored = StoredCheckpoints(
                settings["checkpoints.store"], supervisor.find, self._note
            )
        for program in supervisor.programs():
            record = program.record
            if record.standing.is_alive:
                run = RunSpec.read(record.spec)
                with suppress(AccessRefused):  # it is here already
                    self._admission.admit(program.id, record.submitter, _wish(record.digest, run))
        try:
            self._send_spans(supervisor.node)
            server = self._serve(supervisor, confinement)
        except BaseException:
            supervisor.stop(save=True, seconds=settings["node.stop-seconds"])
            raise
        supervisor.moves.serve(self._address())
        served = self._serve_http(supervisor)
        if self._resume:
            supervisor.resume_all()
        if self._fleet is not None:
            self._fleet.start(supervisor)
        arrived: set[int] = set()
        while not arrived & END_CODES.keys():
            arrived, _ = events.wait()
        for one in served:
            one.stop()
        if self._fleet is not None:
            self._fleet.stop()
        return self._stop(supervisor, server)

    def _serve_http(self, supervisor: NodeSupervisor) -> list[BoundedServer]:
        """Serve metrics and the page for people, where the settings ask for them."""
        served: list[BoundedServer] = []
        metrics, page = self._settings["node.metrics"], self._settings["node.http"]
        if metrics is not None:
            from wasmsr.http.metrics_server import serve_metrics

            served.append(serve_metrics(self._counts.metrics, metrics))
            self._log.note("metrics", serves=f"http://{metrics}/metrics")
        if page is not None:
            from wasmsr.http.bounded_server import BoundedServer
            from wasmsr.http.page.node_page import NodePage
            from wasmsr.http.page.supervisor_source import SupervisorSource

            path = self._settings["access.token-file"]
            token = _token(path) if path else secrets.token_urlsafe(24).encode()
            shown = NodePage(SupervisorSource(supervisor, __version__), token, page, self._refused)
            served.append(BoundedServer(shown, page, "--http"))
            # Whoever reads this line can give orders, so it goes to the one who started the node.
            link = f"http://{page}/" + ("" if path else f"#token={token.decode()}")
            self._log.note("page", serves=link)
        return served

    def _peer(self, address: str, node: bytes, ours: bytes) -> Peer:
        """Make another node."""
        from wasmsr.rpc.control.node_peer import NodePeer

        return NodePeer(
            Address.parse(address), ours, node=node, tls=self._tls, token=self._shared_token()
        )

    def _register(self) -> Callable[[], Register] | None:
        """Return what opens the register of leased programs, or None."""
        text = self._settings["ownership.register"]
        if text is None:
            return None
        from wasmsr.cli.running.registers import open_register

        return partial(open_register, text, self._settings["node.state-dir"])

    def _advertised(self) -> str:
        """Return where any host calls this node, or "" if the settings do not say."""
        listen, said = self._settings["node.listen"], self._settings["node.advertise"]
        if said is not None:
            return str(said)
        return "" if listen.host in ("0.0.0.0", "::", "") else str(listen)

    def _send_spans(self, node: bytes) -> None:
        """Begin to send spans, where the settings ask for them. Raises MissingPackageError."""
        if self._settings["node.spans"] is not None:
            from wasmsr.http.move_spans import send_spans

            self._spans = send_spans(self._settings["node.spans"], node.hex(), __version__)

    def _trace(self, event: Event) -> None:
        """Make spans of an event of a move, if that is wished."""
        if self._spans is not None:
            self._spans.take(event)

    def _address(self) -> str:
        """Return where other nodes call this one; without a host, where they see it."""
        listen, said = self._settings["node.listen"], self._settings["node.advertise"]
        return f":{listen.port}" if said is None else str(said)

    def _shared_token(self) -> bytes:
        """Return the token that callers must have, and that this node shows to others, or b""."""
        from wasmsr.rpc import keys

        if self._settings["access.token-file"]:
            return _token(self._settings["access.token-file"])
        if self._tls is None and not self._settings["access.insecure"]:
            return keys.own(self._state, state_folder(None))
        return b""

    def _note(self, event: str, **values: Any) -> None:
        self._log.note(event, **values)
        self._counts.note(event, **values)
        if self._stored is not None:
            self._stored.hear(event, **values)

    def _refused(self, error: AccessRefused, host: str) -> None:
        self._log.refused(error, host)
        self._counts.metrics.add("wasmsr_refusals", error.rule)

    def _stop(self, supervisor: NodeSupervisor, server: ControlServer) -> int:
        how, seconds = self._settings["node.on-stop"], self._settings["node.stop-seconds"]
        self._log.note("stopping", on_stop=how)
        end = time.monotonic() + seconds
        if how == "drain":
            self._drain(supervisor, seconds / 2)
        server.stop()
        left_seconds = max(1.0, end - time.monotonic())
        lost = supervisor.stop(save=how != "kill", seconds=left_seconds)
        if self._stored is not None and not self._stored.close(seconds):
            self._log.note("not-stored", error="the node ends before all checkpoints are copied")
        if self._spans is not None:
            self._spans.close()
        left = [one for one in supervisor.programs() if one.standing.value == "resumable"]
        self._log.note("stopped", resumable=len(left), lost=len(lost))
        return 0

    def _drain(self, supervisor: NodeSupervisor, seconds: float) -> None:
        """Move the programs to other nodes, and say which of them stay and why."""
        supervisor.refuse_programs()
        drain = Drain(
            supervisor.moves, supervisor.programs, self._settings["node.drain-to"],
            deadline=seconds,
        )  # fmt: skip
        done = drain.run()
        self._log.note("drained", moved=done.moved, left=len(done.left))
        for program, why in done.left:
            self._log.note("not-drained", program=program[:8], reason=why)

    def _admit_node(self, guard: Guard, supervisor: NodeSupervisor, wire: Any) -> Sender:
        """Return the node that calls, by its certificate if it needs one.

        Raises:
            AccessRefused: It may not send programs.
        """
        from wasmsr.rpc.channel import proofs_of
        from wasmsr.rpc.server import Sender

        known = guard.admit(wire.peer(), *proofs_of(wire))
        if known.identity is not None and not known.node:
            raise AccessRefused("peers", f"{known.name} is no node, and sends no programs")
        if known.name == "local" or (self._policy.peers and not known.node):
            raise AccessRefused("peers", "the caller has not proved that it is a node")
        host = host_of(wire.peer())

        def meet(offer: Offer) -> None:
            address = offer.address
            if address.startswith(":"):
                address = f"[{host}]{address}" if ":" in host else f"{host}{address}"
            try:
                supervisor.moves.peers.meet(str(Address.parse(address)), offer.node)
            except ValueError:
                sentence = "the offer does not say where the other node is called"
                raise refused(Reason.UNSPECIFIED, sentence) from None

        return Sender(known.node or None, meet)

    def _serve(self, supervisor: NodeSupervisor, confinement: tuple[str, ...]) -> ControlServer:
        from wasmsr.rpc.control.control_server import ControlServer
        from wasmsr.rpc.tls import server_credentials

        settings = self._settings
        address = settings["node.listen"]
        tls, token, credentials = self._tls, None, None
        if tls is not None:
            mutual = settings["access.token-file"] is None
            credentials = server_credentials(tls, mutual=mutual)
        shared = self._shared_token()
        if shared:
            token = TokenCheck(shared)
        elif settings["access.insecure"] and tls is None:
            messages.say(f"anybody who reaches {address} can run programs here", "warning")
        guard = Guard(self._policy, tls, token, self._refused)
        self._counts.watch(supervisor, tls)

        def admit(peer: str, certificate: bytes | None, given: bytes) -> str:
            return guard.admit(peer, certificate, given).name

        server = ControlServer(
            supervisor, str(address), __version__, admit, confinement=confinement,
            credentials=credentials, local=self._local(),
            admit_node=partial(self._admit_node, guard, supervisor),
        )  # fmt: skip
        self._log.note(
            "node", id=supervisor.node.hex(), listens=str(address),
            confined=all("no" not in line.rpartition(": ")[2][:2] for line in confinement),
        )  # fmt: skip
        return server

    def _local(self) -> str | None:
        """Return where callers on this machine come; None if the name is too long for a socket."""
        socket = self._state / LOCAL
        name = socket_name(socket)
        if name is None:
            messages.say(
                f"the name {socket} is too long for a socket: give the commands for this node "
                f"--node {self._settings['node.listen']}",
                "warning",
            )
        return name

    def _admit(self, program: str, caller: str, digest: str, spec: RunSpec) -> None:
        """Admit a program by the policy."""
        try:
            self._admission.admit(bytes.fromhex(program), caller, _wish(digest, spec))
        except AccessRefused as error:
            self._refused(error, caller)
            raise

    def _check(self, digest: str, spec: RunSpec) -> None:
        """Check a program again before each start of its worker.

        A folder can have become a link, and the policy can have changed, since it was admitted.
        """
        self._policy.check(_wish(digest, spec))


def policy_check(mounts: tuple[str, ...]) -> Callable[[str, RunSpec], None]:
    """Return a check that lets programs use these folders."""
    policy = Policy(mounts=mounts)

    def check(digest: str, spec: RunSpec) -> None:
        policy.check(_wish(digest, spec))

    return check


def _wish(digest: str, spec: RunSpec) -> ProgramWish:
    from wasmsr.node.supervision.submissions import all_modules
    from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT, CARRYING, Mount

    mounts = [Mount.parse(text) for text in spec.mounts]
    carried = CARRY_LIMIT if spec.limits.carried is None else spec.limits.carried
    return ProgramWish(
        modules=tuple(bytes.fromhex(one) for one in all_modules(digest, spec)),
        memory=LARGEST_MEMORY if spec.limits.memory is None else spec.limits.memory,
        # An alias names no folder of this host, but another mount of the program.
        mounts=tuple(
            MountWish("" if one.mode == "alias" else str(one.host or ""), one.mode)
            for one in mounts
        ),
        listen=spec.listen,
        carried=carried if any(one.mode in CARRYING for one in mounts) else 0,
    )


def _policy(settings: Settings) -> Policy:
    """Return the policy that the settings give."""
    return Policy(
        peers=settings["policy.peers"],
        clients=settings["policy.clients"],
        modules=settings["policy.modules"],
        programs=settings["policy.programs"],
        memory=settings["policy.memory"],
        total_memory=settings["policy.total-memory"],
        per_minute=settings["policy.per-minute"],
        mounts=settings["policy.mounts"],
        listen=settings["policy.tcp-listen"],
        carried=settings["policy.carried"],
    )


def _tls(settings: Settings) -> TlsIdentity | None:
    """Return the node's certificate, or None if it has none. Raises CredentialsError."""
    if not settings["tls.certificate"]:
        return None
    certificate, key, authority, revoked = (
        settings[f"tls.{name}"] and Path(settings[f"tls.{name}"])
        for name in ("certificate", "key", "authority", "revoked")
    )
    tls = TlsIdentity(TlsFiles(certificate, key, authority, revoked or None))
    if not tls.identity.node:
        raise CredentialsError(
            f"the certificate {certificate} names {tls.identity} and no node",
            hint="`wasmsr keys issue node HOST` makes one for a node",
        )
    return tls


def _token(path: str) -> bytes:
    from wasmsr.rpc import keys

    token, others = keys.token(Path(path))
    if others:
        messages.say(f"other users of this machine can read the token {path}", "warning")
    return token
