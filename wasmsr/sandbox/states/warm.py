"""Prepared sandboxes: a sandbox of which this process makes forks, and a file that processes map.

To start Python and to import packages takes seconds. So it is done once, in a sandbox in which no
code of anybody has run, and sandboxes are forks of that one. `write_warm` puts it into a file, and
every later process maps the file. The file's name is a digest of all that goes into it: the guest,
our driver, the packages, the names of mounts. Where one of these changes, the name does too.

The prepared sandbox has folders of the host only by name. A fork gets its own folders.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wasmsr import __version__
from wasmsr.errors import SnapshotError
from wasmsr.interp.modules.module_cache import default_folder
from wasmsr.sandbox.guests import Guest
from wasmsr.sandbox.machine import Machine, forked, guest_imports, store_limits
from wasmsr.sandbox.results import SandboxError, SandboxLimits
from wasmsr.sandbox.states.bases import open_base
from wasmsr.sandbox.states.records import read_record
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.wasi.clocks import Random
from wasmsr.wasi.filesystem.mounts import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wasmsr.snapshot.moments.moment import Moment
    from wasmsr.snapshot.store.increments import IncrementBase

KINDS = 8
"""Kinds of sandboxes that one process keeps prepared; each holds the memory of one."""
_SHARED = frozenset({"host", "ro", "overlay"})
"""Modes of mounts of which a prepared sandbox needs only the name."""


@dataclass(frozen=True)
class WarmRecipe:
    """All that a prepared sandbox is made of.

    Attributes:
        guest: Its guest.
        mounts: Name and mode of each mount of the user.
        deterministic: Whether clocks and random bytes are the same in every run.
    """

    guest: Guest
    mounts: tuple[tuple[str, str], ...] = ()
    deterministic: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hexadecimal, which names the file."""
        guest = self.guest
        parts = {
            "version": __version__,
            "module": guest.module.digest,
            "arguments": [*guest.arguments, *guest.argv],
            "env": dict(guest.env),
            "files": [[one.guest, one.mode] for one in guest.mounts],
            "entry": guest.entry,
            "warm": guest.warm,
            "mounts": [list(one) for one in self.mounts],
            "deterministic": self.deterministic,
        }
        return hashlib.sha256(pack(parts, "what a prepared sandbox is made of")).hexdigest()

    @property
    def label(self) -> str:
        """What the file is called besides its digest: equal for all versions of one kind."""
        parts = [self.guest.name, self.guest.packages, "deterministic" * self.deterministic]
        named = [*filter(None, parts), *(f"{guest}.{mode}" for guest, mode in self.mounts)]
        label = re.sub(r"[^A-Za-z0-9+.-]", "_", "-".join(named))[:100]
        if self.mounts:  # other names of mounts can look the same
            label += "-" + hashlib.sha256(repr(self.mounts).encode()).hexdigest()[:8]
        return label

    @property
    def path(self) -> Path:
        """Where the file is, if there is one."""
        return warm_folder() / f"{self.label}@{self.digest[:32]}.snapshot"

    def start(self, limits: SandboxLimits) -> Machine:
        """Return a new machine with the packages imported. Raises SandboxError."""
        with _empty_folder() as folder:
            mounts = [Mount(folder, guest, mode) for guest, mode in self.mounts]
            return Machine.start(self.guest, mounts, limits, deterministic=self.deterministic)


class WarmSet(NamedTuple):
    """A prepared sandbox.

    Attributes:
        moment: What forks come from.
        about: Addresses that the guest's driver has told.
        base: Its file, over which sandboxes are parked; None if it is in this process only.
    """

    moment: Moment
    about: dict[str, Any]
    base: IncrementBase | None = None


class _Kind:
    """A kind of sandboxes, prepared in this process. Its lock is held while it is used."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.moment: Moment | None = None
        self.about: dict[str, Any] = {}
        self.base: IncrementBase | None = None
        self.gone = False
        self.forks = 0

    def prepare(self, recipe: WarmRecipe, limits: SandboxLimits, seed: int | None) -> Moment:
        """Make the moment from which forks come, of the file if there is one."""
        found = open_warm(recipe, limits)
        if found is None:
            machine = recipe.start(limits)
            try:
                if recipe.path.exists() and _is_private():  # it cannot be used as it is
                    with suppress(SnapshotError, OSError):
                        _write(recipe, machine)
                found = WarmSet(machine.history.take(), machine.about)
            finally:
                machine.close()
        moment, self.about, self.base = found
        if seed is not None and moment.wasi is not None:
            state = replace(moment.wasi.state, seed=Random.seed_of(seed), position=0)
            moment.wasi.state = state
        self.moment = moment
        return moment


_kinds: dict[Any, _Kind] = {}
_choosing = threading.Lock()


def warm_machine(
    guest: Guest,
    mounts: Sequence[Mount],
    limits: SandboxLimits,
    *,
    deterministic: bool,
    seed: int | None,
) -> Machine:
    """Return a fork of a machine that is prepared: in this process, in a file, or now.

    A machine with a mount whose content is a part of its state is started for itself.
    """
    if not all(one.effective_mode in _SHARED for one in mounts):
        return Machine.start(guest, mounts, limits, deterministic=deterministic, seed=seed)
    named = tuple((one.guest, one.mode) for one in mounts)
    recipe = WarmRecipe(guest, named, deterministic)
    key = (recipe.digest, limits.memory >> 16, seed)
    while True:
        kind = _kind(key)
        with kind.lock:
            if kind.gone:
                continue
            moment = kind.moment or kind.prepare(recipe, limits, seed)
            kind.forks = 1 if deterministic else kind.forks + 1
            return forked(guest, moment, kind.about, mounts, limits, kind.forks, kind.base)


def _kind(key: Any) -> _Kind:
    """Return a kind. Those used longest ago are closed, unless somebody uses them just now."""
    with _choosing:
        found = _kinds.pop(key) if key in _kinds else _Kind()
        _kinds[key] = found  # the last one is the one used last
        for old in list(_kinds)[:-KINDS]:
            kind = _kinds[old]
            if kind.lock.acquire(blocking=False):
                with suppress(KeyError):
                    del _kinds[old]
                kind.gone = True
                if kind.moment is not None:
                    kind.moment.close()
                kind.lock.release()
        return found


def warm_folder() -> Path:
    """Return the folder of prepared sandboxes, in the user's folder of caches."""
    return Path(default_folder()) / "guests" / "warm"


def open_warm(recipe: WarmRecipe, limits: SandboxLimits) -> WarmSet | None:
    """Return what a file has that was prepared; None if there is none that can be used."""
    path = recipe.path
    if not path.exists() or not _is_private() or not _is_own(path):
        return None
    given = store_limits(limits)
    try:
        base = open_base(path, given)
        state, record = read_record(base.state)
        if record.guest != recipe.guest.name or record.call is not None or record.rest:
            return None
        snapshot = Snapshot(state)
        moment = snapshot.moment(
            modules=[recipe.guest.module], imports=guest_imports(), limits=given
        )
    except SnapshotError:
        return None
    return WarmSet(moment, dict(record.about), base)


def _is_private() -> bool:
    """Return whether only this user and root can put a file where prepared sandboxes are.

    What somebody else has prepared would see the mounts and the tools of our sandboxes.
    """
    folder = warm_folder()
    above = (folder.parent, folder.parent.parent)  # made by umask: a group may be the user's own
    return _is_own(folder) and all(_is_own(one, stat.S_IWOTH) for one in above)


def _is_own(path: Path, others: int = stat.S_IWGRP | stat.S_IWOTH) -> bool:
    """Return whether a file is this user's or root's, and no others may write it."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & others


def write_warm(recipe: WarmRecipe, *, renew: bool = False) -> tuple[Path, bool]:
    """Prepare a sandbox in a file, unless there is one that can be used; remove older versions.

    Args:
        recipe: What it is made of.
        renew: Make it anew in any case, with another seed of `hash`.

    Returns:
        The file, and whether it was made now.

    Raises:
        SandboxError: The guest cannot be started, or the file cannot be written.
    """
    limits = SandboxLimits()
    folder = warm_folder()
    with suppress(OSError):  # said when the file is written
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.exists() and not _is_private():
        raise SandboxError(
            f"others can write to {folder} or to a folder above it",
            hint=f"chmod go-w {folder}, or set XDG_CACHE_HOME to a folder of your own",
        )
    found = None if renew else open_warm(recipe, limits)
    if found is not None:
        found.moment.close()
    else:
        machine = recipe.start(limits)
        try:
            _write(recipe, machine)
        except (SnapshotError, OSError) as error:
            raise SandboxError(
                f"the prepared sandbox cannot be written to {recipe.path}: {error}",
                hint="free some space, or set XDG_CACHE_HOME to a folder that can be written",
            ) from error
        finally:
            machine.close()
    for other in warm_folder().glob(f"{recipe.label}@*.snapshot"):
        if other != recipe.path:
            with suppress(OSError):
                other.unlink()
    return recipe.path, found is None


def _write(recipe: WarmRecipe, machine: Machine) -> None:
    from wasmsr.snapshot.mapped.saving import save_mapped

    recipe.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    save_mapped(machine.state(None, SandboxLimits()), recipe.path)


@contextmanager
def _empty_folder() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="wasmsr-warm-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["WarmRecipe", "open_warm", "warm_folder", "warm_machine", "write_warm"]
