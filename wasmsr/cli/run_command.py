"""The command `run` as click has it: made from the rows of `run`, for help and for what is wrong.

A line that is right and has no need of click goes another way, `quick`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from wasmsr.cli import programs
from wasmsr.cli.argv import split
from wasmsr.cli.options import Flag
from wasmsr.cli.run import HELP, ROWS, Options, variable
from wasmsr.cli.typed import Typed

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class SplitCommand(click.Command):
    """A click command with options, one optional argument PROGRAM, and ARGS, divided by `split`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options: dict[str, bool] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option):
                takes_value = not (parameter.is_flag or parameter.count)
                for name in (*parameter.opts, *parameter.secondary_opts):
                    options[name] = takes_value
        parts = split(args, options)
        program = [] if parts.program is None else [parts.program]
        if parts.waiting is not None and not ctx.resilient_parsing:
            message = f"Option {parts.waiting!r} requires an argument."
            raise click.BadOptionUsage(parts.waiting, message, ctx)
        return super().parse_args(ctx, [*parts.ours, "--", *program, *parts.rest])


def _typed(ctx: click.Context, field: str) -> bool:
    return ctx.get_parameter_source(field) is ParameterSource.COMMANDLINE


def add_options(command: Decorated) -> Decorated:
    """Gives a click command all of `ROWS`, each also as a variable."""
    for row in reversed(ROWS):
        attributes: dict[str, Any] = {
            "envvar": variable(row.name),
            "help": row.help,
        }
        if isinstance(row.type, Flag):
            attributes |= {"is_flag": True}
        else:
            attributes |= {
                "type": Typed(row.type),
                "metavar": row.metavar,
                "multiple": row.type.repeated,
            }
            if row.default is not None:
                attributes |= {"default": row.default, "show_default": True}
        command = click.option(row.name, row.field, **attributes)(command)
    return command


def complete_program(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The packaged programs, then files (for which the shell looks)."""
    names = [
        CompletionItem(name, help=summary)
        for name, summary in programs.summaries()
        if name.startswith(incomplete)
    ]
    return [*names, CompletionItem(incomplete, type="file")]


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
    """The command; HELP is its help."""
    options = Options(**values)
    options.settle({row.field for row in ROWS if _typed(ctx, row.field)})
    from wasmsr.cli.launch import Launch

    return Launch(options).run()
