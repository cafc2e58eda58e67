"""`wasmsr keys` as a user types it."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli, one_sentence

pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")


def test_from_an_authority_to_a_revoked_certificate(cli: Cli) -> None:
    assert cli("keys", "init", "ca").returncode == 0
    outcome = cli("keys", "issue", "node", "localhost", "--authority", "ca", "-o", "a", "--json")
    made = json.loads(outcome.stdout)
    assert len(made["node"]) == 32 and (cli.folder / made["certificate"]).exists()
    outcome = cli("keys", "issue", "client:ann", "--authority", "ca", "-o", "b")
    assert outcome.stdout.startswith("client ann, valid until ")
    listed = cli("keys", "list", "--authority", "ca").stdout
    assert made["node"] in listed and "client ann" in listed
    assert "revoked client ann" in cli("keys", "revoke", "ann", "--authority", "ca").stdout
    lines = cli("keys", "list", "--authority", "ca", "--json").stdout.splitlines()
    assert [bool(json.loads(line)["revoked"]) for line in lines] == [False, True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("issue", "node"), "cannot be read"),
        (("init", "ca"), "never overwritten"),
        (("issue", "node:1", "--authority", "ca"), "no node id"),
        (("issue", "root", "--authority", "ca"), "neither node, node:ID nor client:NAME"),
        (("revoke", "eve", "--authority", "ca"), "names no certificate"),
    ],
)
def test_mistakes_get_a_sentence(cli: Cli, words: tuple[str, ...], said: str) -> None:
    assert cli("keys", "init", "ca").returncode == 0
    outcome = cli("keys", *words)
    assert outcome.returncode == 2
    assert said in one_sentence(outcome)
