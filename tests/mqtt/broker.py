"""A broker for tests, `mosquitto` on a free port of this machine; and a client as peers are."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt")

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
SECONDS = 30.0
"""How long anything may take on a busy machine."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class TestBroker:
    """A broker that keeps sessions over a restart."""

    __test__ = False

    def __init__(self, folder: Path, passwords: str | None = None) -> None:
        self.port = free_port()
        self._folder = folder
        lines = [f"listener {self.port} 127.0.0.1", "persistence true"]
        lines += [f"persistence_location {folder}/", "user root"]
        if passwords is None:
            lines += ["allow_anonymous true"]
        else:
            (folder / "passwords").write_text(passwords)
            (folder / "passwords").chmod(0o600)
            subprocess.run(["mosquitto_passwd", "-U", str(folder / "passwords")], check=True)
            lines += ["allow_anonymous false", f"password_file {folder}/passwords"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until and self.process.poll() is None
                time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)


class Peer:
    """A client as the Silverline tools have it: MQTT 3.1.1, JSON, QoS 2."""

    def __init__(self, port: int, *topics: str) -> None:
        self._heard: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"peer-{uuid.uuid4()}")
        ready = queue.Queue[None]()
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: ready.put(None)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        for topic in topics:
            self._client.subscribe(topic, 2)
            ready.get(timeout=SECONDS)

    def _take(self, client: Any, data: Any, message: Any) -> None:
        try:
            said = json.loads(message.payload)
        except ValueError:  # it also hears the bad messages that a test sends
            said = {"action": "none", "raw": bytes(message.payload)}
        self._heard.put((message.topic, said))

    def say(self, topic: str, action: str, data: Any) -> str:
        """Send a request; return its id."""
        number = str(uuid.uuid4())
        message = {"object_id": number, "action": action, "type": "req", "data": data}
        self.say_raw(topic, json.dumps(message).encode())
        return number

    def say_raw(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=2, retain=retain).wait_for_publish(SECONDS)

    def say_often(self, topic: str, payload: bytes, count: int) -> None:
        """Send a message so many times."""
        sent = [self._client.publish(topic, payload, qos=1) for _ in range(count)]
        for one in sent:
            one.wait_for_publish(SECONDS)

    def hear(
        self, action: str | None, wanted: Callable[[Any], bool] = lambda message: True
    ) -> tuple[str, Any]:
        """Return the next message with an action, and as wanted: its topic and the message."""
        until = time.monotonic() + SECONDS
        while True:
            topic, message = self._heard.get(timeout=max(0.01, until - time.monotonic()))
            if isinstance(message, dict) and message.get("action") == action and wanted(message):
                return topic, message

    def next(self, seconds: float) -> tuple[str, Any] | None:
        """Return the next message, or None if there is none in time."""
        try:
            return self._heard.get(timeout=seconds)
        except queue.Empty:
            return None

    def nothing(self) -> bool:
        """Whether nothing waits that it has heard."""
        return self._heard.empty()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
