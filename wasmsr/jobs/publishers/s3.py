"""The publisher `s3`: an archive, or one object for each file, in a store that speaks S3."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wasmsr.jobs.publishers import trees
from wasmsr.jobs.publishers.publication import Publication, Published
from wasmsr.jobs.sources.remote_files import explained, repeated
from wasmsr.jobs.sources.s3 import s3_files
from wasmsr.wasi.filesystem import tree_walk

ARCHIVE = ".tar.gz"


def key_of(template: str, publication: Publication, ending: str) -> str:
    """Return the key that a job's `Key` means; the names in braces are Bacalhau's.

    The epoch is part of the key, so results of two epochs never have one name.
    """
    key = template.removesuffix(ending)
    if publication.epoch is not None and "{executionID}" not in key:
        key += f"-e{publication.epoch}"
    when = time.localtime(publication.ended)
    for name, value in (
        ("executionID", publication.name),
        ("jobID", publication.job_id),
        ("date", time.strftime("%Y%m%d", when)),
        ("time", time.strftime("%H%M%S", when)),
        ("nodeID", os.uname().nodename),
    ):
        key = key.replace("{" + name + "}", value)
    return key + ending


def publish(params: Mapping[str, Any], publication: Publication) -> Published:
    """Write the results to the store; all or nothing.

    An archive appears at once. Of single files, those that were written are removed if one fails.

    Raises:
        JobError: The store refuses or is away, or the results cannot be read.
        MissingPackageError: A package is not installed.
    """
    plain = params.get("Encoding", "gzip") == "plain"
    key = key_of(params["Key"].lstrip("/"), publication, "/" if plain else ARCHIVE)
    where = f"s3://{params['Bucket']}/{key}"
    files = s3_files(params)
    if plain:
        _put_files(files, params["Bucket"], key, where, publication)
    else:
        _put_archive(files, params["Bucket"], key, where, publication)
    kept = {name: params[name] for name in ("Bucket", "Endpoint", "Region") if params.get(name)}
    return Published("s3", where, {**kept, "Key": key})


def _put_archive(files: Any, bucket: str, key: str, where: str, publication: Publication) -> None:
    archive = publication.results.with_name(f".{publication.name}{ARCHIVE}")
    try:
        try:
            trees.pack(publication.results, archive)
        except OSError as error:
            raise publication.failed(f"cannot pack the results: {error.strerror}") from error

        def act() -> None:
            with explained(publication, "write", where):
                files.put_file(os.fspath(archive), f"{bucket}/{key}")

        repeated(act)
    finally:
        archive.unlink(missing_ok=True)


def _put_files(files: Any, bucket: str, key: str, where: str, publication: Publication) -> None:
    written: list[str] = []

    def take(parts: tuple[bytes, ...], directory: int, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            return  # a store of objects has neither folders nor links
        name = f"{bucket}/{key}{os.fsdecode(b'/'.join(parts))}"

        def act() -> None:
            with explained(publication, "write", where):
                written.append(name)
                _put(files, name, directory, parts[-1])

        repeated(act)

    try:
        root = trees.folder_of(publication.results)
        try:
            tree_walk.each(root, take)
        finally:
            os.close(root)
    except BaseException as error:
        with suppress(Exception):
            files.rm(sorted(set(written)))
        if isinstance(error, OSError):
            raise publication.failed(f"cannot read the results: {error.strerror}") from error
        raise


def _put(files: Any, name: str, directory: int, file: bytes) -> None:
    # By its descriptor: a path could be too long, or mean another file by then.
    with tree_walk.opened(directory, file) as source:
        path = Path(f"/proc/self/fd/{source.fileno()}")
        if path.exists():
            files.put_file(os.fspath(path), name)
        else:
            files.pipe_file(name, source.read())


__all__ = ["key_of", "publish"]
