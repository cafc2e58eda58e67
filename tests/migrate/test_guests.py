"""What an end gives to its programs, where it costs time while a program stands."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from wasmsr.cli.moving import guests


def test_packaged_modules_are_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each arrival asks for their digests, in the downtime of the program that arrives."""
    module = tmp_path / "module.wasm"
    module.write_bytes(b"one")
    read: list[Path] = []
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read.append(path)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    named = {"one": SimpleNamespace(path=module), "gone": SimpleNamespace(path=tmp_path / "gone")}
    monkeypatch.setattr(guests.programs, "PROGRAMS", named)
    for _ in range(3):
        assert guests.packaged() == {hashlib.sha256(b"one").digest(): module}
    assert read == [module]

    module.write_bytes(b"two")
    os.utime(module, ns=(1, 1))
    assert guests.packaged() == {hashlib.sha256(b"two").digest(): module}
    module.unlink()
    assert guests.packaged() == {}
