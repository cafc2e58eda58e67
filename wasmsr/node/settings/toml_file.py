"""A configuration file in TOML, with the line of each key."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_LIMIT = 2**20
"""Bytes that a configuration file may have."""

_TABLE = re.compile(r"\s*\[\s*([A-Za-z0-9_.\" -]+?)\s*\]\s*(#.*)?")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*(\.|=)")


class TomlProblem(ValueError):
    """What is wrong with a file: the line, from 1 (0: none), and a sentence."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line
        self.sentence = sentence


@dataclass(frozen=True)
class TomlValue:
    """A value of the file.

    Attributes:
        section: Its table; "" if it is in none.
        key: Its key.
        value: What TOML gives.
        line: The line of the key, from 1; 0 if it cannot be found.
    """

    section: str
    key: str
    value: Any
    line: int


def read_toml(data: bytes) -> list[TomlValue]:
    """Return all values of a file whose tables are not nested. Raises TomlProblem."""
    if len(data) > FILE_LIMIT:
        raise TomlProblem(0, f"it has more than {FILE_LIMIT} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TomlProblem(line, "it is not UTF-8") from None
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        at = re.search(r"line (\d+)", str(error))
        sentence = re.sub(r" ?\(at .*\)$", "", str(error)) or "it is not TOML"
        raise TomlProblem(int(at[1]) if at else text.count("\n") + 1, sentence) from None
    lines = _lines(text)
    values = []
    for name, value in found.items():
        if isinstance(value, dict):
            values += [
                TomlValue(name, key, one, lines.get((name, key), lines.get((name, ""), 0)))
                for key, one in value.items()
            ]
            if not value:
                continue
        else:
            values.append(TomlValue("", name, value, lines.get(("", name), 0)))
    return values


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Return the first line of each (table, key), and of each table under (table, "").

    A line inside a multi-line string or array can look like a key; the first line of a name counts,
    and TOML has refused a second one.
    """
    section = ""
    found: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if table := _TABLE.fullmatch(line):
            section = table[1].strip('"')
            found.setdefault((section, ""), number)
        elif key := _KEY.match(line):
            name = key[1].strip("\"'")
            if key[2] == "." and not section:
                found.setdefault((name, ""), number)
                rest = _KEY.match(line[key.end() :])
                if rest:
                    found.setdefault((name, rest[1].strip("\"'")), number)
            else:
                found.setdefault((section, name), number)
    return found
