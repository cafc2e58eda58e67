"""`wasmsr node` and the commands that ask it, as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.node.programs import counting, lines

SLOW = 10
"""Milliseconds after each line."""


def until(condition: Callable[[], Any], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


class Shell:
    """A user's shell: one folder, one free port, and a node that may run there."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", inside: Sequence[str] = ()) -> None:
        """Make it; `inside` are the words before a command that let it run where `host` is."""
        self.folder, self._inside = folder, inside
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            self.address = f"{host}:{trial.getsockname()[1]}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WASMSR_")}
        self.environ = {
            **kept,
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def node(self, *words: str, command: str | None = None) -> None:
        before = len(self.events("node"))
        start = [*self._inside, *([command] if command else [sys.executable, "-m", "wasmsr"])]
        start += ["node", "--listen", self.address, "--json"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*start, *words], env=self.environ, stderr=log, cwd=self.folder
            )
        until(lambda: len(self.events("node")) > before or self.process.poll() is not None)
        assert self.process.poll() is None, (self.folder / "log").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name that nodes have logged here."""
        path = self.folder / "log"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [one for one in found if one["event"] == name]

    def run(self, *words: str, code: int = 0, **more: Any) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [sys.executable, "-m", "wasmsr", *words], env=self.environ, cwd=self.folder,
            capture_output=True, text=True, timeout=60, **more,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def exit_code(self, *words: str) -> int:
        """Return the exit code of a command, whatever it says."""
        command = [sys.executable, "-m", "wasmsr", *words]
        return subprocess.run(
            command, env=self.environ, cwd=self.folder, capture_output=True, timeout=60
        ).returncode

    def ps(self) -> dict[str, dict[str, Any]]:
        found = map(json.loads, self.run("ps", "--json").splitlines())
        return {one["program"]: one for one in found}

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(40) == 0


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.end()


def test_a_day_of_a_node(shell: Shell, tmp_path: Path) -> None:
    """Submit, look, pause, save, kill the node, start it again, stop it, resume, follow."""
    (tmp_path / "count.wasm").write_bytes(counting(10**7, SLOW))
    assert "no node of this user" in shell.run("health", code=1)
    shell.node("--on-stop", "checkpoint", "--checkpoints-store", str(tmp_path / "store"))
    assert shell.run("health") == "serving\n"
    assert json.loads(shell.run("health", "--json", "--alive")) == {"health": "serving"}
    program = shell.run("submit", "count.wasm", "--name", "count", "--env", "A=B").strip()
    other = json.loads(shell.run("submit", "count.wasm", "--json"))["program"]
    assert len(program) == 32 and "running" in shell.run("ps")
    assert shell.run("pause", program[:8]) == f"{program[:8]} paused\n"
    assert "checkpoint 1," in shell.run("checkpoint", program[:8])
    shown = shell.run("inspect", "--node", "local", program[:8])
    assert "Call stack" in shown and "A=B" in shown
    saved = json.loads(shell.run("checkpoint", program[:8], "--to", "saved.bin", "--json"))
    assert saved["file"] == "saved.bin" and saved["size"] == (tmp_path / "saved.bin").stat().st_size
    begin = ("count.wasm", "--from-snapshot", "saved.bin", "--goes-on", "--name", "copy")
    copy = shell.run("submit", *begin).strip()
    until(lambda: shell.run("logs", copy) != "")
    first = saved["stdout"] // 9
    assert shell.run("logs", copy).startswith(f"{first:08d}\n")
    shell.run("kill", copy)
    assert "--goes-on is about" in shell.run("submit", "count.wasm", "--goes-on", code=2)
    shell.run("resume", program[:8])
    assert "killed" in shell.run("kill", other[:8])
    follower = subprocess.Popen(
        [sys.executable, "-m", "wasmsr", "logs", "-f", "count"], env=shell.environ,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert shell.process is not None and follower.stdout is not None
    assert follower.stdout.readline() == lines(0, 1)
    shell.process.kill()
    shell.process.wait()
    shell.node()
    found = shell.ps()
    assert found[program]["standing"] == "running" and found[program]["reason"] == "adopted"
    assert found[other]["standing"] == "killed"
    shell.end()
    assert shell.events("stopped")[-1]["resumable"] == 1
    (stored,) = shell.run("store", "ls", "--store", str(tmp_path / "store")).split("\n\n")[:1]
    assert program in stored
    shell.node("--resume")
    assert shell.ps()[program]["reason"].startswith("resumed from")
    assert follower.stdout.readline() == lines(1, 2)
    shell.run("pause", program)
    shell.run("kill", program)
    text = lines(0, 2) + follower.stdout.read()
    assert text == lines(0, len(text) // 9), "each line once, and in order"
    assert follower.wait(60) == 0
    killed = shell.ps()[program]
    assert (killed["standing"], killed["life"]) == ("killed", 2)
    pieces = [json.loads(line) for line in shell.run("logs", "--json", program).splitlines()]
    assert "".join(one["text"] for one in pieces).encode() == text


def test_a_node_gives_no_folder_without_a_rule(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "count.wasm").write_bytes(counting(1))
    (tmp_path / "data").mkdir()
    shell.node("--policy-mounts", f"{tmp_path}/data:ro", "--policy-memory", "1MiB")
    folder = f"{tmp_path}/data::/data"
    words = ("submit", "count.wasm", "--max-memory", "1MiB", "--dir")
    assert "may not have the folder" in shell.run(*words, folder, code=1)
    assert "may not have the folder" in shell.run(*words, "/etc::/etc::ro", code=1)
    assert "bytes of memory here" in shell.run("submit", "count.wasm", code=1)
    shell.run(*words, f"{folder}::ro")


def test_metrics_and_the_page_of_a_node(shell: Shell, tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    with socket.socket() as trial, socket.socket() as other:
        trial.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, page = trial.getsockname()[1], other.getsockname()[1]
    (tmp_path / "count.wasm").write_bytes(counting(3))
    (tmp_path / "spin.wasm").write_bytes(counting(10**7, SLOW))
    shell.node(
        "--metrics", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{page}", "--policy-programs", "2"
    )
    shell.run("submit", "count.wasm")
    spin = shell.run("submit", "spin.wasm").strip()
    shell.run("checkpoint", spin)
    until(lambda: "ended" in shell.run("ps"))
    shell.run("submit", "spin.wasm")
    assert "which is its limit" in shell.run("submit", "spin.wasm", code=1)
    os.kill(shell.ps()[spin]["worker"], signal.SIGKILL)
    until(lambda: shell.ps()[spin]["standing"] == "resumable")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {
        (one.name, *one.labels.values()): one.value
        for family in parser.text_string_to_metric_families(text)
        for one in family.samples
    }
    assert found["wasmsr_programs", "running"] == 1
    assert found["wasmsr_programs", "resumable"] == found["wasmsr_programs", "ended"] == 1
    assert found["wasmsr_programs_ended_total", "exited"] == 1
    assert found["wasmsr_workers_lost_total", "SIGKILL"] == 1
    assert found["wasmsr_checkpoints_total", "written"] == 1
    assert found["wasmsr_checkpoint_seconds_count",] == 1
    assert found["wasmsr_refusals_total", "programs"] == 1
    assert found["wasmsr_worker_memory_bytes",] > 1 << 20

    def ask(path: str, method: str = "GET") -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{link}{path}", headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    until(lambda: shell.events("page"))
    link, _, token = shell.events("page")[0]["serves"].partition("/#token=")
    programs = {one["program"]: one for one in ask("/node")["programs"]}
    assert set(programs) == set(shell.ps()) and programs[spin]["standing"] == "resumable"
    assert ask(f"/programs/{spin}/output?offset=-18")["text"].count("\n") == 2
    running = next(id for id, one in programs.items() if one["standing"] == "running")
    assert ask(f"/programs/{running}/pause", "POST")["standing"] == "paused"
    assert ask(f"/programs/{running}")["frames"][-1]["function"] == "_start"


def test_a_folder_that_became_a_link_is_not_given_again(shell: Shell, tmp_path: Path) -> None:
    given, secret = tmp_path / "given" / "sub", tmp_path / "secret"
    given.mkdir(parents=True)
    secret.mkdir()
    (tmp_path / "count.wasm").write_bytes(counting(9000, SLOW))
    shell.node("--policy-mounts", str(tmp_path / "given"))
    program = shell.run("submit", "count.wasm", "--dir", f"{given}::/d").strip()
    shell.run("checkpoint", program)
    os.kill(shell.ps()[program]["worker"], signal.SIGKILL)
    until(lambda: shell.ps()[program]["standing"] == "resumable")
    given.rmdir()
    given.symlink_to(secret)
    assert "may not have the folder" in shell.run("resume", program, code=1)


def test_only_its_user_opens_the_socket_of_a_node(shell: Shell, tmp_path: Path) -> None:
    shell.node()
    control = tmp_path / "state" / "wasmsr" / "node" / "control"
    assert control.is_socket() and control.parent.stat().st_mode & 0o077 == 0
    assert shell.run("ps", "--json") == ""
    if os.geteuid() == 0:
        os.chown(control, 65534, 65534)
        assert "no node of this user" in shell.run("ps", code=1)
        os.chown(control, 0, 0)
    assert shell.process is not None
    shell.process.kill()
    shell.process.wait()
    assert "cannot be reached" in shell.run("ps", code=1)
    shell.node()
    shell.run("ps")


def test_a_certificate_names_its_node(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")
    shell.run("keys", "init", "ca")

    def words(who: str) -> tuple[str, ...]:
        found = shell.run(
            "keys", "issue", who, "localhost", "--authority", "ca", "-o", "a", "--json"
        )
        made = json.loads(found)
        return ("--tls-certificate", made["certificate"], "--tls-key", made["key"],
            "--tls-authority", "ca/authority.crt")  # fmt: skip

    first = words("node:" + "ab" * 16)
    shell.node(*first)
    assert shell.events("node")[0]["id"] == "ab" * 16
    shell.run("ps")
    shell.end()
    other = ("node", "--listen", shell.address, *words("node"))
    assert "the certificate names node" in shell.run(*other, code=1)
    client = ("node", "--listen", shell.address, *words("client:ann"))
    assert "names client ann and no node" in shell.run(*client, code=2)
    shell.node(*first)


def test_strangers_are_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another token of 16 bytes or more")
    os.chmod(tmp_path / "token", 0o600)
    assert "no node of this user" in shell.run("ps", code=1)
    shell.node()
    there = ("ps", "--node", shell.address)
    shell.run(*there)
    assert "token is wrong" in shell.run(*there, "--token-file", "token", code=1)
    assert shell.events("refused")[0]["rule"] == "token"
    shell.run("ps")
    assert "cannot be reached" in shell.run("ps", "--node", "127.0.0.1:1", code=1)
    # A second node on the same folder, and settings that cannot be.
    again = shell.run("node", "--listen", "127.0.0.1:1", code=1)
    assert "is held by process" in again
    assert "other machines" in shell.run("node", "--listen", "0.0.0.0:7443", code=2)
    shown = shell.run("node", "--check-config", "--checkpoints-every", "5")
    assert "--checkpoints-every" in shown


def test_a_node_with_certificates(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    shell.run("keys", "init", "ca")
    shell.run("keys", "issue", "node", "localhost", "127.0.0.1", "--authority", "ca", "-o", "a")
    shell.run("keys", "issue", "client:ann", "--authority", "ca", "-o", "b")

    def words(folder: str) -> list[str]:
        (certificate,) = (tmp_path / folder).glob("*.crt")
        return [
            *(
                "--tls-certificate",
                str(certificate),
                "--tls-key",
                str(certificate.with_suffix(".key")),
            ),
            *("--tls-authority", str(tmp_path / "ca" / "authority.crt")),
        ]

    shell.node(*words("a"), "--tls-revoked", "ca/revoked.crl")
    fib = Path(__file__).parents[2] / "examples" / "snapshot" / "fib.wasm"
    there = ("--node", shell.address)
    submit = ["submit", str(fib), "--invoke", "fib", "--json", *there, *words("b"), "20"]
    found = json.loads(shell.run(*submit))
    assert found["submitter"] == "client ann"
    shown = json.loads(shell.run("inspect", found["program"], "--json", *there, *words("b")))
    assert shown["name"] == "fib.wasm"
    assert "cannot be reached" in shell.run("ps", *there, code=1), "plain text"
    assert "cannot be reached" in shell.run("ps", *there, *words("b")[-2:], code=1)
    assert "--node HOST:PORT" in shell.run("ps", *words("b"), code=2)
    shell.run("keys", "revoke", "client:ann", "--authority", "ca")
    until(lambda: shell.exit_code("ps", *there, *words("b")))  # the node looks once a second
    assert "was revoked" in shell.run("ps", *there, *words("b"), code=1)
