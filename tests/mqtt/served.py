"""An orchestrator for tests: the command, and its answers over HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mqtt.broker import SECONDS, TestBroker, free_port


class Orchestrator:
    """The command, and its answers over HTTP."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.folder, self.port, self.options = folder, port, options
        self.http = free_port()
        self.start()

    def start(self) -> None:
        words = ["--mqtt", f"127.0.0.1:{self.port}", "--http", str(self.http), "--json"]
        words += ["--db", str(self.folder / "fleet.db"), *self.options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wasmsr", "orchestrator", *words],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def until(self, event: str) -> dict[str, Any]:
        """Read its log up to an event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found
        raise AssertionError(f"it ended before {event}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/api/{path}") as answer:
            return json.load(answer)

    def uuids(self, path: str) -> list[str]:
        return [one["uuid"] for one in self.ask(path)["results"]]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[TestBroker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    found = TestBroker(folder)
    yield found
    found.stop()


@pytest.fixture
def orchestrator(tmp_path: Path, broker: TestBroker) -> Iterator[Orchestrator]:
    found = Orchestrator(tmp_path, broker.port)
    found.until("connected")
    yield found
    if found.process.poll() is None:
        found.process.kill()
    if found.process.stderr is not None and not found.process.stderr.closed:
        print(found.process.stderr.read())  # shown if the test fails
    found.process.wait(SECONDS)
