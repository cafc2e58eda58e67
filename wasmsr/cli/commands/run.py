"""The command `run` for click, made from the rows of `run`: for help, and for wrong lines.

A right line that needs no click goes through `quick`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from wasmsr.cli import programs
from wasmsr.cli.options.argv import is_ended, split, strict_wanted
from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.options.run_options import HELP, ROWS, RunOptions, variable
from wasmsr.cli.subcommands import instead_of
from wasmsr.runspec.kinds import Flag

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class SplitCommand(click.Command):
    """A click command with options, one optional argument PROGRAM, and ARGS, divided by `split`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Divide the line by `argv.split` and let click parse our part."""
        options: dict[str, bool] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option):
                takes_value = not (parameter.is_flag or parameter.count)
                for name in (*parameter.opts, *parameter.secondary_opts):
                    if name.startswith("--"):  # -h is the program's after PROGRAM
                        options[name] = takes_value
        parts = split(args, options, strict=strict_wanted())
        ctx.meta[DASHES] = is_ended(args, parts)
        ctx.meta[WAITING] = parts.waiting
        if not ctx.resilient_parsing:
            _refuse_habits(ctx, parts.ours, options)
        program = [] if parts.program is None else [parts.program]
        if parts.waiting is not None and not ctx.resilient_parsing:
            message = f"Option {parts.waiting!r} requires an argument."
            raise click.BadOptionUsage(parts.waiting, message, ctx)
        return super().parse_args(ctx, [*parts.ours, "--", *program, *parts.rest])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return completions: values after an option that has a value, otherwise options.

        Values may begin with a -.
        """
        for parameter in self.get_params(ctx):
            if ctx.meta.get(WAITING) in parameter.opts:
                return parameter.shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete)


DASHES = "wasmsr.dashes"
"""The key under which a context notes whether a `--` ended our options."""


def _refuse_habits(ctx: click.Context, ours: Sequence[str], options: Mapping[str, bool]) -> None:
    """Refuse an option of another runtime with a sentence that says what to use here."""
    words = iter(ours)
    for word in words:
        if options.get(word):
            next(words, None)
        elif word.partition("=")[0] not in options:
            instead = instead_of(word)
            if instead is not None:
                name = word.partition("=")[0]
                raise click.UsageError(f"There is no option {name}. {instead}", ctx)


WAITING = "wasmsr.waiting"
"""The key under which a context notes an option at the end of the line without a value."""


def _typed(ctx: click.Context, field: str) -> bool:
    return ctx.get_parameter_source(field) is ParameterSource.COMMANDLINE


def add_options(command: Decorated) -> Decorated:
    """Give a click command all of `ROWS`, each also as a variable."""
    for row in reversed(ROWS):
        attributes: dict[str, Any] = {
            "envvar": variable(row.name),
            "help": row.help,
        }
        if isinstance(row.type, Flag):
            attributes |= {"is_flag": True}
        else:
            attributes |= {
                "type": ClickType(row.type),
                "metavar": row.metavar,
                "multiple": row.type.repeated,
            }
            if row.default is not None:
                attributes |= {"default": row.default, "show_default": True}
        if row.name == "--invoke":
            attributes |= {"shell_complete": complete_export}
        command = click.option(row.name, row.field, **attributes)(command)
    return command


def complete_program(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the packaged programs, then files, which the shell completes."""
    names = [
        CompletionItem(name, help=summary)
        for name, summary in programs.summaries()
        if name.startswith(incomplete)
    ]
    return [*names, CompletionItem(incomplete, type="file")]


def complete_export(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the functions that PROGRAM exports, if it is before `--invoke` and can be read."""
    from wasmsr.errors import WasmsrError
    from wasmsr.interp.types import FuncType

    try:
        module = programs.load(str(ctx.params.get("program")), core=bool(ctx.params.get("core")))
    except (WasmsrError, OSError, ValueError):
        return []
    return [
        CompletionItem(export.name, help=str(export.type))
        for export in module.exports
        if isinstance(export.type, FuncType)
        and export.name.startswith(incomplete)
        and export.name.isprintable()
    ]


@click.command(
    cls=SplitCommand,
    help=HELP.format(
        programs="\n".join(f"  {name:<13}{text}" for name, text in programs.summaries())
    ),
    context_settings={"max_content_width": 100},
)
@click.argument("program", required=False, shell_complete=complete_program)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@add_options
@click.pass_context
def run(ctx: click.Context, /, **values: Any) -> int:
    """Carry out the command; HELP is its help text."""
    options = RunOptions(**values, dashes=ctx.meta[DASHES])
    options.settle({row.field for row in ROWS if _typed(ctx, row.field)})
    from wasmsr.cli.running.launch import Launch

    return Launch(options).run()
