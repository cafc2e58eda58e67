"""A short run of the fuzzer of services; see `services.py` for the long one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography.x509")
grpc = pytest.importorskip("grpc")

from tests.fuzz import services  # noqa: E402
from tests.fuzz.service_bombs import module_bombs  # noqa: E402
from tests.fuzz.service_messages import BOMB, Call, MessageMutator  # noqa: E402
from tests.fuzz.service_targets import (  # noqa: E402
    EndTarget,
    Harm,
    NodeTarget,
    check_refusal,
    check_sentence,
)
from wasmsr import Module, ModuleError  # noqa: E402
from wasmsr.node.moving.node_peers import NODES, NodePeers  # noqa: E402
from wasmsr.rpc import messages  # noqa: E402
from wasmsr.rpc.control import control_messages  # noqa: E402


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(services.TARGETS))
def test_wrong_calls_do_no_harm(name: str) -> None:
    assert services.campaign([name], 1.0, first=1_000_000) == []


def test_every_method_is_attacked() -> None:
    methods = {
        f"/{service}/{method}"
        for service in (
            control_messages.CONTROL,
            control_messages.HEALTH,
            control_messages.REFLECTION,
        )
        for method in control_messages.methods(service)
    }
    assert set(NodeTarget.kinds) == methods
    assert len(EndTarget.kinds) == len(messages.methods())


def test_a_seed_makes_the_same_calls() -> None:
    first = messages.StatusRequest(protocol=3, node=b"n" * 16)
    calls = [Call("Status", (first,)), Call("Abort", (first,))]
    kinds = {"Status": messages.StatusRequest, "Abort": messages.AbortRequest}

    def made(seed: int) -> list[Call]:
        return MessageMutator(random.Random(seed)).wrong(calls, kinds)

    for seed in range(50):
        assert made(seed) == made(seed)
    assert any(made(seed) != calls for seed in range(50))
    assert first == messages.StatusRequest(protocol=3, node=b"n" * 16), "the original stays"


class Status:
    """An error of a call."""

    def __init__(self, code: Any, details: str) -> None:
        self.code, self.details = (lambda: code), (lambda: details)


def test_a_node_knows_a_bounded_number_of_others() -> None:
    made: list[str] = []

    def make(address: str, node: bytes, ours: bytes) -> Any:
        made.append(address)
        return object()

    peers = NodePeers(make, b"us")
    for number in range(3 * NODES):
        peers.meet(f"host:{number}", number.to_bytes(16, "big"))
    assert len(peers._at) == len(peers._named) == NODES
    last = made[-1]
    peers.meet(last, (3 * NODES - 1).to_bytes(16, "big"))
    assert len(made) == 3 * NODES, "the newest is still known"
    peers.meet("host:0")
    assert made[-1] == "host:0"


def test_what_counts_as_harm() -> None:
    codes = grpc.StatusCode
    check_refusal("Info", Status(codes.INVALID_ARGUMENT, "not a message"))
    for code, details in (
        (codes.UNKNOWN, "Exception calling application: 'x'"),
        (codes.UNAVAILABLE, "Socket closed"),
        (codes.INVALID_ARGUMENT, ""),
        (codes.INVALID_ARGUMENT, "ValueError: it is wrong"),
    ):
        with pytest.raises(Harm):
            check_refusal("Info", Status(code, details))
    with pytest.raises(Harm):
        check_sentence("Info", "two\nlines")


def test_bombs_are_small() -> None:
    assert len(BOMB) < 100_000
    loaded = 0
    for binary in module_bombs():
        assert len(binary) < 3 << 20
        try:
            Module(binary)
            loaded += 1
        except ModuleError:
            pass
    assert loaded, "some of them are valid"


def test_a_log_is_continued(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert services.next_seed(log) == 1
    log.write_text('{"service": "control", "seed": 40, "harms": []}\n')
    assert services.next_seed(log) == 40
