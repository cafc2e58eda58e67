"""Kinds of values: from text to a value, or one sentence that says what is wrong.

Each kind serves a field of `RunSpec`, an option of the command line, a variable and an entry of a
dictionary alike. The command line makes types of click of these kinds.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Factors of the units of sizes, in bytes."""

TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
FALSE = frozenset(("0", "false", "f", "no", "n", "off"))
"""Words that switch a flag on or off; click has the same words."""


class OptionKind:
    """What the text of an option means.

    Attributes:
        name: of the kind, as click has names for its types.
        repeated: the option may be given several times; its variable holds one value a line.
    """

    name = "text"
    repeated = False

    def read(self, text: str) -> Any:
        """Return the value of a text.

        Raises:
            ValueError: The text is not of this kind; the message is a sentence.
        """
        return text


class Flag(OptionKind):
    """A switch: an option without a value."""

    name = "flag"

    def read(self, text: str) -> bool:
        """Return whether the text switches the flag on."""
        word = text.strip().lower()
        if word not in TRUE | FALSE:
            raise ValueError(f"{text!r} is neither true nor false.")
        return word in TRUE


class Choice(OptionKind):
    """One of a few words."""

    name = "choice"

    def __init__(self, *words: str) -> None:
        self.words = words

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        if text not in self.words:
            raise ValueError(f"{text!r} is none of {', '.join(self.words)}.")
        return text


class RepeatedChoice(Choice):
    """One of a few words, for an option that may be given several times."""

    repeated = True


class NodeIds(OptionKind):
    """The id of a node: 32 hexadecimal digits."""

    name = "node id"
    repeated = True

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        digits = text.strip().lower()
        if len(digits) != 32 or not all(one in "0123456789abcdef" for one in digits):
            raise ValueError(
                f"{text!r} is no node id of 32 digits; wasmsr ownership node prints that of a host."
            )
        return digits


class ReadableFile(OptionKind):
    """A file's name; the file need not exist yet."""

    name = "file"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        if os.path.isdir(text):
            raise ValueError(f"File {text!r} is a directory.")
        if os.path.exists(text) and not os.access(text, os.R_OK):
            raise ValueError(f"File {text!r} is not readable.")
        return text


class SnapshotSource(ReadableFile):
    """A snapshot file, or a folder of checkpoints."""

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        return text if os.path.isdir(text) else super().read(text)


class Folder(OptionKind):
    """The name of a folder, which need not exist yet."""

    name = "folder"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        if os.path.exists(text) and not os.path.isdir(text):
            raise ValueError(f"{text!r} is not a folder.")
        return text


class WritableFile(OptionKind):
    """The name of a file that is written; whether it may be is `outputs`' matter."""

    name = "file"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        if os.path.isdir(text):
            raise ValueError(f"File {text!r} is a directory.")
        return text


class Size(OptionKind):
    """A number of bytes: `65536`, `64K`, `512M`, `1.5GiB`. Units are powers of 1,024."""

    name = "size"

    def read(self, text: str) -> int:
        """Return the number that the text gives."""
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
        """Return the seconds that the text gives."""
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
        """Return the number that the text gives."""
        number = int(text) if text.isascii() and text.isdecimal() else self._read_with_unit(text)
        if number < self.least:
            raise ValueError(f"{text!r} is less than {self.least}.")
        return number

    def _read_with_unit(self, text: str) -> int:
        import re  # slow to import, and rarely needed

        match = re.fullmatch(r"\s*(\d+(?:_\d+)*)([kMG]?)\s*", text, re.ASCII)
        if not match:
            raise ValueError(f"{text!r} is not a whole number of instructions.")
        digits, unit = match.groups()
        return int(digits.replace("_", "")) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[unit]


class Features(OptionKind):
    """Switches of features of WebAssembly: `-simd,+wide-arithmetic`."""

    name = "features"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
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
        """Return the text, if it is of this kind."""
        guest, colons, host = text.partition("::" if "::" in text else ":")
        if not (guest and colons and host):
            raise ValueError(f"{text!r} is not of the form GUEST::HOST.")
        return f"{host}::{guest}"


class Preloaded(RepeatedText):
    """A module from which a program imports: `NAME=FILE`."""

    name = "module"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        name, _, file = text.partition("=")
        if not name or not file or "\0" in text:
            raise ValueError(f"{text!r} is not of the form NAME=FILE.")
        return text


class Variable(RepeatedText):
    """An environment variable for the program: `NAME=VALUE`."""

    name = "variable"

    def read(self, text: str) -> str:
        """Return the text, if it is of this kind."""
        if not text.partition("=")[0] or "=" not in text:
            raise ValueError(f"{text!r} is not of the form NAME=VALUE.")
        if "\0" in text:
            raise ValueError("a variable cannot hold a zero byte.")
        return text
