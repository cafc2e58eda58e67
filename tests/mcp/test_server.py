"""The server as the official SDK's client sees it, in one process and over HTTP."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the extra wasmsr[mcp] is not installed on this machine")
import anyio
from mcp import Client

from tests.mcp.stand_in import StandInSource
from wasmsr.errors import HostError
from wasmsr.mcp.policy import McpPolicy, PolicyError, SandboxGrant, ServiceLimits, read_policy
from wasmsr.mcp.serving import check_address, serve_http
from wasmsr.mcp.shelf import SandboxShelf, ShelfError
from wasmsr.mcp.tools import make_server
from wasmsr.runspec.address import Address


async def call(client: Any, tool: str, **words: Any) -> Any:
    found = await client.call_tool(tool, words)
    assert not found.is_error, found.content
    data = found.structured_content
    return data["result"] if set(data) == {"result"} else data


def shelf_of(**limits: Any) -> tuple[SandboxShelf, StandInSource, McpPolicy]:
    policy = McpPolicy(service=ServiceLimits(**limits))
    source = StandInSource()
    return SandboxShelf(policy, source), source, policy


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        shelf = SandboxShelf(McpPolicy(), StandInSource())
        with pytest.raises(HostError, match=f"cannot listen on {address}"):
            anyio.run(
                serve_http, make_server(shelf, McpPolicy()), shelf, McpPolicy(), address, print
            )


def test_the_sdks_client_uses_every_tool() -> None:
    shelf, source, policy = shelf_of()

    async def use() -> None:
        async with Client(make_server(shelf, policy)) as client:
            one = (await call(client, "open_sandbox", name="first"))["sandbox"]
            assert (await call(client, "run_code", sandbox=one, code="x = 1; x"))["value"] == "1"
            assert await call(client, "snapshot_sandbox", sandbox=one, name="a") == "a"
            await call(client, "run_code", sandbox=one, code="x = 2")
            (twin,) = await call(client, "fork_sandbox", sandbox=one)
            assert await call(client, "rewind_sandbox", sandbox=one) == "a"
            assert (await call(client, "run_code", sandbox=one, code="x"))["value"] == "1"
            await call(client, "park_sandbox", sandbox=twin["sandbox"])
            assert source.parked
            again = await call(client, "run_code", sandbox=twin["sandbox"], code="print(x)")
            assert again["stdout"] == "2\n"
            await call(client, "put_file", sandbox=one, path="f", base64="/w==")
            assert (await call(client, "get_file", sandbox=one, path="f"))["base64"] == "/w=="
            assert await call(client, "list_files", sandbox=one) == ["f"]
            paused = await call(client, "run_code", sandbox=one, code="spin", seconds=0.05)
            assert paused["status"] == "paused"
            assert (await call(client, "list_sandboxes"))[0]["state"] == "paused"
            on = await call(client, "continue_run", sandbox=one, seconds=0.05)
            assert on["status"] == "paused"
            await call(client, "close_sandbox", sandbox=one)
            wrong = await client.call_tool("run_code", {"sandbox": one, "code": "1"})
            assert wrong.is_error
            assert "there is no sandbox" in wrong.content[0].text
            failed = await client.call_tool(
                "run_code", {"sandbox": twin["sandbox"], "code": "1 / 0"}
            )
            assert failed.is_error
            assert failed.structured_content["error"].startswith("ZeroDivisionError")

    anyio.run(use)


@pytest.mark.full
def test_over_http_a_client_has_its_own_sandboxes_by_its_token() -> None:
    tokens = {name: hashlib.sha256(name.encode()).digest() for name in ("alice", "bob")}
    policy = McpPolicy(clients=tokens, service=ServiceLimits(stall=0.3, message=65536))
    shelf = SandboxShelf(policy, StandInSource())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", free.getsockname()[1])

    async def ask(token: str, body: bytes, complete: bool = True) -> bytes:
        stream = await anyio.connect_tcp(address.host, address.port)
        size = len(body) + (0 if complete else 10)
        head = f"POST /mcp HTTP/1.1\r\nHost: {address}\r\nContent-Length: {size}\r\n"
        head += f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\r\n"
        await stream.send(head.encode() + body)
        answer: bytes = await stream.receive()
        return answer.split(b"\r\n")[0]

    async def use() -> None:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        ready = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(
                serve_http, make_server(shelf, policy), shelf, policy, address, ready.set
            )
            await ready.wait()
            seen = {}
            for name in tokens:
                headers = {"Authorization": f"Bearer {name}"}
                async with httpx2.AsyncClient(headers=headers) as web:
                    transport = streamable_http_client(f"http://{address}/mcp", http_client=web)
                    async with Client(transport) as client:
                        await call(client, "open_sandbox", name=name)
                        seen[name] = [one["name"] for one in await call(client, "list_sandboxes")]
            assert seen == {"alice": ["alice"], "bob": ["bob"]}
            assert b" 401 " in await ask("eve", b"{}")
            assert b" 408 " in await ask("alice", b"{", complete=False)
            assert b" 413 " in await ask("alice", b" " * 70000)
            quiet = await anyio.connect_tcp(address.host, address.port)
            with anyio.fail_after(60), pytest.raises(anyio.EndOfStream):
                await quiet.receive()
            group.cancel_scope.cancel()

    anyio.run(use)


def test_limits_of_the_shelf() -> None:
    shelf, source, _ = shelf_of(sandboxes=2, open=1, file=3)
    first = shelf.open("a", None, "")
    second = shelf.open("a", None, "")
    assert first.parked and not second.parked, "one place in memory: the older one is parked"
    with pytest.raises(ShelfError, match="limit is 2"):
        shelf.open("a", None, "")
    with pytest.raises(ShelfError, match="no sandboxes with"):
        shelf.open("b", "everything", "")
    with pytest.raises(ShelfError, match="there is no sandbox"):
        shelf.run("b", first.id, "1", None)
    with pytest.raises(ShelfError, match="too large"):
        shelf.put("a", first.id, "f", b"1234")
    with pytest.raises(ShelfError, match="at most 60 seconds"):
        shelf.run("a", first.id, "1", 61)
    shelf.close_all()
    assert not source.parked and shelf.listed("a") == []


def test_a_policy_file(tmp_path: Path) -> None:
    file = tmp_path / "mcp.toml"
    file.write_text(
        '[sandbox]\npackages = ["base"]\ninstructions = "1G"\nmounts = ["d::/d::ro"]\n'
        f'[service]\nmessage = "1M"\n[clients]\nalice = "{"0" * 64}"\n'
    )
    policy = read_policy(file)
    assert policy.sandbox == SandboxGrant(
        packages=("base",), instructions=10**9, mounts=policy.sandbox.mounts
    )
    assert policy.sandbox.mounts[0].host == tmp_path / "d"
    assert policy.service.message == 1 << 20
    assert policy.clients == {"alice": bytes(32)}
    check_address(policy, Address("0.0.0.0", 1))
    with pytest.raises(PolicyError, match="other machines"):
        check_address(McpPolicy(), Address("0.0.0.0", 1))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[sandbox]\nsecond = 1", ":2: there is no setting in .sandbox. of the name 'second'; is"),
        ("[services]\nidle = 1", "no table of the name 'services'; is it 'service'"),
        ("[sandbox]\nseconds = -1", "seconds: '-1' is not a positive number"),
        ("[sandbox]\nmounts = ['::']", "not a mount"),
        ("[sandbox]\npackages = []", "is a list of texts"),
        ("[clients]\na = 'x'", "SHA-256"),
        ("[clients", "policy"),
    ],
)
def test_a_wrong_policy_file_is_refused_with_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=problem):
        read_policy(file)
