"""Mapped files and trust: signatures are over the same root, and nothing is encrypted."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.snapshot import second_reader
from tests.snapshot.mapped.samples import end_of, is_mapped, saved
from wasmsr import Snapshot
from wasmsr.errors import EncryptionError, FormatError, SignatureError
from wasmsr.snapshot.encoding.container import FLAG_ENCRYPTED, HEADER, Header
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.format import load, save
from wasmsr.snapshot.mapped.saving import save_mapped
from wasmsr.snapshot.tools.copies import write_full, write_mapped_copy
from wasmsr.snapshot.tools.opened import open_snapshot
from wasmsr.snapshot.trust.encryption import EncryptionKey
from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust
from wasmsr.snapshot.trust.signatures import SigningKey

pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")

SIGN, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(32))
LOCK = EncryptionKey(bytes(range(32, 64)))
SIGNED, BY_OTHER = ReadTrust((), (SIGN.public,)), ReadTrust((), (OTHER.public,))


def test_a_signed_one_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "mapped.bin"
    assert save_mapped(saved().state, path, trust=WriteTrust(SIGN)).admitted
    assert second_reader.read(path.read_bytes()).signed_by == [SIGN.public]
    with Snapshot(load(path, trust=SIGNED)).restore() as store:
        assert is_mapped(store)
        with saved().restore() as copied:
            assert end_of(store) == end_of(copied)
    with pytest.raises(SignatureError):
        load(path, trust=BY_OTHER)
    copy = tmp_path / "copy.bin"
    copy.write_bytes(path.read_bytes())
    load(copy, trust=SIGNED)  # read, and not mapped
    with pytest.raises(SignatureError):
        load(copy, trust=BY_OTHER)


def test_one_without_a_signature(tmp_path: Path) -> None:
    path = tmp_path / "mapped.bin"
    save_mapped(saved().state, path)
    with pytest.raises(SignatureError):
        load(path, trust=SIGNED)


def test_signatures_stay_in_all_forms(tmp_path: Path) -> None:
    first, mapped, last = (str(tmp_path / name) for name in ("first", "mapped", "last"))
    save(saved().state, first, trust=WriteTrust(SIGN, LOCK))
    opened = open_snapshot(first, trust=ReadTrust((LOCK,), (SIGN.public,)))
    assert write_mapped_copy(opened, mapped, trust=WriteTrust(OTHER)).signatures == 2
    for trust in (SIGNED, BY_OTHER):
        assert load(mapped, trust=trust) == opened.state
    write_full(open_snapshot(mapped), last, version=2)
    assert load(last, trust=BY_OTHER) == load(last, trust=SIGNED)


def test_none_is_encrypted(tmp_path: Path) -> None:
    with pytest.raises(EncryptionError, match="cannot be encrypted"):
        save_mapped(saved().state, tmp_path / "file", trust=WriteTrust(None, LOCK))
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "mapped.bin"
    save_mapped(saved().state, path)
    data = path.read_bytes()
    header = Header.decode(data[: HEADER.size])
    flags = header._replace(flags=header.flags | FLAG_ENCRYPTED)
    with pytest.raises(FormatError, match="mapped and encrypted"):
        Decoder().feed(flags.encode() + data[HEADER.size :])
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
