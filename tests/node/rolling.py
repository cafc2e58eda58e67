"""Moves a program between two nodes thousands of times, perhaps of two versions.

    python -m tests.node.rolling [--moves 2000] [--other COMMAND] [--renew 20] [--file LOG]

The second node is started by COMMAND, such as the `wasmsr` of another version's environment;
without it both are of this tree. Both have certificates, which are issued anew every so many moves
while the nodes run. The program prints numbered lines; in the end each line must be there once.
Memory, descriptors and threads of both supervisors are read after a tenth of the moves and after
the last: memory may have grown by 5 %, the others by 4. It prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.node.programs import counting
from tests.node.test_commands import Shell
from wasmsr import Node
from wasmsr.node.failures import NodeError
from wasmsr.node.security.authority import Authority

GROWTH = 1.05
"""What memory may be in the end, by that after a tenth of the moves."""
POOLED = 4
"""Descriptors and threads that may be more: gRPC's pools grow with what was needed so far."""
LINES = 90_000_000
WAIT_NS = 10_000_000
"""Between two lines."""
PLACES = 10
"""Moves over which memory is taken: its median counts."""


class RollingNode:
    """One of the two nodes."""

    def __init__(self, folder: Path, name: str, authority: Authority, command: str | None) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.shell = Shell(self.folder)
        self.address = self.shell.address
        self._authority = authority
        identity, certificate, key = authority.issue("node", ["127.0.0.1"], self.folder)
        self.identity = str(identity)
        words = [
            "--state-dir", str(self.folder / "state"), "--tls-certificate", str(certificate),
            "--tls-key", str(key), "--tls-authority", str(authority.folder / "authority.crt"),
            "--tls-revoked", str(authority.folder / "revoked.crl"), "--output-limit", "64M",
        ]  # fmt: skip
        self.shell.node(*words, command=command)
        assert self.shell.process is not None
        self.process = psutil.Process(self.shell.process.pid)
        self.node = Node(f"unix:{self.folder}/state/node/control")

    def renew(self) -> None:
        """Issue the certificate again; the node reads it while it runs."""
        self._authority.issue(self.identity.replace(" ", ":"), ["127.0.0.1"], self.folder)

    def reading(self) -> dict[str, int]:
        """Return what the supervisor holds now."""
        with self.process.oneshot():
            return {
                "memory": self.process.memory_info().rss,
                "descriptors": self.process.num_fds(),
                "threads": self.process.num_threads(),
            }


class Readings:
    """What both supervisors held, after some moves."""

    def __init__(self) -> None:
        self._found: dict[int, list[dict[str, int]]] = {}

    def add(self, moves: int, nodes: Sequence[RollingNode]) -> None:
        """Read both."""
        self._found[moves] = [node.reading() for node in nodes]

    def median(self, first: int, last: int, node: int, name: str) -> int:
        """Return a median over moves `first` to `last`."""
        return int(statistics.median(self._found[at][node][name] for at in range(first, last + 1)))


def roll(
    folder: Path, moves: int, other: str | None, renew: int, log: Path | None
) -> dict[str, Any]:
    """Move the program so often, and return what was found."""
    authority = Authority.create(folder / "ca")
    nodes = [RollingNode(folder, "a", authority, None), RollingNode(folder, "b", authority, other)]
    readings, downtimes, refused = Readings(), [], 0
    try:
        (folder / "count.wasm").write_bytes(counting(LINES, WAIT_NS // 1_000_000))
        program = nodes[0].node.submit(folder / "count.wasm").program
        at = 0
        for number in range(moves):
            spans: list[float] = []

            def tell(event: Any, spans: list[float] = spans) -> None:
                if event.kind == "moved":
                    spans.append(float(event.values["downtime"]))

            for attempt in range(5):  # a renewal can meet a handshake
                try:
                    nodes[at].node.migrate(program, nodes[1 - at].address, tell=tell)
                    break
                except NodeError:
                    refused += 1
                    if attempt == 4:
                        raise
                    time.sleep(1.0)
            downtimes += spans
            at = 1 - at
            if renew and number % renew == renew - 1:
                nodes[number // renew % 2].renew()
            readings.add(number, nodes)
            if log is not None and number % 50 == 49:
                with log.open("a", encoding="utf-8") as file:
                    now = [node.reading() for node in nodes]
                    file.write(json.dumps({"moves": number + 1, "nodes": now}) + "\n")
        nodes[at].node.pause(program)
        text = b"".join(piece.data for piece in nodes[at].node.logs(program, ["stdout"]))
        numbers = [int(line) for line in text.splitlines()]
        nodes[at].node.kill(program)
    finally:
        for node in nodes:
            node.node.close()
            node.shell.end()
    tenth = max(moves // 10, PLACES)
    growth = {
        f"{name}_{'ab'[node]}": [
            readings.median(tenth - PLACES, tenth, node, name),
            readings.median(moves - 1 - PLACES, moves - 1, node, name),
        ]
        for node in (0, 1)
        for name in ("memory", "descriptors", "threads")
    }
    grown = [
        name for name, (first, last) in growth.items()
        if last > (first * GROWTH if name.startswith("memory") else first + POOLED)
    ]  # fmt: skip
    return {
        "moves": moves,
        "refused": refused,
        "lines": len(numbers),
        "each_once": numbers == list(range(len(numbers))),
        "downtime_median_ms": round(statistics.median(downtimes) * 1e3, 1),
        "downtime_worst_ms": round(max(downtimes) * 1e3, 1),
        **growth,
        "grown": grown,
    }


def main(words: Sequence[str]) -> int:
    """Carry it out; the exit code is 1 if a line is lost or doubled, or something has grown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=2000)
    parser.add_argument("--other", help="The command of the second node.")
    parser.add_argument(
        "--renew", type=int, default=20, help="Moves between two renewals; 0: none."
    )
    parser.add_argument("--file", type=Path, help="Readings go there, every 50 moves.")
    options = parser.parse_args(words)
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-rolling-"))
    try:
        found = roll(folder, max(options.moves, 3 * PLACES), options.other, options.renew,
                     options.file)  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    return 0 if found["each_once"] and not found["grown"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
