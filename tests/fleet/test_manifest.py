"""The manifest of a fleet, its configuration, and the commands that need no device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("jsonschema")

from wasmsr.cli.fleet.fleet import fleet
from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.manifest import read_manifest
from wasmsr.fleet.settings import BrokerSettings, broker_at, read_settings

TABLE = """# start: cd /srv && wasmsr node --name {name}
Device\tCPU\tArch

# a comment
kitchen\tN100\tx86_64
attic\tA72\taarch64
shed
"""


def test_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "devices.tsv"
    path.write_text(TABLE)
    found = read_manifest(path, ".lan")
    assert [one.name for one in found.devices] == ["kitchen", "attic", "shed"]
    assert found.devices[1].host == "attic.lan"
    assert found.devices[1].fill("{name} {fullname} {arch} {{x}}") == "attic attic.lan aarch64 {x}"
    assert found.devices[0].fill(found.command("start")) == "cd /srv && wasmsr node --name kitchen"
    assert found.command("uname") == "uname"
    assert [one.name for one in found.chosen(["shed", "attic", "shed"])] == ["shed", "attic"]
    with pytest.raises(FleetError, match="is no field of shed") as unknown:
        found.devices[2].fill("{arch}")
    assert unknown.value.hint is not None and "fullname, name" in unknown.value.hint
    for alone in ("a{", "}b", "{a b}"):
        with pytest.raises(FleetError, match="is no field"):
            found.devices[0].fill(alone)
    with pytest.raises(FleetError, match="no device 'attik'") as near:
        found.chosen(["attik"])
    assert near.value.hint is not None and near.value.hint.startswith("there are attic")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no line with the names"),
        ("Name\tCPU\n", "no column Device"),
        ("Device\na\na\n", "line 3: a is there twice"),
        ("Device\na\tb\n", "line 2: there are only 1 columns"),
        ("Device\n-oProxyCommand=x\n", "is no name of a host"),
        ("Device\na b\n", "is no name of a host"),
        ('Device\n"a\nb"\n', "more than one line"),
        ("Device\tCPU\n\tx\n", "is no name of a host"),
        ("Device\n\xff\n", "no text in UTF-8"),
    ],
)
def test_a_manifest_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "devices.tsv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FleetError, match=words):
        read_manifest(path)
    with pytest.raises(FleetError):
        read_manifest(tmp_path)


def test_commands_without_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.tsv").write_text("Device\nkitchen\n3d-printer\n")
    run = CliRunner().invoke
    words = ["--mqtt", "ssl:broker.lan", "--realm", "lab", "--manifest", "devices.tsv"]
    words += ["--domain", ".lan", "--username", "pi", "--http", "hub.lan:80"]
    assert run(fleet, ["configure", "--dry-run", *words]).exit_code == 0
    assert not Path("config.json").exists()
    assert run(fleet, ["configure", *words]).exit_code == 0
    kept = json.loads(Path("config.json").read_text())
    assert kept["mqtt_port"] == 8883 and kept["use_ssl"] is True and kept["platform"]["cpu"]["arch"]
    again = run(fleet, ["configure", *words])
    assert isinstance(again.exception, FleetError) and "is there" in str(again.exception)
    assert run(fleet, ["configure", "--force", *words]).exit_code == 0
    found = read_settings(Path("config.json"))
    assert str(found.broker.address) == "broker.lan:8883" and found.realm.name == "lab"
    assert str(found.http) == "hub.lan:80" and found.cluster.username == "pi"
    said = run(fleet, ["alias", "--config", "config.json"]).output.splitlines()
    assert said == [
        'kitchen() { ssh pi@kitchen.lan "$@"; }', '_3d_printer() { ssh pi@3d-printer.lan "$@"; }'
    ]  # fmt: skip
    none = run(fleet, ["cmd", "true"])
    assert isinstance(none.exception, FleetError) and "no manifest" in str(none.exception)


def test_addresses_of_brokers() -> None:
    before = BrokerSettings(user="me")
    for text, address, tls in (
        ("broker", "broker:1883", False),
        ("ssl:broker", "broker:8883", True),
        ("ssl:broker:9", "broker:9", True),
        ("[::1]", "[::1]:1883", False),
        ("[::1]:7", "[::1]:7", False),
    ):
        found = broker_at(text, before)
        assert (str(found.address), found.tls, found.user) == (address, tls, "me")
    for text in ("", "ssl:", "a:b", "a:0", "a:70000"):
        with pytest.raises(FleetError, match="--mqtt"):
            broker_at(text, before)
    assert "secret" not in repr(BrokerSettings(password="secret"))
