"""What a worker may still do, and how it gives up the rest.

A worker has the limits of `WorkerLimits`, reads and writes only the files of `HostAccess`, and
makes only the system calls of `_sandbox.c`. A machine that lacks a part gives less;
`host_confinement` says what it gives.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import wasmsr
from wasmsr.node.workers import sandbox_calls
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.snapshot.memory.page_calls import open_page_table

SYSTEM_FILES = ("/usr", "/lib", "/lib64", "/etc/machine-id", "/etc/localtime", "/dev/urandom",
    "/proc/self", "/proc/sys/kernel/random/boot_id", "/sys/fs/cgroup")  # fmt: skip
"""What each worker may read: libraries of Python that are imported late, and facts of the host."""

SACRIFICE = 500
"""What is added to a worker's badness if the kernel must end a process for memory (-1000 to
1000)."""


@dataclass(frozen=True)
class WorkerLimits:
    """What one worker may have.

    Attributes:
        memory: Bytes of memory of its own, beyond what its warm parent has (RLIMIT_DATA). Address
            space without pages, of which each memory of a program reserves gigabytes, is free.
        descriptors: Open files (RLIMIT_NOFILE).
        file_size: Bytes of each file that it writes (RLIMIT_FSIZE).
    """

    memory: int = 2 << 30
    descriptors: int = 1024
    file_size: int = 64 << 30


@dataclass(frozen=True)
class HostAccess:
    """Which files of the host a worker sees.

    Attributes:
        readable: Folders and files that it may read.
        writable: Folders and files that it may read and change.
        listens: It opens TCP ports.
    """

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    listens: bool = False

    @classmethod
    def of(cls, spec: RunSpec, folder: Path) -> HostAccess:
        """Return what a run needs.

        Args:
            spec: The run.
            folder: The program's own folder.

        Raises:
            WasiConfigError: A mount has not the right form.
        """
        from wasmsr.wasi.filesystem.mounts import Mount

        readable: list[str] = []
        writable = [os.fspath(folder)]
        for mount in map(Mount.parse, spec.mounts):
            if mount.host is not None and mount.mode != "alias":
                changes = mount.mode in ("host", "carry") and not mount.host.is_file()
                (writable if changes else readable).append(os.fspath(mount.host.absolute()))
        return cls(tuple(readable), tuple(writable), bool(spec.listen))


@dataclass(frozen=True)
class Confinement:
    """Limits and access together, as a warm parent gets them."""

    limits: WorkerLimits = field(default_factory=WorkerLimits)
    access: HostAccess = field(default_factory=HostAccess)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that `read` takes."""
        return asdict(self)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Confinement:
        """Return the confinement of plain data from the supervisor."""
        access = given["access"]
        readable, writable = (tuple(access[name]) for name in ("readable", "writable"))
        limits = WorkerLimits(**given["limits"])
        return cls(limits, HostAccess(readable, writable, access["listens"]))

    def apply(self, workers: Path) -> dict[str, str]:
        """Give up, for this process and for good, all that is not needed.

        Args:
            workers: Where the worker has its locks.

        Returns:
            What could not be given up, by name, and why.
        """
        missing: dict[str, str] = {}
        with suppress(OSError):  # Linux before 6.7 has a table without what we need
            open_page_table()  # a process that shows its memory to nobody cannot open it later
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(SACRIFICE))
        self._limit()
        try:
            sandbox_calls.give_up_privileges()
        except OSError as error:
            missing["no new privileges"] = str(error.strerror)
        try:
            self._restrict_files(workers)
        except OSError as error:
            missing["Landlock"] = str(error.strerror)
        try:
            sandbox_calls.forbid_calls(listens=self.access.listens)
        except OSError as error:
            missing["seccomp"] = str(error.strerror)
        return missing

    def _limit(self) -> None:
        limits = self.limits
        for kind, most in (
            (resource.RLIMIT_DATA, limits.memory + private_bytes()),
            (resource.RLIMIT_NOFILE, limits.descriptors),
            (resource.RLIMIT_FSIZE, limits.file_size),
            (resource.RLIMIT_CORE, 0),
        ):
            _, hard = resource.getrlimit(kind)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))

    def _restrict_files(self, workers: Path) -> None:
        package = os.path.dirname(os.path.dirname(os.path.abspath(wasmsr.__file__)))
        python = (sys.prefix, sys.base_prefix, package, *filter(None, sys.path))
        with ExitStack() as leave:
            read = _opened((*SYSTEM_FILES, *python, *self.access.readable), leave)
            written = (os.devnull, os.fspath(workers), *self.access.writable)
            write = _opened(written, leave)
            sandbox_calls.restrict_files(read, write, listens=self.access.listens)


def _opened(paths: Iterable[str], leave: ExitStack) -> list[int]:
    """Return a descriptor of each file that is there; they are closed by `leave`."""
    found = []
    for path in dict.fromkeys(paths):
        with suppress(OSError):
            found.append(os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC))
            leave.callback(os.close, found[-1])
    return found


def private_bytes() -> int:
    """Return bytes of memory of its own that this process has now, as RLIMIT_DATA counts them."""
    with suppress(OSError, ValueError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 0


def host_confinement() -> list[str]:
    """Return lines that say what this machine gives to confine workers.

    A child process tries it, because the parts cannot be taken back.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            missing = Confinement().apply(Path("/"))
            said = "\n".join(f"{name}: {why}" for name, why in missing.items())
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        missing = dict(line.split(": ", 1) for line in file.read().splitlines())
    _, status = os.waitpid(child, 0)
    if status:
        return [f"workers of a node: a trial ended with status {status}"]
    lines = []
    for name in ("no new privileges", "Landlock", "seccomp"):
        version = ""
        if name == "Landlock" and name not in missing:
            version = f" (version {sandbox_calls.landlock_version()})"
        why = missing.get(name)
        lines.append(f"{name}{version}: {'yes' if why is None else f'no: {why}'}")
    return lines
