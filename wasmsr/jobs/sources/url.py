"""The sources `url` and `urlDownload`: a file that is fetched by HTTP or HTTPS.

`url` puts the file at its target. `urlDownload` is Bacalhau's: the target is a folder, and the file
in it has the last part of the address as its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from wasmsr.jobs.sources.order import STALL_SECONDS, Fetched, Order
from wasmsr.jobs.sources.remote_files import LimitedFile, explained, file_system, repeated

CONNECT_SECONDS = 30.0
"""Longest time until a connection is there."""

NAMELESS = "download"
"""The name of a file whose address has none."""


def fetch(params: Mapping[str, Any], order: Order) -> Fetched:
    """Fetch a file to `order.place`.

    Raises:
        JobError: The address is none of HTTP, the server refuses or is away, or a limit is reached.
        MissingPackageError: A package is not installed.
    """
    _download(params["URL"].strip(" '\""), order.place, order)
    return Fetched(order.place)


def fetch_into_folder(params: Mapping[str, Any], order: Order) -> Fetched:
    """Fetch a file into the folder `order.place`; see `fetch`."""
    address = params["URL"].strip(" '\"")
    name = unquote(_path_of(address, order).rstrip("/").rpartition("/")[2])
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > 255:
        name = NAMELESS
    with order.written():
        order.place.mkdir()
    _download(address, order.place / name, order)
    return Fetched(order.place)


def _path_of(address: str, order: Order) -> str:
    """Return the path in an address of HTTP. Raises JobError if it is another address."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
        parts.port  # noqa: B018  it raises ValueError for what is no port
    except ValueError:
        host = None
    if not host or parts.scheme.lower() not in ("http", "https"):
        raise order.wrong(
            f"{address[:200]!r} is no address of HTTP", "it begins with http:// or https://"
        )
    return parts.path


def _download(address: str, place: Path, order: Order) -> None:
    _path_of(address, order)
    secret = urlsplit(address).password
    shown = address.replace(f":{secret}@", ":***@") if secret else address
    with explained(order, "fetch", shown):
        import aiohttp  # only for its limits of time

        limits = aiohttp.ClientTimeout(
            total=order.seconds, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS
        )
        # Compressed content would be larger than what the server announces.
        files = file_system(
            "http",
            "an input by HTTP",
            encoded=True,
            use_listings_cache=False,
            client_kwargs={"timeout": limits, "auto_decompress": False},
            headers={"Accept-Encoding": "identity"},
        )

        def act() -> None:
            target = LimitedFile(place, order)
            try:
                with explained(order, "fetch", shown):
                    files.get_file(address, target, callback=_Announced(order))
            finally:
                target.close()
            order.budget.take(target.size, order.what)

        repeated(act)


class _Announced:
    """What fsspec tells of a download: the announced size is checked before anything is read."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def set_size(self, size: int | None) -> None:
        self._order.budget.check(size or 0, self._order.what)

    def relative_update(self, inc: int = 1) -> None:
        pass


__all__ = ["fetch", "fetch_into_folder"]
