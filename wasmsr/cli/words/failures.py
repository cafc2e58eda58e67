"""An error as one sentence, a hint and an exit code."""

from __future__ import annotations

import errno

from wasmsr import errors
from wasmsr.cli.words import messages

EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of an open file that takes no more bytes: the host fails, and the usage is right."""

NO_MEMORY = "there is not enough memory on this host."


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """Return sentence, hint and exit code of any error."""
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
    """Return whether an error means "no memory", as of a thread or a library that did not load."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return "can't start new thread" in text or "can't allocate lock" in text
    return isinstance(error, ImportError) and (
        "failed to map segment" in text or "cannot allocate memory" in text.lower()
    )


def describe_click_error(error: BaseException) -> tuple[str, str | None, int]:
    """Return sentence, hint and exit code of an error of click, which is imported then."""
    import click

    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "wasmsr"
        return error.format_message(), f"{path} --help", errors.EXIT_USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), None, errors.EXIT_USAGE
    return "", None, errors.EXIT_INTERRUPTED  # click.Abort


def describe_os_error(error: OSError) -> str:
    """Return the system's error as one sentence that begins with the file."""
    reason = error.strerror or str(error)
    reason = reason[:1].lower() + reason[1:]
    if error.filename:
        return f"{errors.printable(error.filename)}: {reason}."
    return f"cannot write: {reason}." if error.errno in EXHAUSTED else f"{reason}."


def wants_traceback() -> bool:
    """Return whether -vv, or an option that means the same, was given and has been read."""
    return messages.wanted("debug")
