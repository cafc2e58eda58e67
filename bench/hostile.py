"""What hostile peers cost the programs of a node: throughput and memory, with and without them.

    python -m bench.hostile [--programs N] [--pairs N] [--seconds S] [KIND…]

A node with TLS runs N programs that compute without end (default: 20) and one that writes without
end. In turns it is left alone and attacked, S seconds each; the attackers begin a second before.
Node and programs share one core. The attackers, which would be other machines, have the others.
Each figure is the loss of all programs' throughput from one span to the next, the median over the
pairs; beside it is by how much the node is larger than before the first attack. Limits: 5 % and
64 MiB.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from wasmsr import Node
from wasmsr.errors import WasmsrError
from wasmsr.executor.output.rings import ring_bounds
from wasmsr.interp.modules.module import assemble
from wasmsr.node.security.authority import Authority
from wasmsr.node.security.tls_identity import TlsFiles, load

LOSS = 0.05
GROWTH = 64 << 20
START_SECONDS = 60.0
WRITE = """(import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)"""
WORK = f"""(module {WRITE}
  (func (export "_start") (local $i i32)
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1))
    (loop $again
      (local.set $i (i32.const 100000))
      (loop $work (br_if $work (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))))"""
"""Writes a byte after each 100,000 rounds of a loop."""
FLOOD = f"""(module {WRITE}
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4096))
    (loop $again
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))))"""


class Attackers:
    """The kinds of attack. Each method runs in a process of its own until that is killed."""

    def __init__(self, port: int, tls: TlsFiles, flood: str) -> None:
        self._port, self._tls, self._flood = port, tls, flood

    def _connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self._port), 10)
        made.settimeout(10)
        return made

    def _say(self, *pieces: bytes) -> None:
        """Connect, send, and read until the node has closed the connection."""
        with suppress(OSError), self._connect() as end:
            for piece in pieces:
                end.sendall(piece)
            while end.recv(65536):
                pass

    def garbage(self) -> None:
        """Send random bytes, on one connection after the other."""
        while True:
            self._say(os.urandom(4096))

    def http1(self) -> None:
        """Ask in HTTP/1, and in HTTP/2 without TLS."""
        while True:
            self._say(b"GET / HTTP/1.1\r\nHost: node\r\nAccept: */*\r\n\r\n")
            self._say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))

    def tls(self) -> None:
        """Begin TLS without a certificate, and with records that are none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        while True:
            with suppress(OSError), context.wrap_socket(self._connect()) as end:
                end.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                end.recv(100)
            self._say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(508))

    def loris(self) -> None:
        """Hold 200 connections, and send a byte on each now and then."""
        record = b"\x16\x03\x01\x3f\x00\x01\x00\x3e\xfc\x03\x03" + bytes(1 << 14)
        ends: list[socket.socket | None] = [None] * 200
        at = 0
        while True:
            for number, end in enumerate(ends):
                try:
                    if end is None:
                        ends[number] = end = self._connect()
                    end.sendall(record[at % len(record) :][:1])
                except OSError:
                    ends[number] = None
            at += 1
            time.sleep(0.5)

    def connections(self) -> None:
        """Hold 1,000 connections, and make new ones for those that the node closes."""
        ends: list[socket.socket] = []
        while True:
            with suppress(OSError):
                while len(ends) < 1000:
                    ends.append(self._connect())
                    ends[-1].setblocking(False)
            kept = []
            for end in ends:
                try:
                    if end.recv(100):
                        kept.append(end)
                        continue
                except BlockingIOError:
                    kept.append(end)
                    continue
                except OSError:
                    pass
                end.close()
            ends = kept
            time.sleep(0.2)

    def reader(self) -> None:
        """Follow an output that grows without end, as a client that is known, and never read it."""
        node = Node(f"localhost:{self._port}", tls=load(self._tls), seconds=30)
        while True:
            readers = [node.logs(self._flood, follow=True) for _ in range(8)]
            with suppress(WasmsrError):
                for reader in readers:
                    next(reader)
            time.sleep(3600)


KINDS = ("garbage", "http1", "tls", "loris", "connections", "reader")


class Attacked:
    """A node with its programs.

    Args:
        folder: Its files.
        programs: How many programs compute.
        core: The core of the node and its workers.
    """

    def __init__(self, folder: Path, programs: int, core: int) -> None:
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            self.port = trial.getsockname()[1]
        authority = Authority.create(folder / "ca")
        _, certificate, key = authority.issue("node", ["localhost"], folder / "node")
        _, mine, my_key = authority.issue("client:bench", [], folder / "client")
        ca, revoked = authority.folder / "authority.crt", authority.folder / "revoked.crl"
        files = {"certificate": certificate, "key": key, "authority": ca, "revoked": revoked}
        words = [f"--tls-{name}={path}" for name, path in files.items()]
        words += [f"--listen=127.0.0.1:{self.port}", f"--state-dir={folder / 'state'}"]
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wasmsr", "node", "--on-stop=kill", *words], stderr=log
            )
        os.sched_setaffinity(self.process.pid, {core})
        self.tls = TlsFiles(mine, my_key, ca, revoked)
        with Node(f"localhost:{self.port}", tls=load(self.tls), seconds=20) as node:
            self._wait(node)
            for number in range(programs):
                node.submit(assemble(WORK.encode()), {}, name=f"work{number}")
            self.flood = node.submit(assemble(FLOOD.encode()), {}, name="flood").program
            # A program that floods is no part of the figure; it is for those who do not read.
            node.pause(self.flood)
            found = [one.program for one in node.ps() if one.program != self.flood]
        self._outputs = [folder / "state" / "node" / "programs" / one / "output" for one in found]

    def _wait(self, node: Node) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                node.info()
                return
            except WasmsrError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def work(self) -> int:
        """Return how much all programs have done."""
        return sum(ring_bounds(path, "stdout")[1] for path in self._outputs)

    def memory(self) -> int:
        """Return the memory of the node's process in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def rate(self, seconds: float) -> float:
        """Return the throughput over a span, per second."""
        before, began = self.work(), time.perf_counter()
        time.sleep(seconds)
        return (self.work() - before) / (time.perf_counter() - began)

    def close(self) -> None:
        """End the node and its programs."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()


def run_kind(kind: str, port: int, tls: TlsFiles, flood: str, cores: set[int]) -> None:
    """Attack until this process is killed."""
    os.sched_setaffinity(0, cores)
    os.nice(1)
    getattr(Attackers(port, tls, flood), kind)()


def measure(
    attacked: Attacked, kinds: Sequence[str], pairs: int, seconds: float, cores: set[int]
) -> tuple[list[float], int]:
    """Return the loss of each pair of spans, and the most memory of the node.

    Args:
        attacked: The node.
        kinds: The attacks, all at once.
        pairs: How many pairs of spans.
        seconds: The length of a span.
        cores: The cores of the attackers.
    """
    spawn = multiprocessing.get_context("spawn")
    losses: list[float] = []
    most = 0
    for _ in range(pairs):
        alone = attacked.rate(seconds)
        running = [
            spawn.Process(
                target=run_kind,
                args=(kind, attacked.port, attacked.tls, attacked.flood, cores),
                daemon=True,
            )
            for kind in kinds
        ]
        for one in running:
            one.start()
        time.sleep(1.5)  # imports, and the first connections
        under = attacked.rate(seconds)
        most = max(most, attacked.memory())
        for one in running:
            one.kill()
            one.join()
        time.sleep(1.0)
        losses.append(1 - under / statistics.mean((alone, attacked.rate(seconds))))
    return losses, most


def main(say: Callable[[str], None] = print) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--programs", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    kinds = options.kinds or KINDS
    core, *others = sorted(os.sched_getaffinity(0))
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-bench-"))
    attacked = None
    good = True
    try:
        attacked = Attacked(folder, options.programs, core)
        os.sched_setaffinity(0, set(others) or {core})
        time.sleep(2.0)
        before = attacked.memory()
        for chosen in [*([one] for one in kinds), list(kinds)]:
            losses, most = measure(
                attacked, chosen, options.pairs, options.seconds, set(others) or {core}
            )
            loss, grown = statistics.median(losses), most - before
            good = good and loss < LOSS and grown < GROWTH
            name = chosen[0] if len(chosen) == 1 else "all at once"
            say(
                f"{name:12} {loss:7.1%} of the throughput lost "
                f"({min(losses):.1%} to {max(losses):.1%}), {grown / 2**20:+.1f} MiB"
            )
            if len(kinds) == 1:
                break
    finally:
        if attacked is not None:
            attacked.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
