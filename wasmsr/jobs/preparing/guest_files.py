"""What a program of a job sees of the host: its inputs, its outputs, and nothing else.

Input files, and a place for everything else, are in one folder, which is the program's `/`. Input
folders and outputs are mounts of their own. A request is checked whole before anything is made.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wasmsr.errors import printable, reason
from wasmsr.jobs.description.rules import RESULT_FILES, guest_path, overlaps
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.requests import (
    ExecutionFolder,
    ExecutionInput,
    ExecutionOutput,
    ExecutionRequest,
)
from wasmsr.jobs.failures import JobError
from wasmsr.wasi.filesystem import tree_walk
from wasmsr.wasi.filesystem.mounts import SEPARATOR

SUFFIX = ".wasm"
"""How the name of a module's file ends."""

_ONE_PLACE = "give every input and every output a place of its own"


@dataclass(frozen=True)
class GuestPlace:
    """Something that a program finds.

    Attributes:
        path: Where, without the first `/`.
        source: What it is on the host.
        is_folder: Whether it is a folder.
        mode: The mode of a folder's mount; see `MODES`.
    """

    path: str
    source: str
    is_folder: bool
    mode: str = "input"


@dataclass(frozen=True)
class GuestFiles:
    """The files of one execution.

    Attributes:
        inputs: What the program reads.
        outputs: Where it finds each output, by the name of the output.
    """

    inputs: tuple[GuestPlace, ...]
    outputs: tuple[tuple[ExecutionOutput, str], ...]

    @classmethod
    def checked(cls, request: ExecutionRequest, manner: Manner) -> GuestFiles:
        """Return the files that a request asks for; nothing is made yet.

        Raises:
            JobError: InputConfigError, OutputConfigError or FilesystemError.
        """
        inputs = _inputs(request.inputs)
        taken = [one.path for one in inputs]
        found: list[tuple[ExecutionOutput, str]] = []
        names: list[str] = []
        for output in request.outputs:
            _check_output(output, names, taken, manner)
            names.append(output.name)
            # The peer has no folder at Path.
            path = output.name if manner.peer else _output_path(output, taken, names)
            found.append((output, path))
        for at, (output, path) in enumerate(found):
            for other, another in found[at + 1 :]:
                mine, its = {output.name, path}, {other.name, another}
                if any(overlaps(one, two) for one in mine for two in its):
                    raise _bad_output(
                        f"the outputs {printable(output.name)} and {printable(other.name)} have "
                        "one place, or one is inside the other"
                    )
        return cls(inputs, tuple(found))

    def find(self, path: str) -> str | None:
        """Return the file of the host that a module's path or name leads to, or None.

        A folder leads to the one file in it whose name ends in `.wasm`.
        """
        place = guest_path(path)
        if place is None:
            return None
        for one in self.inputs:
            if place == one.path or (one.is_folder and place.startswith(one.path + "/")):
                inside = place[len(one.path) + 1 :]
                return _module_file(Path(one.source), inside)
        return None

    # ---- on disk ---------------------------------------------------------------------------------

    def make(self, folder: ExecutionFolder) -> None:
        """Make the folders, and put the input files in their place.

        Raises:
            JobError: FilesystemError; nothing is left.
        """
        try:
            folder.results.mkdir(parents=True, exist_ok=True)
            for output, _ in self.outputs:
                place = folder.results / output.name
                with suppress(FileExistsError):
                    place.mkdir()
                if place.is_symlink() or any(place.iterdir()):
                    raise OSError(errno.EEXIST, f"{printable(output.name)} is there already")
        except OSError as error:
            raise filesystem_error(folder.results, error) from error
        self.make_root(folder)

    def empty_outputs(self, folder: ExecutionFolder) -> None:
        """Give each output a new, empty folder: the program begins again.

        What a program has made can be deeper than Python's recursion. And one that nobody can reach
        may still run: it has the old folder open, so nothing that it writes is in the new one.

        Raises:
            OSError: A folder cannot be made.
        """
        for output, _ in self.outputs:
            place = folder.results / output.name
            old = folder.path / f".before-{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):
                place.rename(old)
            place.mkdir()
            tree_walk.remove(old)

    def make_root(self, folder: ExecutionFolder) -> None:
        """Make the folder that is the program's `/`. Raises JobError."""
        try:
            folder.root.mkdir(parents=True)
            for one in self.inputs:
                place = folder.root / one.path
                if one.is_folder:
                    place.mkdir(parents=True, exist_ok=True)
                else:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    _put(one.source, place)
            for output, path in self.outputs:
                for name in (output.name, path):
                    (folder.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise filesystem_error(folder.root, error) from error

    def mounts(self, folder: ExecutionFolder) -> list[str]:
        """Return the program's mounts, as a run has them."""
        found = [_mount(os.fspath(folder.root), "/", "input")]
        found += [
            _mount(one.source, f"/{one.path}", one.mode) for one in self.inputs if one.is_folder
        ]
        for output, path in self.outputs:
            found.append(_mount(os.fspath(folder.results / output.name), f"/{path}", "carry"))
            if path != output.name:
                found.append(_mount(f"/{path}", f"/{output.name}", "alias"))
        return found


def filesystem_error(place: object, error: OSError) -> JobError:
    """Return the error for a file or folder of ours that cannot be made."""
    return JobError(
        "FilesystemError",
        f"{printable(place)} cannot be made: {error.strerror or error}",
        hint="the folder of an execution must be new, and its disk must have room",
        details={"errno": error.errno},
    )


def _bad_input(sentence: str, hint: str | None = None) -> JobError:
    return JobError("InputConfigError", sentence, hint=hint)


def _bad_output(sentence: str, hint: str | None = None) -> JobError:
    return JobError("OutputConfigError", sentence, hint=hint or _ONE_PLACE)


def _place_of(text: str) -> str | None:
    """Return a path of a program without its first `/`, or None if it is none that we can mount."""
    if SEPARATOR in text or "\0" in text:
        return None
    return guest_path(text)


def _inputs(inputs: Sequence[ExecutionInput]) -> tuple[GuestPlace, ...]:
    found: list[GuestPlace] = []
    for one in inputs:
        if not one.target:
            raise _bad_input(
                f"the input {printable(one.source)} has no target",
                "give it a Target: the path at which the program finds it",
            )
        if not one.source:
            raise _bad_input(f"the input at {printable(one.target)} has no source")
        place = _place_of(one.target)
        if place is None:
            raise _bad_input(
                f"the target {printable(one.target)} is no path of a file or folder",
                "write an absolute path without .. and ::",
            )
        for other in found:
            if overlaps(place, other.path):
                what = "is there twice" if place == other.path else "is in another one or around it"
                raise _bad_input(
                    f"the target {printable(one.target)} {what}: /{printable(other.path)}",
                    _ONE_PLACE,
                )
        found.append(_opened(one, place))
    return tuple(found)


def _opened(one: ExecutionInput, place: str) -> GuestPlace:
    try:
        source = os.path.realpath(one.source, strict=True)
        mode = os.stat(source).st_mode
    except (OSError, ValueError) as error:
        raise _bad_input(
            f"the source of the input {printable(one.target)} cannot be used: "
            f"{printable(one.source)}: {getattr(error, 'strerror', None) or reason(error)}",
            "its file or folder must be there when the execution begins",
        ) from None
    is_folder = stat.S_ISDIR(mode)
    if not is_folder and not stat.S_ISREG(mode):
        raise _bad_input(
            f"the source of the input {printable(one.target)} is neither a file nor a folder: "
            f"{printable(one.source)}"
        )
    if is_folder and SEPARATOR in source:
        raise _bad_input(f"the folder {printable(source)} cannot be mounted: its path has ::")
    if not one.read_only and not is_folder:
        raise _bad_input(
            f"the input {printable(one.target)} is a file, which a program can only read",
            "give the folder in which it is",
        )
    return GuestPlace(place, source, is_folder, "input" if one.read_only else "host")


def _check_output(
    output: ExecutionOutput, names: Iterable[str], taken: Iterable[str], manner: Manner
) -> None:
    name = output.name
    if not name:
        raise _bad_output("an output has no name", "give it a Name: its folder in the results")
    if not output.path:
        raise _bad_output(
            f"the output {printable(name)} has no path",
            "give it a Path: where the program finds the folder",
        )
    bad = "/" in name or _place_of(name) is None or name in RESULT_FILES or len(name) > 200
    if bad or not name.isprintable():
        raise _bad_output(
            f"{printable(name, 80)!r} cannot be the name of a folder of results",
            "use a name without / that is not stdout, stderr or exitCode",
        )
    if name in names:
        sentence = f"the output {printable(name)} is there twice"
        if manner.peer:
            made = {"made": [*names]}
            raise JobError("FilesystemError", sentence, hint=_ONE_PLACE, details=made)
        raise _bad_output(sentence)
    for target in taken:
        if overlaps(name, target):
            sentence = (
                f"the output {printable(name)} and the input at /{printable(target)} have one "
                "place, or one is inside the other"
            )
            if manner.peer:
                # It has made the folders by then.
                made = {"made": [*names, name]}
                raise JobError("FilesystemError", sentence, hint=_ONE_PLACE, details=made)
            raise _bad_output(sentence)


def _output_path(output: ExecutionOutput, taken: Iterable[str], names: Iterable[str]) -> str:
    path = _place_of(output.path)
    if path is None:
        raise _bad_output(
            f"the output {printable(output.name)} has the path {printable(output.path)}, which is "
            "no path of a folder",
            "write an absolute path without .. and ::",
        )
    for target in taken:
        if overlaps(path, target):
            raise _bad_output(
                f"the path {printable(output.path)} of the output {printable(output.name)} and the "
                f"input at /{printable(target)} have one place, or one is inside the other"
            )
    if path != output.name and overlaps(path, output.name):
        # One folder cannot be inside itself.
        raise _bad_output(
            f"the path {printable(output.path)} of the output {printable(output.name)} is inside "
            f"/{printable(output.name)}, where the program finds it too"
        )
    return path


def _module_file(source: Path, inside: str) -> str | None:
    """Return the module at a path below an input, or None. Links must not lead out of it."""
    try:
        found = Path(os.path.realpath(source / inside if inside else source, strict=True))
        if not found.is_relative_to(source):
            return None
        if found.is_dir():
            modules = [
                one.path
                for one in os.scandir(found)
                if one.name.endswith(SUFFIX) and not one.is_dir(follow_symlinks=False)
            ]
            if len(modules) != 1:
                return None
            found = Path(os.path.realpath(modules[0], strict=True))
            if not found.is_relative_to(source):
                return None
        return os.fspath(found) if found.is_file() else None
    except (OSError, ValueError):
        return None


def _put(source: str, place: Path) -> None:
    """Make a file that has the content of another one: the same file, where the disk allows it."""
    with suppress(OSError):
        os.link(source, place)
        return
    shutil.copyfile(source, place)


def _mount(source: str, path: str, mode: str) -> str:
    return SEPARATOR.join((source, path, mode))


__all__ = ["GuestFiles", "GuestPlace", "filesystem_error"]
