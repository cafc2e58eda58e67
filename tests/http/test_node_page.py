"""The page's questions: who is answered, and what bad ones get."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.http.fake_node import FIRST, FakeNode
from wasmsr.http.page import program_view
from wasmsr.http.page.node_page import BODY_BYTES, FILES, NodePage
from wasmsr.node import limited_process
from wasmsr.node.failures import NodeError
from wasmsr.runspec.address import Address

TOKEN = "right-token-of-this-node"


class Asked:
    """A page, and the answers to questions."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.node = FakeNode()
        self.refused: list[tuple[str, str]] = []
        self.page = NodePage(
            self.node,
            TOKEN.encode(),
            Address(host, 1),
            lambda error, who: self.refused.append((error.rule, who)),
        )
        self.headers: dict[str, str] = {}

    def raw(self, path: str, method: str = "GET", **more: Any) -> tuple[int, bytes]:
        path, _, query = path.partition("?")
        environ = {
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": method,
            "REMOTE_ADDR": "192.0.2.1",
            "HTTP_HOST": "localhost:1",
            "HTTP_AUTHORIZATION": f"Bearer {TOKEN}",
            "wsgi.input": io.BytesIO(),
            **more,
        }
        said: list[str] = []

        def start(status: str, headers: list[tuple[str, str]]) -> None:
            said.append(status)
            self.headers = dict(headers)

        body = b"".join(self.page(environ, start))
        return int(said[0][:3]), body

    def __call__(self, path: str, method: str = "GET", **more: Any) -> tuple[int, Any]:
        status, body = self.raw(path, method, **more)
        return status, json.loads(body)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_the_files_need_no_token_and_have_a_strict_policy(asked):
    for path in FILES:
        status, body = asked.raw(path, HTTP_AUTHORIZATION="")
        assert status == 200 and body
        assert int(asked.headers["Content-Length"]) == len(body)
        policy = asked.headers["Content-Security-Policy"]
        compiles = "'wasm-unsafe-eval'" if path == "/visit.js" else ""
        assert "default-src 'none'" in policy and "unsafe" not in policy.replace(compiles, "")
        assert asked.headers["X-Content-Type-Options"] == "nosniff"
    assert asked.raw("/", "HEAD") == (200, b"")


def test_the_files_have_nothing_inline_and_nothing_from_elsewhere(asked):
    html = asked.raw("/")[1].decode()
    assert "<style" not in html and "<script>" not in html and " style=" not in html
    assert "onclick" not in html and "http://" not in html and "https://" not in html
    script = asked.raw("/page.js")[1].decode()
    assert not any(word in script for word in ("innerHTML", "eval(", "http:", "https:"))


def test_everything_else_needs_the_token(asked):
    for path in ("/node", f"/programs/{FIRST}", f"/programs/{FIRST}/output"):
        assert asked(path)[0] == 200
        assert asked(path, HTTP_AUTHORIZATION="")[0] == 401
    assert asked.refused == []
    assert asked(f"/programs/{FIRST}/pause", "POST", HTTP_AUTHORIZATION="Bearer no")[0] == 401
    assert asked.node.acts == [] and asked.refused == [("token", "192.0.2.1")]
    for _ in range(8):
        asked("/node", HTTP_AUTHORIZATION="Bearer no")
    status, found = asked("/node")
    assert status == 401 and "too many wrong tokens" in found["error"]


def test_another_sites_name_does_not_lead_here(asked):
    assert asked("/node", HTTP_HOST="evil.example:1")[0] == 421
    assert asked.raw("/", HTTP_HOST="evil.example")[0] == 421
    for host in ("localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:1"):
        assert asked("/node", HTTP_HOST=host)[0] == 200
    assert Asked("192.0.2.9")("/node", HTTP_HOST="node.example")[0] == 200


def test_programs_orders_and_errors(asked):
    status, found = asked("/node")
    assert status == 200 and found["programs"][0]["name"] == "counter"
    assert asked(f"/programs/{FIRST}")[1]["frames"][0]["index"] == 7
    assert asked(f"/programs/{FIRST}/pause", "POST")[1]["standing"] == "paused"
    assert asked(f"/programs/{FIRST}/checkpoint", "POST") == (
        409,
        {"error": "the disk is full", "hint": "make room"},
    )
    assert asked.node.acts == [(FIRST, "pause"), (FIRST, "checkpoint")]
    assert asked(f"/programs/{'0' * 32}")[0] == 409


def order(asked: Asked, body: bytes) -> tuple[int, Any]:
    """Give the order to move a program."""
    words = {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    return asked(f"/programs/{FIRST}/migrate", "POST", **words)


def test_an_order_to_move(asked):
    status, found = order(asked, b'{"to": "b.example:50051"}')
    assert status == 200 and found["move"]["peer"] == "b.example:50051"
    assert asked.node.acts == [(FIRST, "migrate b.example:50051")]
    status, found = order(asked, b'{"to": "nowhere"}')
    assert status == 409 and found["hint"] == "give HOST:PORT"


@pytest.mark.parametrize("body", [b"", b"x", b"7", b"{}", b'{"to": 5}', b"[" * 4000, b"\xff"])
def test_an_order_to_move_that_is_none(asked, body):
    assert order(asked, body)[0] == 400
    assert asked.node.acts == []


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/etc/passwd", "GET", 404),
        ("/page.html", "GET", 404),
        ("/../page.js", "GET", 404),
        ("/programs/", "GET", 404),
        ("/programs/xyz", "GET", 404),
        (f"/programs/{FIRST}/explode", "POST", 405),
        (f"/programs/{FIRST}/pause", "GET", 405),
        (f"/programs/{FIRST}/migrate", "GET", 405),
        (f"/programs/{FIRST}", "DELETE", 405),
        ("/node", "POST", 404),
        (f"/programs/{FIRST}/output?offset=x", "GET", 400),
        (f"/programs/{FIRST}/output?offset=" + "9" * 30, "GET", 400),
        (f"/programs/{FIRST}/output?stream=passwd", "GET", 400),
        (f"/programs/{FIRST}/output?" + "a=b&" * 500, "GET", 200),
    ],
)
def test_what_is_not_there(asked, path, method, status):
    assert asked(path, method)[0] == status
    assert asked.node.acts == []


@pytest.mark.parametrize("length", [str(BODY_BYTES + 1), "-1", "x", "9" * 20])
def test_long_orders_are_refused_before_they_are_read(asked, length):
    status, _ = asked(f"/programs/{FIRST}/pause", "POST", CONTENT_LENGTH=length)
    assert status == 413 and asked.node.acts == []


def test_output_by_offsets(asked):
    path = f"/programs/{FIRST}/output"
    assert asked(f"{path}?offset=0")[1] == {"offset": 0, "next": 14, "text": "line 1\nline 2\n"}
    assert asked(f"{path}?offset=-7")[1] == {"offset": 7, "next": 14, "text": "line 2\n"}
    assert asked(f"{path}?offset=14")[1]["text"] == ""
    asked.node.written[FIRST] = "é€".encode()[:-1]
    assert asked(f"{path}?offset=0")[1] == {"offset": 0, "next": 2, "text": "é"}
    assert asked(f"{path}?stream=stderr")[1]["text"] == "error\n"


def test_a_view_of_a_program_is_given_out_once(asked: Asked) -> None:
    status, found = asked(f"/programs/{FIRST}/view", "POST")
    assert status == 200 and re.fullmatch(r"/view/[A-Za-z0-9_-]{32}", found["path"])
    assert asked(found["path"], "POST")[0] == 405
    status, body = asked.raw(found["path"], HTTP_AUTHORIZATION="")
    assert status == 200 and b"a copy" in body
    assert asked.headers["Content-Type"] == "text/html; charset=windows-1252"
    policy = asked.headers["Content-Security-Policy"]
    assert policy == "sandbox allow-scripts allow-forms; frame-ancestors 'none'"
    assert asked.headers["Cache-Control"] == "no-store"
    # HTML: with an opener policy, a page in a sandbox is a network error.
    assert "Cross-Origin-Opener-Policy" not in asked.headers
    assert asked.headers["Referrer-Policy"] == "no-referrer"
    assert asked(found["path"])[0] == 404
    assert asked("/view/" + "A" * 32)[0] == 404
    assert asked(f"/programs/{FIRST}/view", "POST", HTTP_AUTHORIZATION="")[0] == 401
    assert asked(f"/programs/{FIRST}/view")[0] == 405
    assert asked(f"/programs/{'9' * 32}/view", "POST")[0] == 409


def test_tickets_end_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    tickets = program_view.ViewTickets()
    given = [tickets.give(bytes([number])) for number in range(program_view.MOST + 1)]
    assert tickets.take(given[0]) is None and tickets.take(given[1]) == b"\1"
    now = program_view.time.monotonic()
    monkeypatch.setattr(program_view.time, "monotonic", lambda: now + program_view.LIVES + 1)
    assert tickets.take(given[2]) is None


def test_a_page_that_nobody_fetches_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be large, and perhaps nobody comes any more."""
    monkeypatch.setattr(program_view, "LIVES", 0.001)
    tickets = program_view.ViewTickets()
    tickets.give(b"a page")
    deadline = time.monotonic() + 30
    while tickets._pages:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_page_is_made_at_a_time() -> None:
    with program_view.one_at_a_time():
        with pytest.raises(NodeError, match="made ready for a browser") as caught:
            program_view.one_at_a_time().__enter__()
        assert caught.value.hint
    with program_view.one_at_a_time():
        pass


@pytest.mark.full
def test_a_page_takes_no_more_memory_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited_process, "MEMORY", 1 << 20)
    with pytest.raises(NodeError) as caught:
        program_view.page_of(io.BytesIO(b"no snapshot"), tmp_path)
    assert "this is not a snapshot" not in caught.value.message
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_a_page_that_cannot_be_made_has_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"^program\.bin: this is not a snapshot") as caught:
        program_view.page_of(io.BytesIO(b"no snapshot"), tmp_path)
    assert "\n" not in caught.value.message and not list(tmp_path.iterdir())
