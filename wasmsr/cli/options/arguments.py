"""Which arguments an export gets, and which the program.

`argv` says where these arguments begin. Without `--invoke`, all of them belong to the program. With
`--invoke`, the arguments of the export are first, and those after a `--` belong to the program.
"""

from __future__ import annotations

from collections.abc import Sequence

from wasmsr.cli.options.run_options import ROWS, RunOptions
from wasmsr.cli.options.values import ArgumentError, parse_arguments
from wasmsr.cli.words.messages import say
from wasmsr.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module

NAMES = frozenset(row.name for row in ROWS)

MOST = 3
"""Words that one warning names."""


def divided(options: RunOptions, count: int) -> tuple[list[str], list[str]]:
    """Return the arguments of an export with `count` parameters, and the program's own."""
    words = list(options.args)
    # In `--invoke add -- 2 3`, an export with parameters gets 2 and 3; one without gets nothing.
    if options.dashes and count == 0:
        return [], words
    if "--" in words:
        at = words.index("--")
        return words[:at], words[at + 1 :]
    return words, []


def values(module: Module, export: str, options: RunOptions) -> tuple[Sequence[int], list[str]]:
    """Return the bits of an export's arguments, and the program's own arguments.

    Raises:
        ExportError: The module has no such export.
        ArgumentError: The export takes other arguments.
    """
    from wasmsr.program.exports import exported_function

    params = exported_function(module, export).params
    words, own = divided(options, len(params))
    try:
        return parse_arguments(printable(export, 100), params, words), own
    except ArgumentError as error:
        from wasmsr.cli.subcommands import resembling

        mine = [word for word in words if word.partition("=")[0] in NAMES]
        close = resembling(words[:1], NAMES)
        if mine:
            more = f"Options such as {mine[0]} go before the arguments."
        elif words and words[0].startswith("--"):
            more = f"There is no option {words[0]}."
            more += f" Is {close[0][1]} meant?" if close else ""
        elif len(words) > len(params):
            more = "The program's own arguments go after a --."
        else:
            raise
        raise ArgumentError(f"{error.message} {more}") from None


def warn(options: RunOptions) -> None:
    """Say which of the program's arguments look like our options.

    Say nothing if `--` or `--strict` makes clear that they are not.
    """
    if options.dashes or options.strict or not any(word[:1] == "-" for word in options.args):
        return
    from wasmsr.cli.subcommands import resembling

    found = resembling(options.args, NAMES)[:MOST]
    if found:
        words = ", ".join(printable(word, 60) for word, _ in found)
        ours = ", ".join(dict.fromkeys(option for _, option in found))
        verb = "goes" if len(found) == 1 else "go"
        say(
            f"{words} {verb} to the program; is {ours} of wasmsr meant? Our options go before the "
            "program's arguments; a -- between the two makes this warning go away.",
            "warning",
        )
