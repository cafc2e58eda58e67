"""`wasmsr remote` with certificates: who is let in, and what strangers get."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.migrate.remote import Ends
from tests.migrate.test_remote import FRAMES, film, kinds, unmoved

pytest.importorskip("cryptography", reason="cryptography is not installed")
from wasmsr.node.security.authority import Authority
from wasmsr.node.security.tls_identity import LOOK_SECONDS

QUICK = ("--every", "0.1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca")


def flags(authority: Authority, folder: Path, who: str = "node", host: str = "127.0.0.1") -> tuple:  # type: ignore[type-arg]
    """Return the options of an end with a new certificate."""
    hosts = [host] if who == "node" else []
    _, certificate, key = authority.issue(who, hosts, folder)
    return (
        "--tls-certificate", str(certificate), "--tls-key", str(key),
        "--tls-authority", str(authority.folder / "authority.crt"),
        "--tls-revoked", str(authority.folder / "revoked.crl"),
    )  # fmt: skip


def refused_to(ends: Ends, *words: str) -> str:
    """Start an end that sends, and return why its program did not leave."""
    ends.start("a", *QUICK, "--send", *words, "--", *FRAMES)
    events, said = ends.events("a")
    assert ends.processes["a"].returncode == 124, said
    assert "moved" not in kinds(events)
    return said


def test_a_program_moves_between_certificates(
    ends: Ends, authority: Authority, tmp_path: Path
) -> None:
    ends.listen("b", *QUICK, *flags(authority, tmp_path / "b"))
    ends.start("a", *QUICK, "--send", *flags(authority, tmp_path / "a"), "--", *FRAMES)
    sent, said = ends.events("a")
    received, _ = ends.events("b")
    assert [ends.processes[end].returncode for end in "ab"] == [0, 0], said
    assert "plain text" not in said
    assert len([one for one in sent + received if one["event"] == "moved"]) >= 2
    assert film(ends.work) == unmoved(tmp_path / "unmoved")
    nodes = {path.stem for name in "ab" for path in (tmp_path / name).glob("*.crt")}
    assert {path.read_text() for path in ends.state.glob("remote/*/node")} == nodes


def test_strangers_are_not_let_in(ends: Ends, authority: Authority, tmp_path: Path) -> None:
    b = flags(authority, tmp_path / "b")
    ends.listen("b", *QUICK, *b)
    stranger = Authority.create(tmp_path / "other")
    words = list(flags(stranger, tmp_path / "a"))
    words[5] = str(authority.folder / "authority.crt")  # it would believe b
    text = subprocess.run(
        [sys.executable, "-m", "wasmsr", "remote", "--port", "1", "--peer", "2", *words],
        capture_output=True, text=True, timeout=60, env={**os.environ, "XDG_STATE_HOME": b[1]},
    )  # fmt: skip
    assert text.returncode == 2 and "was not issued by" in text.stderr
    client = flags(authority, tmp_path / "c", "client:ann")
    text = subprocess.run(
        [sys.executable, "-m", "wasmsr", "remote", "--port", "1", "--peer", "2", *client],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert text.returncode == 2 and "no node" in text.stderr
    assert "Traceback" not in text.stderr


@pytest.mark.full
@pytest.mark.parametrize("kind", ["plain", "stranger", "revoked", "name"])
def test_an_end_that_is_refused(
    ends: Ends, authority: Authority, tmp_path: Path, kind: str
) -> None:
    host = "192.0.2.7" if kind == "name" else "127.0.0.1"
    ends.listen("b", *QUICK, *flags(authority, tmp_path / "b", host=host))
    if kind == "plain":
        said = refused_to(ends)
    elif kind == "stranger":
        said = refused_to(ends, *flags(Authority.create(tmp_path / "other"), tmp_path / "a"))
    else:
        words = flags(authority, tmp_path / "a")
        if kind == "revoked":
            authority.revoke(Path(words[1]).stem)
            time.sleep(1.2 * LOOK_SECONDS)  # so long a revoked certificate is still good
        said = refused_to(ends, *words)
    assert "Traceback" not in said
    assert ends.processes["b"].poll() is None  # it still waits
    if kind == "revoked":
        assert "revoked" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tls-certificate", "x"], "--tls-key and --tls-authority"),
        (["--tls-revoked", "x"], "--tls-certificate and --tls-key and --tls-authority"),
        (
            ["--tls-certificate", "x", "--tls-key", "x", "--tls-authority", "x", "--insecure"],
            "excl",
        ),
        (["--tls-certificate", "x", "--tls-key", "x", "--tls-authority", "x"], "the certificate"),
    ],
)
def test_wrong_words(words: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wasmsr", "remote", "--port", "1", "--peer", "2", *words],
        capture_output=True, text=True, timeout=60, cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2 and said in done.stderr
