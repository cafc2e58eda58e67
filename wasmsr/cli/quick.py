"""The short way of a command line: `wasmsr run` without click, and `wasmsr --version`.

The import of click takes three times as long as the start of Python, and a right line does not need
click. So `attempt` reads the lines that it fully understands, with the same rows (`ROWS`), the same
division (`argv.split`) and the same kinds of values (`options`). Click gets all other lines, and
reads them from the start: another subcommand, options before it, help, completion, a wrong option,
a flag set by a variable. So each error has one wording.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.cli.options.run_options import RunOptions

VARIABLES = ("WASMSR_VERBOSE", "WASMSR_QUIET", "WASMSR_LOG_LEVEL", "_WASMSR_COMPLETE")
"""Variables for options of `wasmsr` itself, and those that shells set to get completions."""


def attempt(words: Sequence[str]) -> int | None:
    """Carry out the command line and return its exit code; None leaves it to click."""
    if any(name in os.environ for name in VARIABLES):
        return None
    if list(words) in (["--version"], ["-V"]):
        from wasmsr.cli.words.version import version

        print(version())
        return 0
    if not words or words[0] != "run":
        return None
    # Imports make no garbage, and to look for some takes as long as some of them. `Launch` turns
    # the collector on again before the program runs.
    gc.disable()
    try:
        options = read(words[1:])
        if options is None:
            return None
        from wasmsr.cli.running.launch import Launch

        return Launch(options).run()
    finally:
        gc.enable()


def read(words: Sequence[str]) -> RunOptions | None:
    """Return the checked options of `run`; None if click must read them.

    Raises:
        UsageError: They contradict each other.
    """
    from wasmsr.cli.options.argv import is_ended, split
    from wasmsr.cli.options.run_options import ROWS, RunOptions, variable
    from wasmsr.runspec.kinds import Flag

    by_name = {row.name: row for row in ROWS}
    takes_value = {row.name: not isinstance(row.type, Flag) for row in ROWS}
    parts = split(words, takes_value | {"--help": False})
    if parts.waiting is not None:
        return None
    values: dict[str, Any] = {row.field: row.default for row in ROWS}
    try:
        values.update({row.field: row.type.read(row.default) for row in ROWS if row.default})
    except ValueError:  # a default file may be a folder here
        return None
    values.update({row.field: False for row in ROWS if isinstance(row.type, Flag)})
    values.update({row.field: () for row in ROWS if row.type.repeated})
    for row in ROWS:
        said = os.environ.get(variable(row.name))
        if not said:
            continue
        if isinstance(row.type, Flag):
            return None
        try:
            if row.type.repeated:
                values[row.field] = tuple(map(row.type.read, filter(None, said.splitlines())))
            else:
                values[row.field] = row.type.read(said)
        except ValueError:
            return None
    typed = set()
    ours = iter(parts.ours)
    for word in ours:
        name, equals, text = word.partition("=")
        if name not in by_name:
            return None
        row = by_name[name]
        if row.type.repeated and row.field not in typed:
            values[row.field] = ()  # the command line overrides variables
        typed.add(row.field)
        if isinstance(row.type, Flag):
            if equals:
                return None
            values[row.field] = True
            continue
        try:
            value = row.type.read(text if equals else next(ours))
        except ValueError:
            return None
        values[row.field] = (*values[row.field], value) if row.type.repeated else value
    dashes = is_ended(words, parts)
    options = RunOptions(program=parts.program, args=tuple(parts.rest), dashes=dashes, **values)
    options.settle(typed)
    return options
