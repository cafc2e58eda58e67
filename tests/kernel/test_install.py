"""Where a kernel is installed, and what its command refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
from wasmsr.kernel.settings import ConnectionFile
from wasmsr.kernel.spec import spec_folder
from wasmsr.kernel.wire import CellProcess, KernelError, MessageReader, frame

PORTS = {f"{name}_port": 5000 + at for at, name in enumerate(("shell", "iopub", "stdin", "hb"))}
GIVEN = {**PORTS, "control_port": 5009, "ip": "127.0.0.1", "key": "k", "transport": "tcp"}


def command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wasmsr", "kernel", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=60,
    )


@pytest.mark.full
def test_a_spec_has_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = command(
        *(
            "install",
            "--user",
            "--name",
            "mine",
            "--display-name",
            "My Python",
            "--env",
            "A",
            "b",
            "--keep-alive",
        ),
        *("--packages", "numpy", "--dir", f"{tmp_path / 'data'}::/data::ro"),
        JUPYTER_DATA_DIR=str(tmp_path / "jupyter"),
    )
    assert done.returncode == 0, done.stderr
    spec = json.loads((tmp_path / "jupyter" / "kernels" / "mine" / "kernel.json").read_text())
    assert (spec["display_name"], spec["env"]) == ("My Python", {"A": "b"})
    assert spec["interrupt_mode"] == "message"
    about = spec["metadata"]["kernel_provisioner"]
    assert about == {"provisioner_name": "wasmsr-relay"}
    assert "{connection_file}" in spec["argv"]
    assert f"{tmp_path / 'data'}::/data::ro" in spec["argv"]
    for words, code in (
        (("--name", "a b"), 2),
        (("--packages", "none"), 2),
        (("--max-memory", "much"), 2),
        (("--user", "--sys-prefix"), 2),
        (("--prefix", "/proc/1/no"), 2),
    ):
        refused = command("install", *words, JUPYTER_DATA_DIR=str(tmp_path))
        assert refused.returncode == code, refused.stderr
        assert "fault of wasmsr" not in refused.stderr


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    assert spec_folder("A", None, True) == tmp_path / "kernels" / "a"
    assert spec_folder("a", "/opt/x", False) == Path("/opt/x/share/jupyter/kernels/a")
    assert spec_folder("a", None, False).parts[-3:] == ("jupyter", "kernels", "a")


def test_connection_files(tmp_path: Path) -> None:
    file = tmp_path / "kernel.json"
    file.write_text(json.dumps(GIVEN))
    read = ConnectionFile.read(file)
    assert read.addresses["shell"] == "tcp://127.0.0.1:5000"
    assert (read.key, read.scheme) == (b"k", "hmac-sha256")
    file.write_text(json.dumps({**GIVEN, "transport": "ipc", "ip": "/tmp/x"}))
    assert ConnectionFile.read(file).addresses["hb"] == "ipc:///tmp/x-5003"
    for wrong in (
        {"key": ""},
        {"key": 3},
        {"transport": "inproc"},
        {"shell_port": 0},
        {"hb_port": "1"},
        {"ip": None},
        {"signature_scheme": 1},
    ):
        file.write_text(json.dumps({**GIVEN, **wrong}))
        with pytest.raises(KernelError):
            ConnectionFile.read(file)
    for text in ("", "[]", "{}", "3", "x" * 2_000_000):
        file.write_text(text)
        with pytest.raises(KernelError):
            ConnectionFile.read(file)
    with pytest.raises(KernelError):
        ConnectionFile.read(tmp_path / "none")


def test_frames_come_in_pieces() -> None:
    messages = [{"k": "out", "text": "ä" * n} for n in (0, 1, 5000)]
    data = b"".join(map(frame, messages))
    reader, found = MessageReader(), []
    for at in range(0, len(data), 7):
        found += reader.feed(data[at : at + 7])
    assert found == messages
    for wrong in (b"\xff\xff\xff\xff", b"\0\0\0\2[]"):
        with pytest.raises(KernelError):
            MessageReader().feed(wrong)


def test_a_signal_in_the_middle_of_a_message_waits() -> None:
    process = CellProcess.__new__(CellProcess)
    process._frames, process._sends = deque(), False
    sent: list[bytes] = []

    class Stream:
        def sendall(self, data: bytes) -> None:
            sent.append(data[:5])
            if len(sent) == 1:
                process.send(op="cancel", n=1)  # as the handler does
            sent.append(data[5:])

    process.stream = Stream()  # type: ignore[assignment]
    process.send(op="execute", n=1)
    found = MessageReader().feed(b"".join(sent))
    assert [one["op"] for one in found] == ["execute", "cancel"]
