"""Whether a program can come to this host: its format, features, limits and mounts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from wasmsr.interp.instruction_set.features import BY_NAME, State
from wasmsr.migrate.protocol import (
    MODULES,
    SNAPSHOT_FORMAT,
    Description,
    MountName,
    Reason,
    Refusal,
)
from wasmsr.program.restoring import excessive
from wasmsr.wasi.filesystem.mounts import MODES, PORTABLE


def refuse(
    description: Description,
    features: Collection[str],
    max_pages: int | None,
    given: Callable[[], Sequence[MountName]],
) -> Refusal | None:
    """Return why a program cannot come, or None if it can.

    Args:
        description: What the program needs.
        features: The features of WebAssembly that programs may need here.
        max_pages: This host's limit of each memory, which replaces the program's; or None.
        given: Returns the mounts that programs get here.
    """
    if description.snapshot_format != SNAPSHOT_FORMAT:
        return Refusal(
            Reason.VERSION,
            f"it reads version {SNAPSHOT_FORMAT} of the snapshot format, "
            f"not {description.snapshot_format}",
            "install the same version of wasmsr on both ends",
        )
    if not 1 <= len(description.modules) <= MODULES:
        return Refusal(Reason.LIMIT, f"it takes programs of 1 to {MODULES} modules")
    for feature in description.features:
        if feature not in features:
            return _lacks(feature)
    limits = description.limits
    if max_pages is not None:
        limits = replace(limits, memory_pages=0)
    if (sentence := excessive(limits)) is not None:
        return Refusal(Reason.LIMIT, f"the program runs {sentence}")
    return _refuse_mounts(description.mounts, given())


def _refuse_mounts(wanted: Sequence[MountName], given: Sequence[MountName]) -> Refusal | None:
    modes = {mount.guest: mount.mode for mount in given}
    lacking = []
    for mount in wanted:
        if mount.mode not in MODES:
            return Refusal(Reason.MOUNT, f"it has no mounts of the mode {mount.mode!r}")
        if mount.guest not in modes:
            if mount.mode not in PORTABLE:
                lacking.append(mount)
        elif modes[mount.guest] != mount.mode:
            return Refusal(
                Reason.MOUNT,
                f"it was given {mount.guest} in mode {modes[mount.guest]}, and the program has "
                f"it in mode {mount.mode}",
                f"the end that refuses needs {_option(mount)}",
            )
    if lacking:
        return Refusal(
            Reason.MOUNT,
            f"it was not given the program's folder{'s' * (len(lacking) > 1)} "
            + ", ".join(mount.guest for mount in lacking),
            "the end that refuses needs " + " ".join(map(_option, lacking)),
        )
    return None


def _option(mount: MountName) -> str:
    """Return the option of the command line that gives a mount."""
    if mount.mode == "archive":
        return f"--dir ARCHIVE::{mount.guest}"
    host = "" if mount.mode == "mem" else "HOST"
    return f"--dir {host}::{mount.guest}" + ("" if mount.mode == "host" else f"::{mount.mode}")


def _lacks(feature: str) -> Refusal:
    known = BY_NAME.get(feature)
    if known is not None and known.state in (State.ON, State.OFF, State.ALWAYS):
        return Refusal(
            Reason.FEATURE,
            f"the program needs the feature {feature}, which is switched off there",
            f"it can be switched on there by --features +{feature}",
        )
    return Refusal(
        Reason.FEATURE,
        f"the program needs the feature {feature}, which it does not have",
        "install the same version of wasmsr on both ends",
    )
