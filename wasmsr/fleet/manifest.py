"""The manifest of a fleet: a table of its devices, and commands for them with names.

It is text with tabs, whose first line has the names of the columns. The column `Device` is the name
of the device; the others are fields for commands, in lower case: `{arch}` for a column `Arch`. A
line `# start: COMMAND` gives a command the name `start`. The tools of Silverline read the same
table, without such lines.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wasmsr.fleet.failures import FleetError, NotInFleet
from wasmsr.small_files import read

LARGEST: Final = 4 << 20
"""Bytes of a manifest."""
NAME: Final = "Device"
"""The column with the name."""
_SAVED = re.compile(r"#\s*([A-Za-z][\w-]*)\s*:\s*(.+)")
_FIELD = re.compile(r"\{\{|\}\}|\{(\w*)\}|[{}]")
_HOST = re.compile(r"[A-Za-z0-9_](?:[\w.-]*\w)?", re.ASCII)


@dataclass(frozen=True)
class FleetDevice:
    """A device of the manifest.

    Attributes:
        name: Its name.
        fields: What commands can name: `name`, `fullname` with the domain, and the other columns.
    """

    name: str
    fields: Mapping[str, str]

    @property
    def host(self) -> str:
        """The name by which it is reached."""
        return self.fields["fullname"]

    def fill(self, text: str) -> str:
        """Return a command or path with the fields of this device; `{{` is a brace.

        Raises:
            FleetError: It names a field that there is not, or has a brace that stands alone.
        """

        def value(found: re.Match[str]) -> str:
            if found[0] in ("{{", "}}"):
                return found[0][0]
            if found[1] not in self.fields:
                known = ", ".join(sorted(self.fields))
                raise FleetError(
                    f"{found[0]} in {text!r} is no field of {self.name}",
                    hint=f"there are {known}; a brace is written twice",
                )
            return self.fields[found[1]]

        return _FIELD.sub(value, text)


@dataclass(frozen=True)
class FleetManifest:
    """A manifest.

    Attributes:
        path: Its file.
        devices: The devices, in their order.
        commands: Commands by name.
    """

    path: Path
    devices: Sequence[FleetDevice]
    commands: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, names: Sequence[str]) -> list[FleetDevice]:
        """Return the devices with some names, or all if none is given.

        Raises:
            NotInFleet: There is no such device.
            FleetError: There is no device at all.
        """
        import difflib  # only for a mistake

        by_name = {one.name: one for one in self.devices}
        for name in names:
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name, 3, 0.0)
                raise NotInFleet(
                    f"{self.path} has no device {name!r}", hint=f"there are {', '.join(near)}"
                )
        found = [by_name[name] for name in dict.fromkeys(names)] if names else list(self.devices)
        if not found:
            raise FleetError(f"{self.path} has no device", hint="give each a line")
        return found

    def command(self, text: str) -> str:
        """Return the command that has a name, or the text itself."""
        return self.commands.get(text, text)


def read_manifest(path: Path, domain: str = "") -> FleetManifest:
    """Read a manifest.

    Args:
        path: Its file.
        domain: What follows a device's name in the name by which it is reached.

    Raises:
        FleetError: It cannot be read, has no column `Device`, or a line is wrong.
    """
    try:
        data, _ = read(path, LARGEST)
        if len(data) > LARGEST:
            raise FleetError(f"{path} has more than {LARGEST} bytes")
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FleetError(f"{path} is no text in UTF-8: {error}") from None
    commands: dict[str, str] = {}
    rows: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        saved = _SAVED.fullmatch(line.strip())
        if saved:
            commands[saved[1]] = saved[2]
        elif line.strip() and not line.lstrip().startswith("#"):
            rows.append((number, line))
    if not rows:
        raise FleetError(f"{path} has no line with the names of the columns")
    try:
        table = list(csv.reader((line for _, line in rows), delimiter="\t", strict=True))
    except csv.Error as error:
        raise FleetError(f"{path}: {error}") from None
    if len(table) != len(rows):
        raise FleetError(f"{path}: a value has more than one line")
    header = [one.strip() for one in table[0]]
    if NAME not in header:
        raise FleetError(
            f"{path} has no column {NAME}", hint="the first line has the names, with tabs between"
        )
    names = [one.lower() for one in header]
    seen: set[str] = set()
    devices = []
    for (number, _), cells in zip(rows[1:], table[1:], strict=True):
        if len(cells) > len(header):
            raise FleetError(f"{path}, line {number}: there are only {len(header)} columns")
        fields = dict(zip(names, (one.strip() for one in cells), strict=False))
        name = fields.pop(NAME.lower(), "")
        if not _HOST.fullmatch(name + domain):
            raise FleetError(f"{path}, line {number}: {name + domain!r} is no name of a host")
        if name in seen:
            raise FleetError(f"{path}, line {number}: {name} is there twice")
        seen.add(name)
        devices.append(FleetDevice(name, {**fields, "name": name, "fullname": name + domain}))
    return FleetManifest(path, devices, commands)
