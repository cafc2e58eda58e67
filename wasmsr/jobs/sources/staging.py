"""Brings all inputs of an execution into a folder: all or nothing, and removed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasmsr.jobs.description.job import InputSource
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.sources import inline, local_directory, s3, url
from wasmsr.jobs.sources.order import FETCH_SECONDS, AllowedPath, Budget, Fetched, Order
from wasmsr.wasi.filesystem import tree_walk

Source = Callable[[Mapping[str, Any], Order], Fetched]

SOURCES: Mapping[str, Source] = {
    "inline": inline.fetch,
    "localDirectory": local_directory.fetch,
    "local": local_directory.fetch,
    "url": url.fetch,
    "urlDownload": url.fetch_into_folder,
    "s3": s3.fetch,
}
"""Every source, by the `Type` of the job file."""


@dataclass(frozen=True)
class StagedInput:
    """An input that is on this machine.

    Attributes:
        source: A file or folder.
        target: Its path for the program.
        read_only: Whether the program may only read it.
    """

    source: Path
    target: str
    read_only: bool


def stage(
    inputs: Sequence[InputSource],
    folder: Path,
    *,
    base: Path,
    allowed: Sequence[AllowedPath] = (),
    limit: int | None = None,
    seconds: float = FETCH_SECONDS,
) -> list[StagedInput]:
    """Bring inputs into a folder.

    Args:
        inputs: What the job names.
        folder: A path that is free, or what an earlier try has left there; it is made. `unstage`
            removes it.
        base: The folder to which relative paths of this machine belong.
        allowed: From which files and folders of this machine inputs may come.
        limit: Bytes of all inputs together; None for `INPUT_LIMIT`.
        seconds: How long each input may take.

    Raises:
        JobError: One of them cannot be had. Nothing is left in the folder.
        MissingPackageError: A package is not installed. Nothing is left in the folder.
    """
    unstage(folder)
    budget = Budget(limit)
    staged: list[StagedInput] = []
    try:
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise JobError(
                "FilesystemError",
                f"the folder {folder} for inputs cannot be made: {error.strerror}",
                retryable=True,
            ) from error
        for number, one in enumerate(inputs):
            what = f"the input at {one.target}"
            order = Order(what, folder / str(number), base, tuple(allowed), budget, seconds)
            fetched = SOURCES[one.kind](one.params, order)
            staged.append(StagedInput(fetched.path, one.target, fetched.read_only))
    except BaseException:
        unstage(folder)
        raise
    return staged


def unstage(folder: Path) -> None:
    """Remove a folder of inputs; inputs that are used where they are stay."""
    with suppress(FileNotFoundError):
        tree_walk.remove(folder)


__all__ = ["SOURCES", "StagedInput", "stage", "unstage"]
