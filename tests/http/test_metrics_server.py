"""A node's metrics, read by Prometheus' own parser."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from wasmsr.errors import HostError
from wasmsr.http.bounded_server import CLIENTS
from wasmsr.http.metrics_server import serve_metrics
from wasmsr.node.metrics import ROWS, SERIES, Metrics
from wasmsr.runspec.address import Address


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Shown:
    """A server, and what Prometheus reads there."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.server = serve_metrics(self.metrics, Address("127.0.0.1", free_port()))

    def read(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.server.port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            text = answer.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, sample: str, **labels: str) -> float:
        for family in self.read().values():
            for one in family.samples:
                if one.name == sample and one.labels == labels:
                    return float(one.value)
        raise KeyError(sample)


@pytest.fixture
def shown() -> Iterator[Shown]:
    made = Shown()
    yield made
    made.server.stop()


def test_every_metric_is_there_with_its_kind_and_words(shown):
    found = shown.read()
    assert set(found) == {row.name for row in ROWS}
    for row in ROWS:
        assert (found[row.name].type, found[row.name].documentation) == (row.kind, row.help)


def test_counters_gauges_and_histograms(shown):
    shown.metrics.add("wasmsr_programs_ended", "out")
    shown.metrics.add("wasmsr_programs_ended", "out")
    shown.metrics.set("wasmsr_node_info", 1, "ab", '0.1 "x"\\\n')
    for value in (0.001, 0.0011, 7.0, 1e9):
        shown.metrics.observe("wasmsr_checkpoint_seconds", value)
    assert shown.value("wasmsr_programs_ended_total", kind="out") == 2
    assert shown.value("wasmsr_node_info", node="ab", version='0.1 "x"\\\n') == 1
    for bound, count in (("0.001", 1), ("0.0025", 2), ("2.5", 2), ("10.0", 3), ("+Inf", 4)):
        assert shown.value("wasmsr_checkpoint_seconds_bucket", le=bound) == count
    assert shown.value("wasmsr_checkpoint_seconds_count") == 4
    assert shown.value("wasmsr_checkpoint_seconds_sum") == pytest.approx(1e9 + 7.0021)


def test_labels_that_callers_choose_are_bounded(shown):
    for number in range(SERIES + 50):
        shown.metrics.add("wasmsr_refusals", f"rule{number}")
    found = shown.read()["wasmsr_refusals"].samples
    assert len(found) == SERIES + 1
    assert shown.value("wasmsr_refusals_total", rule="other") == 50


def test_a_gauge_is_asked_for_when_somebody_looks(shown):
    programs = {("running",): 2.0}
    shown.metrics.ask("wasmsr_programs", lambda: programs)
    assert shown.value("wasmsr_programs", state="running") == 2
    programs[("running",)] = 3.0
    assert shown.value("wasmsr_programs", state="running") == 3

    def fail() -> dict[tuple[str, ...], float]:
        raise OSError

    shown.metrics.ask("wasmsr_programs", fail)
    assert shown.read()["wasmsr_programs"].samples == []


def test_wrong_names_and_labels_are_mistakes_of_ours():
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.add("wasmsr_nothing")
    with pytest.raises(ValueError, match="labels"):
        metrics.add("wasmsr_programs_ended")
    with pytest.raises(ValueError, match="gauge"):
        metrics.add("wasmsr_node_info", "a", "b")


@pytest.mark.full
def test_silent_clients_and_garbage_do_not_keep_prometheus_away(shown, monkeypatch):
    monkeypatch.setattr("wasmsr.http.bounded_server._Request.timeout", 0.3)
    silent = [
        socket.create_connection(("127.0.0.1", shown.server.port)) for _ in range(3 * CLIENTS)
    ]
    for number, one in enumerate(silent):
        if number % 2:
            one.sendall(b"\xff" * 100 + b"\r\n\r\n")
    assert set(shown.read()) == {row.name for row in ROWS}
    for one in silent:
        one.close()


def test_counts_from_many_threads_are_exact():
    metrics = Metrics()

    def count() -> None:
        for _ in range(1000):
            metrics.add("wasmsr_programs_ended", "out")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.numbers("wasmsr_programs_ended") == {("out",): 8000.0}


def test_an_address_in_use_is_named(shown):
    with pytest.raises(HostError, match="for --metrics"):
        serve_metrics(Metrics(), Address("127.0.0.1", shown.server.port))


def test_moves_are_counted(shown: Shown) -> None:
    take = shown.metrics.take_move
    take("round", {"round": 2, "bytes_raw": 4096, "since": 2.0})
    take("moved", {"rounds": 3, "bytes_raw": 10_000, "bytes": 900, "downtime": 0.02,
        "downtime_wire": 0.004, "downtime_pages": 0.001})  # fmt: skip
    take("arrived", {})
    take("not-moved", {"reason": "limit"})
    assert shown.value("wasmsr_moves_total", direction="out") == 1
    assert shown.value("wasmsr_moves_total", direction="in") == 1
    assert shown.value("wasmsr_moves_failed_total", reason="limit") == 1
    assert shown.value("wasmsr_move_raw_bytes_total") == 10_000
    assert shown.value("wasmsr_move_sent_bytes_total") == 900
    assert shown.value("wasmsr_move_rounds_count") == 1
    assert shown.value("wasmsr_move_downtime_seconds_count") == 1
    assert shown.value("wasmsr_move_downtime_part_seconds_count", part="wire") == 1
    assert shown.value("wasmsr_move_dirty_bytes_per_second") == 2048
