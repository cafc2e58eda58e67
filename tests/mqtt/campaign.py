"""A campaign: nodes of a fleet are killed, frozen and cut off while their modules publish numbers.

    python -m tests.mqtt.campaign --seconds 1200 --every 40 --nodes 3 --modules 30 --file F

Each module counts, and has a lease: when its node is lost, another one goes on from its last
snapshot. Each message has the number of its owner. A message of an owner that comes more than two
seconds after the first one of the next owner says that two have run. At the end every module must
still count. `taken` counts the takeovers, `late` the messages of older owners, which readers of
ours drop, `gaps` the numbers that nobody gets. Each run is a line of the file; runs that are there
are not made again. With `--two`, two nodes are hurt at once.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import signal
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import wasmtime

from tests.mqtt.broker import Peer, TestBroker
from tests.mqtt.numbers import Numbers
from tests.mqtt.served import Orchestrator
from tests.mqtt.test_device import COUNTER, Device, create

SLOW = COUNTER.replace("(i32.const 10)", "(i32.const 500)")
"""About two numbers a second."""
HEAL_SECONDS = 90.0
KINDS = ("kill", "freeze", "cut")


class Proxy:
    """Stands between a node and the broker, and can be cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                with self._lock, suppress(OSError):
                    if self._is_cut:
                        client.close()
                        continue
                    broker = socket.create_connection(("127.0.0.1", self._to))
                    self._open += [client, broker]
                    for one, other in ((client, broker), (broker, client)):
                        threading.Thread(target=_copy, args=(one, other), daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and let none through."""
        with self._lock:
            self._is_cut = True
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def mend(self) -> None:
        """Let connections through."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        """End it."""
        self.cut()
        self._listening.close()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def run(
    folder: Path, seed: int, *, nodes: int, modules: int, seconds: float, every: float,
    hold: float, lease: float = 10.0, two: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Make one run, and return what was found.

    Args:
        folder: An empty folder.
        seed: Of the faults.
        nodes, modules: How many.
        seconds: How long.
        every: Seconds between two faults.
        hold: How long a node is frozen or cut off; a killed one is away for a fifth of it.
        lease: Seconds of the leases.
        two: Whether two nodes are hurt at once.
    """
    draw = random.Random(seed)
    (folder / "broker").mkdir()
    broker = TestBroker(folder / "broker")
    orchestrator = Orchestrator(folder, broker.port, "--lease", str(lease))
    orchestrator.until("connected")
    proxies, devices = [], []
    numbers = peer = None
    names: list[str] = []
    faults: list[str] = []
    try:
        for number in range(nodes):
            place = folder / f"node{number}"
            place.mkdir()
            (place / "slow.wasm").write_bytes(bytes(wasmtime.wat2wasm(SLOW)))
            proxies.append(Proxy(broker.port))
            devices.append(
                Device(
                    place, proxies[-1].port, "--name", f"node{number}",
                    "--checkpoints-store", str(folder / "store"),
                )
            )  # fmt: skip
        _until(lambda: orchestrator.ask("runtimes/")["count"] == nodes)
        numbers, peer = Numbers(broker.port), Peer(broker.port)
        args = {"fault_crash": "restore", "snapshot_every": 2}
        for _ in range(modules):
            names.append(f"m{len(names)}")
            channels = [{"path": "out", "mode": "w", "topic": f"numbers/{names[-1]}"}]
            create(peer, "slow", args=args, channels=channels, uuid=names[-1])
        heard = numbers
        _until(lambda: all(heard.of(one).count for one in names))
        end = time.monotonic() + seconds
        while time.monotonic() + every <= end:
            time.sleep(every)
            hurt = draw.sample(range(nodes), 2 if two else 1)
            threads = []
            for at in hurt:
                kind = draw.choice(KINDS)
                faults.append(f"{kind} {at}")
                work = (devices[at], proxies[at], kind, hold)
                threads.append(threading.Thread(target=_hurt, args=work))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        before = {one: heard.of(one).last for one in names}
        _until(lambda: all(heard.of(one).last > before[one] + 2 for one in names))
        return {"seed": seed, "faults": faults, "lost": [], **_summary(numbers, names)}
    except (TimeoutError, queue.Empty):
        found = {} if numbers is None else _summary(numbers, names)
        return {"seed": seed, "faults": faults, "lost": ["some"], "mixed": [], **found}
    finally:
        for one in (numbers, peer):
            if one is not None:
                one.stop()
        for device in devices:
            device.kill()
        orchestrator.stop(signal.SIGKILL)
        for proxy in proxies:
            proxy.close()
        broker.stop()


def _summary(numbers: Numbers, names: list[str]) -> dict[str, Any]:
    heard = {one: numbers.of(one) for one in names}
    return {
        "mixed": [name for name, one in heard.items() if one.mixed],
        "numbers": sum(one.count for one in heard.values()),
        "taken": sum(max(0, len(one.epochs) - 1) for one in heard.values()),
        "late": sum(len(one.late) for one in heard.values()),
        "gaps": sum(one.gaps for one in heard.values()),
    }


def _until(condition: Any) -> None:
    end = time.monotonic() + HEAL_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def _hurt(device: Device, proxy: Proxy, kind: str, hold: float) -> None:
    """Do something to a node, and make it good again."""
    if kind == "kill":
        device.kill()
        time.sleep(hold / 5)
        device.start()
    elif kind == "freeze":
        device.process.send_signal(signal.SIGSTOP)
        time.sleep(hold)
        device.process.send_signal(signal.SIGCONT)
    else:
        proxy.cut()
        time.sleep(hold)
        proxy.mend()


def main() -> int:
    """Make runs, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    times = (("seconds", 1200.0), ("every", 40.0), ("hold", 25.0), ("lease", 10.0))
    for name, value in times:
        parser.add_argument(f"--{name}", type=float, default=value)
    for name, count in (("nodes", 3), ("modules", 30), ("runs", 1), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--two", action="store_true")
    asked = parser.parse_args()
    done = set()
    if asked.file is not None and asked.file.exists():
        done = {json.loads(line)["seed"] for line in asked.file.read_text().splitlines()}
    wrong = 0
    for seed in range(asked.seed, asked.seed + asked.runs):
        if seed in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = run(
                Path(folder), seed, nodes=asked.nodes, modules=asked.modules,
                seconds=asked.seconds, every=asked.every, hold=asked.hold, lease=asked.lease,
                two=asked.two,
            )  # fmt: skip
        print(json.dumps(row), flush=True)
        if asked.file is not None:
            with open(asked.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        wrong += bool(row["mixed"] or row["lost"])
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
