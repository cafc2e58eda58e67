"""What a browser asks while it runs a program of the node. Part of the application of `node_page`.

    GET  /visits/PROGRAM/about, head, pages    what it gets
    PUT  /visits/PROGRAM/state?number=N        a state with the output since the last one
    POST /visits/PROGRAM/lease                 may it go on?
    POST /visits/PROGRAM/end                   it runs the program no more; the body says why

Each call has the key of the visit in the header that RFC 6750, section 2.1, has for it. The key
came in the answer to the order that began the visit, which needs the token of the node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from wasmsr.errors import FormatError, WasmsrError, printable
from wasmsr.node.visits.visit import BrowserVisit, VisitEnded

PATH = re.compile(r"/visits/([0-9a-f]{32})/([a-z]+)")
FILES = {
    "about": ("about.json", "application/json"),
    "head": ("head.gz", "application/octet-stream"),
    "pages": ("pages.gz", "application/octet-stream"),
}
"""Word: file of the visit, and its type."""
PIECE = 1 << 18
LONGEST_REASON = 300
"""Bytes of a reason."""


class VisitRoutes:
    """The calls of browsers that run programs. Any thread may call it."""

    def __init__(
        self, find: Callable[[str], BrowserVisit | None], headers: list[tuple[str, str]]
    ) -> None:
        """Make it.

        Args:
            find: Returns the visit of a program, by its id.
            headers: Headers of each answer.
        """
        self._find, self._headers = find, headers

    def __call__(
        self, match: re.Match[str], environ: Mapping[str, Any], start: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request whose path `PATH` matches."""
        method, word = environ.get("REQUEST_METHOD", "GET"), match[2]
        try:
            visit = self._admitted(match[1], environ)
            if word in FILES and method == "GET":
                return self._file(visit, word, start)
            found = self._answer(visit, word, method, environ)
            status = "200 OK"
        except _Refused as refused:
            status, found = refused.status, {"error": str(refused)}
        except VisitEnded as error:
            status, found = "410 Gone", {"error": error.message}
        except FormatError as error:
            status, found = "400 Bad Request", {"error": error.message}
        except WasmsrError as error:
            status, found = "409 Conflict", {"error": error.message, "hint": error.hint or ""}
        except OSError as error:
            status, found = "500 Internal Server Error", {"error": error.strerror or str(error)}
        body = json.dumps(found).encode()
        head = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start(status, [*self._headers, *head])
        return [body]

    def _admitted(self, program: str, environ: Mapping[str, Any]) -> BrowserVisit:
        scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        visit = self._find(program)
        if visit is None:
            raise VisitEnded("the program is not lent any more")
        if scheme.lower() != "bearer" or not visit.admits(key.strip()):
            raise _Refused("401 Unauthorized", "this is not the key of the visit")
        return visit

    def _file(self, visit: BrowserVisit, word: str, start: Callable[..., Any]) -> Iterable[bytes]:
        name, kind = FILES[word]
        path = visit.parts / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise VisitEnded("the program was fetched before") from None
        head = [("Content-Type", kind), ("Content-Length", str(size))]
        if name.endswith(".gz"):
            head.append(("Content-Encoding", "gzip"))
        start("200 OK", [*self._headers, *head])
        return _pieces(path)

    def _answer(
        self, visit: BrowserVisit, word: str, method: str, environ: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        if (word, method) == ("state", "PUT"):
            number = parse_qs(environ.get("QUERY_STRING", "")).get("number", [""])[0]
            if not re.fullmatch(r"\d{1,9}", number, re.ASCII):
                raise FormatError("a state has a number")
            return visit.take(int(number), environ["wsgi.input"], _length(environ))
        if (word, method) == ("lease", "POST"):
            return visit.renew()
        if (word, method) == ("end", "POST"):
            size = min(_length(environ), LONGEST_REASON)
            reason = environ["wsgi.input"].read(size).decode("utf-8", "replace")
            visit.end(printable(reason) or "it has ended there")
            return {}
        raise _Refused("405 Method Not Allowed", f"{method} is not for this")


class _Refused(Exception):
    """Ends a request with a status."""

    def __init__(self, status: str, said: str) -> None:
        super().__init__(said)
        self.status = status


def _length(environ: Mapping[str, Any]) -> int:
    length = environ.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch(r"\d{1,12}", length, re.ASCII):
        raise FormatError("the length of the request is no number")
    return int(length)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
