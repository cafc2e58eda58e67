"""The REST interface of an orchestrator: what runs where, as JSON.

`GET /api/runtimes/`, `/api/modules/`, `/api/queued/`, and `/api/runtimes/QUERY/` and
`/api/modules/QUERY/` for one of them. What is not there is 404, also as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wasmsr.fleet.failures import FleetError, NotInFleet
from wasmsr.fleet.orchestrator import views
from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.http.bounded_server import BoundedServer
from wasmsr.runspec.address import Address

LISTS: Mapping[str, Callable[[FleetList], dict[str, Any]]] = {
    "runtimes": views.list_runtimes,
    "modules": views.list_modules,
    "queued": views.list_queued,
}
ROWS: Mapping[str, Callable[[FleetList, str], dict[str, Any]]] = {
    "runtimes": views.show_runtime,
    "modules": views.show_module,
}


class FleetApi:
    """The interface as a WSGI application (PEP 3333)."""

    def __init__(self, fleet: FleetList) -> None:
        self._fleet = fleet

    def __call__(self, environ: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        status, body = self._answer(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
        data = json.dumps(body).encode()
        start(
            status,
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(data))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
            ],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]

    def _answer(self, method: str, path: str) -> tuple[str, Any]:
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", {"error": "this interface only answers questions"}
        parts = path.strip("/").split("/")
        try:
            # WSGI has the bytes of a path as Latin-1.
            parts = [part.encode("latin-1").decode() for part in parts]
            if len(parts) == 2 and parts[0] == "api" and parts[1] in LISTS:
                return "200 OK", LISTS[parts[1]](self._fleet)
            if len(parts) == 3 and parts[0] == "api" and parts[1] in ROWS:
                return "200 OK", ROWS[parts[1]](self._fleet, parts[2])
        except UnicodeError:
            pass
        except NotInFleet as error:
            return "404 Not Found", {"error": error.message, "hint": error.hint}
        except FleetError as error:
            return "500 Internal Server Error", {"error": error.message, "hint": error.hint}
        return "404 Not Found", {"error": "there is nothing of that name", "hint": "/api/runtimes/"}


def serve_fleet(fleet: FleetList, address: Address) -> BoundedServer:
    """Serve the list of a fleet at an address.

    Raises:
        HostError: The address cannot be used.
    """
    return BoundedServer(FleetApi(fleet), address, "--http")
