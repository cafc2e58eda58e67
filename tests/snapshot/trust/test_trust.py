"""Signatures and encryption: there and back, read by other implementations, and all refusals."""

from __future__ import annotations

import base64
import os
import random
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.snapshot import second_reader
from tests.snapshot.samples import full, small
from tests.snapshot.test_version2 import with_memories
from tests.snapshot.trust import plain_crypto
from wasmsr import Snapshot
from wasmsr.errors import (
    EncryptionError,
    FormatError,
    KeySourceError,
    SignatureError,
    SnapshotError,
    VersionError,
)
from wasmsr.snapshot.checkpoints.folder import NAME, CheckpointFolder
from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    HEADER,
    TRAILER,
    Header,
    trailer_bytes,
)
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.format import encode, is_of_module, mark_handed
from wasmsr.snapshot.spaces.space_pages import Base, Written
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.tools.copies import write_full
from wasmsr.snapshot.tools.opened import open_snapshot
from wasmsr.snapshot.tools.signing import sign_file
from wasmsr.snapshot.tools.verify import verify_file
from wasmsr.snapshot.trust import key_sources
from wasmsr.snapshot.trust.encryption import ENCRYPTION_HEAD, EncryptionKey
from wasmsr.snapshot.trust.new_keys import new_encryption_key, new_signing_key
from wasmsr.snapshot.trust.policy import READ_ANY, ReadTrust, WriteTrust
from wasmsr.snapshot.trust.signatures import CONTEXT, ENTRY, SigningKey

pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")

SIGN, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(32))
LOCK, WRONG = EncryptionKey(bytes(range(32, 64))), EncryptionKey(bytes(32))
BOTH = WriteTrust(SIGN, LOCK)
OPEN = ReadTrust((LOCK,), (SIGN.public,))


def to_bytes(state: SnapshotState, trust: WriteTrust, *, compress: bool = True) -> bytes:
    return b"".join(encode(state, version=2, trust=trust, compress=compress))


def read(data: bytes, trust: ReadTrust) -> Decoder:
    decoder = Decoder(trust=trust)
    decoder.feed(data)
    decoder.finish()
    return decoder


def large() -> SnapshotState:
    """A state whose pages need three batches, one of which is not compressible."""
    state = with_memories(12)
    data = state.memories[0].data
    assert isinstance(data, bytearray)
    data[: BATCH_SIZE + 5] = random.Random(4).randbytes(BATCH_SIZE + 5)
    data[BATCH_SIZE + 5 :] = b"text" * ((len(data) - BATCH_SIZE - 5) // 4) + b"abc"
    return state


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("trust", [WriteTrust(SIGN), WriteTrust(None, LOCK), BOTH])
def test_there_and_back(trust: WriteTrust, compress: bool) -> None:
    for state in (small(), full(), large()):
        plain = read(to_bytes(state, WriteTrust()), READ_ANY)
        data = to_bytes(state, trust, compress=compress)
        accepted = None if trust.sign is None else (SIGN.public,)
        keys = () if trust.encrypt is None else (WRONG, LOCK)
        found = read(data, ReadTrust(keys, accepted))
        assert found.finish() == state
        assert (found.root, found.content) == (plain.root, plain.content)
        assert found.stored == len(data)


def test_other_implementations_agree_from_the_document_alone() -> None:
    """Ed25519 and ChaCha20-Poly1305 of the second reader are written from the RFCs."""
    state = full()
    data = to_bytes(state, BOTH)
    found = second_reader.read(data, secret=LOCK.secret)
    assert found.signed_by == [SIGN.public]
    assert found.root == read(data, OPEN).root
    assert [bytes(one.data) for one in state.memories] == [bytes(m) for m in found.memories]
    with pytest.raises(AssertionError):
        second_reader.read(data, secret=WRONG.secret)


def test_our_own_implementation_of_the_rfcs_gives_their_examples() -> None:
    """RFC 8032, 7.1, TEST 2; RFC 8439, 2.8.2."""
    key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    value = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert plain_crypto.verify(key, value, b"\x72")
    assert not plain_crypto.verify(key, value, b"\x73")
    sealed = bytes.fromhex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92"
        "728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b"
        "4831d7bc3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )
    text = plain_crypto.decrypt(
        bytes(range(0x80, 0xA0)),
        bytes.fromhex("070000004041424344454647"),
        sealed,
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
    )
    assert text.startswith(b"Ladies and Gentlemen of the class of '99")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_our_signature_and_we_take_its_keys(tmp_path: Path) -> None:
    def openssl(*words: str) -> int:
        return subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True).returncode

    if openssl("genpkey", "-algorithm", "ed25519", "-out", "key"):
        pytest.skip("this openssl has no Ed25519")
    assert openssl("pkey", "-in", "key", "-pubout", "-out", "key.pub") == 0
    (tmp_path / "key").chmod(0o600)
    state = full()
    data = to_bytes(state, WriteTrust.read(str(tmp_path / "key"), None))
    found = read(data, ReadTrust.read((), (str(tmp_path / "key.pub"),)))
    (tmp_path / "message").write_bytes(b"wasmsr snapshot root\n" + found.root)
    (tmp_path / "signature").write_bytes(found.signatures[0].value)
    check = ("pkeyutl", "-verify", "-pubin", "-inkey", "key.pub", "-rawin", "-in", "message")
    assert openssl(*check, "-sigfile", "signature") == 0
    (tmp_path / "message").write_bytes(b"wasmsr snapshot root\n" + bytes(32))
    assert openssl(*check, "-sigfile", "signature") != 0


def test_nothing_of_the_content_can_be_read_in_an_encrypted_file() -> None:
    state = full()
    data = to_bytes(state, BOTH, compress=False)
    plain = to_bytes(state, WriteTrust(SIGN), compress=False)
    words = [bytes(one.data)[4096:4396] for one in state.memories[:1]]
    words += [module.digest for module in state.modules]
    words += [state.lineage.host.encode()]
    for word in words:
        assert word in plain
        assert word not in data


def test_the_same_state_is_encrypted_otherwise_each_time() -> None:
    """Each file has a key of its own, so no pair of key and nonce comes twice."""
    heads = set()
    for _ in range(20):
        data = to_bytes(small(), BOTH)
        heads.add(data[HEADER.size + 24 : HEADER.size + 56])
    assert len(heads) == 20


def test_who_has_signed_is_asked(tmp_path: Path) -> None:
    data = to_bytes(small(), WriteTrust(SIGN))
    with pytest.raises(SignatureError, match="is signed by key 03a107bff3ce10be only") as caught:
        read(data, ReadTrust(accepted=(OTHER.public,)))
    assert caught.value.hint is not None and OTHER.public.hex()[:16] in caught.value.hint
    with pytest.raises(SignatureError, match="the snapshot is not signed"):
        read(to_bytes(small(), WriteTrust()), ReadTrust(accepted=(SIGN.public,)))
    read(data, ReadTrust(accepted=(OTHER.public, SIGN.public)))
    assert SignatureError.exit_code == EncryptionError.exit_code == KeySourceError.exit_code == 123


def test_a_signature_of_another_snapshot_is_no_signature() -> None:
    state = small()
    mine, theirs = to_bytes(state, WriteTrust(SIGN)), to_bytes(with_memories(1), WriteTrust(SIGN))
    size = ENTRY.size
    at, from_ = mine.index(SIGN.public), theirs.index(SIGN.public)
    forged = bytearray(mine)
    forged[at + 32 : at + 96] = theirs[from_ + 32 : from_ + 96]
    forged[at - 8 - 4 : at - 8] = struct.pack("<I", zlib.crc32(forged[at - 8 : at - 8 + size]))
    with pytest.raises(SignatureError, match="has another root digest"):
        read(bytes(forged), ReadTrust(accepted=(SIGN.public,)))


def test_without_the_key_or_with_another_one() -> None:
    data = to_bytes(small(), BOTH)
    with pytest.raises(EncryptionError, match="no key is given"):
        read(data, READ_ANY)
    with pytest.raises(EncryptionError, match="with another key"):
        read(data, ReadTrust((WRONG,)))
    with pytest.raises(ValueError, match="version 1"):
        encode(small(), version=1, trust=BOTH)


# ---- what an attacker can do to an encrypted file ------------------------------------------------


@dataclass
class Batch:
    """A batch of a file: its section, and where head and stored bytes are."""

    kind: int
    head: int
    start: int
    end: int


def batches(data: bytes) -> list[Batch]:
    header = Header.decode(data[: HEADER.size])
    at = HEADER.size + (ENCRYPTION_HEAD.size if header.encrypted else 0)
    found = []
    for _ in range(header.sections):
        kind, _, _, plain, _, _, _ = FIRST.unpack_from(data, at)
        at += FIRST.size - BATCH.size
        for _ in range(0, plain, BATCH_SIZE):
            _, size, _ = BATCH.unpack_from(data, at)
            found.append(Batch(kind, at, at + BATCH.size, at + BATCH.size + size))
            at += BATCH.size + size
    return found


def with_batch(data: bytes, place: Batch, stored: bytes, codec: int | None = None) -> bytes:
    """The file with other bytes in a batch, whose checksum is made right."""
    old, _, _ = BATCH.unpack_from(data, place.head)
    head = BATCH.pack(old if codec is None else codec, len(stored), zlib.crc32(stored))
    return data[: place.head] + head + stored + data[place.end :]


def test_a_changed_batch_is_named() -> None:
    data = to_bytes(large(), BOTH)
    for number, place in enumerate(batches(data)):
        if place.kind == 41:
            continue
        stored = bytearray(data[place.start : place.end])
        stored[number % len(stored)] ^= 1
        with pytest.raises(EncryptionError, match=r"batch \d of the .* section is not what was"):
            read(with_batch(data, place, bytes(stored)), OPEN)


def test_batches_cannot_change_places_sections_or_files() -> None:
    state = large()
    data, other = to_bytes(state, BOTH, compress=False), to_bytes(state, BOTH, compress=False)
    pages = [place for place in batches(data) if place.kind == 35]
    one, two = pages[0], pages[1]
    stored = [data[place.start : place.end] for place in (one, two)]
    swapped = with_batch(with_batch(data, one, stored[1]), two, stored[0])
    with pytest.raises(EncryptionError, match="batch 0 of the page bytes section"):
        read(swapped, OPEN)
    with pytest.raises(EncryptionError, match="batch 1 of the page bytes section"):
        read(with_batch(data, two, other[two.start : two.end]), OPEN)
    packed = to_bytes(state, BOTH)
    small = [place for place in batches(packed) if place.kind == 35][-1]
    assert BATCH.unpack_from(packed, small.head)[0] == 1
    with pytest.raises(EncryptionError, match="batch 2 of the page bytes section"):
        read(with_batch(packed, small, packed[small.start : small.end], codec=3), OPEN)


def test_a_removed_section_is_noticed() -> None:
    """The attacker guesses all of the content, so the header and the root can be made right."""
    state = full()
    data = to_bytes(state, WriteTrust(None, LOCK))
    root = read(to_bytes(replace(state, wasi=None), WriteTrust()), READ_ANY).root
    header = Header.decode(data[: HEADER.size])
    gone = next(place for place in batches(data) if place.kind == 37)
    plain = FIRST.unpack_from(data, gone.head - 16)[3]
    shorter = header._replace(sections=header.sections - 1, plain=header.plain - plain).encode()
    rest = data[HEADER.size : gone.head - 16] + data[gone.end : -TRAILER.size]
    with pytest.raises(EncryptionError, match="13 encrypted sections in place of 14"):
        read(shorter + rest + trailer_bytes(root), ReadTrust((LOCK,)))


def test_a_head_of_another_file_opens_nothing() -> None:
    one, two = to_bytes(full(), BOTH), to_bytes(full(), BOTH)
    end = HEADER.size + ENCRYPTION_HEAD.size
    with pytest.raises(EncryptionError, match="batch 0 of the lineage section"):
        read(one[: HEADER.size] + two[HEADER.size : end] + one[end:], OPEN)
    plain = Header.decode(one[: HEADER.size])
    cleared = plain._replace(flags=plain.flags & ~4).encode()
    with pytest.raises((FormatError, VersionError)):
        read(cleared + one[end:], OPEN)


def test_every_flipped_byte_is_found() -> None:
    data = to_bytes(with_memories(1), BOTH)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x41
        if at in (12, 13):  # flags: the mark of hand-over is nobody's secret
            damaged[12] = data[12] ^ 4
        with pytest.raises(SnapshotError):
            read(bytes(damaged), OPEN)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_give_a_typed_error_or_the_same_state(seed: int) -> None:
    """Whatever is removed, repeated, moved or made up, with right checksums where they are."""
    chance = random.Random(seed)
    state = full()
    seeds = [to_bytes(state, BOTH), to_bytes(state, WriteTrust(SIGN)), to_bytes(large(), BOTH)]
    taken = 0
    for _ in range(250):
        data = chance.choice(seeds)
        what = chance.randrange(5)
        places = batches(data)
        place, other = chance.choice(places), chance.choice(places)
        if what == 0:
            data = with_batch(data, place, data[other.start : other.end])
        elif what == 1:
            data = with_batch(data, place, chance.randbytes(chance.choice((0, 15, 16, 17, 400))))
        elif what == 2:
            head = Header.decode(data[: HEADER.size])
            changed = head._replace(
                flags=head.flags ^ chance.choice((1, 2, 4)),
                sections=chance.choice((head.sections, 0, head.sections + 1, 65535)),
                plain=chance.choice((head.plain, 0, 1 << 63)),
            )
            data = changed.encode() + data[HEADER.size :]
        elif what == 3:
            end = HEADER.size + ENCRYPTION_HEAD.size
            begin = bytearray(data[HEADER.size : end])
            begin[chance.randrange(124)] ^= 1 << chance.randrange(8)
            begin[124:] = struct.pack("<I", zlib.crc32(begin[:124]))
            data = data[: HEADER.size] + bytes(begin) + data[end:]
        else:
            damaged = bytearray(data)
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(len(damaged))
                damaged[at : at + chance.choice((0, 1, 8))] = chance.randbytes(
                    chance.choice((0, 1))
                )
            data = bytes(damaged)
        try:
            found = read(data, OPEN).finish()
        except SnapshotError as error:
            assert 10 < len(error.message) < 400
        else:
            assert found in (state, large())
            taken += 1
    assert taken < 200


def test_too_many_signatures_are_refused_before_they_are_read(tmp_path: Path) -> None:
    data = to_bytes(small(), WriteTrust(SIGN))
    at = next(place.head - 16 for place in batches(data) if place.kind == 41)
    kind, flags, zero, _ = struct.unpack_from("<HHIQ", data, at)
    long = struct.pack("<HHIQ", kind, flags, zero, 17 * ENTRY.size)
    head = Header.decode(data[: HEADER.size])._replace(plain=1 << 40).encode()
    with pytest.raises(FormatError, match="signatures section is too large"):
        read(head + data[HEADER.size : at] + long + data[at + 16 :], READ_ANY)
    path = tmp_path / "s.bin"
    path.write_bytes(data)
    for number in range(1, 16):
        sign_file(str(path), SigningKey(bytes([number]) * 32), None, READ_ANY)
    assert len(read(path.read_bytes(), READ_ANY).signatures) == 16
    with pytest.raises(SnapshotError, match="at most 16"):
        sign_file(str(path), OTHER, None, READ_ANY)


# ---- chains, copies and files --------------------------------------------------------------------


def chain(folder: Path, trusts: list[WriteTrust]) -> SnapshotState:
    """Write checkpoints, each with its own trust."""
    folder.mkdir(exist_ok=True)
    state = with_memories(3)
    base: Base | None = None
    for number, trust in enumerate(trusts, 1):
        state.memories[0].data[number * 4096] = number  # type: ignore[index]
        got: list[Written] = []
        pieces = encode(state, version=2, base=base, trust=trust, written=got.append)
        (folder / NAME.format(number)).write_bytes(b"".join(pieces))
        found = got[0]
        base = Base(found.root, found.content, number - 1, found.trees, set(), set())
    return state


def test_a_chain_is_as_trusted_as_its_weakest_link(tmp_path: Path) -> None:
    state = chain(tmp_path / "good", [BOTH, BOTH, BOTH])
    assert open_snapshot(tmp_path / "good", trust=OPEN).state == state
    assert CheckpointFolder(tmp_path / "good", OPEN).load(warn=pytest.fail) == (3, state)
    for weak in range(3):
        trusts = [BOTH, BOTH, BOTH]
        trusts[weak] = WriteTrust(OTHER, LOCK)
        folder = tmp_path / f"weak{weak}"
        chain(folder, trusts)
        for ask in (
            open_snapshot,
            lambda path, trust: CheckpointFolder(path, trust).load(warn=print),
        ):
            with pytest.raises(SignatureError, match=NAME.format(weak + 1)):
                ask(folder, trust=OPEN)
    with pytest.raises(EncryptionError, match="no key is given"):
        open_snapshot(tmp_path / "good")


def test_a_merged_chain_keeps_the_signature_of_its_last(tmp_path: Path) -> None:
    state = chain(tmp_path / "d", [BOTH, BOTH, BOTH])
    out = tmp_path / "whole.bin"
    opened = open_snapshot(tmp_path / "d", trust=OPEN)
    copied = write_full(opened, str(out), version=2, trust=WriteTrust(None, WRONG), read=OPEN)
    assert copied.signatures == 1
    found = open_snapshot(out, trust=ReadTrust((WRONG,), (SIGN.public,)))
    assert found.state == state
    write_full(found, str(tmp_path / "one.bin"), version=1)
    assert not open_snapshot(tmp_path / "one.bin").decoder.signatures


def test_a_checkpoint_that_is_merged_in_the_background_stays_signed_and_encrypted(
    tmp_path: Path,
) -> None:
    from wasmsr.snapshot.checkpoints.checkpointer import merge

    state = chain(tmp_path / "d", [BOTH, BOTH, BOTH])
    folder = CheckpointFolder(tmp_path / "d", ReadTrust((LOCK,)))
    merge(folder, 2, BOTH)
    (tmp_path / "d" / NAME.format(1)).unlink()
    assert open_snapshot(tmp_path / "d", trust=OPEN).state == state
    # A merge signs nothing: what it reads may not be what this process has written.
    chain(tmp_path / "e", [WriteTrust(None, LOCK)] * 2)
    merge(CheckpointFolder(tmp_path / "e", ReadTrust((LOCK,))), 2, BOTH)
    with pytest.raises(SignatureError, match="not signed"):
        open_snapshot(tmp_path / "e", trust=OPEN)


def test_a_file_is_signed_without_being_encrypted_anew(tmp_path: Path) -> None:
    path = tmp_path / "s.bin"
    path.write_bytes(to_bytes(full(), WriteTrust(None, LOCK)))
    before = path.read_bytes()
    lock = ReadTrust((LOCK,))
    signed = sign_file(str(path), SIGN, None, lock)
    sign_file(str(path), OTHER, None, lock)
    sign_file(str(path), SIGN, None, lock)
    after = path.read_bytes()
    assert len(after) == len(before) + FIRST.size + 2 * ENTRY.size
    assert after[HEADER.size : HEADER.size + 500] == before[HEADER.size : HEADER.size + 500]
    found = read(after, OPEN)
    assert {one.key for one in found.signatures} == {SIGN.public, OTHER.public}
    assert found.root == signed.root
    assert verify_file(path, lock).signatures == tuple(
        sorted([(SIGN.public, True), (OTHER.public, True)])
    )


def test_signing_refuses_what_has_no_place_for_it(tmp_path: Path) -> None:
    path = tmp_path / "one.bin"
    path.write_bytes(b"".join(encode(small(), version=1)))
    with pytest.raises(SnapshotError, match="version 1, which has no place for a signature"):
        sign_file(str(path), SIGN, None, READ_ANY)
    damaged = bytearray(to_bytes(full(), WriteTrust()))
    damaged[-300] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(SnapshotError):
        sign_file(str(path), SIGN, None, READ_ANY)
    assert path.read_bytes() == damaged
    assert os.listdir(tmp_path) == ["one.bin"]


def test_the_mark_of_hand_over_is_no_part_of_what_is_signed(tmp_path: Path) -> None:
    path = tmp_path / "s.bin"
    path.write_bytes(to_bytes(full(), BOTH))
    mark_handed(path)
    assert open_snapshot(path, trust=OPEN).header.handed


def test_the_program_of_an_encrypted_file_is_found_with_the_key(tmp_path: Path) -> None:
    state = full()
    path = tmp_path / "s.bin"
    path.write_bytes(to_bytes(state, BOTH))
    assert is_of_module(path, state.modules[0].digest, trust=OPEN)
    assert not is_of_module(path, bytes(32), trust=OPEN)
    with pytest.raises(EncryptionError):
        is_of_module(path, state.modules[0].digest)


# ---- keys ----------------------------------------------------------------------------------------


def test_keys_come_from_files_variables_and_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = new_signing_key(str(tmp_path / "key"))
    new_encryption_key(str(tmp_path / "lock"))
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    assert SigningKey.read(str(tmp_path / "key")).public == public
    monkeypatch.setenv("TEST_KEY", (tmp_path / "key").read_text())
    monkeypatch.setattr(key_sources, "_read", {})
    assert SigningKey.read("env:TEST_KEY").public == public
    assert "TEST_KEY" not in os.environ, "a program could get it with --inherit-env"
    assert SigningKey.read("env:TEST_KEY").public == public
    with open(tmp_path / "lock", "rb") as file:
        key = EncryptionKey.read(f"fd:{file.fileno()}")
    assert key.secret == base64.b64decode((tmp_path / "lock").read_bytes())
    assert "secret" not in repr(key) and key.secret.hex() not in repr(key)
    both = tmp_path / "both.pub"
    new_signing_key(str(tmp_path / "two"))
    both.write_bytes((tmp_path / "key.pub").read_bytes() + (tmp_path / "two.pub").read_bytes())
    accepted = ReadTrust.read((), (str(both),)).accepted
    assert accepted is not None and len(accepted) == 2


def test_what_is_no_key_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sources, "_read", {})
    new_signing_key(str(tmp_path / "key"))
    new_encryption_key(str(tmp_path / "lock"))

    def refused(source: str, match: str, *, lock: bool = False) -> None:
        with pytest.raises(KeySourceError, match=match):
            (EncryptionKey if lock else SigningKey).read(source)

    key, lock = str(tmp_path / "key"), str(tmp_path / "lock")
    refused(lock, "has no private key")
    refused(key, "is no encryption key", lock=True)
    os.chmod(key + ".pub", 0o600)
    refused(key + ".pub", "has no private key")
    refused(str(tmp_path), "is not a regular file|Is a directory")
    refused(str(tmp_path / "none"), "cannot be read: No such file")
    refused("env:NOT_THERE", "NOT_THERE has no key")
    refused("fd:x", "names no descriptor")
    refused("fd:987654", "cannot be read: Bad file descriptor")
    with pytest.raises(KeySourceError, match="has no public key"):
        ReadTrust.read((), (key,))
    os.chmod(key, 0o644)
    refused(key, "other users can use the key .*0644")
    big = tmp_path / "big"
    big.write_bytes(b"x" * 65537)
    big.chmod(0o600)
    refused(str(big), "has more than 65536 bytes")
    os.mkfifo(tmp_path / "pipe")
    refused(str(tmp_path / "pipe"), "is not a regular file")
    for make in (new_signing_key, new_encryption_key):
        with pytest.raises(KeySourceError, match="never overwritten"):
            make(lock)
    (tmp_path / "half.pub").write_text("mine")
    with pytest.raises(KeySourceError, match="never overwritten"):
        new_signing_key(str(tmp_path / "half"))
    assert not (tmp_path / "half").exists()
    assert (tmp_path / "half.pub").read_text() == "mine"
    with pytest.raises(KeySourceError, match="No such file"):
        new_encryption_key(str(tmp_path / "nowhere" / "k"))


def test_other_kinds_of_keys_are_named(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import x25519
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    path = tmp_path / "x"
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(x25519.X25519PrivateKey.generate().private_bytes(*form))
    path.chmod(0o600)
    with pytest.raises(KeySourceError, match="is not an Ed25519 key"):
        SigningKey.read(str(path))
    text = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    path.write_text(text)
    with pytest.raises(KeySourceError, match="is encrypted private key, not a plain Ed25519"):
        SigningKey.read(str(path))


def test_the_library_signs_and_encrypts(tmp_path: Path) -> None:
    new_signing_key(str(tmp_path / "key"))
    new_encryption_key(str(tmp_path / "lock"))
    key, lock, path = (str(tmp_path / name) for name in ("key", "lock", "s.bin"))
    one = Snapshot(full())
    one.save(path, sign_with=key, encrypt_with=lock)
    assert Snapshot.load(path, decrypt_with=lock, require_signature=key + ".pub") == one
    with pytest.raises(EncryptionError):
        Snapshot.load(path)


def test_what_is_signed_has_a_purpose() -> None:
    data = to_bytes(small(), WriteTrust(SIGN))
    found = read(data, READ_ANY)
    value = found.signatures[0].value
    assert plain_crypto.verify(SIGN.public, value, CONTEXT + found.root)
    assert not plain_crypto.verify(SIGN.public, value, found.root)
