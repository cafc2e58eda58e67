"""Signed and encrypted snapshots on the command line: what each command asks for and keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, one_sentence
from tests.cli.test_checkpoints import EVERY, TURNS, wait_for
from tests.snapshot.checkpoints.guest import GUEST

pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")

AT = ("--snapshot-at", "1000", "--embed-module", "fib", "20")


@pytest.fixture
def keys(cli: Cli) -> Path:
    """A folder with two signing keys, and a key to encrypt with."""
    assert cli("snapshot", "keygen", "key").returncode == 0
    assert cli("snapshot", "keygen", "other").returncode == 0
    assert cli("snapshot", "keygen", "--encryption", "lock").returncode == 0
    return cli.folder


def refused(cli: Cli, *words: str) -> str:
    outcome = cli(*words)
    assert outcome.returncode == 123, outcome.stderr
    assert outcome.stdout == ""
    return one_sentence(outcome)


def test_a_run_signs_encrypts_and_asks(cli: Cli, keys: Path) -> None:
    outcome = cli("run", "--sign-with", "key", "--encrypt-with", "lock", *AT)
    assert outcome.returncode == 120, outcome.stderr
    resume = ("run", "--from-snapshot", "snapshot.bin")
    assert "no key is given" in refused(cli, *resume)
    assert "no key is given" in refused(cli, "snapshot", "verify", "snapshot.bin")
    assert "no key is given" in refused(cli, "inspect", "snapshot.bin")
    unlock = (*resume, "--decrypt-with", "lock")
    assert "only" in refused(cli, *unlock, "--require-signature", "other.pub")
    assert cli(*unlock, "--require-signature", "key.pub").stdout == "6765\n"
    assert cli(*resume, "--encrypt-with", "lock").stdout == "6765\n"
    shown = json.loads(cli("snapshot", "verify", "snapshot.bin", "--decrypt-with", "lock",
                           "--json").stdout)  # fmt: skip
    assert shown["encrypted"] is True
    assert [one["valid"] for one in shown["signatures"]] == [True]
    assert "encrypted" in cli("inspect", "snapshot.bin", "--decrypt-with", "lock").stdout
    again = cli("run", "--encrypt-with", "lock", "--snapshot-at", "2000", "fib", "20")
    assert again.returncode == 120, "an encrypted snapshot of the same program is replaced"


def test_keys_in_variables_and_descriptors(cli: Cli, keys: Path) -> None:
    assert cli("run", "--encrypt-with", "lock", *AT).returncode == 120
    secret = (keys / "lock").read_text()
    words = [sys.executable, "-m", "wasmsr", "run", "--from-snapshot", "snapshot.bin"]
    env = {**os.environ, "MY_LOCK": secret, "WASMSR_DECRYPT_WITH": "env:MY_LOCK"}
    found = subprocess.run(words, cwd=keys, env=env, capture_output=True, text=True)
    assert found.stdout == "6765\n", found.stderr
    with open(keys / "lock", "rb") as file:
        number = file.fileno()
        found = subprocess.run(
            [*words, "--decrypt-with", f"fd:{number}"],
            cwd=keys,
            pass_fds=(number,),
            capture_output=True,
            text=True,
        )
    assert found.stdout == "6765\n", found.stderr


def test_a_key_in_a_variable_is_not_given_to_the_program(cli: Cli, keys: Path) -> None:
    (keys / "env.wat").write_text(
        """(module
        (import "wasi_snapshot_preview1" "environ_sizes_get"
          (func $sizes (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "count") (result i32)
          (drop (call $sizes (i32.const 0) (i32.const 4)))
          (i32.load (i32.const 0))))"""
    )
    words = [sys.executable, "-m", "wasmsr", "run", "--inherit-env", "--invoke", "count"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WASMSR_")}
    bare = subprocess.run([*words, "env.wat"], cwd=keys, env=env, capture_output=True, text=True)
    env["MY_LOCK"] = (keys / "lock").read_text()
    found = subprocess.run(
        [*words, "--encrypt-with", "env:MY_LOCK", "env.wat"],
        cwd=keys,
        env=env,
        capture_output=True,
        text=True,
    )
    assert found.stdout == bare.stdout != ""


@pytest.mark.full
def test_checkpoints_are_signed_and_encrypted(cli: Cli) -> None:
    for words in (("key",), ("other",), ("--encryption", "lock")):
        assert cli("snapshot", "keygen", *words).returncode == 0
    (cli.folder / "guest.wat").write_text(GUEST)
    result = cli("run", "--invoke", "run", "guest.wat", TURNS).stdout
    trust = ("--sign-with", "key", "--encrypt-with", "lock", "--merge-after", "1", "--keep", "2")
    first = cli.begin("run", *EVERY, *trust, "--invoke", "run", "guest.wat", TURNS)
    wait_for(cli.folder / "d", 6)
    first.kill()
    first.wait()
    asked = ("--decrypt-with", "lock", "--require-signature", "key.pub")
    assert cli("snapshot", "verify", "d", *asked).returncode == 0
    second = cli.begin("run", *EVERY, *trust, *asked, "guest.wat", "--from-snapshot", "d")
    wait_for(cli.folder / "d", 8)
    second.kill()
    second.wait()
    ends = ("run", "guest.wat", "--from-snapshot", "d")
    assert "is signed by key" in refused(
        cli, *ends, "--decrypt-with", "lock", "--require-signature", "other.pub"
    )
    assert "no key is given" in refused(cli, *ends)
    assert cli(*ends, *asked).stdout == result
    merged = cli("snapshot", "merge", "d", "-o", "whole.bin", *asked)
    assert merged.returncode == 0 and "is not encrypted" in merged.stderr
    assert cli("snapshot", "verify", "whole.bin", "--require-signature", "key.pub").returncode == 0


def test_convert_encrypts_decrypts_and_keeps_signatures(cli: Cli, keys: Path) -> None:
    assert cli("run", "--sign-with", "key", *AT).returncode == 120
    asked = ("--require-signature", "key.pub")
    done = cli("snapshot", "convert", "snapshot.bin", "-o", "locked.bin", "--format", "2",
               "--encrypt-with", "lock", "--sign-with", "other", *asked)  # fmt: skip
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    both = cli("snapshot", "verify", "locked.bin", "--decrypt-with", "lock", "--json").stdout
    assert len(json.loads(both)["signatures"]) == 2
    again = cli("snapshot", "convert", "locked.bin", "-o", "one.bin", "--format", "1",
                "--decrypt-with", "lock")  # fmt: skip
    assert "is not signed: its version has another root digest" in again.stderr
    assert "the snapshot is not signed" in refused(cli, "snapshot", "verify", "one.bin", *asked)
    wrong = cli("snapshot", "convert", "one.bin", "-o", "x.bin", "--format", "1",
                "--sign-with", "key")  # fmt: skip
    assert wrong.returncode == 2 and "take --format 2" in wrong.stderr


def test_sign_in_place_and_elsewhere(cli: Cli, keys: Path) -> None:
    assert cli("run", *AT).returncode == 120
    cli("snapshot", "convert", "snapshot.bin", "-o", "two.bin", "--format", "2")
    before = (keys / "two.bin").read_bytes()
    assert cli("snapshot", "sign", "two.bin", "--sign-with", "key", "-o", "x.bin").returncode == 0
    assert (keys / "two.bin").read_bytes() == before
    assert cli("snapshot", "sign", "two.bin", "--sign-with", "key").returncode == 0
    assert (keys / "two.bin").read_bytes() == (keys / "x.bin").read_bytes()
    assert cli("snapshot", "verify", "x.bin", "--require-signature", "key.pub").returncode == 0
    assert "is a folder" in refused(cli, "snapshot", "sign", ".", "--sign-with", "key")
    (keys / "notes").write_text("mine")
    assert "is no snapshot" in refused(
        cli, "snapshot", "sign", "two.bin", "--sign-with", "key", "-o", "notes"
    )


def test_keys_that_cannot_be_used(cli: Cli, keys: Path) -> None:
    (keys / "open").write_text((keys / "key").read_text())
    os.chmod(keys / "open", 0o644)
    assert "other users can use the key open (mode 0644)" in refused(
        cli, "run", "--sign-with", "open", *AT
    )
    assert "has no private key" in refused(cli, "run", "--sign-with", "lock", *AT)
    assert "is no encryption key" in refused(cli, "run", "--encrypt-with", "key", *AT)
    assert "never overwritten" in refused(cli, "snapshot", "keygen", "key")
    assert not (keys / "snapshot.bin").exists()


def test_without_the_package_the_way_to_it_is_named(cli: Cli, keys: Path) -> None:
    (keys / "cryptography.py").write_text("raise ImportError")
    env = {**os.environ, "PYTHONPATH": str(keys)}
    words = [sys.executable, "-m", "wasmsr", "run", "--sign-with", "key", *AT]
    found = subprocess.run(words, cwd=keys, env=env, capture_output=True, text=True)
    assert found.returncode == 2
    assert "needs the Python package cryptography" in found.stderr
    assert "pip install 'wasmsr[trust]'" in found.stderr
