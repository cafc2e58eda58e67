"""The four packaged programs and their defaults, in one table, and where their files are.

A name means a packaged module and what it needs. `run` and `remote` search here before they open a
file of that name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from wasmsr.interp.modules.module import Module
    from wasmsr.interp.modules.module_cache import ModuleCache

SEPARATOR = "::"


@record(frozen=True)
class NamedProgram:
    """A program with its defaults.

    Attributes:
        name: The name on the command line.
        file: The module's name in `folder()`.
        summary: What the program does, in a few words.
        invoke: The export that is called.
        args: Its arguments if the user gives none.
        files: Arguments after them, and after the user's if those name no files.
        packaged: The guest path of the packaged folder, or None.
        here: The guest path of the current folder, or None.
        interactive: Whether keys are read (see `--interactive`) unless the user says otherwise.
        idle: Whether nothing is called until a key asks for it.
    """

    name: str
    file: str
    summary: str
    invoke: str = "_start"
    args: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    packaged: str | None = None
    here: str | None = None
    interactive: bool = False
    idle: bool = False

    @property
    def path(self) -> Path:
        """The module's file."""
        from pathlib import Path  # only here: it takes as long as to run fib

        return Path(self.location)

    @property
    def location(self) -> str:
        """The same as text."""
        return os.path.join(folder(), self.file)

    def words(self, given: Sequence[str]) -> list[str]:
        """Return the program's arguments, made of those that the user gave.

        `files` are added if the user named no files: no word but options and their values.
        """
        if not given:
            return [*self.args, *self.files]
        if not self.files:
            return list(given)
        named, is_value = False, False
        for word in given:
            is_option = not is_value and word.startswith("--")
            named = named or not (is_option or is_value)
            is_value = is_option
        return list(given) if named else [*given, *self.files]

    def mounts(self, given: Sequence[str] = (), here: str | None = None) -> list[str]:
        """Return the program's mounts in the form of `--dir`: the user's, then the defaults.

        The user's first folder without a guest path replaces the current folder. A default whose
        guest path the user has given is left out.

        Args:
            given: The user's folders.
            here: A mount with "{}" for its guest path, which replaces the current folder as the
                default; "" for no default, None for the current folder.
        """
        mine = list(given)
        if self.here is not None:
            bare = [at for at, text in enumerate(mine) if SEPARATOR not in text]
            if bare:
                mine[bare[0]] += SEPARATOR + self.here
            elif not mine and here is None:
                mine.append(f"{os.getcwd()}{SEPARATOR}{self.here}")
            elif here and not any(text.split(SEPARATOR)[1] == self.here for text in mine):
                mine.append(here.format(self.here))
        taken = {text.split(SEPARATOR)[1] if SEPARATOR in text else text for text in mine}
        if self.packaged is not None and self.packaged not in taken:
            mine.append(f"{folder()}{SEPARATOR}{self.packaged}")
        return mine


PROGRAMS: dict[str, NamedProgram] = {
    program.name: program
    for program in (
        NamedProgram(
            "fib",
            "fib.wasm",
            "the 9th Fibonacci number, or that of its argument, recursively",
            invoke="fib",
            args=("9",),
        ),
        NamedProgram(
            "cat",
            "cat.wasm",
            "copies test.txt, or the file named, from its folder to standard output",
            packaged=".",
        ),
        NamedProgram(
            "server",
            "server.wasm",
            "answers requests: r makes one, s saves a snapshot, q quits",
            invoke="request",
            interactive=True,
            idle=True,
        ),
        NamedProgram(
            "transcoding",
            "transcoding.wasm",
            "a film to Motion-JPEG: transcoding.avi in the current folder, or in --dir",
            args=("--frames", "200", "--scale", "2"),
            files=("film/sample.y4m", "transcoding.avi"),
            packaged="film",
            here=".",
        ),
    )
}


PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

FFMPEG = os.path.join(os.path.dirname(PACKAGE), ".cache", "ffmpeg", "ffmpeg.wasm")
"""Where `make ffmpeg` puts its result, in a source tree."""


class FFmpeg(NamedProgram):
    """`transcoding` by FFmpeg, with its own arguments or with those of the example, translated."""

    def words(self, given: Sequence[str]) -> list[str]:
        """Return FFmpeg's arguments for those of the packaged transcoding."""
        return ffmpeg_words(super().words(given))


def ffmpeg_words(words: Sequence[str]) -> list[str]:
    """Return FFmpeg's arguments for `[--frames N] [--scale N] [--quality Q] INPUT OUTPUT`.

    Arguments of another form are FFmpeg's own, and are returned as they are.
    """
    options = {"--scale": "1", "--quality": "75", "--progress": "25"}
    files: list[str] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("-"):
            value = next(rest, "")
            if word not in ("--frames", *options) or not value.isdecimal():
                return list(words)
            options[word] = value
        else:
            files.append(word)
    if len(files) != 2:
        return list(words)
    frames, scale = options.get("--frames"), options["--scale"]
    # The example's 1 to 100, FFmpeg's 31 (smallest) to 2 (best).
    quality = 31 - round((int(options["--quality"]) - 1) * 29 / 99)
    repeated = [] if frames is None else ["-stream_loop", "-1"]
    limited = [] if frames is None else ["-frames:v", frames]
    picture = ["-vf", f"scale=iw*{scale}:ih*{scale}:flags=lanczos", "-c:v", "mjpeg"]
    head = ["-nostdin", "-hide_banner", "-loglevel", "error", "-y", *repeated, "-i", files[0]]
    return [*head, *limited, *picture, "-q:v", str(quality), "-bitexact", files[1]]


def folder() -> str:
    """Return the folder of the packaged programs: in the installed package, or in the tree."""
    packaged = os.path.join(PACKAGE, "examples")
    if os.path.isdir(packaged):
        return packaged
    return os.path.join(os.path.dirname(PACKAGE), "examples", "snapshot")


def find(name: str) -> NamedProgram | None:
    """Return the packaged program of a name, or None for another name.

    If FFmpeg was built, FFmpeg does the transcoding.
    """
    program = PROGRAMS.get(name)
    if program is not None and program.files and os.path.isfile(FFMPEG):
        return FFmpeg(**vars(program) | {"file": FFMPEG})
    return program


def load(
    name: str,
    features: str | None = None,
    cache: ModuleCache | None = None,
    *,
    core: bool = False,
) -> Module:
    """Return the module of a packaged program or of a file, through the cache.

    Args:
        name: The program's name, or the file's.
        cache: The cache, or None.
        features: What the module may need, as for `Module`.
        core: Whether the file is a component whose core module is to be returned.

    Raises:
        OSError: The file cannot be read.
        ModuleError: The file has no module; the message begins with the file's name.
    """
    from wasmsr.errors import ModuleError, printable
    from wasmsr.interp.modules.module import Module

    named = find(name)
    if core and named is None:
        return _core_of(name, features)
    read = Module.from_file if cache is None else cache.load
    try:
        if named is not None:
            return read(named.location, name=named.name, features=features)
        return read(name, features=features)
    except ModuleError as error:
        if printable(name) not in error.message:
            error.message = f"{printable(name)}: {error.message}"
            error.args = (error.message,)
        raise


def _core_of(name: str, features: str | None) -> Module:
    """Return the core module in a component that runs here."""
    from wasmsr.errors import LinkError, printable
    from wasmsr.interp.modules.foreign_files import LAYER, core_of
    from wasmsr.interp.modules.module import MAGIC, Module, assemble, decode_only

    with open(name, "rb", buffering=0) as file:
        data = file.read()
    if not data.startswith(MAGIC):
        data = assemble(data, name)
    if data[6:8] != LAYER:
        raise LinkError(
            f"{printable(name)} is no component, so there is no core module in it",
            hint="leave out --core",
        )
    binary = core_of(data, decode_only)
    if binary is None:
        raise LinkError(
            f"{printable(name)}: no core module in the component runs with WASI preview 1 alone"
        )
    return Module(binary, name=os.path.splitext(os.path.basename(name))[0], features=features)


def known_digest(digest: bytes) -> str | None:
    """Return the name of the packaged program whose module has this SHA-256, or None."""
    import hashlib

    for program in PROGRAMS.values():
        try:
            if hashlib.sha256(program.path.read_bytes()).digest() == digest:
                return program.name
        except OSError:
            continue
    return None


def summaries() -> Sequence[tuple[str, str]]:
    """Return name and summary of each program, for help and completion."""
    return [(program.name, program.summary) for program in PROGRAMS.values()]
