"""An error as one sentence, a hint and an exit code."""

from __future__ import annotations

import errno

from wasmsr import errors
from wasmsr.cli.words import messages

EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a file that was open answers when it takes no more: the host fails, the usage was right."""

NO_MEMORY = "there is not enough memory on this host."


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
    """Return whether Python says so in another way: when it starts a thread, or loads a library."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return "can't start new thread" in text or "can't allocate lock" in text
    return isinstance(error, ImportError) and (
        "failed to map segment" in text or "cannot allocate memory" in text.lower()
    )


def describe_click_error(error: BaseException) -> tuple[str, str | None, int]:
    """Return the same of an error that click raised: only then is it there to ask."""
    import click

    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "wasmsr"
        return error.format_message(), f"{path} --help", errors.EXIT_USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), None, errors.EXIT_USAGE
    return "", None, errors.EXIT_INTERRUPTED  # click.Abort


def describe_os_error(error: OSError) -> str:
    """Return the system's answer in one sentence, the file first."""
    reason = error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    if error.filename:
        return f"{errors.printable(error.filename)}: {reason}."
    return f"cannot write: {reason}." if error.errno in EXHAUSTED else f"{reason}."


def wants_traceback() -> bool:
    """Return whether -vv (or its like) was given; errors before that was read have none."""
    return messages.wanted("debug")
