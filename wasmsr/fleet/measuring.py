"""Measurements on a fleet: what is run where, and what is kept of the records."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wasmsr import small_files
from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.wire.records import decode_records

MOST_MODULES: Final = 4096
"""Modules of one device in one measurement: what one message takes."""
COMMON: Final = "common"
"""Files and folders with this in their names are parts of several programs."""
_SAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class BenchPlan:
    """A measurement: every file with every engine and every list of arguments.

    Attributes:
        files: Files on the devices.
        engines: Names of engines that the devices know.
        argvs: Lists of arguments.
        repeat: How often each runs.
        limit: Seconds for all repetitions, or None.
        each_limit: Seconds for one, or None.
        shuffle: Whether the order is random, and another one on each device.
        interference: How many files run at the same time in one module; 0 runs each alone.
        seed: Of what is random; None takes another one each time.
    """

    files: Sequence[str]
    engines: Sequence[str]
    argvs: Sequence[Sequence[str]] = ((),)
    repeat: int = 100
    limit: float | None = 60.0
    each_limit: float | None = None
    shuffle: bool = False
    interference: int = 0
    seed: int | None = None

    def modules(self, devices: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the modules of each device, as an orchestrator is asked for them.

        Args:
            devices: UUIDs of the devices.

        Raises:
            FleetError: They are more than one message takes.
        """
        draw = random.Random(self.seed)
        found = {}
        for device in devices:
            made = [
                self._module(file, engine, argv)
                for file in self._files(draw)
                for engine in self.engines
                for argv in self.argvs
            ]
            if len(made) > MOST_MODULES:
                raise FleetError(
                    f"{len(made)} modules for one device; {MOST_MODULES} are the most",
                    hint="measure some files after the others",
                )
            if self.shuffle:
                draw.shuffle(made)
            found[device] = made
        return found

    def _files(self, draw: random.Random) -> list[str]:
        if not self.interference:
            return list(self.files)
        sets = [draw.sample(list(self.files), len(self.files)) for _ in range(self.interference)]
        return [":".join(one) for one in zip(*sets, strict=True)]

    def _module(self, file: str, engine: str, argv: Sequence[str]) -> dict[str, Any]:
        name = file.rsplit("/", 1)[-1].split(".")[0] or "module"
        return {
            "type": "module", "uuid": str(uuid.uuid4()), "name": f"{name}.{engine}"[:256],
            "file": file,
            "args": {
                "engine": engine, "argv": list(argv), "repeat": self.repeat, "limit": self.limit,
                "ilimit": self.each_limit, "dirs": ["."],
            },
        }  # fmt: skip


def read_argvs(path: Path) -> list[list[str]]:
    """Return the lists of arguments of a JSON file: a list of lists of text.

    Raises:
        FleetError: It cannot be read, or is something else.
    """
    try:
        data, _ = small_files.read(path, 1 << 20)
        found = json.loads(data)
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FleetError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, list) or not found or not all(
        isinstance(one, list) and all(isinstance(word, str) for word in one) for one in found
    ):  # fmt: skip
        raise FleetError(f"{path} is no list of lists of text", hint='as [["1", "2"], []]')
    return found


def index_files(folder: Path) -> Iterator[str]:
    """Yield the files below a folder in order, without those that several programs share.

    Raises:
        FleetError: There is no such folder.
    """
    if not folder.is_dir():
        raise FleetError(f"{folder} is no folder")
    for path in sorted(folder.rglob("*")):
        if COMMON not in path.relative_to(folder).as_posix() and path.is_file():
            yield path.as_posix()


class RecordKeeper:
    """Keeps records of measurements as one JSON file for each module and kind.

    Args:
        folder: Where to; it is made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FleetError(f"{folder}: {error.strerror or error}") from error
        self._folder = folder
        self.rows: list[dict[str, Any]] = []
        """All records so far, one each, for a table."""

    def keep(self, kind: str, payload: bytes, about: Mapping[str, Any]) -> Path:
        """Write the records of a module; return the file.

        Args:
            kind: Their kind, as in the topic.
            payload: Their bytes.
            about: `module`, its UUID, and what else is known of it.

        Raises:
            WireError: They are no records of that kind.
            FleetError: The file cannot be written.
        """
        columns = decode_records(kind, payload)
        name = _SAFE.sub("_", f"{about['module']}.{kind}")[:200]
        path = self._folder / f"{name}.json"
        whole = {**about, "kind": kind, "records": columns}
        try:
            small_files.replace(path, json.dumps(whole).encode() + b"\n", 0o644)
        except OSError as error:
            raise FleetError(f"{path}: {error.strerror or error}") from error
        texts = {key: value for key, value in about.items() if isinstance(value, str | int | float)}
        for values in zip(*columns.values(), strict=True):
            self.rows.append({**texts, "kind": kind, **dict(zip(columns, values, strict=True))})
        return path

    def write_table(self, path: Path) -> None:
        """Write all records as one table in the Parquet format.

        Raises:
            MissingPackageError: The package `pyarrow` is not there.
            FleetError: The file cannot be written.
        """
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            from wasmsr.errors import MissingPackageError

            raise MissingPackageError("pyarrow", "--table") from error
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        table = pyarrow.table({name: [row.get(name) for row in self.rows] for name in names})
        try:
            pyarrow.parquet.write_table(table, path)
        except OSError as error:
            raise FleetError(f"{path}: {error.strerror or error}") from error
