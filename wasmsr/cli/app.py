"""The command `wasmsr`: its subcommands, loaded when called, logging, and the error layer.

Whatever goes wrong below ends here as one sentence on standard error, a hint where there is one,
and an exit code of `wasmsr.errors`; the traceback is for -vv.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from wasmsr import errors
from wasmsr.cli import messages

COMMANDS = {
    "run": ("wasmsr.cli.run", "run a program; save it while it runs, or go on with a saved one"),
    "inspect": ("wasmsr.cli.inspect", "show what is in a snapshot"),
    "remote": ("wasmsr.cli.remote", "move a running program to and fro between two hosts"),
}
"""Name: (module whose attribute of that name is the command, summary). Nothing is imported for
`wasmsr --help`."""

EXIT_CODES = """\b
Exit codes:
  0    the program ended well; otherwise its own exit code
  1    the host failed (a host function, memory, a closed pipe)
  2    usage: an option, an argument, a file or a folder is wrong or not there
  120  stopped on request, the snapshot is written
  121  out of fuel
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


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            wrong = args[0]
            if "." in wrong or "/" in wrong:
                raise click.UsageError(
                    f"No such command {wrong!r}; did you mean: wasmsr run {wrong}"
                )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Prints the version and ends; it is looked up only then."""
    if not value or ctx.resilient_parsing:
        return
    from wasmsr import __version__
    from wasmsr._ffi import ffi, lib

    loop = ffi.string(lib.wsr_variant()).decode()
    click.echo(f"wasmsr {__version__} ({loop} loop)")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    epilog=f"{EXIT_CODES}\n\n{COMPLETION}",
    context_settings={"help_option_names": ["--help"], "max_content_width": 100},
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
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version and exit.",
)
@click.pass_context
def wasmsr(ctx: click.Context, /, verbose: int, quiet: int, log_level: str | None) -> None:
    """Runs WebAssembly programs that can be saved, moved and resumed while they run.

    \b
    Try:
      wasmsr run fib                          34: a packaged program
      wasmsr run server                       keys: r request, s snapshot, q quit
      wasmsr run server --from-snapshot snapshot.bin     ... and on it goes
      wasmsr run python.wasm -c 'print(1)'    your own; its arguments are its own
      wasmsr inspect snapshot.bin             call stack, memories, descriptors

    Every option can also be set as a variable: WASMSR_FUEL=1000, WASMSR_TRACE=1; where an option
    may be given several times (WASMSR_DIR, WASMSR_ENV) the variable holds one value a line.
    """
    messages.set_level(log_level, verbose=verbose, quiet=quiet)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(errors.EXIT_USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; `argv` without the program's name."""
    open_standard_streams()
    try:
        code = wasmsr.main(
            args=None if argv is None else list(argv), prog_name="wasmsr", standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:  # noqa: BLE001 (the last word on every error)
        return explain(error)


def open_standard_streams() -> None:
    """Puts /dev/null where we were started without a standard stream: the next file that is opened
    would become it, and the program would write there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def explain(error: BaseException) -> int:
    """Says on standard error what went wrong, and returns the exit code for it."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, BrokenPipeError):
        # Whoever read our standard output has gone; Python would complain once more at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.EXIT_HOST
    sentence, hint, code = describe(error)
    if wants_traceback():
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    if sentence:
        click.echo(f"wasmsr: {sentence}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """(sentence, hint, exit code) of any error."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "", None, errors.EXIT_INTERRUPTED
    if isinstance(error, errors.WasmsrError):
        return str(error), error.hint, error.exit_code
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "wasmsr"
        return error.format_message(), f"{path} --help", errors.EXIT_USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), None, errors.EXIT_USAGE
    if isinstance(error, OSError):
        return describe_os_error(error), None, errors.EXIT_USAGE
    if isinstance(error, MemoryError):
        return "there is not enough memory on this host.", None, errors.EXIT_HOST
    kind = type(error).__name__
    hint = None if wants_traceback() else "this is a fault of wasmsr; -vv shows where"
    return f"{kind}: {error}", hint, errors.EXIT_HOST


def describe_os_error(error: OSError) -> str:
    """The system's answer in one sentence, the file first."""
    reason = error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    return f"{os.fsdecode(error.filename)}: {reason}." if error.filename else f"{reason}."


def wants_traceback() -> bool:
    """Whether -vv (or its like) was given; errors before that was read have none."""
    return messages.wanted("debug")
