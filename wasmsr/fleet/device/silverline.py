"""A worker under the manager of a peer: it speaks frames on a Unix socket and runs modules.

The manager has the broker, and knows the realm: topics go to it as modules open them. The streams
of a module are the channel `$SL/proc/stdio`, as the peers' workers have it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from wasmsr.channels import conduit
from wasmsr.channels.conduit import (
    LONGEST_FRAME,
    ConduitFrame,
    FrameStream,
    arrived_frame,
    frame,
    written_message,
)
from wasmsr.channels.grant import READ, WRITE
from wasmsr.errors import HostError, WasmsrError
from wasmsr.executor.port import ID_BYTES, RING
from wasmsr.fleet.device.device_module import (
    DeviceModule,
    ModuleEnd,
    child_row,
    cpu_seconds,
    deployed_records,
)
from wasmsr.fleet.device.hub import MOST_WAITING, REPORT_BYTES, REPORTS
from wasmsr.fleet.device.module_run import module_run
from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.frames import (
    ChannelOpening,
    FrameReader,
    FromWorker,
    ToWorker,
    WorkerFrame,
    WorkerLog,
)
from wasmsr.fleet.wire.messages import FleetMessage
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_supervisor import NodeSupervisor

STDIO: Final = 255
"""The descriptor of the channel for standard streams; modules have those below."""
STDIO_TOPIC: Final = "$SL/proc/stdio"
PIECE: Final = 4096
"""Bytes of output in a frame: what the managers read at a time."""
KEEPALIVE_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 5.0
SEND_SECONDS: Final = 30.0
FOLDER: Final = Path("/tmp/sl")


class SilverlineWorker:
    """Runs modules for a manager, until that is gone.

    Args:
        index: The worker's number at its manager.
        supervisor: The node whose worker processes have the modules.
        files: Where relative names of files begin.
        sockets: The folder of the sockets.
        note: Takes events, for the log.

    Raises:
        FleetError: No manager listens there.
    """

    def __init__(
        self,
        index: int,
        supervisor: NodeSupervisor,
        files: Path,
        sockets: Path,
        note: Callable[..., None],
    ) -> None:
        self._supervisor, self._files, self._note = supervisor, files, note
        self._modules: dict[int, DeviceModule] = {}
        self._conduits: dict[int, _WorkerConduit] = {}
        self._streams: dict[str, tuple[int, ...]] = {}
        self._lock = threading.RLock()
        self._sending = threading.Lock()
        self._cpu: dict[int, float] = {}
        path = sockets / f"{index:02x}.s"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CONNECT_SECONDS)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise FleetError(
                f"no manager listens at {path}: {error.strerror or error}",
                hint="start the manager first; the number is that of the worker at its manager",
            ) from None
        self._socket.settimeout(SEND_SECONDS)
        self._woken, self._wake = os.pipe()
        self._over = False

    # -- the conversation --------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until the manager says stop, is gone, or `stop` is called; then end all modules."""
        self.say(logging.INFO, "Runtime launched and connected to socket.")
        frames = FrameReader()
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        due = time.monotonic() + KEEPALIVE_SECONDS
        try:
            while True:
                ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
                if self._woken in ready:
                    return
                if time.monotonic() >= due:  # also to a manager that always has something to say
                    self._keep_alive()
                    due = time.monotonic() + KEEPALIVE_SECONDS
                if not ready:
                    continue
                data = self._socket.recv(1 << 16)
                if not data:
                    return
                for one in frames.feed(data):
                    if not self._obey(one):
                        return
        except (OSError, WireError) as error:
            self._note("lost", reason=str(error))
        finally:
            self._end_all()

    def stop(self) -> None:
        """Have `serve` return; a signal handler may call it."""
        with self._lock:  # it is reentrant
            if not self._over:
                os.write(self._wake, b"x")

    def say(self, level: int, text: str, module: int = 0) -> None:
        """Send a line for the manager's log."""
        self._send(WorkerFrame(module, FromWorker.LOG, WorkerLog(level, text).encode()))

    def _send(self, one: WorkerFrame) -> None:
        """Send a frame in one piece: the managers take a part of a head for none.

        A manager that takes nothing for `SEND_SECONDS` is as one that is gone.
        """
        with self._sending:
            try:
                self._socket.sendall(one.encode())
            except OSError:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _obey(self, one: WorkerFrame) -> bool:
        """Do what a frame says; return whether to go on."""
        if not one.control:
            self._bring(one)
        elif one.kind == ToWorker.CREATE:
            self._create(one)
        elif one.kind == ToWorker.DELETE:
            with self._lock:
                module = self._modules.get(one.module)
            if module is not None:
                module.kill("stopped by request")
        elif one.kind == ToWorker.STOP:
            return False
        else:
            self.say(logging.WARNING, f"a frame of the unknown kind {one.kind}")
        return True

    def _create(self, one: WorkerFrame) -> None:
        try:
            found = json.loads(one.payload)
            # The checks are those of a request to a device.
            message = FleetMessage("create", found if isinstance(found, dict) else {})
            if message.kind("control") != "module" or "uuid" not in message.data:
                raise WireError("invalid module", one.payload[:64].hex())
            run = module_run(message.data, self._files)
        except (ValueError, RecursionError, WireError) as error:
            self.say(logging.ERROR, f"a module that cannot be read: {error}", one.module)
            self._say_end(one.module, ModuleEnd(1, "error", str(error)))
            return
        with self._lock:
            if one.module in self._modules:
                self.say(logging.ERROR, f"module {one.module} runs already", one.module)
                return
            module = self._modules[one.module] = DeviceModule(run, self, one.module)
        opening = ChannelOpening(STDIO, True, True, STDIO_TOPIC, terminated=True)
        self._send(WorkerFrame(one.module, FromWorker.OPEN, opening.encode()))
        module.start()

    def _bring(self, one: WorkerFrame) -> None:
        """Give a message to its module."""
        with self._lock:
            module = self._modules.get(one.module)
            way = self._conduits.get(one.module)
        if one.kind == STDIO and module is not None:
            module.read_input(one.payload)
        elif way is not None:
            way.give(one.kind, one.payload)

    def _keep_alive(self) -> None:
        with self._lock:
            modules = list(self._modules.values())
        usage = {}
        for one in modules:
            process = 0 if one.program is None else one.program.pid
            spent = cpu_seconds(process) if process else None
            if spent is not None:
                before = self._cpu.get(process, spent)
                usage[process] = 100 * (spent - before) / KEEPALIVE_SECONDS
                self._cpu[process] = spent
        children = [child_row(one, usage) for one in modules]
        payload = json.dumps({"children": children}).encode()
        self._send(WorkerFrame(0, FromWorker.KEEPALIVE, payload))

    def _end_all(self) -> None:
        with self._lock:
            modules = list(self._modules.values())
        for one in modules:
            one.kill("its manager is gone")
        until = time.monotonic() + SEND_SECONDS
        for one in modules:
            one.wait(max(0.0, until - time.monotonic()))
        with self._lock:
            self._over = True
            self._socket.close()
            for end in (self._woken, self._wake):
                os.close(end)

    # -- what modules need; see `ModuleHost` -------------------------------------------------------

    def streams(self, program: str) -> tuple[int, ...]:
        """Return the descriptors of a program that begins; see `NodeRules`."""
        with self._lock:
            return self._streams.get(program, (-1, RING, RING))

    def saved(self, module: DeviceModule) -> NodeProgram | None:
        """Return None: nothing outlives a worker."""
        return None

    def launch(self, module: DeviceModule, code: bytes) -> NodeProgram:
        """Begin a program of a module. Raises WasmsrError."""
        run = module.run
        program = os.urandom(ID_BYTES).hex()
        grant = {
            "module": run.uuid, "runtime": "", "realm": "", "rules": run.rules,
            "period": run.period,
        }  # fmt: skip
        way = _WorkerConduit(module.index, grant, self._send)
        with self._lock:
            self._close_way(module.index)
            self._conduits[module.index] = way
            descriptor, end = module.new_streams(way.theirs)
            self._streams[program] = (descriptor, RING, RING, end)
        try:
            self._supervisor.submit(
                iter([code]), run.spec, name=run.name, caller=f"fleet:{run.uuid}", program=program
            )
            return self._supervisor.find(program)
        finally:
            with self._lock:
                del self._streams[program]

    def output(self, module: DeviceModule, data: bytes) -> None:
        """Send output of a module."""
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self._send(WorkerFrame(module.index, STDIO, piece, control=False))

    def profile(self, module: DeviceModule, kind: str, records: bytes) -> None:
        """Send records of a module."""
        self._send(WorkerFrame(module.index, FromWorker.PROFILE, records))

    def ended(self, module: DeviceModule, end: ModuleEnd) -> None:
        """Say that a module has ended."""
        with self._lock:
            way = self._close_way(module.index)
            self._modules.pop(module.index, None)
        if way is not None and way.reports:
            self.profile(module, "deployed", deployed_records(way.reports))
        self._note("exited", uuid=module.run.uuid, code=end.code, reason=end.reason)
        self._say_end(module.index, end)

    def _say_end(self, index: int, end: ModuleEnd) -> None:
        payload = json.dumps(end.wire()).encode()
        self._send(WorkerFrame(index, FromWorker.EXITED, payload))

    def _close_way(self, index: int) -> _WorkerConduit | None:
        way = self._conduits.pop(index, None)
        if way is not None:
            way.close()
        return way


class _WorkerConduit:
    """The channels of one module, as frames of its manager. Its thread reads and writes."""

    def __init__(
        self, index: int, grant: dict[str, Any], send: Callable[[WorkerFrame], None]
    ) -> None:
        self._index, self._send = index, send
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.reports: list[bytes] = []
        self._flags: dict[int, int] = {}
        self._lock = threading.Lock()
        self._out = bytearray(frame(conduit.GRANT, 0, json.dumps(grant).encode()))
        self._woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="wasmsr-conduit", daemon=True)
        self._thread.start()

    def give(self, fd: int, data: bytes) -> None:
        """Send a message to the module, now or when it reads; beyond a limit it is lost."""
        said = arrived_frame(fd, data, bytes(16), 0, 0)
        with self._lock:
            waits = len(self._out) + len(said)
            if self._closing or len(said) > LONGEST_FRAME or waits > MOST_WAITING:
                return
            self._out += said
            os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """Hear what the module has said last, and close the socket."""
        with self._lock:
            self._closing = True
            self._out.clear()
            with suppress(OSError):
                self._ours.shutdown(socket.SHUT_WR)
            os.eventfd_write(self._woken, 1)
        self._thread.join()
        self._ours.close()
        os.close(self._woken)

    def _serve(self) -> None:
        try:
            self._converse()
        finally:
            with self._lock:  # the module is gone, or says what is no frame
                self._closing = True
                self._out.clear()

    def _converse(self) -> None:
        frames = FrameStream()
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        while True:
            with self._lock:
                waits, closing = bool(self._out), self._closing
            poll.register(self._ours, select.POLLIN | (select.POLLOUT if waits else 0))
            # What has been said is here when the module has ended: nothing more is waited for.
            ready = dict(poll.poll(0 if closing else None))
            if self._woken in ready:
                os.eventfd_read(self._woken)
            events = ready.get(self._ours.fileno(), 0)
            if events & select.POLLOUT:
                self._write()
            if events & ~select.POLLOUT and not self._read(frames):
                return
            if closing and not events:
                return

    def _write(self) -> None:
        with self._lock, suppress(OSError):
            if self._out:
                del self._out[: self._ours.send(self._out)]

    def _read(self, frames: FrameStream) -> bool:
        """Read what the module says; return whether more can come."""
        try:
            data = self._ours.recv(1 << 16)
            for one in frames.feed(data):
                with suppress(WasmsrError, UnicodeDecodeError, IndexError):
                    self._tell(one)
        except BlockingIOError:
            return True
        except (OSError, HostError):
            return False
        return bool(data)

    def _tell(self, one: ConduitFrame) -> None:
        if one.kind == conduit.OPEN and one.fd != STDIO:
            flags, topic = one.payload[0] & 3, one.payload[1:].decode()
            if self._flags.get(one.fd):
                self._send(WorkerFrame(self._index, FromWorker.CLOSE, bytes((one.fd,))))
            self._flags[one.fd] = flags
            opening = ChannelOpening(
                one.fd, bool(flags & READ), bool(flags & WRITE), topic, terminated=True
            )
            self._send(WorkerFrame(self._index, FromWorker.OPEN, opening.encode()))
        elif one.kind == conduit.CLOSE:
            self._flags.pop(one.fd, None)
            self._send(WorkerFrame(self._index, FromWorker.CLOSE, bytes((one.fd,))))
        elif one.kind == conduit.REPORT:
            if len(self.reports) < REPORTS and len(one.payload) == REPORT_BYTES:
                self.reports.append(one.payload)
        elif one.kind == conduit.MESSAGE and self._flags.get(one.fd, 0) & WRITE:
            _, _, data = written_message(one.payload)
            self._send(WorkerFrame(self._index, one.fd, data, control=False))


__all__ = ["FOLDER", "SilverlineWorker"]
