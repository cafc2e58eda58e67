"""`make containers-nodes`: two nodes, eight programs, and one `drain` that moves them all.

The nodes are containers, host-1 and host-2, of the first engine that answers: docker, podman; or,
where none does, two network namespaces of this machine. They know each other by certificates of an
authority that is made for this, and take what a policy allows. A container has a read-only file
system, no capabilities and no new privileges. The exit code is 0 only if all programs were moved
and ended on the second node with the right answer. All that was made is removed.

    python -m scripts.container_nodes [--engine NAME] [--base IMAGE] [--programs N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.containers import interrupted
from scripts.hosts import (
    HARDENED,
    HOSTS,
    ROOT,
    Containers,
    Context,
    Engine,
    Failed,
    Followed,
    Namespaces,
    Podman,
    choose,
    make_certificates,
    say,
    step,
)

FILES = ROOT / "examples" / "node"
PORT = 7443
ROUNDS = 99
"""How often a program counts, a tenth of a second each time; it has 8 MiB of memory."""
CODE = 42
MEMORY = "16MiB"
READY_SECONDS = 60.0
END_SECONDS = 120.0
PROGRAM = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 128 256)
  (func (export "_start") (local $n i32) (local $at i32)
    (i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const 100000000))
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 3))
    (loop $again
      (local.set $at (i32.const 65536))
      (loop $fill
        (i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (i32.const 1)))
        (local.set $at (i32.add (local.get $at) (i32.const 4096)))
        (br_if $fill (i32.lt_u (local.get $at) (i32.const 8388608))))
      (i32.store8 (i32.const 64) (i32.add (i32.const 48) (i32.div_u (local.get $n) (i32.const 10))))
      (i32.store8 (i32.const 65) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (i32.store8 (i32.const 66) (i32.const 10))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (drop (call $poll (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 8)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const ROUNDS))))
    (local.set $at (i32.const 65536))
    (loop $check
      (if (i32.ne (i32.load (local.get $at)) (i32.const ROUNDS)) (then unreachable))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $check (i32.lt_u (local.get $at) (i32.const 8388608))))
    (call $exit (i32.const CODE))))"""
"""Counts to `ROUNDS`, once in each of 2,000 pages too, which it checks in the end."""


def node_words(keys: str, listen: str) -> list[str]:
    """Return the arguments of `wasmsr` for a node.

    Args:
        keys: The folder of its certificates, as the node sees it.
        listen: Where it listens.
    """
    words = ["node", "--listen", listen, "--on-stop", "checkpoint", "--resume"]
    for name in ("certificate", "key", "authority", "revoked"):
        words += [f"--tls-{name}", f"{keys}/{name}"]
    return [*words, "--policy-memory", "256MiB", "--policy-programs", "16"]


class NodeContainers(Containers):
    """Two nodes in containers."""

    keys: Path

    def make_context(self) -> None:
        """Make the folder to build from."""
        super().make_context()
        folder = self.context.folder
        shutil.copy(FILES / "Dockerfile", folder)
        wheels = folder / "wheels"
        (wheel,) = wheels.glob("wasmsr-*.whl")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download"]
        step([*pip, "-d", str(wheels), "--find-links", str(wheels), f"{wheel}[node]"])

    def begin(self, host: str) -> Followed:
        """Start a node."""
        name = f"{self.id}-{host}"
        create = [*self.command, "create", "--name", name, "--hostname", host, *HARDENED]
        create += [*self.limits, "-v", f"{self.keys / host}:/run/secrets:ro", *self.network(host)]
        step([*create, self.image, *node_words("/run/secrets", f"0.0.0.0:{PORT}")])
        self._made.append([*self.command, "rm", "-f", "-v", name])
        return Followed([*self.command, "start", "-a", name], host)

    def ask(self, host: str, *words: str) -> str:
        """Return what a command of wasmsr prints on a host."""
        inside = ["exec", f"{self.id}-{host}", "wasmsr", words[0], "--state-dir", "/state"]
        return step([*self.command, *inside, *words[1:]], 120)

    def address(self, host: str) -> str:
        """Return where a node is reached from the other one."""
        return f"{host}:{PORT}"

    def module(self, host: str) -> str:
        """Return the file of the program, as the host sees it."""
        return "/run/secrets/program.wasm"


class NodePodman(NodeContainers, Podman):
    """The same by podman."""


class NodeNamespaces(Namespaces):
    """Two nodes in network namespaces."""

    keys: Path

    def begin(self, host: str) -> Followed:
        """Start a node."""
        listen = f"{self.addresses[host]}:{PORT}"
        words = node_words(str(self.keys / host), listen)
        return Followed(self._command(host, words), host, self.folders[host], self._environment())

    def _command(self, host: str, words: Sequence[str]) -> list[str]:
        inside = ["ip", "netns", "exec", self.spaces[host], sys.executable, "-m", "wasmsr"]
        return [*inside, words[0], "--state-dir", str(self.folders[host] / "state"), *words[1:]]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def ask(self, host: str, *words: str) -> str:
        """Return what a command of wasmsr prints on a host."""
        return step(self._command(host, words), 120, self._environment())

    def address(self, host: str) -> str:
        """Return where a node is reached from the other one."""
        return f"{self.addresses[host]}:{PORT}"

    def module(self, host: str) -> str:
        """Return the file of the program, as the host sees it."""
        return str(self.keys / host / "program.wasm")


NodeEngine = NodeContainers | NodeNamespaces
NODE_ENGINES: tuple[type[NodeEngine], ...] = (NodeContainers, NodePodman, NodeNamespaces)
"""In the order in which they are asked."""


def make_keys(folder: Path, engine: Engine) -> Path:
    """Make the certificates of the nodes, and the program beside them."""
    from wasmsr.interp.modules.module import assemble

    text = PROGRAM.replace("ROUNDS", str(ROUNDS)).replace("CODE", str(CODE))
    for host in HOSTS:
        (folder / host).mkdir(parents=True)
        (folder / host / "program.wasm").write_bytes(assemble(text.encode()))
    readable = isinstance(engine, Containers)
    make_certificates(folder, getattr(engine, "addresses", {}), readable=readable)
    return folder


def await_health(engine: NodeEngine, host: str) -> None:
    """Wait until a node says that it works."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            engine.ask(host, "health")
            return
        except Failed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def programs(engine: NodeEngine, host: str) -> list[dict[str, object]]:
    """Return what a node says of its programs."""
    return [json.loads(line) for line in engine.ask(host, "ps", "--json").splitlines()]


def run(engine: NodeEngine, count: int) -> int:
    """Run everything and return the exit code."""
    one, two = HOSTS
    for host in (two, one):
        engine.followed.append(engine.begin(host))
        await_health(engine, host)
    say("both nodes are healthy")
    module = engine.module(one)
    words = ("submit", "--max-memory", MEMORY, "--name")
    with ThreadPoolExecutor(count) as pool:
        names = [f"program-{number}" for number in range(count)]
        list(pool.map(lambda name: engine.ask(one, *words, name, module), names))
    say(f"{count} programs run on {one}")
    began = time.monotonic()
    said = engine.ask(one, "drain", engine.address(two))
    say(f"drained in {time.monotonic() - began:.1f} s: {said.splitlines()[-1]}")
    deadline = time.monotonic() + END_SECONDS
    while True:
        there = programs(engine, two)
        ended = [one for one in there if one["standing"] == "ended"]
        if len(ended) == count or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    right = "".join(f"{number:02}\n" for number in range(ROUNDS)).strip()
    outputs = [engine.ask(two, "logs", str(one["program"])) for one in there]
    say(f"{len(ended)} of {count} programs ended on {two}")
    good = [one["code"] == CODE and text == right for one, text in zip(there, outputs, strict=True)]
    if len(ended) != count or not all(good):
        say(f"WRONG: {[(one['standing'], one['code'], one['reason']) for one in there]}")
        return 1
    say("each has the right answer, and no line is missing or doubled")
    return 0


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Drains a node into another one.")
    parser.add_argument("--engine", choices=[kind.name for kind in NODE_ENGINES])
    parser.add_argument("--base", help="image to build on (default: python:3-slim, or a Debian)")
    parser.add_argument("--programs", type=int, default=8)
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-nodes-"))
    engine: NodeEngine | None = None
    try:
        (folder / "context").mkdir()
        sample = ROOT / "examples" / "snapshot" / "sample.y4m"
        program = sample.with_name("fib.wasm")
        context = Context(
            folder / "context", folder / "key", options.base, 0.0, program, [], sample, ""
        )
        engine = choose(NODE_ENGINES, options.engine, context)
        engine.keys = make_keys(folder / "keys", engine)
        return run(engine, options.programs)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        say(f"failed: {error}")
        return 1
    finally:
        if engine is not None:
            say("removing what was made")
            engine.remove()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
