"""Publishes the results of an execution, and gets them back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wasmsr.jobs.description.job import Publisher
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.publishers import local, noop, s3, trees
from wasmsr.jobs.publishers.publication import Publication, Published
from wasmsr.jobs.sources import inline
from wasmsr.jobs.sources import s3 as s3_source
from wasmsr.jobs.sources.order import Order
from wasmsr.wasi.filesystem import tree_walk

Publish = Callable[[Mapping[str, Any], Publication], Published]

PUBLISHERS: Mapping[str, Publish] = {
    "local": local.publish,
    "s3": s3.publish,
    "noop": noop.publish,
}
"""Every publisher, by the `Type` of the job file."""


def publish(publisher: Publisher, publication: Publication) -> Published:
    """Publish results as a job says; all or nothing.

    Raises:
        JobError: They cannot be read or written.
        MissingPackageError: A package is not installed.
    """
    return PUBLISHERS[publisher.kind](publisher.params, publication)


def retrieve(published: Published, target: Path, what: str) -> None:
    """Copy published results to a path that is free; all or nothing.

    Args:
        published: Where they are.
        target: The folder that is made.
        what: What messages call the results.

    Raises:
        JobError: They are gone, or cannot be read or written.
        MissingPackageError: A package is not installed.
    """
    if published.kind == "noop":
        raise JobError(
            "OutputConfigError", f"{what}: the publisher noop keeps no results",
            hint="Publisher: {Type: local} keeps them on this machine",
        )  # fmt: skip
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() or target.is_symlink():
            raise FileExistsError(errno.EEXIST, "it is there already")
        target.parent.mkdir(parents=True, exist_ok=True)
        if published.kind == "s3":
            _from_s3(published.params, part, what)
        else:
            trees.copy(Path(published.where), part)
        os.rename(part, target)
    except OSError as error:
        sentence = f"{what}: cannot copy the results to {target}: {error.strerror or error}"
        raise JobError("FilesystemError", sentence) from error
    finally:
        tree_walk.remove(part)


def _from_s3(params: Mapping[str, Any], part: Path, what: str) -> None:
    """Fetch objects, and unpack what is an archive."""
    order = Order(what, part, part.parent)
    s3_source.fetch(params, order)
    if not params["Key"].endswith(s3.ARCHIVE):
        return
    (archive,) = part.iterdir()
    moved = part.with_name(part.name + s3.ARCHIVE)
    os.rename(archive, moved)
    part.rmdir()
    try:
        inline.unpack(moved, order)
    finally:
        moved.unlink(missing_ok=True)


__all__ = ["PUBLISHERS", "publish", "retrieve"]
