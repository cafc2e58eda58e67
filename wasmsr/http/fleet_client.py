"""Asks an orchestrator over its REST interface; see `fleet_api`. Works with a peer's, too."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from wasmsr.errors import HostError
from wasmsr.fleet.failures import NotInFleet
from wasmsr.runspec.address import Address

LARGEST: Final = 64 << 20
"""Bytes of an answer."""
SECONDS: Final = 10.0


class FleetClient:
    """The questions.

    Args:
        address: Where the orchestrator answers.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def rows(self, what: str) -> list[dict[str, Any]]:
        """Return a list: `runtimes`, `modules` or `queued`.

        Raises:
            HostError: The orchestrator does not answer.
        """
        found = self._ask(f"{what}/")
        results = found.get("results")
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise self._strange("its list is none")
        return results

    def row(self, what: str, query: str) -> dict[str, Any]:
        """Return one of `runtimes` or `modules`, by UUID, name, or last digits of the UUID.

        Raises:
            NotInFleet: There is none, or more than one.
            HostError: The orchestrator does not answer.
        """
        return self._ask(f"{what}/{urllib.parse.quote(query, safe='')}/", query)

    def _ask(self, path: str, query: str = "") -> dict[str, Any]:
        url = f"http://{self._address}/api/{path}"
        try:
            with self._open(url, timeout=SECONDS) as answer:
                data = answer.read(LARGEST + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, query) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise HostError(
                f"no orchestrator answers at {self._address}: {reason}",
                hint="start one with `wasmsr orchestrator`, or say with --http where it is",
            ) from None
        if len(data) > LARGEST:
            raise self._strange("its answer is too long")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._strange("its answer is no JSON object")
        return found

    def _refusal(self, error: urllib.error.HTTPError, query: str) -> Exception:
        if error.code != 404 or not query:
            return self._strange(f"HTTP {error.code}")
        try:
            said = json.loads(error.read(LARGEST))
            return NotInFleet(str(said["error"]), hint=said.get("hint") and str(said["hint"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return NotInFleet(f"the orchestrator does not know {query!r}")

    def _strange(self, why: str) -> HostError:
        return HostError(
            f"what answers at {self._address} is no orchestrator: {why}",
            hint="say with --http where it is",
        )
