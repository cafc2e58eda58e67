"""The source `s3`: objects of a store that speaks the protocol of Amazon S3.

The target is a folder, as with Bacalhau. An object in it is named by its key, without what comes
before the last `/` of the key that the job names. Credentials are those of the machine, as Amazon's
tools find them: variables, files, the role of a server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wasmsr.jobs.sources.order import STALL_SECONDS, Fetched, Order
from wasmsr.jobs.sources.remote_files import LimitedFile, explained, file_system, repeated

OBJECTS = 1 << 16
"""Most objects of one input."""

PIECE = 8 << 20
"""Bytes that are read at once."""

FILTER_SECONDS = 5.0
"""Longest time in which a job's regular expression is compared with all keys."""

_FILTER = """
import json, re, sys
pattern, names = json.load(sys.stdin)
try:
    wanted = re.compile(pattern).search
except re.error as error:
    sys.exit(str(error))
json.dump([name for name in names if wanted(name)], sys.stdout)
"""


def s3_files(params: Mapping[str, Any], **settings: Any) -> Any:
    """Return fsspec's file system for the end point and the region of a source or publisher.

    Raises:
        MissingPackageError: A package is not installed.
    """
    client: dict[str, Any] = {}
    if params.get("Region"):
        client["region_name"] = params["Region"]
    return file_system(
        "s3",
        "an input or result in S3",
        endpoint_url=params.get("Endpoint") or None,
        client_kwargs=client,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": 30,
            "read_timeout": STALL_SECONDS,
            "retries": {"max_attempts": 2},
        },
        **settings,
    )


def fetch(params: Mapping[str, Any], order: Order) -> Fetched:
    """Fetch objects into the folder `order.place`.

    Raises:
        JobError: The bucket or the key is not there, the service refuses or is away, a name or a
            checksum is wrong, or a limit is reached.
        MissingPackageError: A package is not installed.
    """
    bucket, key = params["Bucket"], params.get("Key", "").lstrip("/")
    where = f"s3://{bucket}/{key}"
    version = params.get("VersionID") or None
    with explained(order, "read", where):
        files = s3_files(params, version_aware=version is not None)
        found = list(_objects(files, params, bucket, key, order))
        if not found:
            raise order.wrong(f"there is no {where}")
        order.budget.check(sum(size for _, size in found), order.what)
    prefix = key.rstrip("*").rpartition("/")[0]
    with order.written():
        order.place.mkdir()
    for name, size in found:
        below = name[len(prefix) + 1 :] if prefix else name
        if below.endswith("/") or not below:
            continue  # what browsers of S3 show as a folder
        place = _place(order, below)
        with order.written():
            place.parent.mkdir(parents=True, exist_ok=True)
        repeated(lambda name=name, place=place, size=size: _get(  # type: ignore[misc]
            files, f"{bucket}/{name}", version, place, size, order
        ))  # fmt: skip
        if params.get("ChecksumSHA256"):
            _check(place, params["ChecksumSHA256"], order)
    return Fetched(order.place)


def _place(order: Order, below: str) -> Path:
    """Return the place of an object; its key is what a stranger has chosen."""
    parts = below.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
        raise order.wrong(f"the key {below[:200]!r} is no path of a file")
    return order.place.joinpath(*parts)


def _objects(
    files: Any, params: Mapping[str, Any], bucket: str, key: str, order: Order
) -> Iterator[tuple[str, int]]:
    """Yield key and size of each object that is wanted."""
    if key and not key.endswith(("*", "/")):
        version = params.get("VersionID") or None
        try:
            info = files.info(f"{bucket}/{key}", version_id=version)
        except FileNotFoundError:
            return
        if info["type"] == "file":
            yield key, int(info["size"])
            return
        key += "/"
    start = key.rstrip("*")
    folder, _, last = start.rpartition("/")
    listed = files.find(f"{bucket}/{folder}", detail=True, prefix=last)
    sizes = {
        path[len(bucket) + 1 :]: int(info["size"])
        for path, info in listed.items()
        if info["type"] == "file" and path[len(bucket) + 1 :].startswith(start)
    }
    names = sorted(sizes)
    if params.get("Filter"):
        below = _filtered(params["Filter"], [name[len(start) :] for name in names], order)
        names = [name for name in names if name[len(start) :] in below]
    if len(names) > OBJECTS:
        raise order.wrong(f"it has more than {OBJECTS} objects")
    for name in names:
        yield name, sizes[name]


def _filtered(pattern: str, names: list[str], order: Order) -> set[str]:
    """Return the names that match, as another process finds them.

    A regular expression can take years, and nothing in this process could end it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _FILTER],
            input=json.dumps([pattern, names]),
            capture_output=True,
            text=True,
            timeout=FILTER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise order.wrong(f"its filter takes longer than {FILTER_SECONDS:g} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it cannot be tried"])[-1]
        raise order.wrong(f"its filter is no regular expression: {last[:200]}")
    return set(json.loads(done.stdout))


def _get(files: Any, name: str, version: str | None, place: Path, size: int, order: Order) -> None:
    target = LimitedFile(place, order)
    try:
        with explained(order, "read", f"s3://{name}"):
            settings = {"version_id": version} if version else {}
            with files.open(name, "rb", block_size=PIECE, cache_type="readahead", **settings) as it:
                while piece := it.read(PIECE):
                    target.write(piece)
    finally:
        target.close()
    if target.size != size:
        raise order.failed(f"s3://{name} has {target.size} bytes; it was announced with {size}")
    order.budget.take(size, order.what)


def _check(place: Path, wanted: str, order: Order) -> None:
    """Compare the file, not what the service says of it."""
    found = hashlib.sha256()
    with order.written(), place.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    if base64.b64encode(found.digest()).decode() != wanted:
        raise order.wrong(
            f"its SHA-256 is {base64.b64encode(found.digest()).decode()}, not {wanted}"
        )


__all__ = ["fetch", "s3_files"]
