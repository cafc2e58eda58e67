"""Where a command line begins and ends: its streams, the way to its command, and the last error.

An error that nothing else has caught ends here: as one sentence on standard error, a hint if the
error has one, and an exit code of `wasmsr.errors`. The traceback needs -vv.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from wasmsr import errors
from wasmsr.cli import quick
from wasmsr.cli.running.terminal import end_now
from wasmsr.cli.words.failures import describe, wants_traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; `argv` has no program name."""
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
    """Return the command line with its command, which may be left out before a program."""
    from wasmsr.cli import programs
    from wasmsr.cli import subcommands as commands
    from wasmsr.cli.options.run_options import ROWS

    def is_program(word: str) -> bool:
        return word in programs.PROGRAMS or os.path.isfile(word)

    return commands.with_command(words, commands.COMMANDS, {row.name for row in ROWS}, is_program)


def command() -> NoReturn:
    """Run the command `wasmsr`: `main`, after which the process ends at once.

    Python would first take every module and object apart, which takes longer than a small program
    runs. Nothing needs that: `main` closes files, and `end_now` flushes standard output and error
    and restores the terminal.
    """
    end_now(main())


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that this process does not have.

    Otherwise the next file that is opened would become the stream, and the program would write to
    that file.
    """
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
    """Say on standard error what went wrong, and return the exit code for it."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, BrokenPipeError):
        # The reader of standard output is gone. Python would complain again at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errors.EXIT_HOST
    sentence, hint, code = describe(error)
    if wants_traceback():
        import traceback

        for line in "".join(traceback.format_exception(error)).splitlines():
            print(errors.printable(line, None), file=sys.stderr)
    if sentence:
        sys.stderr.write(f"wasmsr: {errors.printable(sentence, None)}\n")
    if hint:
        sys.stderr.write(f"hint: {errors.printable(hint, None)}\n")
    sys.stderr.flush()
    return code
