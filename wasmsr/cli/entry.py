"""Where the command line begins and ends: its streams, the way to its command, and the error layer.

Whatever goes wrong below ends here as one sentence on standard error, a hint where there is one,
and an exit code of `wasmsr.errors`; the traceback is for -vv.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence

from wasmsr import errors
from wasmsr.cli import messages, quick
from wasmsr.cli.terminal import end_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a file that was open answers when it takes no more: the host fails, the usage was right."""

NO_MEMORY = "there is not enough memory on this host."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; `argv` without the program's name."""
    open_standard_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if words and words[0] != "run":
            words = with_command(words)
        code = quick.attempt(words)
        if code is None:
            from wasmsr.cli.app import wasmsr

            code = wasmsr.main(args=words, prog_name="wasmsr", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BaseException as error:  # noqa: BLE001 (the last word on every error)
        return explain(error)


def with_command(words: list[str]) -> list[str]:
    """The command line with its command, which may be left out before a program."""
    from wasmsr.cli import commands, programs
    from wasmsr.cli.run import ROWS

    def is_program(word: str) -> bool:
        return word in programs.PROGRAMS or os.path.isfile(word)

    return commands.with_command(words, commands.COMMANDS, {row.name for row in ROWS}, is_program)


def command() -> NoReturn:
    """The command `wasmsr`: `main`, and then the process ends at once.

    Python's own end would take every module and object apart first, longer than a small program
    runs. Nothing waits for that: standard output and error are flushed, files are closed when
    `main` returns, the terminal is put back by `end_now`, and memory is the system's.
    """
    end_now(main())


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

        for line in "".join(traceback.format_exception(error)).splitlines():
            print(errors.printable(line, None), file=sys.stderr)
    if sentence:
        print(f"wasmsr: {errors.printable(sentence, None)}", file=sys.stderr, flush=True)
    if hint:
        print(f"hint: {errors.printable(hint, None)}", file=sys.stderr, flush=True)
    return code


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """(sentence, hint, exit code) of any error."""
    if isinstance(error, KeyboardInterrupt):
        return "", None, errors.EXIT_INTERRUPTED
    if isinstance(error, errors.WasmsrError):
        return str(error), error.hint, error.exit_code
    if type(error).__module__.startswith("click."):
        return describe_click_error(error)
    if isinstance(error, OSError):
        if error.errno == errno.ENOMEM:
            return NO_MEMORY, None, errors.EXIT_HOST
        code = errors.EXIT_HOST if error.errno in EXHAUSTED else errors.EXIT_USAGE
        return describe_os_error(error), None, code
    if isinstance(error, MemoryError) or _lacks_memory(error):
        return NO_MEMORY, None, errors.EXIT_HOST
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] in errors.PACKAGES:
        assert error.name is not None
        return describe(errors.MissingPackageError(error.name.split(".")[0], "this command"))
    kind = type(error).__name__
    hint = None if wants_traceback() else "this is a fault of wasmsr; -vv shows where"
    return f"{kind}: {error}" if str(error) else kind, hint, errors.EXIT_HOST


def _lacks_memory(error: BaseException) -> bool:
    """Whether Python says so in another way: when it starts a thread, or loads a library."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return "can't start new thread" in text or "can't allocate lock" in text
    return isinstance(error, ImportError) and (
        "failed to map segment" in text or "cannot allocate memory" in text.lower()
    )


def describe_click_error(error: BaseException) -> tuple[str, str | None, int]:
    """The same of an error that click raised: only then is it there to ask."""
    import click

    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "wasmsr"
        return error.format_message(), f"{path} --help", errors.EXIT_USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), None, errors.EXIT_USAGE
    return "", None, errors.EXIT_INTERRUPTED  # click.Abort


def describe_os_error(error: OSError) -> str:
    """The system's answer in one sentence, the file first."""
    reason = error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    if error.filename:
        return f"{errors.printable(error.filename)}: {reason}."
    return f"cannot write: {reason}." if error.errno in EXHAUSTED else f"{reason}."


def wants_traceback() -> bool:
    """Whether -vv (or its like) was given; errors before that was read have none."""
    return messages.wanted("debug")
