"""What measurements of a fleet have found: a summary of kept records, and a picture of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wasmsr import small_files
from wasmsr.errors import MissingPackageError, printable, reason
from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.wire.records import RECORD_KINDS

LARGEST: Final = 64 << 20
"""Bytes of one file of records."""
MOST_FILES: Final = 100_000
MOST_IN_PANEL: Final = 40
"""Programs that one panel of the picture shows; further ones are counted below it."""
FORMATS: Final = (".png", ".svg", ".pdf")
"""What the name of a picture may end in."""
SECONDS: Final = 1e6
"""Microseconds in one."""


@dataclass(frozen=True)
class MeasuredProgram:
    """The runs of one program, with one engine, on one device.

    Attributes:
        device: The device's name, or its UUID if nobody knew the name.
        program: The file, with its arguments if it had some.
        engine: The engine's name; "" if it is not known.
        wall: Seconds of each run, from its start to its end.
        cpu: Seconds of CPU time of each run, its own and the system's.
    """

    device: str
    program: str
    engine: str
    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    def summary(self) -> dict[str, Any]:
        """Return the figures of its runs: times are in seconds."""
        low, middle, high = _quartiles(self.wall)
        return {
            "device": self.device, "program": self.program, "engine": self.engine,
            "runs": len(self.wall), "median": middle, "lower_quartile": low,
            "upper_quartile": high, "least": min(self.wall), "greatest": max(self.wall),
            "cpu_median": statistics.median(self.cpu),
        }  # fmt: skip


def read_measured(folder: Path) -> list[MeasuredProgram]:
    """Return what the files of a folder say of times, ordered by device, program and engine.

    Runs of the same program, engine and device are put together, from whatever modules they are.
    Records of other kinds are left out.

    Args:
        folder: Where `RecordKeeper` has kept records.

    Raises:
        FleetError: There is no such folder, a file in it is damaged, or no file has times.
    """
    wall: dict[tuple[str, str, str], list[float]] = {}
    cpu: dict[tuple[str, str, str], list[float]] = {}
    for path, whole in _files(folder):
        kind = RECORD_KINDS.get(str(whole.get("kind")))
        if kind is None or "wall" not in kind.columns or "user" not in kind.columns:
            continue
        columns = _columns(path, whole)
        key = _key(whole)
        wall.setdefault(key, []).extend(one / SECONDS for one in columns["wall"])
        both = zip(columns["user"], columns["system"], strict=True)
        cpu.setdefault(key, []).extend((user + system) / SECONDS for user, system in both)
    found = [
        MeasuredProgram(*key, tuple(wall[key]), tuple(cpu[key]))
        for key in sorted(wall)
        if wall[key]
    ]
    if not found:
        raise FleetError(
            f"{printable(folder)} has no records of times",
            hint="`wasmsr fleet bench --collect FOLDER` keeps some",
        )
    return found


def draw_report(measured: Sequence[MeasuredProgram], path: Path) -> None:
    """Draw the times of runs: a panel for each device, a box for each program and engine.

    A box is from the lower to the upper quartile with a line at the median; its whiskers end at
    the least and the greatest time. The axis is logarithmic.

    Args:
        measured: What to draw, from `read_measured`.
        path: The picture; its name says the format (`FORMATS`).

    Raises:
        FleetError: The name ends in something else, or the picture cannot be written.
        MissingPackageError: The package `matplotlib` is not there.
    """
    if path.suffix.lower() not in FORMATS:
        raise FleetError(
            f"{printable(path)}: no picture is called so", hint=f"end it in {', '.join(FORMATS)}"
        )
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "the picture") from error
    engines = sorted({one.engine for one in measured})
    devices = sorted({one.device for one in measured})
    rows = [_panel_rows(measured, device) for device in devices]
    tall = [max(1, len(names)) * (0.12 + 0.2 * len(engines)) + 1.0 for names, _ in rows]
    figure = Figure(figsize=(9, sum(tall)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(devices), squeeze=False, height_ratios=tall)[:, 0]
    for panel, device, (names, hidden) in zip(panels, devices, rows, strict=True):
        _draw_panel(panel, [one for one in measured if one.device == device], names, engines)
        title = f"{len(hidden)} further programs are not shown" if hidden else ""
        panel.set_title(_plain(f"{device}   {title}".rstrip()), loc="left")
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise FleetError(f"{printable(path)}: {error.strerror or error}") from error


def _draw_panel(
    panel: Any, measured: Sequence[MeasuredProgram], names: Sequence[str], engines: Sequence[str]
) -> None:
    """Draw the boxes of one device."""
    width = 0.8 / len(engines)
    handles, labels = [], []
    for number, engine in enumerate(engines):
        boxes = [one for one in measured if one.engine == engine and one.program in names]
        if not boxes:
            continue
        drawn = panel.boxplot(
            [[max(span, 1e-6) for span in one.wall] for one in boxes],
            positions=[names.index(one.program) + (number - (len(engines) - 1) / 2) * width
                       for one in boxes],
            widths=width * 0.85, orientation="horizontal", whis=(0, 100), patch_artist=True,
            boxprops={"facecolor": f"C{number % 10}"}, medianprops={"color": "black"},
        )  # fmt: skip
        handles.append(drawn["boxes"][0])
        labels.append(_plain(engine or "engine unknown"))
    panel.set_yticks(range(len(names)), [_plain(one) for one in names])
    panel.set_ylim(len(names) - 0.4, -0.6)  # the first one is at the top
    panel.set_xscale("log")
    panel.set_xlabel("seconds of one run")
    panel.grid(axis="x", alpha=0.3)
    panel.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _panel_rows(measured: Sequence[MeasuredProgram], device: str) -> tuple[list[str], list[str]]:
    """Return the programs that a device's panel shows, and those for which it has no room."""
    names = list(dict.fromkeys(one.program for one in measured if one.device == device))
    return names[:MOST_IN_PANEL], names[MOST_IN_PANEL:]


def _plain(text: str) -> str:
    """Return text as a picture can show it: short, and nothing of it means mathematics."""
    shown = printable(text)
    shown = shown if len(shown) <= 60 else shown[:28] + "…" + shown[-31:]
    return shown.replace("$", r"\$")


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _key(whole: dict[str, Any]) -> tuple[str, str, str]:
    """Return the device, the program and the engine of a file of records."""
    device = whole.get("device") or whole.get("runtime") or "?"
    program = whole.get("file") or whole.get("name") or whole.get("module") or "?"
    args = whole.get("args")
    argv = args.get("argv") if isinstance(args, dict) else None
    if isinstance(argv, list) and argv:
        program = " ".join([str(program), *map(str, argv)])
    return str(device), str(program), str(whole.get("engine") or "")


def _files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the files of records, and what is in each."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise FleetError(f"{printable(folder)}: {error.strerror or error}") from error
    if len(paths) > MOST_FILES:
        raise FleetError(f"{printable(folder)} has more than {MOST_FILES} files of records")
    for path in paths:
        try:
            data, _ = small_files.read(path, LARGEST)
            whole = json.loads(data)
        except OSError as error:
            raise FleetError(f"{printable(path)}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise FleetError(f"{printable(path)} is no JSON: {reason(error)}") from None
        if not isinstance(whole, dict):
            raise FleetError(f"{printable(path)} is no file of records")
        yield path, whole


def _columns(path: Path, whole: dict[str, Any]) -> dict[str, list[int]]:
    """Return the columns of times of a file.

    Raises:
        FleetError: They are no columns of whole numbers of one length.
    """
    records = whole.get("records")
    found = {
        name: records.get(name) if isinstance(records, dict) else None
        for name in ("wall", "user", "system")
    }
    lengths = set()
    for values in found.values():
        if not isinstance(values, list) or not all(
            type(one) is int and 0 <= one < 1 << 64 for one in values
        ):
            raise FleetError(f"{printable(path)} is no file of records")
        lengths.add(len(values))
    if len(lengths) != 1:
        raise FleetError(f"{printable(path)}: its columns have different lengths")
    return {name: values for name, values in found.items() if values is not None}


__all__ = ["FORMATS", "MeasuredProgram", "draw_report", "read_measured"]
