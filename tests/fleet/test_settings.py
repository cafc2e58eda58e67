"""Settings of a fleet, as `config.json` has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.settings import FleetSettings, read_settings

KEYS = ("mqtt", "mqtt_port", "mqtt_username", "pwd", "use_ssl", "realm", "http", "http_port")


def test_null_is_what_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict.fromkeys(KEYS)))
    assert read_settings(path) == read_settings(None) == FleetSettings()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 60_000, "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"mqtt_port": 0}', "must be a port"),
        ('{"mqtt_port": true}', "must be a whole number"),
        ('{"realm": "a/#"}', "invalid topic"),
        ('{"pwd": "none"}', "No such file"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(FleetError, match=sentence):
        read_settings(path)
