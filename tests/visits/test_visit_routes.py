"""The calls of a tab: who is answered, and what bad ones get."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.http.fake_node import FIRST, SECOND
from tests.http.test_node_page import Asked
from wasmsr.errors import FormatError
from wasmsr.node.visits.visit import VisitEnded

KEY = "key-of-this-visit"


class FakeVisit:
    """A visit that notes what it is asked."""

    def __init__(self, parts: Path) -> None:
        self.key, self.parts, self.over = KEY, parts, ""
        self.asked: list[Any] = []

    def admits(self, key: str) -> bool:
        return key == KEY

    def renew(self) -> dict[str, Any]:
        if self.over:
            raise VisitEnded(self.over)
        return {"lease": 10.0, "home": bool(self.asked), "number": 0}

    def take(self, number: int, body: Any, size: int) -> dict[str, Any]:
        data = body.read(size)
        if data == b"bad":
            raise FormatError("it is no state")
        self.asked.append((number, data))
        return self.renew()

    def ask_home(self) -> None:
        self.asked.append("home")

    def end(self, reason: str) -> None:
        self.asked.append(reason)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    made = Asked()
    (tmp_path / "about.json").write_text("{}")
    (tmp_path / "head.gz").write_bytes(gzip.compress(b"head"))
    visit = FakeVisit(tmp_path)
    made.node.visits[FIRST] = visit
    made.visit = visit
    return made


def call(asked: Asked, word: str, method: str = "GET", body: bytes = b"", key: str = KEY) -> Any:
    status, data = asked.raw(
        f"/visits/{FIRST}/{word}",
        method,
        HTTP_AUTHORIZATION=f"Bearer {key}",
        CONTENT_LENGTH=str(len(body)),
        **{"wsgi.input": io.BytesIO(body)},
    )
    return status, data


def test_a_visit_from_its_beginning_to_its_end(asked: Asked) -> None:
    assert asked(f"/programs/{FIRST}/visit", "POST") == (200, {"key": KEY})
    assert call(asked, "about") == (200, b"{}")
    status, data = call(asked, "head")
    assert status == 200 and gzip.decompress(data) == b"head"
    assert asked.headers["Content-Encoding"] == "gzip"
    assert asked.headers["Content-Length"] == str(len(data))
    assert json.loads(call(asked, "lease", "POST")[1])["lease"] == 10.0
    assert call(asked, "state?number=1", "PUT", b"state")[0] == 200
    assert asked.visit.asked == [(1, b"state")]
    assert asked(f"/programs/{FIRST}/return", "POST") == (200, {})
    assert json.loads(call(asked, "lease", "POST")[1])["home"]
    assert call(asked, "end", "POST", b"done\x1b[1m")[0] == 200
    assert "\x1b" not in asked.visit.asked[-1]


def test_the_key_of_the_visit_is_needed_and_opens_nothing_else(asked: Asked) -> None:
    for word, method in (("about", "GET"), ("lease", "POST"), ("state?number=1", "PUT")):
        assert call(asked, word, method, key="wrong")[0] == 401
        assert call(asked, word, method, key="")[0] == 401
    assert asked("/node", HTTP_AUTHORIZATION=f"Bearer {KEY}")[0] == 401
    assert asked(f"/programs/{FIRST}/visit", "POST", HTTP_AUTHORIZATION="")[0] == 401
    assert not asked.visit.asked


@pytest.mark.parametrize(
    ("word", "method", "status"),
    [
        ("state", "PUT", 400),
        ("state?number=-1", "PUT", 400),
        ("state?number=1234567890", "PUT", 400),
        ("state?number=1", "POST", 405),
        ("lease", "GET", 405),
        ("nothing", "GET", 405),
        ("pages", "GET", 410),  # it was removed
    ],
)
def test_bad_calls(asked: Asked, word: str, method: str, status: int) -> None:
    assert call(asked, word, method)[0] == status
    assert "error" in json.loads(call(asked, word, method)[1])


def test_what_is_refused(asked: Asked) -> None:
    assert call(asked, "state?number=1", "PUT", b"bad")[0] == 400
    asked.visit.over = "the lease has ended"
    status, data = call(asked, "lease", "POST")
    assert (status, json.loads(data)["error"]) == (410, "the lease has ended")
    assert asked(f"/visits/{SECOND}/lease", "POST")[0] == 410
    assert asked(f"/programs/{SECOND}/return", "POST")[0] == 409
    path = f"/visits/{FIRST}/lease"
    assert asked(path, "POST", HTTP_AUTHORIZATION=f"Bearer {KEY}", CONTENT_LENGTH="x")[0] == 410
    asked.visit.over = ""
    given = {"HTTP_AUTHORIZATION": f"Bearer {KEY}", "CONTENT_LENGTH": "x"}
    assert asked(f"/visits/{FIRST}/end", "POST", **given)[0] == 400
    assert asked(f"/visits/{FIRST}/end", "POST", HTTP_HOST="stranger.example")[0] == 421
