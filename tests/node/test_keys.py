"""The authority of `wasmsr keys`, checked by OpenSSL and by hostile files."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

x509 = pytest.importorskip("cryptography.x509")

from wasmsr.node.security import certificates  # noqa: E402
from wasmsr.node.security.authority import Authority  # noqa: E402
from wasmsr.node.security.certificates import identity_of, parse_chain  # noqa: E402
from wasmsr.node.security.failures import AccessRefused, CredentialsError  # noqa: E402
from wasmsr.node.security.tls_identity import TlsFiles, TlsIdentity, load  # noqa: E402


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca")


def files(authority: Authority, certificate: Path, key: Path) -> TlsFiles:
    folder = authority.folder
    return TlsFiles(certificate, key, folder / "authority.crt", folder / "revoked.crl")


def test_openssl_accepts_what_is_issued_and_refuses_what_is_revoked(authority, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    _, node, _ = authority.issue("node", ["localhost", "127.0.0.1", "::1"], tmp_path)
    _, client, _ = authority.issue("client:ann", [], tmp_path)
    authority.revoke("client:ann")

    def verify(path: Path, purpose: str) -> bool:
        ca = authority.folder
        words = [openssl, "verify", "-x509_strict", "-purpose", purpose]
        words += ["-CAfile", ca / "authority.crt", "-crl_check", "-CRLfile", ca / "revoked.crl"]
        return subprocess.run([*words, path], capture_output=True).returncode == 0

    assert verify(node, "sslserver") and verify(node, "sslclient")
    assert not verify(client, "sslclient")


def test_a_certificate_names_a_node_or_a_client(authority, tmp_path):
    made, certificate, key = authority.issue("node:" + "ab" * 16, ["h"], tmp_path)
    found = load(files(authority, certificate, key)).identity
    assert found == made and found.node == b"\xab" * 16 and not found.client
    assert 89 < found.days_left() <= 90
    assert key.stat().st_mode & 0o777 == 0o600
    made, certificate, key = authority.issue("client:Ann-2", [], tmp_path)
    found = load(files(authority, certificate, key)).identity
    assert (found.node, found.client, str(found)) == (b"", "ann-2", "client ann-2")


@pytest.mark.parametrize(
    ("who", "hosts"),
    [
        ("node:12", []),
        ("node:" + "g" * 32, []),
        ("client:", []),
        ("client:-a", []),
        ("client:a.b", []),
        ("client:" + "a" * 64, []),
        ("root", []),
        ("node", ["a b"]),
        ("node", ["x" * 300]),
        ("node", ["../x"]),
        ("node", ["ab" * 16 + ".node.wasmsr.internal"]),
        ("client:ann", ["root.client.wasmsr.internal"]),
    ],
)
def test_bad_names_are_refused(authority, tmp_path, who, hosts):
    with pytest.raises(CredentialsError):
        authority.issue(who, hosts, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("days", [0, -1, 3651, float("nan")])
def test_bad_spans_are_refused(authority, tmp_path, days):
    with pytest.raises(CredentialsError):
        authority.issue("node", [], tmp_path, days=days)


def test_a_key_is_never_overwritten(authority):
    key = (authority.folder / "authority.key").read_bytes()
    with pytest.raises(CredentialsError, match="never overwritten"):
        Authority.create(authority.folder)
    assert (authority.folder / "authority.key").read_bytes() == key


def test_revoking_by_name_serial_and_id(authority, tmp_path):
    node, _, _ = authority.issue("node", [], tmp_path)
    again, _, _ = authority.issue(f"node:{node.node.hex()}", [], tmp_path)
    ann, _, _ = authority.issue("client:ann", [], tmp_path)
    bob, _, _ = authority.issue("client:bob", [], tmp_path)
    assert {one.serial for one in authority.revoke(node.node.hex())} == {node.serial, again.serial}
    assert [one.serial for one in authority.revoke(f"{ann.serial:X}")] == [ann.serial]
    with pytest.raises(CredentialsError, match="revoked already"):
        authority.revoke("client:ann")
    with pytest.raises(CredentialsError, match="no certificate"):
        authority.revoke("client:eve")
    assert [bool(one.revoked) for one in authority.issued()] == [True, True, True, False]
    assert bob.serial not in {one.serial for one in authority.issued() if one.revoked}


def _revoke(folder: Path, name: str) -> None:
    Authority(folder).revoke(name)


def test_two_processes_revoke_at_once_and_nothing_is_lost(authority, tmp_path):
    names = [f"client:c{number}" for number in range(6)]
    for name in names:
        authority.issue(name, [], tmp_path)
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_revoke, args=(authority.folder, name)) for name in names]
    for one in running:
        one.start()
    for one in running:
        one.join(30)
    assert all(one.revoked for one in authority.issued())


def damaged(authority: Authority, tmp_path: Path) -> dict[str, TlsFiles]:
    """Return sets of files, each wrong in one way."""
    _, certificate, key = authority.issue("node", [], tmp_path / "node")
    good = files(authority, certificate, key)
    other = Authority.create(tmp_path / "other")
    _, strange, strange_key = other.issue("node", [], tmp_path / "strange")
    nameless = tmp_path / "nameless.pem"
    nameless.write_bytes((authority.folder / "authority.crt").read_bytes())
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\n//8=\n-----END CERTIFICATE-----\n")
    huge = tmp_path / "huge"
    huge.write_bytes(b"-" * 70_000)
    open_key = tmp_path / "open.key"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    locked = tmp_path / "locked.key"
    locked.write_bytes(_encrypted(key.read_bytes()))
    locked.chmod(0o600)
    crl = good.revoked
    ca = good.authority
    return {
        "no file": TlsFiles(tmp_path / "none", key, ca, crl),
        "a folder": TlsFiles(tmp_path, key, ca, crl),
        "empty": TlsFiles(empty, key, ca, crl),
        "garbage": TlsFiles(garbage, key, ca, crl),
        "too long": TlsFiles(huge, key, ca, crl),
        "nobody's name": TlsFiles(nameless, authority.folder / "authority.key", ca, crl),
        "another key": TlsFiles(certificate, strange_key, ca, crl),
        "another authority": TlsFiles(strange, strange_key, ca, crl),
        "a key for everybody": TlsFiles(certificate, open_key, ca, crl),
        "a key with a password": TlsFiles(certificate, locked, ca, crl),
        "no key": TlsFiles(certificate, garbage, ca, crl),
        "no list": TlsFiles(certificate, key, ca, tmp_path / "none"),
        "a list of another authority": TlsFiles(certificate, key, ca, other.folder / "revoked.crl"),
        "garbage as list": TlsFiles(certificate, key, ca, garbage),
    }


def _encrypted(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(pem, None)
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )
    return encoded


def test_each_wrong_file_has_its_error(authority, tmp_path):
    found = damaged(authority, tmp_path)
    for name, one in found.items():
        with pytest.raises(CredentialsError) as caught:
            TlsIdentity(one)
        assert str(tmp_path) in caught.value.message, name


def test_an_expired_certificate_and_one_of_tomorrow_are_refused(authority, tmp_path, monkeypatch):
    made, certificate, key = authority.issue("node", [], tmp_path, days=1)
    one = files(authority, certificate, key)
    assert TlsIdentity(one).judge(certificate.read_bytes()) == made
    tls = TlsIdentity(one)
    now = certificates.utc_now()
    for shift, words in ((timedelta(days=2), "expired on"), (timedelta(days=-2), "not valid")):
        monkeypatch.setattr(
            "wasmsr.node.security.tls_identity.utc_now", lambda shift=shift: now + shift
        )
        with pytest.raises(CredentialsError, match=words):
            load(one)
        with pytest.raises(AccessRefused, match=words):
            tls.judge(certificate.read_bytes())


def test_an_old_list_of_revoked_certificates_is_refused(authority, tmp_path, monkeypatch):
    _, certificate, key = authority.issue("node", [], tmp_path)
    later = certificates.utc_now() + timedelta(days=4000)
    monkeypatch.setattr("wasmsr.node.security.revocation.utc_now", lambda: later)
    with pytest.raises(CredentialsError, match="too old"):
        TlsIdentity(files(authority, certificate, key))


def test_revoking_and_renewing_have_effect_while_it_runs(authority, tmp_path):
    node, certificate, key = authority.issue("node", [], tmp_path)
    _ann, client, _ = authority.issue("client:ann", [], tmp_path)
    tls = TlsIdentity(files(authority, certificate, key))
    pem = client.read_bytes()
    assert tls.judge(pem).client == "ann"
    authority.revoke("client:ann")
    assert tls.refresh(now=True)
    with pytest.raises(AccessRefused) as caught:
        tls.judge(pem)
    assert caught.value.rule == "revoked"
    before = tls.content
    authority.issue(f"node:{node.node.hex()}", [], tmp_path)
    assert tls.refresh(now=True) and tls.content is not before and not tls.trouble


def test_a_mistake_in_a_renewal_leaves_the_old_certificate_in_force(authority, tmp_path):
    node, certificate, key = authority.issue("node", [], tmp_path)
    tls = TlsIdentity(files(authority, certificate, key))
    before = tls.content
    _, other, other_key = authority.issue("node", [], tmp_path / "other")
    for content in (b"", certificate.read_bytes()[:100], other.read_bytes()):
        certificate.write_bytes(content)
        assert not tls.refresh(now=True)
        assert tls.content is before and "stays in force" in tls.trouble
    key.write_bytes(other_key.read_bytes())
    assert not tls.refresh(now=True)
    assert "names node" in tls.trouble, "it may not become another node"
    authority.issue(f"node:{node.node.hex()}", [], tmp_path)
    assert tls.refresh(now=True) and not tls.trouble


def test_a_certificate_with_two_names_is_nobodys(authority, tmp_path):
    from cryptography.hazmat.primitives import hashes

    key = authority._key
    now = certificates.utc_now()
    names = [
        x509.DNSName("ab" * 16 + certificates.NODE_SUFFIX),
        x509.DNSName("ann" + certificates.CLIENT_SUFFIX),
    ]
    for chosen in (names, names[:0], [x509.DNSName("x.ann" + certificates.CLIENT_SUFFIX)]):
        builder = (
            x509.CertificateBuilder()
            .subject_name(authority.certificate.subject)
            .issuer_name(authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=1))
        )
        if chosen:
            builder = builder.add_extension(x509.SubjectAlternativeName(chosen), critical=False)
        with pytest.raises(CredentialsError, match="names"):
            identity_of(builder.sign(key, hashes.SHA256()))


def test_a_damaged_list_of_issued_certificates_names_its_line(authority, tmp_path):
    authority.issue("node", [], tmp_path)
    path = authority.folder / "issued.jsonl"
    for line in (b"{}", b"[]", b'{"serial": "xyz"}', b"\xff", json.dumps({"serial": 3}).encode()):
        path.write_bytes(path.read_bytes().splitlines()[0] + b"\n" + line + b"\n")
        with pytest.raises(CredentialsError, match="line 2"):
            authority.issued()


def test_a_chain_with_an_intermediate_authority_is_read(authority, tmp_path):
    _, certificate, _ = authority.issue("node", [], tmp_path)
    both = certificate.read_bytes() + (authority.folder / "authority.crt").read_bytes()
    assert len(parse_chain(both, "both")) == 2
