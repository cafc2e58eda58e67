"""TLS over real gRPC and real sockets: who is let in, and who is not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography.x509")
grpc = pytest.importorskip("grpc")

from wasmsr.node.security.authority import Authority  # noqa: E402
from wasmsr.node.security.failures import AccessRefused  # noqa: E402
from wasmsr.node.security.guard import Guard, host_of  # noqa: E402
from wasmsr.node.security.policy import Policy  # noqa: E402
from wasmsr.node.security.tls_identity import TlsFiles, TlsIdentity, load  # noqa: E402
from wasmsr.node.security.tokens import TokenCheck  # noqa: E402
from wasmsr.rpc import channel, tls  # noqa: E402

METHOD = "/test.Who/Calls"


class Who(grpc.GenericRpcHandler):  # type: ignore[misc, name-defined]
    """Answers each call with the caller's name."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def service(self, details: Any) -> Any:
        def behave(request: bytes, wire: Any) -> bytes:
            try:
                caller = self.guard.admit(wire.peer(), *channel.proofs_of(wire))
            except AccessRefused as error:
                wire.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
                raise
            return caller.name.encode()

        return grpc.unary_unary_rpc_method_handler(behave)


class Served:
    """A server on loopback, with its authority."""

    def __init__(self, folder: Path, *, mutual: bool, token: bytes = b"", **policy: Any) -> None:
        self.folder = folder
        self.authority = Authority.create(folder / "ca")
        self.node, self.certificate, self.key = self.issue("node", "localhost")
        self.identity = TlsIdentity(self.files(self.certificate, self.key))
        self.refused: list[tuple[str, str]] = []
        self.guard = Guard(
            Policy(**policy),
            self.identity,
            TokenCheck(token) if token else None,
            lambda error, host: self.refused.append((error.rule, host)),
        )
        self.server = grpc.server(ThreadPoolExecutor(2), handlers=[Who(self.guard)])
        self.port = self.server.add_secure_port(
            "127.0.0.1:0", tls.server_credentials(self.identity, mutual=mutual)
        )
        self.server.start()

    def issue(self, who: str, *hosts: str, into: str = "issued", **more: Any) -> Any:
        return self.authority.issue(who, hosts, self.folder / into, **more)

    def files(self, certificate: Path, key: Path) -> TlsFiles:
        ca = self.authority.folder
        return TlsFiles(certificate, key, ca / "authority.crt", ca / "revoked.crl")

    def ask(self, who: TlsFiles | None, *, token: bytes = b"", **more: Any) -> str:
        """Return the server's answer, or the name of the error's code and its words."""
        content = load(who) if who else None
        authority = (self.authority.folder / "authority.crt").read_bytes()
        with tls.client_channel(
            f"localhost:{self.port}", content, authority=authority, **more
        ) as opened:
            call = opened.unary_unary(METHOD)
            metadata = [(channel.TOKEN, token)] if token else []
            try:
                found: bytes = call(b"", timeout=10, metadata=metadata)
            except grpc.RpcError as error:
                return f"{error.code().name}: {error.details()}"
            return found.decode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, mutual=True)
    yield made
    made.server.stop(0)


def test_nodes_and_clients_are_known_by_their_certificates(served):
    ann, certificate, key = served.issue("client:ann")
    other, node_certificate, node_key = served.issue("node", "elsewhere")
    assert ann.client == "ann"
    assert served.ask(served.files(certificate, key)) == "client ann"
    assert served.ask(served.files(node_certificate, node_key)) == f"node {other.node.hex()}"
    assert served.refused == []


def test_a_caller_without_a_certificate_or_of_another_authority_is_cut_off(served, tmp_path):
    assert served.ask(None).startswith("UNAVAILABLE")
    strange = Authority.create(tmp_path / "strange")
    _, certificate, key = strange.issue("client:ann", [], tmp_path)
    # It trusts the server's authority, but its own certificate is another one's.
    ca = served.authority.folder
    content = load(TlsFiles(certificate, key, strange.folder / "authority.crt"))
    content = type(content)(
        content.certificate,
        content.key,
        (ca / "authority.crt").read_bytes(),
        content.identity,
        (),
    )
    with tls.client_channel(f"localhost:{served.port}", content) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            opened.unary_unary(METHOD)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_revoked_certificate_is_refused_within_an_open_connection(served):
    _, certificate, key = served.issue("client:ann")
    content = load(served.files(certificate, key))
    with tls.client_channel(f"localhost:{served.port}", content) as opened:
        call = opened.unary_unary(METHOD)
        assert call(b"", timeout=10) == b"client ann"
        served.authority.revoke("client:ann")
        served.identity.refresh(now=True)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "revoked" in caught.value.details()
    assert served.refused == [("revoked", "127.0.0.1")]


def test_a_client_can_say_which_node_it_means(served):
    _, certificate, key = served.issue("client:ann")
    who = served.files(certificate, key)
    assert served.ask(who, node=served.node.node) == "client ann"
    answer = served.ask(who, node=bytes(16))
    assert answer.startswith("UNAVAILABLE"), "the server is another node"


def test_a_server_at_another_name_is_not_believed(served):
    _, certificate, key = served.issue("client:ann")
    content = load(served.files(certificate, key))
    with (
        tls.client_channel(f"127.0.0.1:{served.port}", content) as opened,
        pytest.raises(grpc.RpcError) as caught,
    ):
        opened.unary_unary(METHOD)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_is_renewed_while_the_server_runs(served):
    _, certificate, key = served.issue("client:ann")
    who = served.files(certificate, key)
    assert served.ask(who) == "client ann"
    before = _serial(served, who)
    served.issue(f"node:{served.node.node.hex()}", "localhost")
    assert served.identity.refresh(now=True)
    assert served.ask(who) == "client ann"
    assert _serial(served, who) != before


def _serial(served: Served, who: TlsFiles) -> int:
    """Return the serial number of the certificate that the server shows."""
    context = ssl.create_default_context(cafile=str(who.authority))
    context.load_cert_chain(who.certificate, who.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", served.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        found = wrapped.getpeercert()
        assert found
        return int(str(found["serialNumber"]), 16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused(served, version):
    _, certificate, key = served.issue("client:ann")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(served.authority.folder / "authority.crt")
    context.load_cert_chain(certificate, key)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("localhost", served.port), 10) as plain, pytest.raises(OSError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_plain_text_gets_no_answer(served):
    with grpc.insecure_channel(f"localhost:{served.port}") as opened:
        with pytest.raises(grpc.RpcError) as caught:
            opened.unary_unary(METHOD)(b"", timeout=2)
        assert caught.value.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )


def test_the_policy_names_clients_and_peers(tmp_path):
    served = Served(tmp_path, mutual=True, clients=("ann",), peers=(b"\x01" * 16,))
    try:
        _, certificate, key = served.issue("client:bob")
        assert "takes no orders from client bob" in served.ask(served.files(certificate, key))
        _, certificate, key = served.issue("node")
        assert "takes nothing from node" in served.ask(served.files(certificate, key))
        _, certificate, key = served.issue("node:" + "01" * 16)
        assert served.ask(served.files(certificate, key)) == "node " + "01" * 16
        assert [rule for rule, _ in served.refused] == ["clients", "peers"]
    finally:
        served.server.stop(0)


def test_tokens_over_tls(tmp_path):
    served = Served(tmp_path, mutual=False, token=b"right token, long")
    try:
        assert served.ask(None, token=b"right token, long") == "127.0.0.1"
        assert "has no token" in served.ask(None)
        for _ in range(4):
            assert "token is wrong" in served.ask(None, token=b"wrong")
        # Now guesses cost time, and the right token is refused too.
        assert "too many wrong tokens" in served.ask(None, token=b"right token, long")
    finally:
        served.server.stop(0)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("unix:", "unix:"),
        ("unix:/run/node.sock", "unix:"),
        ("what is this", "what is this"),
    ],
)
def test_hosts_of_callers(peer, host):
    assert host_of(peer) == host
