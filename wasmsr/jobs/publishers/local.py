"""The publisher `local`: a folder of this machine, one folder below it for each execution."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from wasmsr.jobs.publishers import trees
from wasmsr.jobs.publishers.publication import Publication, Published
from wasmsr.small_files import sync_folder
from wasmsr.wasi.filesystem import tree_walk


def publish(params: Mapping[str, Any], publication: Publication) -> Published:
    """Move the results to their name, or copy them to another file system; all or nothing.

    Raises:
        JobError: They cannot be read or written.
    """
    place = publication.local / publication.name
    part = publication.local / f".{publication.name}.part"
    old = publication.local / f".{publication.name}.old"
    try:
        publication.local.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not publication.results.is_dir():
            if place.is_dir():  # a try before this one moved them, and its process was killed
                return _published(place)
            raise publication.failed(f"there is no folder {publication.results}")
        source = publication.results
        if os.stat(source).st_dev != os.stat(publication.local).st_dev:
            tree_walk.remove(part)
            trees.copy(source, part)
            source = part
        if place.exists():
            tree_walk.remove(old)
            os.rename(place, old)
        os.rename(source, place)
        sync_folder(publication.local)
    except OSError as error:
        tree_walk.remove(part)
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise publication.failed(
            f"cannot write {place}: {error.strerror or error}", hint
        ) from error
    tree_walk.remove(old)
    return _published(place)


def _published(place: os.PathLike[str]) -> Published:
    return Published("local", os.fspath(place), {"SourcePath": os.fspath(place)})


__all__ = ["publish"]
