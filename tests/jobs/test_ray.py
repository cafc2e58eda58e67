"""Ray places executions on servers; it owns none of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.programs import numbers, stop, until_stopped
from tests.jobs.test_job_servers import ENDLESS, Servers, counting_job, log_of, runs_at
from tests.jobs.test_servers import until, written
from tests.node.nodes import World
from wasmsr import Node
from wasmsr.jobs import JobError, LogFrame
from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.servers.ray_placement import RayPlacement
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.rpc.control.control_server import ControlServer

SLOW = 240
"""Seconds for what Ray has to do first: each reservation is a process that Ray starts, one after
the other, and two loaded cores take half a minute for one."""

STORE = 80 << 20
"""Bytes of the object store of a raylet, which nothing here uses: the least that Ray takes."""

LOOPBACK = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE}

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


@pytest.fixture
def ray_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A cluster on the loopback: a head without CPUs, and two raylets with two each."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # 127.0.0.1 stays that
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    pytest.importorskip("ray", reason="ray is not installed: pip install 'wasmsr[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **LOOPBACK},
    )
    try:
        yield (
            cluster,
            {
                name: cluster.add_node(
                    num_cpus=2,
                    resources={"wasmsr": 1000, f"wasmsr@{name}": 1},
                    labels={"name": name[0]},
                    **LOOPBACK,
                )
                for name in ("a:1", "b:1")
            },
        )
    finally:
        cluster.shutdown()


def test_ray_places_and_does_not_own(ray_nodes: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    cluster, raylets = ray_nodes
    world, servers, sockets = World(), [], {}
    for name in "ab":
        supervisor = world.node(f"{name}:1", tmp_path / name)
        sockets[f"{name}:1"] = f"unix:{tmp_path}/{name}.control"
        servers.append(
            ControlServer(supervisor, sockets[f"{name}:1"], "0", lambda *caller: "tester")
        )
    placement = RayPlacement(cluster.address, seconds=SLOW)
    try:
        with ServerExecutor(
            tmp_path / "shared", lambda at: Node(sockets[at]), list(sockets), placement=placement
        ) as executor:
            two = {"resources": {"cpu": 2}}
            for id in ("one", "two"):
                executor.start(until_stopped(tmp_path, id, slow=1000, **two))
            assert {executor.server("one"), executor.server("two")} == {"a:1", "b:1"}
            assert sorted(placement.servers().values()) == ["a:1", "b:1"]
            placement._seconds = 3
            with pytest.raises(JobError) as caught:
                executor.start(until_stopped(tmp_path, "three", slow=1000, **two))
            assert "no server has room" in caught.value.message and caught.value.retryable
            placement._seconds = SLOW
            there = executor.server("two")
            stop(executor.folder / "two")
            executor.wait("two", 60)
            executor.migrate("one", there)
            until(lambda: executor.server("one") == there)
            executor.start(until_stopped(tmp_path, "four", slow=1000, **two))
            assert executor.server("four") != there, "where `one` was there is room now"
            cluster.remove_node(raylets[there], allow_graceful=False)
            before = written(executor, "one")
            until(lambda: written(executor, "one") > before + 400)
            for id in ("one", "four"):
                stop(executor.folder / id)
                assert executor.wait(id, 60).error == ""
                log = b"".join(one.data for one in executor.logs(id) if isinstance(one, LogFrame))
                assert log == numbers(len(log) // 8)
    finally:
        placement.close()
        for server in servers:
            server.stop(0)
        for supervisor in world.nodes.values():
            supervisor.stop(save=False, seconds=5)


def test_a_job_on_ray_whose_raylet_is_drained(
    ray_nodes: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    """Constraints are about labels of raylets; a drained raylet loses nothing."""
    cluster, raylets = ray_nodes
    servers = Servers(tmp_path)
    servers.plan = EnginePlan(ray=cluster.address)
    wants = [{"Key": "name", "Operator": "in", "Values": ["b"]}]
    try:
        with servers.served() as client:
            job = servers.submit(client, counting_job(ENDLESS, Constraints=wants))
            assert until(lambda: runs_at(client, job), SLOW) == ["b:1"]
            both = servers.submit(client, counting_job(ENDLESS, Type="ops"))
            assert until(lambda: len(runs_at(client, both)) == 2, SLOW)
            none = servers.submit(
                client, counting_job(1, Constraints=[{**wants[0], "Values": ["c"]}])
            )
            ended = client.wait(none.id, SLOW)
            assert ended is not None and "no server matches" in ended.message
            client.stop(both.id)
            free = servers.submit(client, counting_job(ENDLESS))
            until(lambda: runs_at(client, free), SLOW)
            (run,) = client.jobs.runs(free.id)
            if run.server == "b:1":
                client.ask("migrate", run.id, "a:1", SLOW)
            drain(cluster, raylets["a:1"])
            until(lambda: client.jobs.run(run.id).server == "b:1", SLOW)
            log = log_of(client, free)
            until(lambda: len(log_of(client, free)) > len(log))
            for one in (job, free):
                client.stop(one.id)
                log = log_of(client, one)
                assert log == numbers(len(log) // 8)
    finally:
        import ray

        ray.shutdown()
        servers.close()


def drain(cluster: Any, raylet: Any) -> None:
    """Drain a raylet, as `ray drain-node` does."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    taken, why = GcsClient(address=cluster.address).drain_node(raylet.node_id, reason, "a test", 0)
    assert taken, why
