"""From a file, variables and flags to the settings that are in force, each with its origin."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasmsr.errors import EXIT_USAGE, WasmsrError, printable
from wasmsr.node.settings.table import BY_NAME, ROWS, SECTIONS, SettingRow
from wasmsr.node.settings.toml_file import FILE_LIMIT, TomlProblem, TomlValue, read_toml
from wasmsr.runspec.kinds import Flag


class SettingsError(WasmsrError):
    """The configuration is wrong.

    Attributes:
        problems: Every problem that was found: where it is, and a sentence.
    """

    exit_code = EXIT_USAGE

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = [printable(one, 1000) for one in problems]
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(
            self.problems[0] + more, hint="`wasmsr node --check-config` names all of them"
        )


@dataclass(frozen=True)
class Settings:
    """The settings in force.

    Attributes:
        values: Name of a setting, as "tls.key", and its value; every row of the table is there.
        origins: Name, and where the value comes from: "default", "wasmsr.toml:3",
            "WASMSR_TLS_KEY" or "--tls-key".
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def shown(self) -> list[dict[str, Any]]:
        """Return what is in force, as plain data for people and scripts.

        Nothing of it is secret: tokens and keys are in files, of which the names are settings.
        """
        return [
            {
                "name": row.name,
                "value": _plain(self[row.name]),
                "from": self.origins[row.name],
            }
            for row in ROWS
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (int, float, bool, type(None))):
        return value
    return str(value)


def read_settings(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> Settings:
    """Return the settings in force. A flag is stronger than a variable, which is stronger than
    the file.

    Args:
        file: The configuration file, or None.
        environ: Environment variables.
        flags: Name of a setting, and the text or texts that the user gave (True for a flag). None
            and an empty tuple are nothing.

    Raises:
        SettingsError: Something is wrong; it has all problems.
    """
    values: dict[str, Any] = {row.name: () if row.kind.repeated else row.default for row in ROWS}
    for row in ROWS:
        if isinstance(row.default, str):
            values[row.name] = row.kind.read(row.default)
    origins = dict.fromkeys(values, "default")
    problems: list[str] = []

    def take(row: SettingRow, found: Any, origin: str) -> None:
        try:
            values[row.name] = _read(row, found)
            origins[row.name] = origin
        except ValueError as error:
            problems.append(f"{origin}: {row.name}: {error}")

    for row, value, origin in _of_file(file, problems):
        take(row, value, origin)
    for row in ROWS:
        text = environ.get(row.variable)
        if text:
            # A variable of something that may be repeated has one value a line.
            found = [one for one in text.splitlines() if one] if row.kind.repeated else text
            take(row, found, row.variable)
    for name, value in flags.items():
        if value is not None and value != () and value is not False:
            take(BY_NAME[name], value, BY_NAME[name].flag)
    if not problems:
        problems += _contradictions(values, origins)
    if problems:
        raise SettingsError(problems)
    return Settings(values, origins)


def _of_file(file: Path | None, problems: list[str]) -> Iterable[tuple[SettingRow, Any, str]]:
    if file is None:
        return
    try:
        with open(file, "rb") as opened:
            found = read_toml(opened.read(FILE_LIMIT + 1))
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror or error}")
        return
    except TomlProblem as error:
        problems.append(f"{file}{f':{error.line}' if error.line else ''}: {error.sentence}")
        return
    for one in found:
        origin = f"{file}:{one.line}" if one.line else str(file)
        row = BY_NAME.get(f"{one.section}.{one.key}")
        if row is None:
            problems.append(f"{origin}: {_unknown(one)}")
        else:
            yield row, one.value, origin


def _unknown(one: TomlValue) -> str:
    if one.section and one.section not in SECTIONS:
        near = difflib.get_close_matches(one.section, SECTIONS, 1)
        return f"there is no table [{one.section}]" + (f"; is it [{near[0]}]?" if near else "")
    near = [name for name, row in BY_NAME.items() if row.key == one.key]
    near += difflib.get_close_matches(f"{one.section}.{one.key}", BY_NAME, 1)
    where = f" in [{one.section}]" if one.section else " outside of a table"
    if not near:
        return f"there is no setting {one.key}{where}"
    row = BY_NAME[near[0]]
    return f"there is no setting {one.key}{where}; is it {row.key} in [{row.section}]?"


def _read(row: SettingRow, found: Any) -> Any:
    """Return the value of a setting. Raises ValueError with a sentence."""
    if row.kind.repeated:
        every = found if isinstance(found, (list, tuple)) else [found]
        return tuple(row.kind.read(_text(one)) for one in every)
    if isinstance(row.kind, Flag) and isinstance(found, bool):
        return found
    return row.kind.read(_text(found))


def _text(found: Any) -> str:
    """Return a value of TOML as the text that kinds read."""
    if isinstance(found, bool) or not isinstance(found, (str, int, float)):
        raise ValueError(f"{found!r} is neither a text nor a number.")
    return found if isinstance(found, str) else repr(found)


def _contradictions(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """Return what is wrong about settings together."""
    problems = []
    tls = ("tls.certificate", "tls.key", "tls.authority")
    given = [name for name in (*tls, "tls.revoked") if values[name]]
    missing = [name for name in tls if not values[name]]
    if given and missing:
        problems.append(f"{origins[given[0]]}: {given[0]} needs {', '.join(missing)} too")
    if values["access.insecure"] and given:
        problems.append(f"{origins['access.insecure']}: access.insecure contradicts {given[0]}")
    if values["node.on-stop"] == "drain" and not values["node.drain-to"]:
        problems.append(
            f"{origins['node.on-stop']}: node.on-stop drain needs node.drain-to: which nodes get "
            "the programs"
        )
    if values["ownership.register"] and not values["checkpoints.store"]:
        problems.append(
            f"{origins['ownership.register']}: ownership.register needs checkpoints.store, from "
            "which other nodes take programs over"
        )
    if not (given or values["access.insecure"] or values["node.listen"].is_loopback):
        problems.append(
            f"{origins['node.listen']}: node.listen {values['node.listen']} can be reached from "
            "other machines: set [tls] certificate, key and authority (`wasmsr keys`), or "
            "access.insecure to let anybody in"
        )
    return problems
