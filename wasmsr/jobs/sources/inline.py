"""The source `inline`: data in the job file itself, as a data URL (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from wasmsr.errors import WasiConfigError
from wasmsr.jobs.sources.order import Fetched, Order
from wasmsr.wasi.filesystem import archives

ARCHIVES = {
    "application/gzip",
    "application/x-gzip",
    "application/gtar",
    "application/x-gtar",
    "application/tar",
    "application/tar+gzip",
    "application/x-tar",
    "application/x-compressed-tar",
}
"""Media types of archives, which are unpacked. Bacalhau unpacks `application/gzip`."""

GZIP, USTAR, USTAR_AT = b"\x1f\x8b", b"ustar", 257
"""How a gzip stream begins, and where in a tar archive which word is (POSIX.1, pax)."""

NO_ARCHIVE = (
    "an archive is a tar file, with gzip or without; data that is none has another type, such as "
    "text/plain"
)
"""What to do about data that cannot be unpacked."""


def fetch(params: Mapping[str, Any], order: Order) -> Fetched:
    """Write the data to a file, or unpack an archive into a folder.

    Raises:
        JobError: It is no data URL, a damaged archive, or larger than the limit.
    """
    media, data = read_data_url(params["URL"], order)
    if media not in ARCHIVES:
        order.budget.take(len(data), order.what)
        with order.written():
            order.place.write_bytes(data)
        return Fetched(order.place)
    if not data.startswith(GZIP) and data[USTAR_AT : USTAR_AT + len(USTAR)] != USTAR:
        raise order.wrong(f"its type is {media}, but its data is no tar archive", NO_ARCHIVE)
    archive = order.place.with_name(order.place.name + ".archive")
    with order.written():
        archive.write_bytes(data)
    try:
        unpack(archive, order)
    finally:
        archive.unlink(missing_ok=True)
    return Fetched(order.place)


def unpack(archive: Path, order: Order) -> None:
    """Unpack an archive into the folder `order.place`, which is made.

    Raises:
        JobError: It is damaged or hostile, or its content is larger than the limit.
    """
    try:
        size = archives.measure(archive, order.budget.left)
        order.budget.take(size, order.what)
        with order.written():
            order.place.mkdir()
            root = os.open(order.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            archives.unpack(archive, root, size)
        finally:
            os.close(root)
    except WasiConfigError as error:
        cause = error.message.replace(f"the archive {archive}", "the archive")
        cause = cause.replace(str(archive), "its data")
        hint = NO_ARCHIVE
        if "holds more than" in cause:
            hint = "Resources.Disk limits what inputs hold"
        elif "leads out of" in cause:
            hint = "the paths in an archive are relative, without .."
        raise order.wrong(cause, hint) from None


def read_data_url(text: str, order: Order) -> tuple[str, bytes]:
    """Return media type and data of a data URL.

    Raises:
        JobError: It is none.
    """
    head, comma, body = text.strip().partition(",")
    scheme, colon, rest = head.partition(":")
    if not comma or not colon or scheme.lower() != "data":
        raise order.wrong(
            f"{text[:40]!r} is no data URL", "a data URL is data:[TYPE][;base64],DATA"
        )
    words = [word.strip() for word in rest.split(";")]
    data = unquote_to_bytes(body)
    if "base64" in (word.lower() for word in words[1:]):
        plain = data.translate(bytes.maketrans(b"-_", b"+/"), b"\r\n \t").rstrip(b"=")
        try:
            data = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise order.wrong("the data of its URL is no Base64") from None
    return words[0].lower() or "text/plain", data


__all__ = ["ARCHIVES", "fetch", "read_data_url", "unpack"]
