"""What a program that comes to a node may set: the checks on the description of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wasmsr.errors import printable
from wasmsr.node.failures import SubmissionRefused
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.wasi.filesystem.mounts import Mount

TAKEN = frozenset(
    ("args", "own_name", "own_args", "invoke", "env", "mounts", "listen", "limits", "features",
     "deterministic", "on_changed")
)  # fmt: skip
"""Fields of a run that a caller may set. The others name files, keys or streams of the host."""

LIMITS = frozenset(("memory", "fuel", "carried"))
"""The same of the group `limits`."""


def checked_run(spec: Mapping[str, Any]) -> RunSpec:
    """Return the run that a caller describes.

    Raises:
        SubmissionRefused: It sets what a caller may not set.
        SpecError: A value is wrong.
        WasiConfigError: A mount has not the right form.
    """
    limits = spec.get("limits", {})
    wrong = [*(spec.keys() - TAKEN)]
    if isinstance(limits, Mapping):
        wrong += [f"limits.{name}" for name in limits.keys() - LIMITS]
    if wrong:
        raise SubmissionRefused(
            f"a program on a node cannot have {printable(', '.join(sorted(map(str, wrong))))}"
        )
    run = RunSpec.read(spec)
    for mount in map(Mount.parse, run.mounts):
        if mount.host is not None and not mount.host.is_absolute():
            raise SubmissionRefused(
                f"the folder {printable(mount.host)} of the node's host is not an absolute path"
            )
    return run


__all__ = ["LIMITS", "TAKEN", "checked_run"]
