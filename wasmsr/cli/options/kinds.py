"""From the text of an option to its value: sizes, seconds, lists; one sentence if it is wrong.

Without click, so that `quick` can use it; `typed` makes types of click of these.
"""

from __future__ import annotations

import os

from wasmsr import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wasmsr.wasi.streams.listen_address import TcpListen

PAGE = 65536

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class UsageError(errors.WasmsrError):
    """What was typed contradicts itself, or the program."""

    exit_code = errors.EXIT_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="wasmsr run --help")


class OptionKind:
    """What the text of an option means.

    Attributes:
        name: of the kind, as click has names for its types.
        repeated: the option may be given several times; its variable holds one value a line.
    """

    name = "text"
    repeated = False

    def read(self, text: str) -> Any:
        """The value; ValueError, with a sentence, for what is none."""
        return text


class Flag(OptionKind):
    """StopConditions an option without a value."""

    name = "flag"


class Choice(OptionKind):
    """One of a few words."""

    name = "choice"

    def __init__(self, *words: str) -> None:
        self.words = words

    def read(self, text: str) -> str:
        if text not in self.words:
            raise ValueError(f"{text!r} is none of {', '.join(self.words)}.")
        return text


class ReadableFile(OptionKind):
    """A file's name; the file need not exist yet."""

    name = "file"

    def read(self, text: str) -> str:
        if os.path.isdir(text):
            raise ValueError(f"File {text!r} is a directory.")
        if os.path.exists(text) and not os.access(text, os.R_OK):
            raise ValueError(f"File {text!r} is not readable.")
        return text


class WritableFile(OptionKind):
    """The name of a file that is written; whether it may be is `outputs`' matter."""

    name = "file"

    def read(self, text: str) -> str:
        if os.path.isdir(text):
            raise ValueError(f"File {text!r} is a directory.")
        return text


class Size(OptionKind):
    """A number of bytes: `65536`, `64K`, `512M`, `1.5GiB`. Units are powers of 1,024."""

    name = "size"

    def read(self, text: str) -> int:
        import re

        match = re.fullmatch(
            r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII
        )
        if not match:
            raise ValueError(f"{text!r} is not a size such as 65536, 512M or 1GiB.")
        number, unit = match.groups()
        # Not through a float where there is no fraction: sizes are exact.
        scale = UNITS[unit.upper()]
        return int(number) * scale if "." not in number else int(float(number) * scale)


class Seconds(OptionKind):
    """A span of time in seconds, more than nothing and less than for ever."""

    name = "seconds"

    def read(self, text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number of seconds.") from None
        if not 0 < seconds < float("inf"):
            raise ValueError(f"{text!r} is not a positive number of seconds.")
        return seconds


class Count(OptionKind):
    """A number of instructions, at least `least`; `1_000_000` and `40G` (powers of 1,000) too."""

    name = "count"

    def __init__(self, least: int) -> None:
        self.least = least

    def read(self, text: str) -> int:
        import re

        match = re.fullmatch(r"\s*(\d+(?:_\d+)*)([kMG]?)\s*", text, re.ASCII)
        if not match:
            raise ValueError(f"{text!r} is not a whole number of instructions.")
        digits, unit = match.groups()
        number = int(digits.replace("_", "")) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[unit]
        if number < self.least:
            raise ValueError(f"{text!r} is less than {self.least}.")
        return number


class Features(OptionKind):
    """Switches of features of WebAssembly: `-simd,+wide-arithmetic`."""

    name = "features"

    def read(self, text: str) -> str:
        from wasmsr.interp.instruction_set.features import chosen

        try:
            chosen(text)
        except ValueError as error:
            raise ValueError(f"{error}.") from None
        return text


class RepeatedText(OptionKind):
    """Text of an option that may be given several times; its variable holds one value a line."""

    repeated = True


class Folders(RepeatedText):
    """Folders for the program: `HOST[::GUEST[::MODE]]`."""

    name = "folder"


class SwappedFolders(Folders):
    """The same with the names the other way round, as other runtimes have it: `GUEST::HOST`, or
    `GUEST:HOST`; the value is of the form HOST::GUEST."""

    def read(self, text: str) -> str:
        guest, colons, host = text.partition("::" if "::" in text else ":")
        if not (guest and colons and host):
            raise ValueError(f"{text!r} is not of the form GUEST::HOST.")
        return f"{host}::{guest}"


class Variable(RepeatedText):
    """An environment variable for the program: `NAME=VALUE`."""

    name = "variable"

    def read(self, text: str) -> str:
        if not text.partition("=")[0] or "=" not in text:
            raise ValueError(f"{text!r} is not of the form NAME=VALUE.")
        if "\0" in text:
            raise ValueError("a variable cannot hold a zero byte.")
        return text


def listening(texts: Sequence[str]) -> list[TcpListen]:
    """The values of `--tcp-listen`. Raises WasiConfigError."""
    if not texts:
        return []
    from wasmsr.wasi.streams.listen_address import TcpListen

    return [TcpListen.parse(text) for text in texts]


def human_size(count: float) -> str:
    """`count` bytes in words: "1.5 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def human_time(seconds: float) -> str:
    """A span of time in words: "0.42 ms", "3.1 s"."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
