"""The command `wasmsr` as click has it: its options, and its subcommands, loaded when called."""

from __future__ import annotations

from importlib import import_module

import click

from wasmsr import errors
from wasmsr.cli.subcommands import COMMANDS, ELSEWHERE
from wasmsr.cli.words import messages

EXIT_CODES = """\b
Exit codes:
  0    the program ended well; otherwise its own exit code
  1    the host failed (a host function, memory, a full disk, a closed pipe)
  2    usage: an option, an argument, a file or a folder is wrong or not there
  120  stopped on request, the snapshot is written
  121  out of fuel, or of time (--timeout)
  122  the module is malformed, invalid, unsupported or cannot be linked
  123  the snapshot cannot be written, read or restored
  124  a move failed
  125  interrupted after a move was decided and before the peer confirmed it
  130  interrupted (Ctrl-C)
  134  trap
  143  terminated (SIGTERM)
A program may end with any of these itself; --json says which it was."""

COMPLETION = """\b
Completion in your shell (bash; likewise zsh_source and fish_source):
  eval "$(_WASMSR_COMPLETE=bash_source wasmsr)\""""


HELP = """Runs WebAssembly programs that can be saved, moved and resumed while they run.

\b
Try:
  wasmsr run fib                          34: a packaged program
  wasmsr app.wasm                         a program of your own; `run` may be left out
  wasmsr help run                         the options of a command
  wasmsr run server                       keys: r request, s snapshot, q quit
  wasmsr run server --from-snapshot snapshot.bin     ... and on it goes
  wasmsr run python.wasm -c 'print(1)'    your own; its arguments are its own
  wasmsr inspect snapshot.bin             call stack, memories, descriptors
  wasmsr inspect app.wasm                 imports, exports, and whether it runs here

Every option can also be set as a variable: WASMSR_FUEL=1000, WASMSR_TRACE=1; where an option
may be given several times (WASMSR_DIR, WASMSR_ENV) the variable holds one value a line."""


class LazyGroup(click.Group):
    """A group that imports a subcommand only to call it, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand and return it, or None."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand of a line; a wrong name gets a sentence that helps."""
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            wrong = args[0]
            if wrong in ELSEWHERE:
                raise click.UsageError(f"There is no command {wrong!r}. {ELSEWHERE[wrong]}")
            if "." in wrong or "/" in wrong:
                raise click.UsageError(
                    f"No such command and no such file: {wrong!r}. A program is run by: "
                    f"wasmsr run {wrong}"
                )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands for help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    help=HELP,
    invoke_without_command=True,
    epilog=f"{EXIT_CODES}\n\n{COMPLETION}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-v", "--verbose", count=True, envvar="WASMSR_VERBOSE",
    help="Say more; -vv also shows where an error came from.",
)  # fmt: skip
@click.option(
    "-q", "--quiet", count=True, envvar="WASMSR_QUIET", help="Say less: warnings and errors only."
)
@click.option(
    "--log-level",
    type=click.Choice(messages.LEVELS),
    envvar="WASMSR_LOG_LEVEL",
    help="The same by name; before -v and -q.",
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    help="Show the version and exit; with -v also what this host offers.",
)
@click.pass_context
def wasmsr(
    ctx: click.Context, /, verbose: int, quiet: int, log_level: str | None, version: bool
) -> None:
    """Set the level of messages; without a subcommand print the help and end."""
    if version:
        from wasmsr.cli.words import version as words

        click.echo(words.details() if verbose else words.version())
        ctx.exit()
    messages.set_level(log_level, verbose=verbose, quiet=quiet)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(errors.EXIT_USAGE)
