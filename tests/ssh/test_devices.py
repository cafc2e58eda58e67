"""`wasmsr fleet cmd`, `put`, `get` on devices that are one sshd of this machine, by three names."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asyncssh", reason="needs asyncssh")
pytest.importorskip("jsonschema")

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh-keygen") is None, reason="needs openssh-server"
)
SECONDS = 60.0
NAMES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Ssh:
    """A server for the user of this process, and `wasmsr fleet` with its options."""

    def __init__(self, folder: Path) -> None:
        assert SSHD is not None
        self.folder = folder
        for name in ("host", "key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(words, check=True)
        shutil.copy(folder / "key.pub", folder / "authorized")
        (folder / "authorized").chmod(0o600)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        lines = [
            *(f"ListenAddress {name}:{self.port}" for name in NAMES),
            f"HostKey {folder / 'host'}", f"AuthorizedKeysFile {folder / 'authorized'}",
            f"PidFile {folder / 'pid'}", "StrictModes no", "UsePAM no", "PasswordAuthentication no",
            "PermitRootLogin yes", "Subsystem sftp internal-sftp", "MaxStartups 100",
        ]  # fmt: skip
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd does not start without it
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")])
        public = (folder / "host.pub").read_text().split()[:2]
        entries = (f"[{name}]:{self.port} {' '.join(public)}\n" for name in NAMES)
        (folder / "known").write_text("".join(entries))
        rows = [f"{name}\tModel-{number}\t{number}" for number, name in enumerate(NAMES)]
        saved = ["# where: echo {name} {model}", ""]
        (folder / "devices.tsv").write_text("\n".join(["Device\tModel\tOrder", *rows, *saved]))
        until = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection((NAMES[-1], self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until and self.process.poll() is None
                time.sleep(0.02)

    def __call__(self, command: str, *words: str, code: int = 0, known: str = "known") -> str:
        options = ["--manifest", "devices.tsv", "--username", getpass.getuser()]
        options += ["--port", str(self.port), "--key", "key", "--known-hosts", known]
        done = subprocess.run(
            [sys.executable, "-m", "wasmsr", "fleet", command, *options, *words],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.folder,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def json(self, command: str, *words: str, code: int = 0) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in self(command, "--json", *words, code=code).splitlines()
        ]


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    try:
        Path("/run/sshd").mkdir(exist_ok=True)
    except OSError as error:
        pytest.skip(f"sshd needs /run/sshd: {error}")
    found = Ssh(tmp_path_factory.mktemp("ssh"))
    yield found
    found.process.terminate()
    found.process.wait(SECONDS)


@pytest.mark.full
@needs_sshd
def test_commands(ssh: Ssh) -> None:
    said = ssh("cmd", "where").splitlines()
    assert sorted(said) == [f"{name}: {name} Model-{i}" for i, name in enumerate(NAMES)]
    rows = ssh.json("cmd", "printf 'a\\nb'; echo {{x}} >&2; exit {order}", code=1)
    texts: dict[tuple[str, str], list[str]] = {}
    for one in rows:
        if "stream" in one:
            texts.setdefault((one["device"], one["stream"]), []).append(one["text"])
    assert texts[NAMES[1], "out"] == ["a", "b"] and texts[NAMES[1], "err"] == ["{x}"]
    assert [one["code"] for one in rows if "code" in one] == [0, 1, 2]
    only = ssh("cmd", "--device", NAMES[2], "exit 3", code=1)
    assert only == f"{NAMES[2]}: exit code 3\n"
    ssh("cmd", "--ignore-errors", "false")
    long = ssh("cmd", "--device", NAMES[0], "head -c 200000 /dev/zero | tr '\\0' x")
    assert long.count("x") == 200_000
    slow = ssh("cmd", "--timeout", "1", "--device", NAMES[0], "sleep 100", code=1)
    assert "it took more than 1 s" in slow
    nasty = ssh("cmd", "--device", NAMES[0], "printf '\\033]0;x\\007'")
    assert "\x1b" not in nasty


@needs_sshd
def test_files(ssh: Ssh) -> None:
    source = ssh.folder / "wasm" / "deep"
    source.mkdir(parents=True)
    (source / "one.wasm").write_bytes(b"\0asm" * 1000)
    target = ssh.folder / "copies"
    target.mkdir()
    ssh("put", "wasm", f"{target}/{{model}}")
    for number in range(3):
        found = target / f"Model-{number}" / "deep" / "one.wasm"
        assert found.read_bytes() == b"\0asm" * 1000
    ssh("get", f"{target}/{{model}}", "back")
    assert (ssh.folder / "back" / NAMES[1] / "Model-1" / "deep" / "one.wasm").exists()
    assert "o such file" in ssh("get", "/none", "back", "--device", NAMES[0], code=1)


@needs_sshd
def test_what_is_refused(ssh: Ssh) -> None:
    (ssh.folder / "nobody").write_text("")
    said = ssh("cmd", "--device", NAMES[0], "true", code=1, known="nobody")
    assert "its host key is not among the known hosts" in said
    assert "is no field of" in ssh("cmd", "echo {none}", code=1)
    assert "hint: there are 127.0.0" in ssh("cmd", "--device", "127.0.0.9", "true", code=2)
    assert ssh("cmd", "--dry-run", "--device", NAMES[1], "where") == f"{NAMES[1]}: echo " + (
        f"{NAMES[1]} Model-1\n"
    )
    (ssh.folder / "wasm").mkdir(exist_ok=True)
    assert "-> /x/Model-0" in ssh("put", "--dry-run", "wasm", "/x/{model}")
    assert "back/127.0.0.1" in ssh("get", "--dry-run", "/x", "back")
