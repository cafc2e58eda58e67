"""`make containers-nodes`, and the example files of a node in containers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from scripts.container_nodes import (
    CODE,
    NODE_ENGINES,
    PROGRAM,
    ROUNDS,
    NodePodman,
    make_keys,
    node_words,
)
from scripts.hosts import HARDENED, HOSTS, Context
from tests.builds.test_containers import Tools
from wasmsr import Exited, Module, Wasi
from wasmsr.interp.store.store import Store

yaml: Any = pytest.importorskip("yaml")
pytest.importorskip("cryptography.x509")

ROOT = Path(__file__).parents[2]
FILES = ROOT / "examples" / "node"


def context(folder: Path) -> Context:
    (folder / "context").mkdir()
    sample = ROOT / "examples" / "snapshot" / "sample.y4m"
    return Context(folder / "context", folder / "key", "base", 0.0, sample, [], sample, "")


def test_a_container_of_a_node_gives_up_what_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Tools(tmp_path, monkeypatch)
    tools.add("podman")
    engine = NodePodman(context(tmp_path))
    engine.keys = make_keys(tmp_path / "keys", engine)
    for host in HOSTS:
        one = engine.begin(host)
        one.process.wait(20)
    engine.remove()
    created = [line.split() for line in tools.called() if " create " in line]
    assert len(created) == 2
    for words in created:
        assert set(HARDENED) <= set(words)
        assert words[words.index("--tls-key") + 1] == "/run/secrets/key"
    for host in HOSTS:
        names = {path.name for path in (engine.keys / host).iterdir()}
        assert {"certificate", "key", "authority", "revoked"} < names


def test_the_compose_file_says_the_same() -> None:
    text = (FILES / "docker-compose.yml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert set(found["services"]) == {"node-1", "node-2"}
    for name, service in found["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["healthcheck"]["test"][:3] == ["CMD", "wasmsr", "health"]
        words = service["command"].split()
        wanted = node_words("/run/secrets", "0.0.0.0:7443")
        assert [word for word in words if word not in ("--state-dir", "/state")] == wanted
        number = name[-1]
        targets = {
            one if isinstance(one, str) else one["target"]: one
            if isinstance(one, str)
            else one["source"]
            for one in service["secrets"]
        }
        assert targets == {
            "certificate": f"certificate-{number}",
            "key": f"key-{number}",
            "authority": "authority",
            "revoked": "revoked",
        }
        assert set(targets.values()) <= set(found["secrets"])
    variables = set(re.findall(r"\$\{(\w+)", text))
    assert variables == {"CONTEXT", "BASE", "RUN", "IMAGE", "KEYS"}


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    dockerfile = (FILES / "Dockerfile").read_text(encoding="utf-8")
    assert "ARG BASE=" in dockerfile and "FROM $BASE" in dockerfile
    assert re.search(r"^USER (?!0|root)", dockerfile, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*"wasmsr", "health"', dockerfile, re.MULTILINE)


def test_the_manifests_of_kubernetes() -> None:
    validate: Any = pytest.importorskip("kubernetes_validate")
    text = (FILES / "kubernetes.yaml").read_text(encoding="utf-8")
    found = [one for one in yaml.safe_load_all(text) if one]
    for one in found:
        validate.validate(one, validate.latest_version(), strict=True)
    deployments = [one for one in found if one["kind"] == "Deployment"]
    services = {one["metadata"]["name"] for one in found if one["kind"] == "Service"}
    assert len(deployments) == len(services) == 2
    for one in deployments:
        spec = one["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        (node,) = spec["containers"]
        security = node["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        *_, to = node["lifecycle"]["preStop"]["exec"]["command"]
        assert to.partition(":")[0] in services - {one["metadata"]["name"]}
        mounted = {mount["name"] for mount in node["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_the_settings_in_the_manifests_are_settings(tmp_path: Path) -> None:
    from wasmsr.node.settings.reading import read_settings

    text = (FILES / "kubernetes.yaml").read_text(encoding="utf-8")
    (config,) = [one for one in yaml.safe_load_all(text) if one and one["kind"] == "ConfigMap"]
    path = tmp_path / "node.toml"
    path.write_text(config["data"]["node.toml"])
    assert read_settings(path, {}, {})["node.on-stop"] == "checkpoint"


def test_the_program_that_is_drained_counts_right(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PROGRAM.replace("ROUNDS", "12").replace("CODE", str(CODE))
    text = text.replace("i64.const 100000000", "i64.const 1")
    assert 10 <= ROUNDS < 100, "it prints two digits"
    written: list[bytes] = []

    class Out:
        def write(self, data: memoryview | bytes) -> None:
            written.append(bytes(data))

    store = Store()
    store.wasi = Wasi(stdout=Out())
    module = Module.from_text(text)
    store.enqueue(store.instantiate(module, store.wasi.imports).function("_start"))
    assert store.run() == Exited(CODE)
    assert b"".join(written) == b"".join(b"%02d\n" % number for number in range(12))
    store.close()


def test_each_engine_has_a_name() -> None:
    assert [kind.name for kind in NODE_ENGINES] == ["docker", "podman", "namespaces"]
