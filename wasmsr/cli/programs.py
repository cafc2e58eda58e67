"""The four named programs and their defaults, in one table, and where their files lie.

A name stands for a packaged module and for what it needs: `run` and `remote` look here before they
look for a file of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Named:
    """A program with its defaults.

    Attributes:
        file: the module's name in `folder()`.
        summary: what it does, in a few words.
        invoke: the export that is called.
        args: arguments where none are given.
        mounts: (host folder, guest path); "{examples}" and "{here}" stand for the packaged folder
            and the current one.
        interactive: keys are read (see `--interactive`) unless told otherwise.
        idle: nothing is called until a key asks for it.
    """

    name: str
    file: str
    summary: str
    invoke: str = "_start"
    args: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    interactive: bool = False
    idle: bool = False

    @property
    def path(self) -> Path:
        """The module's file."""
        return folder() / self.file

    def mount_texts(self) -> list[str]:
        """The default mounts as `--dir` takes them, guest paths unique among themselves."""
        places = {"examples": str(folder()), "here": str(Path.cwd())}
        return [f"{host.format(**places)}::{guest}" for host, guest in self.mounts]


PROGRAMS: dict[str, Named] = {
    program.name: program
    for program in (
        Named(
            "fib",
            "fib.wasm",
            "the 9th Fibonacci number, or that of its argument, recursively",
            invoke="fib",
            args=("9",),
        ),
        Named(
            "cat",
            "cat.wasm",
            "copies test.txt, or the file named, from its folder to standard output",
            mounts=(("{examples}", "."),),
        ),
        Named(
            "server",
            "server.wasm",
            "answers requests: r makes one, s saves a snapshot, q quits",
            invoke="request",
            interactive=True,
            idle=True,
        ),
    )
}


def folder() -> Path:
    """The folder with the named programs: in the installed package, else in the source tree."""
    from importlib import resources

    packaged = Path(str(resources.files("wasmsr") / "examples"))
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[2] / "examples" / "snapshot"


def find(name: str) -> Named | None:
    """The named program `name`, or None: then it is a file's name."""
    return PROGRAMS.get(name)


def known_digest(digest: bytes) -> str | None:
    """The name of the packaged program whose module has this SHA-256, or None."""
    import hashlib

    for program in PROGRAMS.values():
        try:
            if hashlib.sha256(program.path.read_bytes()).digest() == digest:
                return program.name
        except OSError:
            continue
    return None


def summaries() -> Sequence[tuple[str, str]]:
    """(name, summary) of each, for help and completion."""
    return [(program.name, program.summary) for program in PROGRAMS.values()]
