"""The publisher `noop`: results are not kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wasmsr.jobs.publishers.publication import Publication, Published
from wasmsr.wasi.filesystem import tree_walk


def publish(params: Mapping[str, Any], publication: Publication) -> Published:
    """Remove the results."""
    tree_walk.remove(publication.results)
    return Published("noop")


__all__ = ["publish"]
