"""What a publisher is asked for, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasmsr.jobs.failures import JobError

PUBLISH_SECONDS = 3600.0
"""Longest time in which results are published."""


@dataclass(frozen=True)
class Publication:
    """Results that are to be published.

    Attributes:
        job_id: The job.
        execution_id: The execution.
        results: The folder with `stdout`, `stderr`, `exitCode` and the folders of the job.
        local: The folder of the publisher `local`.
        ended: When the execution ended, in seconds since 1970. A second try has the same names.
        epoch: The number of the owner, or None. Results of two epochs never have one name.
        seconds: How long it may take.
    """

    job_id: str
    execution_id: str
    results: Path
    local: Path
    ended: float
    epoch: int | None = None
    seconds: float = PUBLISH_SECONDS

    @property
    def name(self) -> str:
        """The name of the results."""
        return self.execution_id + ("" if self.epoch is None else f"-e{self.epoch}")

    def wrong(self, sentence: str, hint: str | None = None) -> JobError:
        """Return the error for results that can never be published so."""
        return JobError("OutputConfigError", f"publishing {self.name}: {sentence}", hint=hint)

    def failed(self, sentence: str, hint: str | None = None) -> JobError:
        """Return the error for results that cannot be published now."""
        message = f"publishing {self.name}: {sentence}"
        return JobError("FilesystemError", message, hint=hint, retryable=True)


@dataclass(frozen=True)
class Published:
    """Where results are.

    Attributes:
        kind: The publisher.
        where: A path or an address for people, or "".
        params: What is needed to get them, as the parameters of a source of that kind.
    """

    kind: str
    where: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


__all__ = ["PUBLISH_SECONDS", "Publication", "Published"]
