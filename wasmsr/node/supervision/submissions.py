"""What a program that comes to a node may set: the checks on the description of its run.

Callers and other nodes name further modules of a program by digest: `preload` is NAME=DIGEST. What
a node notes, and gives to workers, has the files of its own instead: NAME=FOLDER/DIGEST.wasm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wasmsr.errors import printable
from wasmsr.migrate.protocol import MODULES
from wasmsr.node.failures import SubmissionRefused
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.wasi.filesystem.mounts import Mount

TAKEN = frozenset(
    ("args", "own_name", "own_args", "invoke", "env", "mounts", "listen", "limits", "features",
     "deterministic", "on_changed", "preload")
)  # fmt: skip
"""Fields of a run that a caller may set. The others name files, keys or streams of the host."""

SUFFIX = ".wasm"
"""How the names of files of modules end; before it is the digest."""

LIMITS = frozenset(("memory", "fuel", "carried"))
"""The same of the group `limits`."""

LINKED = MODULES - 1
"""Most modules of a program besides its own."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def linked_modules(run: RunSpec) -> tuple[tuple[str, str], ...]:
    """Return the modules of a run besides the program's own: under which name, and the digest."""
    found = (text.partition("=") for text in run.preload)
    return tuple((name, os.path.basename(file).removesuffix(SUFFIX)) for name, _, file in found)


def all_modules(digest: str, run: RunSpec) -> tuple[str, ...]:
    """Return the digests of the modules of a program, each once, in the order of its snapshots.

    Args:
        digest: That of the program's own module, which is the last one.
        run: The run.
    """
    return tuple(dict.fromkeys((*(one for _, one in linked_modules(run)), digest)))


def placed(digest: str, run: RunSpec, module: Callable[[str], Path]) -> dict[str, Any]:
    """Return a run as a worker gets it, with the files of its modules.

    Args:
        digest: That of the program's own module.
        run: The run.
        module: Returns the file of a module.
    """
    linked = [f"{name}={module(one)}" for name, one in linked_modules(run)]
    found = {**run.as_dict(), "program": os.fspath(module(digest))}
    return {**found, "preload": linked} if linked else found


def placed_again(spec: Mapping[str, Any], module: Callable[[str], Path]) -> dict[str, Any]:
    """Return a run that a node has noted, with the files of its modules where they are now.

    The folder of a node that is not running can be moved.
    """
    linked = linked_modules(_linking(spec))
    found = [f"{name}={module(one)}" for name, one in linked]
    return {**spec, "preload": found} if found else dict(spec)


def noted_modules(digest: str, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the digests of the modules of a program, of whose run a node has noted `spec`."""
    return all_modules(digest, _linking(spec))


def _linking(spec: Mapping[str, Any]) -> RunSpec:
    """Return the modules of a noted run. Raises SpecError."""
    return RunSpec.read({"preload": list(spec.get("preload") or ())})


def unplaced(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what callers may set of a run that a node has noted, as they say it."""
    found = {name: value for name, value in spec.items() if name in TAKEN}
    limits = found.get("limits")
    if isinstance(limits, Mapping):
        found["limits"] = {name: value for name, value in limits.items() if name in LIMITS}
    if found.get("preload"):
        found["preload"] = [f"{name}={one}" for name, one in linked_modules(_linking(found))]
    return found


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
    if len(run.preload) > LINKED:
        raise SubmissionRefused(f"a program on a node has at most {LINKED + 1} modules")
    for text in run.preload:
        name, _, digest = text.partition("=")
        if not _DIGEST.fullmatch(digest):
            raise SubmissionRefused(
                f"the module {printable(name, 100)} is named by {printable(digest, 100)}, and not "
                "by its digest",
                hint="`Node.submit` sends the files that `preload` names",
            )
    for mount in map(Mount.parse, run.mounts):
        if mount.host is not None and not mount.host.is_absolute():
            raise SubmissionRefused(
                f"the folder {printable(mount.host)} of the node's host is not an absolute path"
            )
    return run


__all__ = [
    "TAKEN",
    "all_modules",
    "checked_run",
    "linked_modules",
    "noted_modules",
    "placed",
    "placed_again",
    "unplaced",
]
