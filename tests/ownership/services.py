"""Registers that tests can break: a file of SQLite, and a real etcd behind a proxy of ours."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from wasmsr.ownership.owner_record import (
    FailoverPolicy,
    LastCheckpoint,
    OwnerRecord,
)
from wasmsr.ownership.register import Register, RegisterBackend
from wasmsr.ownership.sqlite_backend import SqliteBackend

HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE records SET record = x'00'")
print("held", flush=True)
time.sleep(600)
"""
"""A process that is in the middle of a transaction."""


def first(program: bytes = b"", owner: bytes = b"") -> OwnerRecord:
    """A first record; ids that are not given are random."""
    return OwnerRecord(
        program=program or secrets.token_bytes(16),
        owner=owner or secrets.token_bytes(16),
        epoch=1,
        attempt=secrets.token_bytes(16),
        serial=1,
        lease=10_000,
        deadline=1_800_000_000_000,
        policy=FailoverPolicy.RESTORE,
        failover=(secrets.token_bytes(16),),
        checkpoint=LastCheckpoint(secrets.token_bytes(32), "/store", 1),
    )


def taken(old: OwnerRecord, owner: bytes = b"") -> OwnerRecord:
    """The record by which another takes the program over."""
    return old.next(
        epoch=old.epoch + 1,
        owner=owner or secrets.token_bytes(16),
        attempt=secrets.token_bytes(16),
    )


def _state(thread: Path) -> str:
    """Return the letter of a thread's state (proc(5)); T where the thread has ended."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "T"


class SqliteHost:
    """SQLite and the processes that use it. What holds the file's lock is 'frozen'."""

    kind = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "register.db"
        self._holder: subprocess.Popen[str] | None = None

    def backend(self) -> RegisterBackend:
        return SqliteBackend(self.path, busy=0.3)

    def register(self) -> Register:
        return Register(self.backend(), patience=1.0)

    def freeze(self) -> None:
        """Another process is stopped in the middle of a transaction."""
        SqliteBackend(self.path).close()
        self._holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(self.path)], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None and self._holder.stdout.readline() == "held\n"
        self._holder.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """That process is killed; SQLite rolls its transaction back."""
        assert self._holder is not None and self._holder.stdout is not None
        self._holder.kill()
        self._holder.wait()
        self._holder.stdout.close()
        self._holder = None

    kill, restart, partition, heal = freeze, thaw, freeze, thaw

    def put(self, program: bytes, data: bytes) -> None:
        """Puts any bytes in place of a record."""
        SqliteBackend(self.path).close()
        with sqlite3.connect(self.path) as database:
            database.execute("REPLACE INTO records VALUES (?, ?)", (program, data))
        database.close()

    def close(self) -> None:
        if self._holder is not None:
            self.thaw()


class Proxy:
    """A proxy on loopback. `mode` says what it does with bytes from now on.

    "pass": forward both directions. "deaf": forward nothing; connections are accepted.
    "mute": forward questions, and drop the answers.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.mode = "pass"
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._links: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target), 2)
            except OSError:
                near.close()
                continue
            self._links.append((near, far))
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if self.mode == "deaf" or (self.mode == "mute" and ready is far):
                        continue
                    (far if ready is near else near).sendall(data)
        except (OSError, ValueError):
            return
        finally:
            near.close()
            far.close()

    def cut(self) -> None:
        """Breaks all connections; bytes that were dropped are never repeated."""
        links, self._links = self._links, []
        for pair in links:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
        self.cut()


class EtcdHost:
    """A real etcd of one member, and a proxy before it."""

    kind = "etcd"

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port, self._peer = _free_port(), _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.restart()
        self.proxy = Proxy(self.port)

    def restart(self) -> None:
        here, peer = (f"http://127.0.0.1:{port}" for port in (self.port, self._peer))
        words = [
            "etcd", "--data-dir", str(self.folder / "etcd"), "--name", "one",
            "--listen-client-urls", here, "--advertise-client-urls", here,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"one={peer}", *self.options,
        ]  # fmt: skip
        with open(self.folder / "etcd.log", "ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{here}/health", timeout=1) as answer:
                    if b"true" in answer.read():
                        return
            except OSError:
                pass
            assert time.monotonic() < end, (self.folder / "etcd.log").read_text()[-2000:]
            time.sleep(0.05)

    def backend(self, timeout: float = 0.5) -> RegisterBackend:
        from wasmsr.http.etcd_backend import EtcdBackend

        return EtcdBackend([f"http://127.0.0.1:{self.proxy.port}"], timeout=timeout)

    def register(self) -> Register:
        return Register(self.backend(), patience=1.0)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def freeze(self) -> None:
        assert self._process is not None
        self._signal(signal.SIGSTOP)
        # The signal reaches the threads one by one; until then one of them may still answer.
        threads = Path(f"/proc/{self._process.pid}/task")
        end = time.monotonic() + 20
        while any(_state(thread) not in "Tt" for thread in threads.iterdir()):
            assert time.monotonic() < end, "the service does not stop"
            time.sleep(0.001)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.proxy.cut()

    def partition(self) -> None:
        self.proxy.mode = "deaf"

    def heal(self) -> None:
        self.proxy.mode = "pass"
        self.proxy.cut()

    def put(self, program: bytes, data: bytes) -> None:
        """Puts any bytes in place of a record."""
        from etcd3gw.client import Etcd3Client

        client = Etcd3Client("127.0.0.1", self.port, api_path="/v3/", timeout=5)
        assert client.put(b"/wasmsr/owner/" + program.hex().encode(), data)
        client.session.close()

    def close(self) -> None:
        self.proxy.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


RegisterHost = SqliteHost | EtcdHost


def etcd_missing() -> str:
    """Why etcd cannot be tested here, or ""."""
    if shutil.which("etcd") is None:
        return "etcd is not installed (Debian: etcd-server)"
    try:
        import etcd3gw  # noqa: F401
    except ImportError:
        return "the Python package etcd3gw is not installed"
    return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
