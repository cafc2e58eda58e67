"""The register of many hosts: keys in etcd 3.4 or later, through its HTTP gateway (etcd3gw).

A record is a key without a lease. Reads are linearizable, so a member that is cut off from the
others does not answer with an old record.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from wasmsr.errors import MissingPackageError
from wasmsr.ownership.failures import RegisterAway, RegisterDamaged
from wasmsr.ownership.record_bytes import NODE_BYTES, RECORD_BYTES
from wasmsr.ownership.register import Unanswered

try:
    import requests
    from etcd3gw.client import Etcd3Client
except ImportError as missing:
    raise MissingPackageError("etcd3gw", "a register in etcd", extra="etcd") from missing

PREFIX = b"/wasmsr/owner/"
"""Before the program's id in hex."""

TIMEOUT = 2.0
"""Seconds that one request may take, from the connection to the last byte."""

ANSWER_BYTES = 4 * RECORD_BYTES
"""Bytes of an answer about one record at most."""

PIECE = 16
"""Bytes read at a time: a service that sends byte after byte cannot keep a caller for long."""

PROGRAMS = 500
"""Programs that one request lists."""

FULL = ("database space exceeded", "too many requests")
"""Answers after which nothing has happened."""


class _BoundedClient(Etcd3Client):  # type: ignore[misc]
    """A client whose requests end after a time, and whose answers have a largest size."""

    def post(self, url: str, *args: Any, json: Any = None, **kwargs: Any) -> Any:
        """Return the answer to a request.

        Raises:
            RegisterAway: Nothing has happened.
            Unanswered: Something may have happened.
        """
        end = time.monotonic() + self.timeout
        try:
            with self.session.post(
                url, *args, json=json, timeout=self.timeout, stream=True, **kwargs
            ) as response:
                body = bytearray()
                for piece in response.iter_content(PIECE):
                    body += piece
                    if len(body) > ANSWER_BYTES:
                        raise Unanswered(f"an answer of more than {ANSWER_BYTES} bytes")
                    if time.monotonic() > end:
                        raise Unanswered(f"the answer takes more than {self.timeout} s")
        except requests.exceptions.RequestException as error:
            if _not_sent(error):
                raise RegisterAway(f"etcd at {self.base_url} cannot be reached") from error
            raise Unanswered(f"etcd at {self.base_url}: {type(error).__name__}") from error
        if response.status_code != 200:
            text = bytes(body[:300]).decode("utf-8", "replace")
            if any(word in text for word in FULL):
                raise RegisterAway(f"etcd at {self.base_url} is full: {text}")
            raise Unanswered(f"etcd at {self.base_url} answers {response.status_code}: {text}")
        return bytes(body)


def _not_sent(error: BaseException) -> bool:
    """Return whether there was no connection, so that nothing can have been sent."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    inner = getattr(error.args[0], "reason", None) if error.args else None
    return type(inner).__name__ in ("NewConnectionError", "NameResolutionError")


class EtcdBackend:
    """Records in etcd."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        timeout: float = TIMEOUT,
        prefix: bytes = PREFIX,
        ca: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        """Use the members of one cluster.

        Args:
            addresses: http://HOST:PORT or https://HOST:PORT of each; the next one is asked when
                one cannot be reached.
            timeout: Seconds that one request may take.
            prefix: What the keys begin with.
            ca: File with the certificates that are trusted.
            certificate: Files with this node's certificate and its key.

        Raises:
            RegisterAway: An address is none.
        """
        self._prefix = prefix
        self._lock = threading.Lock()
        self._clients = [_client(address, timeout, ca, certificate) for address in addresses]
        if not self._clients:
            raise RegisterAway("no address of etcd is given")

    def _ask(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of the first member that can be reached."""
        with self._lock:
            for _ in self._clients:
                client = self._clients[0]
                try:
                    body = client.post(client.get_url(path), data=json.dumps(question))
                    break
                except (RegisterAway, Unanswered) as error:
                    # The next question goes to another member, whatever happened here.
                    self._clients.append(self._clients.pop(0))
                    if isinstance(error, Unanswered):
                        raise
                    away = error
            else:
                raise away
        try:
            answer = json.loads(body)
            if type(answer) is not dict:
                raise ValueError("no object")
        except (ValueError, RecursionError) as error:
            raise RegisterDamaged(f"etcd answers with something that is no JSON: {error}") from None
        return answer

    def _range(self, question: dict[str, Any]) -> dict[str, Any]:
        for again in (True, False):
            try:
                return self._ask("/kv/range", question)
            except Unanswered as error:
                if not again:  # the first try may have met a connection that was closed long ago
                    raise RegisterAway(f"the register does not answer: {error}") from error
        raise AssertionError("one of two tries ends the loop")

    def get(self, program: bytes) -> bytes | None:
        """Return the newest bytes of a program; see `RegisterBackend.get`."""
        key = _text(self._prefix + program.hex().encode())
        found = _values(self._range({"key": key}), 1)
        return found[0][1] if found else None

    def compare_and_swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        """Replace the bytes if they are `old`; see `RegisterBackend.compare_and_swap`."""
        key = _text(self._prefix + program.hex().encode())
        compare: dict[str, Any] = {"key": key, "result": "EQUAL"}
        if old is None:
            compare |= {"target": "VERSION", "version": "0"}
        else:
            compare |= {"target": "VALUE", "value": _text(old)}
        put = {"request_put": {"key": key, "value": _text(new)}}
        try:
            answer = self._ask("/kv/txn", {"compare": [compare], "success": [put], "failure": []})
        except RegisterDamaged as error:
            raise Unanswered(error.message) from error
        done = answer.get("succeeded", False)
        if type(done) is not bool or type(answer.get("header")) is not dict:
            raise Unanswered("etcd answers with something that is no answer to a swap")
        return done

    def programs(self) -> list[bytes]:
        """Return the ids of all programs."""
        found: list[bytes] = []
        start = self._prefix
        end = self._prefix[:-1] + bytes([self._prefix[-1] + 1])
        while True:
            question = {
                "key": _text(start), "range_end": _text(end), "limit": PROGRAMS, "keys_only": True,
            }  # fmt: skip
            keys = [key for key, _ in _values(self._range(question), PROGRAMS)]
            for key in keys:
                try:
                    program = bytes.fromhex(key.removeprefix(self._prefix).decode("ascii"))
                except ValueError:
                    program = b""
                if len(program) != NODE_BYTES or not key.startswith(self._prefix):
                    raise RegisterDamaged("etcd has a key among the records that is none")
                if found and program <= found[-1]:
                    raise RegisterDamaged("etcd lists records out of order")
                found.append(program)
            if len(keys) < PROGRAMS:
                return found
            start = keys[-1] + b"\0"

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._clients:
                client.session.close()


def _client(
    address: str, timeout: float, ca: str | None, certificate: tuple[str, str] | None
) -> _BoundedClient:
    try:
        parts = urlsplit(address)
        port = parts.port or 2379
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise RegisterAway(
            f"not an address of etcd: {address}", hint="give http://HOST:PORT or https://HOST:PORT"
        )
    mine, key = certificate or (None, None)
    client = _BoundedClient(
        parts.hostname, port, parts.scheme, timeout=timeout, api_path="/v3/",
        ca_cert=ca, cert_cert=mine, cert_key=key,
    )  # fmt: skip
    client.session.trust_env = False  # no proxy and no password of the environment
    return client


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _values(answer: dict[str, Any], most: int) -> list[tuple[bytes, bytes]]:
    """Return keys and values of an answer. Raises RegisterDamaged."""
    try:
        found = answer.get("kvs", [])
        if type(answer["header"]) is not dict or type(found) is not list or len(found) > most:
            raise ValueError("no keys")
        return [
            (
                base64.b64decode(one["key"], validate=True),
                base64.b64decode(one.get("value", ""), validate=True),
            )
            for one in found
        ]
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise RegisterDamaged(f"etcd answers with something that is no answer: {error}") from error
