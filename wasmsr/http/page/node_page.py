"""The page of a node, and the questions that it asks: a WSGI application (PEP 3333).

`GET /` and the two files beside it are for everybody who reaches the address; they hold nothing.
Everything else needs the token, in the header that RFC 6750, section 2.1, has for it. A page of
another site can then ask nothing, because a browser does not add that header by itself.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any, Protocol
from urllib.parse import parse_qs

from wasmsr.errors import WasmsrError
from wasmsr.http.page.program_view import ViewTickets
from wasmsr.http.page.visit_routes import PATH, VisitRoutes
from wasmsr.node.failures import WrongState
from wasmsr.node.security.failures import AccessRefused
from wasmsr.node.security.tokens import TokenCheck
from wasmsr.node.visits.visit import BrowserVisit
from wasmsr.runspec.address import Address

VERBS = ("pause", "resume", "checkpoint", "kill")
"""What a person can do to a program."""
PIECE = 1 << 16
"""Most bytes of output in one answer."""
BODY_BYTES = 4096
"""Most bytes of a request."""

SCRIPT = "text/javascript; charset=utf-8"
VISIT_SCRIPT = "/visit.js"
MACHINE = "wasmsr.snapshot.page"
FILES = {
    "/": (__package__, "page.html", "text/html; charset=utf-8"),
    "/page.css": (__package__, "page.css", "text/css; charset=utf-8"),
    "/page.js": (__package__, "page.js", SCRIPT),
    VISIT_SCRIPT: (__package__, "visit.js", SCRIPT),
    "/machine.js": (MACHINE, "machine.js", SCRIPT),
    "/hostcalls.js": (MACHINE, "hostcalls.js", SCRIPT),
    "/machine.wasm": (MACHINE, "machine.wasm", "application/wasm"),
}
"""Path: package, file in it, and its type."""

HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "worker-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]
"""Headers of every answer."""

VISIT_HEADERS = [
    ("Content-Security-Policy",
     "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'"),
    *HEADERS[1:],
]  # fmt: skip
"""Headers of the script that runs a program in a worker: it alone may compile WebAssembly."""

VIEW_HEADERS = [
    ("Content-Security-Policy", "sandbox allow-scripts allow-forms; frame-ancestors 'none'"),
    *(one for one in HEADERS[1:] if one[0] != "Cross-Origin-Opener-Policy"),
]
"""Headers of the page of a program. It has a policy of its own too; the sandbox gives it an origin
of its own, so that it cannot reach the token of the page of the node. With a sandbox, a browser
must refuse a page that has an opener policy too (HTML, "create navigation params by fetching")."""
VIEW_TYPE = "text/html; charset=windows-1252"

_VIEW = re.compile(r"/view/([A-Za-z0-9_-]{32})")
_PROGRAM = re.compile(r"/programs/([0-9a-f]{1,32})(?:/([a-z]+))?")


class PageSource(Protocol):
    """What the page asks of a node."""

    def about(self) -> Mapping[str, Any]:
        """Return what is known of the node."""

    def programs(self) -> list[Mapping[str, Any]]:
        """Return all programs as `wasmsr ps --json` has them."""

    def inspect(self, program: str) -> Mapping[str, Any]:
        """Return everything about a program, with its call stack. Raises WasmsrError."""

    def output(self, program: str, stream: str, offset: int, most: int) -> tuple[int, bytes]:
        """Return output from an offset on, and where it begins. Raises WasmsrError."""

    def migrate(self, program: str, address: str) -> Mapping[str, Any]:
        """Begin to move a program, and return it. Raises WasmsrError."""

    def view(self, program: str) -> bytes:
        """Return a page that shows a program and runs a copy of it. Raises WasmsrError."""

    def lend(self, program: str) -> BrowserVisit:
        """Let a browser run a program for a while. Raises WasmsrError."""

    def visit(self, program: str) -> BrowserVisit | None:
        """Return the visit of a program that a browser runs, or None."""

    def act(self, program: str, verb: str) -> Mapping[str, Any]:
        """Do one of `VERBS`, and return the program. Raises WasmsrError."""


class _Answer(Exception):
    """Ends a request with a status and a value."""

    def __init__(self, status: str, value: Any) -> None:
        super().__init__(status)
        self.status = status
        self.value = value


class NodePage:
    """The application. Any thread may call it."""

    def __init__(
        self,
        source: PageSource,
        token: bytes,
        address: Address,
        refused: Callable[[AccessRefused, str], None] = lambda error, host: None,
    ) -> None:
        """Make the page of a node.

        Args:
            source: The node.
            token: The token of people who may see the node and give orders.
            address: Where the page is served. On loopback, requests for another host's name are
                refused, so that no other site's name can lead here (DNS rebinding).
            refused: Hears of each refusal, with the caller's host.
        """
        self._source = source
        self._token = TokenCheck(token)
        self._address = address
        self._refused = refused
        self._tickets = ViewTickets()
        self._visits = VisitRoutes(source.visit, HEADERS)

    def __call__(self, environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path, method = environ.get("PATH_INFO", "/"), environ.get("REQUEST_METHOD", "GET")
        kind, common = "application/json", HEADERS
        try:
            self._check_host(environ.get("HTTP_HOST", ""))
            if (match := PATH.fullmatch(path)) is not None:
                return self._visits(match, environ, start)
            if path in FILES and method in ("GET", "HEAD"):
                package, name, kind = FILES[path]
                common = VISIT_HEADERS if path == VISIT_SCRIPT else HEADERS
                status, body = "200 OK", _file(package, name)
            elif (match := _VIEW.fullmatch(path)) is not None:
                body = self._viewed(match[1], method)
                status, kind, common = "200 OK", VIEW_TYPE, VIEW_HEADERS
            else:
                self._check_token(environ)
                found = self._answer(path, method, environ)
                status, body = "200 OK", json.dumps(found).encode()
        except _Answer as answer:
            status, body = answer.status, json.dumps(answer.value).encode()
        headers = [*common, ("Content-Type", kind), ("Content-Length", str(len(body)))]
        start(status, headers)
        return [b"" if method == "HEAD" else body]

    def _viewed(self, ticket: str, method: str) -> bytes:
        if method != "GET":
            raise _Answer("405 Method Not Allowed", {"error": f"{method} is not for this"})
        page = self._tickets.take(ticket)
        if page is None:
            raise _Answer(
                "404 Not Found",
                {
                    "error": "this page was fetched before, or is too old",
                    "hint": "the page of the node makes a new one",
                },
            )
        return page

    def _check_host(self, host: str) -> None:
        if not self._address.is_loopback:
            return
        name = re.sub(r":\d+$", "", host).strip("[]").lower()
        if name not in ("localhost", "127.0.0.1", "::1", self._address.host.lower()):
            raise _Answer("421 Misdirected Request", {"error": "this is the page of another host"})

    def _check_token(self, environ: Mapping[str, Any]) -> None:
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        host = str(environ.get("REMOTE_ADDR", ""))
        token = given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        try:
            self._token.admit(host, token)
        except AccessRefused as error:
            if given:  # the first question of a page has none
                self._refused(error, host)
            raise _Answer(
                "401 Unauthorized", {"error": error.message, "hint": error.hint or ""}
            ) from None

    def _answer(self, path: str, method: str, environ: Mapping[str, Any]) -> Any:
        try:
            if path == "/node" and method == "GET":
                return {**self._source.about(), "programs": list(self._source.programs())}
            match = _PROGRAM.fullmatch(path)
            if match is None:
                raise _Answer("404 Not Found", {"error": "there is nothing here"})
            program, word = match[1], match[2]
            if word is None and method == "GET":
                return self._source.inspect(program)
            if word == "output" and method == "GET":
                return self._output(program, parse_qs(environ.get("QUERY_STRING", "")))
            if word == "view" and method == "POST":
                _body(environ)
                return {"path": f"/view/{self._tickets.give(self._source.view(program))}"}
            if word == "visit" and method == "POST":
                _body(environ)
                return {"key": self._source.lend(program).key}
            if word == "return" and method == "POST":
                _body(environ)
                return self._returns(program)
            if word in VERBS and method == "POST":
                _body(environ)
                return self._source.act(program, word)
            if word == "migrate" and method == "POST":
                return self._source.migrate(program, _address(_body(environ)))
        except WasmsrError as error:
            raise _Answer(
                "409 Conflict", {"error": error.message, "hint": error.hint or ""}
            ) from None
        except OSError as error:
            raise _Answer(
                "500 Internal Server Error", {"error": error.strerror or str(error)}
            ) from None
        raise _Answer("405 Method Not Allowed", {"error": f"{method} is not for this"})

    def _returns(self, program: str) -> Mapping[str, Any]:
        visit = self._source.visit(program)
        if visit is None:
            raise WrongState("no browser runs this program")
        visit.ask_home()
        return {}

    def _output(self, program: str, query: Mapping[str, list[str]]) -> Mapping[str, Any]:
        stream = query.get("stream", ["stdout"])[0]
        text = query.get("offset", ["0"])[0]
        if stream not in ("stdout", "stderr") or not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
            raise _Answer("400 Bad Request", {"error": "no such stream or offset"})
        begins, data = self._source.output(program, stream, int(text), PIECE)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        shown = decoder.decode(data)
        # The first bytes of a character whose others are not there yet are asked for again.
        return {"offset": begins, "next": begins + len(data) - len(decoder.getstate()[0]),
            "text": shown}  # fmt: skip


def _body(environ: Mapping[str, Any]) -> bytes:
    length = environ.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch(r"\d{1,9}", length, re.ASCII) or int(length) > BODY_BYTES:
        raise _Answer("413 Content Too Large", {"error": "an order is shorter"})
    body: bytes = environ["wsgi.input"].read(int(length))
    return body


def _address(body: bytes) -> str:
    """Return the address in an order to move a program: `{"to": "HOST:PORT"}`."""
    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
        order = None
    if not isinstance(order, dict) or not isinstance(order.get("to"), str):
        raise _Answer("400 Bad Request", {"error": "an order to move names the node: to"})
    return str(order["to"])


def _file(package: str, name: str) -> bytes:
    return resources.files(package).joinpath(name).read_bytes()
